"""The arrows between the parts, from the imports themselves; and what must not be imported."""

from __future__ import annotations

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
ALLOWED = {
    "pipeline": {"pipeline"},
    "models": {"pipeline", "models"},
    "tools": {"pipeline", "models", "tools"},
    "benchmarks": {"pipeline", "models", "benchmarks"},
}
PARTS = {*ALLOWED, "tests"}
COMPOSERS = {"build", "chains", "opening", "prepare", "profile", "savings", "service"}
COMPOSED = {"evenkeel.pipeline.reading.reader", "evenkeel.pipeline.sources.resolve", "evenkeel.pipeline.build"}


def imported(path: pathlib.Path) -> set[str]:
    """Dotted names of all modules a file imports, at any depth."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


@pytest.mark.parametrize("part", sorted(ALLOWED))
def test_arrows(part: str) -> None:
    files = sorted((ROOT / part).rglob("*.py"))
    assert files
    for path in files:
        parts = {name.split(".")[0] for name in imported(path)} & PARTS
        assert parts <= ALLOWED[part], f"{path.relative_to(ROOT)} imports {sorted(parts - ALLOWED[part])}"


def test_only_composers_know_the_readers_and_sources() -> None:
    for path in sorted((ROOT / "pipeline").glob("*.py")):
        siblings = {
            name
            for name in imported(path)
            if name
            in {"evenkeel.pipeline.reading.reader", "evenkeel.pipeline.sources.resolve", "evenkeel.pipeline.build"}
        }
        assert path.stem in COMPOSERS or not siblings, f"{path.name} composes {sorted(siblings)}"


def test_addons_are_imported_in_one_place() -> None:
    for part in sorted(PARTS):
        for path in sorted((ROOT / part).rglob("*.py")):
            if any(name.split(".")[0] == "tensorflow_addons" for name in imported(path)):
                assert path == ROOT / "pipeline" / "addons.py"


def test_no_module_uses_flags_but_the_command_lines() -> None:
    for part in ("pipeline", "models"):
        for path in sorted((ROOT / part).rglob("*.py")):
            assert not imported(path) & {"absl.flags", "absl.app"}, path.name


@pytest.mark.parametrize(
    "module",
    [
        "evenkeel.pipeline.config",
        "evenkeel.models.config",
        "evenkeel.models.presets",
        "tools.flags",
        "tools.train",
        "tools.prepare",
    ],
)
def test_configuration_and_flags_load_without_tensorflow(module: str) -> None:
    code = f"import sys, {module}; sys.exit('tensorflow' in sys.modules or 'tf_keras' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
