"""`import evenkeel`: light, complete, and documented with examples."""

from __future__ import annotations

import ast
import importlib.metadata
import inspect
import pathlib
import subprocess
import sys

import pytest

import evenkeel

ROOT = pathlib.Path(__file__).parents[1]


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize("name", evenkeel.__all__)
def test_a_public_name_has_a_docstring_with_an_example(name: str) -> None:
    docstring = inspect.getdoc(getattr(evenkeel, name)) or ""
    examples = [line for line in docstring.splitlines() if line.startswith("    ") and "evenkeel." in line]
    assert examples, f"{name} shows no use"
    assert name in (evenkeel.__doc__ or "")


def test_type_checkers_see_what_is_imported_at_run_time() -> None:
    """The imports under TYPE_CHECKING name the same modules as the table of late imports."""
    tree = ast.parse((ROOT / "__init__.py").read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    declared = {
        alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert declared == {name: f"evenkeel.{module}" for name, module in evenkeel._MODULES.items()}


def test_the_import_is_light_and_names_are_imported_when_used() -> None:
    code = "import sys, evenkeel as e; print(*(name in sys.modules for name in ('numpy', 'evenkeel.pipeline')))"
    assert run_python(code) == "False False"
    code = "import sys, evenkeel as e; print(e.DataConfig().batch_size, 'tensorflow' in sys.modules)"
    assert run_python(code) == "128 False"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        evenkeel.trian  # noqa: B018


def test_the_version_is_that_of_the_installed_package() -> None:
    assert importlib.metadata.version("evenkeel") == evenkeel.__version__
    assert run_python("import evenkeel.__main__ as m, sys; sys.argv = ['evenkeel', '--version']; m.main()") == (
        f"evenkeel {evenkeel.__version__}"
    )


def test_the_commands_are_listed_and_each_can_be_imported_without_tensorflow() -> None:
    from evenkeel import __main__ as command

    help_text = run_python("import evenkeel.__main__ as m, sys; sys.argv = ['evenkeel']; m.main()")
    for name, summary in command.COMMANDS.items():
        assert any(line.split() == [name, *summary.split()] for line in help_text.splitlines())
        module = command.MODULES.get(name, name)
        code = (
            f"import sys; from evenkeel.tools.{module} import COMMAND; print(COMMAND.main, 'tensorflow' in sys.modules)"
        )
        assert run_python(code).endswith("> False")


def test_a_misspelled_command_is_one_line_with_the_nearest_one() -> None:
    done = subprocess.run([sys.executable, "-m", "evenkeel", "trian"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: evenkeel has no command 'trian'")
    assert done.stderr.endswith("Did you mean 'train'?\n")
