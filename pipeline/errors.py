"""Errors that a user can correct, and checks that raise them."""

from __future__ import annotations


class UsageError(ValueError):
    """Something a user can put right: one line that names the value, the rule and the remedy."""


def require(ok: bool, message: str) -> None:
    """Raises `UsageError(message)` unless `ok`."""
    if not ok:
        raise UsageError(message)


def one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    """Raises `UsageError` naming the nearest of `known` unless `value` is among them."""
    if value not in known:
        import difflib

        near = difflib.get_close_matches(value, known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UsageError(f"{name} ({value!r}) must be one of {', '.join(known)}.{hint}")
