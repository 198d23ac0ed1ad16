"""The table of verdicts; what counts as a last loss; changes for the worse where they belong."""

from __future__ import annotations

import pathlib
import shutil

import numpy as np
import pytest

from benchmarks import injected, verdicts, versions
from benchmarks.results import ROOT, Result, Skipped
from benchmarks.versions import GUESSING, Compared


def test_the_last_loss_is_the_median_of_the_end_and_at_most_that_of_guessing() -> None:
    falling = np.linspace(2.0, 0.1, 200)
    assert versions.final_loss(falling) == pytest.approx(np.median(falling[-versions.LAST :]))
    assert versions.final_loss(np.full(200, 50.0)) == GUESSING
    assert versions.final_loss(versions.numbers([1.0] * 10 + ["nan"] * 190)) == GUESSING
    assert versions.final_loss(versions.numbers([1.0] * 10 + ["inf"] * 190)) == GUESSING


def test_the_table_says_what_was_measured_and_what_was_not() -> None:
    results = [
        Result("compare", f"step/{side}", "cpu_seconds", "s", "lower", (second, second))
        for side, second in (("base", 1.0), ("head", 1.2))
    ]
    slower = verdicts.of_times([1.0, 1.0], [1.2, 1.2], 0.05)
    text = versions.markdown(
        {"base": "a" * 40, "head": "b" * 40 + "-dirty"},
        {"cores": 2, "cpu": "a CPU"},
        0.05,
        [Compared("step", {"cpu_time": slower}, results)],
        [Skipped("input", "base: no such thing")],
    )
    assert text.startswith("`bbbbbbbbbbbb` against `aaaaaaaaaaaa`, on 2 cores of a CPU; a change of 5% matters.\n")
    assert "| step | cpu_time | 1 s | 1.2 s | 1.200 (1.200 to 1.200) | **slower** |\n" in text
    assert text.endswith("| input | - | - | - | - | skipped: base: no such thing |\n")


@pytest.fixture
def tree(tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy of this version's sources."""
    for name in ("pipeline", "models"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def changed(tree: pathlib.Path) -> list[str]:
    paths = [path for name in ("pipeline", "models") for path in (tree / name).glob("*.py")]
    return [
        str(path.relative_to(tree)) for path in paths if path.read_text() != (ROOT / path.relative_to(tree)).read_text()
    ]


@pytest.mark.parametrize(
    ("change", "path"),
    [
        (lambda tree: injected.input_slower(tree, 0.001), "pipeline/build.py"),
        (lambda tree: injected.step_slower(tree, 0.001), "models/stable_model.py"),
        (injected.rate_times_3, "models/schedules.py"),
    ],
)
def test_a_change_for_the_worse_is_made_once(change, path: str, tree: pathlib.Path) -> None:
    change(tree)
    assert changed(tree) == [path]
    compile((tree / path).read_text(), path, "exec")
    (tree / path).write_text("nothing of that\n")
    with pytest.raises(ValueError, match="stands there 0 times, and not once"):
        change(tree)
