"""The rooms of the code: which room may import which, what is private, and what must not be imported."""

from __future__ import annotations

import ast
import graphlib
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from evenkeel.benchmarks.documentation.code_tree import code_tree

ROOT = pathlib.Path(__file__).parents[1]
# A part imports itself and the parts before it. Of tools, benchmarks may use only the public modules, which is `cli`.
PARTS = ("pipeline", "models", "tools", "benchmarks")
# The rooms of each part, and the single modules beside them, in the order in which they may import each other.
ROOMS = {
    "pipeline": (
        "errors options config system images index jpeg sources augment reading prepare selection splits dataset"
        " service build profile"
    ),
    "models": (
        "errors config presets saved_model distribute networks optim telemetry training run stability preflight"
        " callbacks train evaluation doctor report examine export"
    ),
    "benchmarks": (
        "statistics results timing journal workers command peers regression report speed stability endurance"
        " compare export history run documentation"
    ),
}
MAX_MODULES = 15  # in a room


class Import(NamedTuple):
    """A name that `module` imports from another module of the project; "" if it imports the module itself."""

    module: str
    imported: str
    name: str

    def __str__(self) -> str:
        return f"{self.module} imports {self.imported}{'.' if self.name else ''}{self.name}"


def modules() -> dict[str, pathlib.Path]:
    """All modules of the package by their names below `evenkeel`, without the files `__init__.py`."""
    files = (path for part in PARTS for path in (ROOT / part).rglob("*.py") if path.name != "__init__.py")
    return {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in files}


MODULES = modules()


def imports(module: str) -> Iterator[Import]:
    """What a module imports from the project, at any depth, late imports included."""
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("evenkeel"):
            origin = (node.module or "").removeprefix("evenkeel").removeprefix(".")
            for alias in node.names:
                full = f"{origin}.{alias.name}"
                yield Import(module, full, "") if full in MODULES else Import(module, origin, alias.name)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("evenkeel."):
                    yield Import(module, alias.name.removeprefix("evenkeel."), "")


IMPORTS = [each for module in MODULES for each in imports(module) if each.imported]


def room_of(module: str) -> str:
    """The room of a module, such as pipeline.images, or the module itself where it lies beside the rooms."""
    return ".".join(module.split(".")[:2])


def public_modules(room: str) -> list[str]:
    docstring = ast.get_docstring(ast.parse((ROOT / room.replace(".", "/") / "__init__.py").read_text())) or ""
    (names,) = re.findall(r"^Public modules: (.*?)\.$", docstring, re.MULTILINE | re.DOTALL)
    return re.split(r",\s+", names)


def is_room(name: str) -> bool:
    return (ROOT / name.replace(".", "/") / "__init__.py").is_file()


def folders() -> list[str]:
    """All rooms."""
    return sorted({room_of(module) for module in MODULES if is_room(room_of(module))})


def test_every_import_names_a_module_that_exists() -> None:
    assert len(IMPORTS) > 500
    assert [str(each) for each in IMPORTS if each.imported not in MODULES] == []


def test_parts_import_only_earlier_parts() -> None:
    for each in IMPORTS:
        importer, imported = (PARTS.index(name.split(".")[0]) for name in (each.module, each.imported))
        assert imported <= importer, str(each)
        if each.module.startswith("benchmarks") and each.imported.startswith("tools"):
            assert each.imported.split(".")[1] in public_modules("tools"), str(each)


def test_nothing_imports_a_part_by_its_bare_name() -> None:
    """`import pipeline` works in a checkout alone; installed, the package is `evenkeel.pipeline`."""
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & {*PARTS, "tests"}, module


@pytest.mark.parametrize("part", ROOMS)
def test_rooms_import_only_earlier_rooms(part: str) -> None:
    order = [f"{part}.{name}" for name in ROOMS[part].split()]
    assert {room_of(module) for module in MODULES if module.startswith(f"{part}.")} == set(order)
    for each in IMPORTS:
        importer, imported = room_of(each.module), room_of(each.imported)
        if importer in order and imported in order:
            assert order.index(imported) <= order.index(importer), str(each)


def test_rooms_are_entered_through_their_public_modules() -> None:
    for room in folders():
        listed = public_modules(room)
        assert [name for name in listed if f"{room}.{name}" not in MODULES] == [], room
        used = {each.imported for each in IMPORTS if room_of(each.imported) == room != room_of(each.module)}
        assert used <= {f"{room}.{name}" for name in listed}, room


def test_no_private_name_crosses_a_module_border() -> None:
    for each in IMPORTS:
        assert not each.name.startswith("_"), str(each)
        assert not each.imported.rsplit(".", 1)[-1].startswith("_") or each.imported.endswith("__main__"), str(each)


def test_modules_have_no_circle() -> None:
    graph = {module: {each.imported for each in IMPORTS if each.module == module} for module in MODULES}
    graphlib.TopologicalSorter(graph).prepare()  # raises where there is one


def test_rooms_are_small() -> None:
    for folder in {path.parent for path in MODULES.values()}:
        count = sum(1 for path in folder.glob("*.py") if path.name != "__init__.py")
        assert count <= MAX_MODULES, f"{folder.relative_to(ROOT)} holds {count} modules"


def test_the_package_lists_every_room() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    listed = re.findall(r'^  "(evenkeel[\w.]*)",$', text, re.MULTILINE)
    found = [path.parent for part in PARTS for path in (ROOT / part).rglob("__init__.py")]
    assert sorted(listed) == sorted(["evenkeel", *(".".join(["evenkeel", *p.relative_to(ROOT).parts]) for p in found)])


def test_the_guide_to_the_code_shows_the_tree() -> None:
    assert code_tree() in (ROOT / "docs" / "code.md").read_text()


def test_tests_mirror_the_code() -> None:
    """A test file lies in the folder of the room that it tests."""
    folders_of_code = {pathlib.Path(module.replace(".", "/")).parent for module in MODULES}
    for path in (ROOT / "tests").rglob("test_*.py"):
        folder = path.parent.relative_to(ROOT / "tests")
        assert str(folder) == "." or folder in folders_of_code, path


def absolute_imports(path: pathlib.Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def test_addons_are_imported_in_one_place() -> None:
    users = [
        module
        for module, path in MODULES.items()
        if any(name.split(".")[0] == "tensorflow_addons" for name in absolute_imports(path))
    ]
    assert users == ["models.optim.addons"]


def test_only_command_lines_know_flags() -> None:
    for module, path in MODULES.items():
        if module.startswith(("pipeline.", "models.")):
            assert not absolute_imports(path) & {"absl.flags", "absl.app"}, module


def test_scipy_is_for_benchmarks_only() -> None:
    for module, path in MODULES.items():
        if not module.startswith("benchmarks."):
            assert not any(name.split(".")[0] == "scipy" for name in absolute_imports(path)), module


@pytest.mark.parametrize(
    "module",
    ["pipeline.config", "models.config", "models.presets", "tools.cli", "tools.train", "tools.prepare", "__main__"],
)
def test_configuration_and_flags_load_without_tensorflow(module: str) -> None:
    code = f"import sys, evenkeel.{module}; sys.exit('tensorflow' in sys.modules or 'tf_keras' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
