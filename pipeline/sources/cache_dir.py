"""The directory for prepared data."""

from __future__ import annotations

import os


def cache_dir() -> str:
    """The cache directory: $EVENKEEL_CACHE, else `evenkeel` in the user's cache directory."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.environ.get("EVENKEEL_CACHE") or os.path.join(home, "evenkeel")
