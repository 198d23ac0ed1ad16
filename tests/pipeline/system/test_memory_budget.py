"""The memory budget, read from the kernel's files."""

from __future__ import annotations

import pathlib

import pytest

from evenkeel.pipeline.errors import UsageError
from evenkeel.pipeline.system import memory_budget

MEMINFO = "MemTotal:       16000 kB\nMemFree:         1000 kB\nMemAvailable:    8000 kB\n"


def test_free_memory_is_the_kernels_estimate_or_the_rest_of_the_containers_limit(tmp_path: pathlib.Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(MEMINFO)
    free = lambda: memory_budget.free_bytes(meminfo, tmp_path)  # noqa: E731
    assert free() == 8000 << 10
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1024\n")
    assert free() == 8000 << 10
    (tmp_path / "memory.max").write_text("5120\n")
    assert free() == 4096
    (tmp_path / "memory.max").write_text("512\n")
    assert free() == 0


def test_the_budget_is_the_given_size_or_half_of_the_free_memory() -> None:
    assert memory_budget.budget_bytes(3) == 3 << 20
    assert 0 < memory_budget.budget_bytes(0) < memory_budget.free_bytes()


def test_exceeding_the_budget_is_an_error_with_both_sizes() -> None:
    memory_budget.require_fit(5 << 20, 5 << 20, "7 images")
    with pytest.raises(UsageError, match=r"7 images take 6 MiB, but the budget is 5 MiB: raise data\.cache_budget_mb"):
        memory_budget.require_fit(6 << 20, 5 << 20, "7 images")
