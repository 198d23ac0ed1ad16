"""Fields of a configuration that are command-line flags as well."""

from __future__ import annotations

import dataclasses
from typing import Any


def option(default: Any, help: str) -> Any:
    """A dataclass field that also becomes a command-line flag; `help` is what `--help` prints."""
    return dataclasses.field(default=default, metadata={"help": help})
