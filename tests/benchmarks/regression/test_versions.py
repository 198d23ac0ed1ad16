"""The table of verdicts; what counts as a last loss; changes for the worse where they belong."""

from __future__ import annotations

import pathlib
import shutil
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from evenkeel.benchmarks.regression import injected_regressions, verdicts, versions
from evenkeel.benchmarks.regression.versions import GUESSING, Compared
from evenkeel.benchmarks.results import ROOT, Result, Skipped


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
    assert text.startswith(
        "`bbbbbbbbbbbb-dirty` against `aaaaaaaaaaaa`, on 2 cores of a CPU; a change of 5% matters.\n"
    )
    assert "| step | cpu_time | 1 s | 1.2 s | 1.200 (1.200 to 1.200) | **slower** |\n" in text
    assert text.endswith("| input | - | - | - | - | skipped: base: no such thing |\n")


def test_wall_time_is_told_and_fails_nobody() -> None:
    slower = verdicts.of_times([1.0, 1.0], [1.2, 1.2], 0.05)
    same = verdicts.of_times([1.0, 1.0], [1.0, 1.0], 0.05)
    assert not versions.failed([Compared("step", {"cpu_time": same, "wall_time": slower}, [])])
    assert versions.failed([Compared("step", {"cpu_time": slower, "wall_time": same}, [])])


def test_commands_offer_the_cases_that_there_are() -> None:
    """Their flags know them before TensorFlow is there; each is read in a process of its own, as both define flags."""
    for module in ("compare", "power"):
        line = [sys.executable, "-c", f"from benchmarks.{module} import CASES; print(*CASES)"]
        done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True)
        assert done.stdout.split() == list(versions.CASES)
    for case in versions.CASES.values():
        assert (ROOT / "benchmarks" / case.file).is_file()


@pytest.mark.parametrize(
    ("module", "flags", "words"),
    [
        ("compare", [], "--base is missing"),
        ("compare", ["--base=main", "--only="], "--only names no case"),
        ("compare", ["--base=main", "--rounds=2"], "--rounds (2) must be at least 5"),
        ("compare", ["--base=main", "rounds=9"], "argument (rounds=9) is not understood"),
        ("compare", ["--base=main", "--markdown=/none/there.md"], "--markdown (/none/there.md) must be a file"),
        ("compare", ["--base=no-such-branch"], "no-such-branch is no commit"),
        ("power", ["--ref="], "--ref is empty"),
        ("power", ["--pairs=15"], "--pairs (15) must be a multiple of 10"),
        ("end_to_end", ["--only=nothing"], "only ('nothing') must be one of small32, photos224"),
        ("startup", ["--output=/none/there.json"], "--output (/none/there.json) must be a file"),
        ("run", ["--only="], "--only names no suite"),
        ("run", ["--suite=full", "--only=stability"], "--data.small_source is missing"),
    ],
)
def test_bad_input_is_told_in_a_line_before_anything_is_measured(module: str, flags: list[str], words: str) -> None:
    line = [sys.executable, "-m", f"benchmarks.{module}", *flags]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("size", ["quick", "full"])
def test_every_suite_is_a_command_that_takes_its_flags(size: str) -> None:
    code = f"from benchmarks import run; [print(*of['{size}']) for of in run.SUITES.values()]"
    listed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    rows = [row.split() for row in listed.splitlines()]
    assert len(rows) >= 7
    for module, *options in rows:
        line = [sys.executable, "-m", f"benchmarks.{module}", *options, "--output=x.json", "--only_check_args"]
        done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{module}: {done.stderr[-300:]}"


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
        (lambda tree: injected_regressions.input_slower(tree, 0.001), "pipeline/build.py"),
        (lambda tree: injected_regressions.step_slower(tree, 0.001), "models/training/stable_model.py"),
        (injected_regressions.rate_times_3, "models/optim/schedules.py"),
    ],
)
def test_a_change_for_the_worse_is_made_once(change, path: str, tree: pathlib.Path) -> None:
    change(tree)
    assert changed(tree) == [path]
    compile((tree / path).read_text(), path, "exec")
    (tree / path).write_text("nothing of that\n")
    with pytest.raises(ValueError, match="stands there 0 times, and not once"):
        change(tree)


def test_what_a_slower_version_spends_changes_nothing_and_is_not_taken_out() -> None:
    """Its random numbers are in the data that its labels come of: what is only waited for, Grappler takes out."""
    there: dict[str, Any] = {"tf": tf}
    exec(injected_regressions.SPENDING.format(count=100), there)
    images, labels = tf.constant([[7], [8]], tf.uint8), tf.constant([3, 4], tf.int64)
    same_images, same_labels = there["_spent"](images, labels)
    np.testing.assert_array_equal(same_images, images)
    np.testing.assert_array_equal(same_labels, labels)
    graph = tf.function(there["_spent"]).get_concrete_function(images, labels)
    todo, seen = [graph.outputs[1].op], set()
    while todo:
        operation = todo.pop()
        seen.add(operation.type)
        todo += [tensor.op for tensor in operation.inputs]
    assert any("RandomUniform" in name for name in seen), seen
