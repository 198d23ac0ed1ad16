"""Config fields that are command-line flags as well."""

from __future__ import annotations

import dataclasses
from typing import Any


def option(default: Any, help: str) -> Any:
    """A dataclass field with a `default` whose `help` text `--help` prints for its flag."""
    return dataclasses.field(default=default, metadata={"help": help})
