"""tensorflow-addons is optional: if it cannot be imported, an error names the remedy in one line."""

from __future__ import annotations

import builtins
import os
import subprocess
import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest

from evenkeel.models.optim import addons
from evenkeel.pipeline.errors import UsageError


@pytest.fixture(autouse=True)
def _clear_cache() -> Iterator[None]:
    addons.require_addons.cache_clear()
    yield
    addons.require_addons.cache_clear()


def block_addons(monkeypatch: pytest.MonkeyPatch) -> None:
    import_module = builtins.__import__

    def blocked_import(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == "tensorflow_addons":
            raise ModuleNotFoundError("No module named 'tensorflow_addons'")
        return import_module(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", blocked_import)


def test_the_error_without_addons_names_option_and_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    block_addons(monkeypatch)
    with pytest.raises(UsageError) as raised:
        addons.require_addons("optimizer.name=lamb")
    assert str(raised.value) == (
        "optimizer.name=lamb needs tensorflow-addons, which cannot be imported here"
        " (No module named 'tensorflow_addons'):"
        " use Python 3.10 or 3.11, where `make setup` installs it, or another option."
    )


def test_an_error_is_not_cached_for_another_option(monkeypatch: pytest.MonkeyPatch) -> None:
    block_addons(monkeypatch)
    for option in ("a=1", "b=2"):
        with pytest.raises(UsageError, match=f"^{option} needs tensorflow-addons"):
            addons.require_addons(option)


def test_the_error_on_keras_3_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorFlow chooses Keras 3 if it is imported before `evenkeel`."""
    on_keras_3 = types.SimpleNamespace(optimizers=types.SimpleNamespace(LAMB=object))
    monkeypatch.setitem(sys.modules, "tensorflow_addons", on_keras_3)
    with pytest.raises(UsageError) as raised:
        addons.require_addons("optimizer.name=lamb")
    assert str(raised.value) == (
        "optimizer.name=lamb needs tensorflow-addons on Keras 2, but TensorFlow was imported before Keras 2 was chosen:"
        " import `evenkeel` before `tensorflow`, or set TF_USE_LEGACY_KERAS=1 in the environment."
    )


ON_DEMAND = """
import sys
from evenkeel.models.optim import addons
from evenkeel.pipeline import build
assert "tensorflow_addons" not in sys.modules, "imported without need"
module = addons.require_addons("optimizer.name=lamb")
assert module is sys.modules["tensorflow_addons"]
assert module.optimizers.LAMB(0.001).get_config()["name"] == "LAMB"
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info >= (3, 12), reason="tensorflow-addons has no build for this Python")
def test_addons_are_imported_on_demand_only() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TF_USE_LEGACY_KERAS"}
    done = subprocess.run([sys.executable, "-c", ON_DEMAND], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "addons" not in done.stderr.lower()
