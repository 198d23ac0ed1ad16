"""The precision of step32, the same for all peers: bfloat16 if the processor computes in it, and float32 otherwise.

Without the hardware bfloat16 is emulated: a step of evenkeel then takes minutes. Standard library only.
"""

from __future__ import annotations

from pathlib import Path


def has_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor has instructions for bfloat16."""
    flags = cpuinfo.read_text().split() if cpuinfo.exists() else []
    return "avx512_bf16" in flags or "amx_bf16" in flags


def name_precision() -> str:
    return "bfloat16" if has_bfloat16() else "float32"


def name_keras_policy() -> str:
    return "mixed_bfloat16" if has_bfloat16() else "float32"
