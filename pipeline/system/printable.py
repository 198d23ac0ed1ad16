"""Names of files, and messages with them, as text that a terminal, a log or a list can show.

printable("a\nb")     # "a\\nb"
one_line("error: a\nb")     # "error: a\\nb"
"""

from __future__ import annotations


def printable(name: str) -> str:
    """`name` with control characters, undecodable bytes and outer spaces as escape sequences; other names unchanged.

    Names with different bytes stay different, because the backslash is escaped in a name that needs an escape.
    """
    if name.isprintable() and name == name.strip():
        return name
    escaped = "".join(_escape(character) for character in name)
    leading, trailing = len(escaped) - len(escaped.lstrip(" ")), len(escaped) - len(escaped.rstrip(" "))
    middle = escaped[leading : len(escaped) - trailing]
    return "\\x20" * leading + middle + "\\x20" * (trailing if middle else 0)


def one_line(text: str) -> str:
    """`text`, which may quote a name as it is, with control characters and undecodable bytes as escape sequences."""
    return text if text.isprintable() else "".join(map(_escape_control, text))


def _escape_control(character: str) -> str:
    return character if character == "\\" else _escape(character)


def _escape(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte that is not UTF-8, see os.fsdecode
        return f"\\x{ord(character) - 0xDC00:02x}"
    if character == "\\":
        return "\\\\"
    return character if character.isprintable() else character.encode("unicode_escape").decode()
