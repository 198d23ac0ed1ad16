"""The memory budget for decoded images.

require_fit(needed, budget_bytes(config.cache_budget_mb), "50,000 decoded images")
"""

from __future__ import annotations

from pathlib import Path

from evenkeel.pipeline.errors import UsageError

FREE_SHARE = 0.5  # share of the free memory; the model, tf.data's buffers and other processes need the rest
_MEMINFO, _CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


def budget_bytes(megabytes: int) -> int:
    """Bytes that decoded images may take: `megabytes` MiB, or half of the free memory if `megabytes` is 0."""
    return megabytes << 20 if megabytes else int(FREE_SHARE * free_bytes())


def free_bytes(meminfo: Path = _MEMINFO, cgroup: Path = _CGROUP) -> int:
    """Bytes that can still be allocated: MemAvailable of the kernel, or the rest of the container's limit if less."""
    fields = (line.split() for line in meminfo.read_text().splitlines())
    limits = [1024 * next(int(field[1]) for field in fields if field[0] == "MemAvailable:")]
    limit, used = cgroup / "memory.max", cgroup / "memory.current"
    if limit.is_file() and limit.read_text().strip() != "max":
        limits.append(int(limit.read_text()) - int(used.read_text()))
    return max(0, min(limits))


def require_fit(needed: int, budget: int, subject: str) -> None:
    """Raises `UsageError` if the `needed` bytes of `subject` exceed `budget` bytes."""
    if needed > budget:
        raise UsageError(
            f"data.cache=memory: {subject} take {needed >> 20} MiB, but the budget is {budget >> 20} MiB: raise"
            " data.cache_budget_mb (its default is half of the free memory), or use data.cache=none."
        )
