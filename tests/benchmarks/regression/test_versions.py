"""The table of verdicts, the final loss, bad flags, and the injected regressions."""

from __future__ import annotations

import pathlib
import shutil
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from evenkeel.benchmarks.peers.environments import UnavailableError
from evenkeel.benchmarks.regression import injected_regressions, verdicts, versions
from evenkeel.benchmarks.regression.versions import CHANCE_LOSS, CaseComparison
from evenkeel.benchmarks.regression.worktrees import Tree
from evenkeel.benchmarks.results import ROOT, Result, Skipped
from evenkeel.benchmarks.timing import Sample
from evenkeel.pipeline.errors import UsageError
from tests import forked


def test_the_final_loss_is_the_median_of_the_last_steps_and_at_most_that_of_guessing() -> None:
    falling = np.linspace(2.0, 0.1, 200)
    assert versions.final_loss(falling) == pytest.approx(np.median(falling[-versions.FINAL_LOSS_STEPS :]))
    assert versions.final_loss(np.full(200, 50.0)) == CHANCE_LOSS
    assert versions.final_loss(versions.parse_losses([1.0] * 10 + ["nan"] * 190)) == CHANCE_LOSS
    assert versions.final_loss(versions.parse_losses([1.0] * 10 + ["inf"] * 190)) == CHANCE_LOSS


def test_the_table_lists_measured_and_skipped_cases() -> None:
    results = [
        Result("compare", f"step/{side}", "cpu_seconds", "s", "lower", (second, second))
        for side, second in (("base", 1.0), ("head", 1.2))
    ]
    slower = verdicts.judge_times([1.0, 1.0], [1.2, 1.2], 0.05)
    text = versions.markdown_table(
        {"base": "a" * 40, "head": "b" * 40 + "-dirty"},
        {"cores": 2, "cpu": "a CPU"},
        0.05,
        [CaseComparison("step", {"cpu_time": slower}, results)],
        [Skipped("input", "base: no such thing")],
    )
    assert text.startswith(
        "`bbbbbbbbbbbb-dirty` against `aaaaaaaaaaaa`, on 2 cores of a CPU; a change of 5% matters.\n"
    )
    assert "| step | cpu_time | 1 s | 1.2 s | 1.200 (1.200 to 1.200) | **slower** |\n" in text
    assert text.endswith("| input | - | - | - | - | skipped: base: no such thing |\n")


def test_wall_time_is_shown_but_does_not_fail_a_version() -> None:
    slower = verdicts.judge_times([1.0, 1.0], [1.2, 1.2], 0.05)
    same = verdicts.judge_times([1.0, 1.0], [1.0, 1.0], 0.05)
    assert not versions.any_failure([CaseComparison("step", {"cpu_time": same, "wall_time": slower}, [])])
    assert versions.any_failure([CaseComparison("step", {"cpu_time": slower, "wall_time": same}, [])])


def test_first_calls_alternate_after_one_of_each_that_does_not_count(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trees = {name: Tree(tmp_path / name, name, "python", tmp_path) for name in ("base", "head")}
    log: list[str] = []

    def measure(python: str, root: pathlib.Path, **_: object) -> Sample:
        log.append(root.name)
        return Sample(float(len(log)), 2 * float(len(log)))

    monkeypatch.setattr(versions, "measure_first_call", measure)
    comparison = versions.compare_case("startup", trees, rounds=2, min_effect=0.05)
    assert log == ["head", "base", "base", "head", "head", "base"]
    samples = {(result.case, result.metric): result.samples for result in comparison.results}
    assert samples["startup/base", "cpu_seconds"] == (3.0, 6.0)
    assert samples["startup/head", "wall_seconds"] == (8.0, 10.0)
    assert set(comparison.verdicts) == {"cpu_time", "wall_time"}


def test_a_version_that_does_not_train_is_unavailable(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> Sample:
        raise UsageError("it ended with 1")

    monkeypatch.setattr(versions, "measure_first_call", fail)
    with pytest.raises(UnavailableError, match="head: it ended with 1"):
        versions.compare_case("startup", {"head": Tree(tmp_path, "", "python", tmp_path)}, rounds=1, min_effect=0.05)


def test_commands_know_their_cases_without_tensorflow() -> None:
    """Each is imported in its own process, because both define flags."""
    for module, cases in (("compare", [*versions.CASES, versions.STARTUP]), ("regression.power", [*versions.CASES])):
        code = f"import sys; from evenkeel.benchmarks.{module} import CASES; print(*CASES, 'tensorflow' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        assert done.stdout.split() == [*cases, "False"]
    for case in versions.CASES.values():
        assert (ROOT / "benchmarks" / case.file).is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "flags", "words"),
    [
        ("compare", [], "--base is missing"),
        ("compare", ["--base=main", "--only="], "--only is empty"),
        ("compare", ["--base=main", "--rounds=2"], "--rounds (2) must be at least 5"),
        ("compare", ["--base=main", "rounds=9"], "unexpected argument 'rounds=9'"),
        ("compare", ["--base=main", "--markdown=/none/there.md"], "--markdown (/none/there.md) must be a file"),
        ("compare", ["--base=no-such-branch"], "no-such-branch is not a commit"),
        ("regression.power", ["--ref="], "--ref is empty"),
        ("regression.power", ["--pairs=15"], "--pairs (15) must be a multiple of 10"),
        ("speed.end_to_end", ["--only=nothing"], "only ('nothing') must be one of small32, photos224"),
        ("speed.startup", ["--output=/none/there.json"], "--output (/none/there.json) must be a file"),
        ("run", ["--only="], "--only is empty"),
        ("run", ["--suite=full", "--only=stability"], "--data.small_source is missing"),
    ],
)
def test_bad_flags_are_errors_of_one_line_before_anything_is_measured(
    module: str, flags: list[str], words: str
) -> None:
    line = [sys.executable, "-m", f"benchmarks.{module}", *flags]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("size", ["quick", "full"])
def test_every_suite_is_a_command_that_accepts_its_flags(size: str) -> None:
    code = f"from evenkeel.benchmarks import run; [print(*suite['{size}']) for suite in run.SUITES.values()]"
    listed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    rows = [row.split() for row in listed.splitlines()]
    assert len(rows) >= 7
    for module, *options in rows:
        done = forked.run(f"benchmarks.{module}", *options, "--output=x.json", "--only_check_args")
        assert done.returncode == 0, f"{module}: {done.stderr[-300:]}"


@pytest.fixture
def tree(tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy of this version's sources."""
    for name in ("pipeline", "models"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def changed_files(tree: pathlib.Path) -> list[str]:
    paths = [path for name in ("pipeline", "models") for path in (tree / name).rglob("*.py")]
    return [
        str(path.relative_to(tree)) for path in paths if path.read_text() != (ROOT / path.relative_to(tree)).read_text()
    ]


@pytest.mark.parametrize(
    ("change", "path"),
    [
        (lambda tree: injected_regressions.slow_down_input(tree, 0.001), "pipeline/build.py"),
        (lambda tree: injected_regressions.slow_down_step(tree, 0.001), "models/training/training_step.py"),
        (injected_regressions.triple_learning_rate, "models/optim/schedules.py"),
    ],
)
def test_a_regression_is_injected_once(change, path: str, tree: pathlib.Path) -> None:
    change(tree)
    assert changed_files(tree) == [path]
    compile((tree / path).read_text(), path, "exec")
    (tree / path).write_text("no such line\n")
    with pytest.raises(ValueError, match="must be in the source once, but is in it 0 times"):
        change(tree)


def test_injected_work_changes_no_output_and_is_not_removed_by_grappler() -> None:
    """The labels depend on its random numbers: Grappler removes ops that are only a control dependency."""
    namespace: dict[str, Any] = {"tf": tf}
    exec(injected_regressions.BURN_CPU_SOURCE.format(count=100), namespace)
    images, labels = tf.constant([[7], [8]], tf.uint8), tf.constant([3, 4], tf.int64)
    same_images, same_labels = namespace["_burn_cpu"](images, labels)
    np.testing.assert_array_equal(same_images, images)
    np.testing.assert_array_equal(same_labels, labels)
    graph = tf.function(namespace["_burn_cpu"]).get_concrete_function(images, labels)
    todo, op_types = [graph.outputs[1].op], set()
    while todo:
        operation = todo.pop()
        op_types.add(operation.type)
        todo += [tensor.op for tensor in operation.inputs]
    assert any("RandomUniform" in name for name in op_types), op_types
