"""The cache directory."""

from __future__ import annotations

import os

import pytest

from evenkeel.pipeline.sources.cache_dir import cache_dir


def test_the_cache_directory_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_dir() == os.environ["EVENKEEL_CACHE"]
    monkeypatch.delenv("EVENKEEL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_dir() == "/somewhere/evenkeel"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert cache_dir() == "/home/me/.cache/evenkeel"
