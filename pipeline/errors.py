"""Errors that a user can correct, and checks that raise them."""

from __future__ import annotations


class UsageError(ValueError):
    """An error that the user can correct; its message is one line: the value, the rule and the remedy.

    Example:

        try:
            evenkeel.DataConfig(image_size=0)
        except evenkeel.UsageError as error:
            print(error)    # data.image_size (0) must be ...
    """


def require(ok: bool, message: str) -> None:
    """Raises `UsageError(message)` if `ok` is false."""
    if not ok:
        raise UsageError(message)


def one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    """Raises `UsageError` if `value`, given for the option `name`, is not in `known`.

    The message suggests the most similar known value.
    """
    if value not in known:
        import difflib

        near = difflib.get_close_matches(value, known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UsageError(f"{name} ({value!r}) must be one of {', '.join(known)}.{hint}")
