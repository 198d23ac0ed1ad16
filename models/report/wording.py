"""Numbers and names as words in a sentence."""

from __future__ import annotations

import math


def format_percent(value: float) -> str:
    """A probability or share in percent; 0% and 100% stand for exact values only."""
    if not math.isfinite(value):
        return "unknown"
    if 0 < value < 0.01:
        return "under 1%"
    return "over 99%" if 0.99 < value < 1 else f"{value:.0%}"


def format_count(count: int, noun: str) -> str:
    """A number of things: "1 step", "20,000 steps"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def to_words(name: str) -> str:
    """An identifier as words: "loss_spike" is "loss spike"."""
    return name.replace("_", " ")


def capitalize(sentence: str) -> str:
    """The sentence with its first letter in upper case and all others unchanged."""
    return sentence[:1].upper() + sentence[1:]
