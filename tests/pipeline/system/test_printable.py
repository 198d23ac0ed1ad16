"""Names of files as text for terminals and lists."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenkeel.pipeline.system.printable import one_line, printable


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("cat.jpg", "cat.jpg"),
        ("große katze", "große katze"),
        ("犬", "犬"),
        ("a\nb", "a\\nb"),
        (" dog", "\\x20dog"),
        ("dog  ", "dog\\x20\\x20"),
        ("  ", "\\x20\\x20"),
        ("a\x1b[31mb", "a\\x1b[31mb"),
        ("a\\nb", "a\\nb"),
        ("a\\\nb", "a\\\\\\nb"),
        (os.fsdecode(b"caf\xe9"), "caf\\xe9"),
        ("a\u202eb", "a\\u202eb"),
    ],
)
def test_a_name_is_shown_with_escapes(name: str, shown: str) -> None:
    assert printable(name) == shown


def test_a_message_keeps_its_spaces_and_backslashes() -> None:
    assert one_line(" group '\\d+' of a\n\x1b[31mb ") == " group '\\d+' of a\\n\\x1b[31mb "
    assert one_line(os.fsdecode(b"caf\xe9")) == "caf\\xe9"


@given(st.binary(max_size=12))
def test_any_name_becomes_one_line_that_utf_8_can_encode(name: bytes) -> None:
    shown = printable(os.fsdecode(name))
    assert shown.isprintable()
    assert shown == shown.strip()
    shown.encode()
