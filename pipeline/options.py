"""Config fields that are command-line flags as well."""

from __future__ import annotations

import dataclasses
from typing import Any


def option(default: Any, help: str) -> Any:
    """Creates a dataclass field with the value `default`. `--help` prints the text `help` for the field's flag."""
    return dataclasses.field(default=default, metadata={"help": help})
