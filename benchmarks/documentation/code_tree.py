"""Prints the tree of rooms in docs/code.md: each room with its purpose and its modules.

python -m benchmarks.documentation.code_tree        # prints the tree
"""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("pipeline", "models", "tools", "benchmarks")
WIDTH = 100  # characters in a line


def code_tree(root: Path = ROOT) -> str:
    """Returns the tree of all rooms, each with the first line of its docstring and its modules."""
    return "\n".join(line for part in PARTS for line in [*_describe(root / part, ""), ""]).rstrip()


def _describe(folder: Path, indent: str) -> list[str]:
    lines = [f"{indent}{folder.name + '/':<15} {_purpose(folder / '__init__.py')}"]
    modules = sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__")
    lines += _wrap(modules, indent + "    ")
    for room in sorted(path.parent for path in folder.glob("*/__init__.py")):
        lines += _describe(room, indent + "  ")
    return lines


def _purpose(init: Path) -> str:
    docstring = ast.get_docstring(ast.parse(init.read_text())) or ""
    return docstring.partition("\n")[0]


def _wrap(names: list[str], indent: str) -> list[str]:
    lines: list[str] = []
    for name in names:
        if lines and len(lines[-1]) + 1 + len(name) <= WIDTH:
            lines[-1] += f" {name}"
        else:
            lines.append(indent + name)
    return lines


if __name__ == "__main__":
    print(code_tree())
