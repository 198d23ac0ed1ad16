"""The gate, from its flags to its exit code, on versions of a small repository with a known speed."""

from __future__ import annotations

import functools
import importlib
import json
import pathlib
import subprocess
import sys

import pytest

from evenkeel.benchmarks import command
from evenkeel.benchmarks.peers import race
from evenkeel.benchmarks.regression import power_analysis, versions, worktrees
from tests import forked
from tests.command_line import run_git

VERSIONS = {
    "base": "AMOUNT = 1",
    "equal": "AMOUNT = 1  # and no more",
    "slow": "AMOUNT = 3",
    "broken": "raise ImportError('there is none')",
    "other": "AMOUNT, IMAGES = 1, 2",
}
TASK = """
def prepare(threads):
    import work

    def run(steps):
        for _ in range(10_000 * work.AMOUNT * steps):
            pass
        return {}

    return {"same": {"images a step": getattr(work, "IMAGES", 1)}, "images_per_step": 1, "about": ""}, run
"""


def main(repository: str, task: str, *arguments: str) -> None:
    """The real command in a process of its own, with another case, shorter turns and no repetition of noisy ones."""
    compare = importlib.import_module("evenkeel.benchmarks.compare")
    versions.CASES, versions.TURN_SECONDS = {"step": versions.Case(task, "a loop")}, 0.05
    race.MAX_ROUNDS_FACTOR = 1
    compare.check_out = functools.partial(worktrees.check_out, root=pathlib.Path(repository))
    sys.argv = [compare.__file__, *arguments]
    command.run(compare.main)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A branch for each of `VERSIONS`."""
    path = tmp_path_factory.mktemp("repository")
    run_git(path, "init", "--quiet", "--initial-branch=none")
    for name in ("requirements.lock", "requirements-gpu.lock"):
        (path / name).write_text("# nothing\n")
    for branch, source in VERSIONS.items():
        run_git(path, "checkout", "--quiet", "-b", branch)
        (path / "work.py").write_text(f"{source}\n")
        run_git(path, "add", ".")
        run_git(path, "commit", "--quiet", "--message", branch)
    return path


def run_gate(
    repository: pathlib.Path, tmp_path: pathlib.Path, base: str, head: str
) -> tuple[subprocess.CompletedProcess[str], dict]:
    """The finished command and its result file; the comment must equal the output."""
    (tmp_path / "task.py").write_text(TASK)
    outputs = [f"--output={tmp_path / 'result.json'}", f"--markdown={tmp_path / 'comment.md'}"]
    # Beside other tests, 1.5 times the CPU time can be noise; 3 times cannot.
    flags = ["--only=step", *outputs, f"--base={base}", f"--head={head}", "--least=0.5"]
    done = forked.run(main, str(repository), str(tmp_path / "task.py"), *flags)
    assert (tmp_path / "comment.md").read_text().strip() == done.stdout.strip(), done.stderr
    assert len(run_git(repository, "worktree", "list").splitlines()) == 1
    return done, json.loads((tmp_path / "result.json").read_text())


@pytest.mark.slow
def test_equal_versions_pass(repository: pathlib.Path, tmp_path: pathlib.Path) -> None:
    done, result_file = run_gate(repository, tmp_path, "base", "equal")
    assert done.returncode == 0, done.stdout
    commits = {side: run_git(repository, "rev-parse", branch) for side, branch in (("base", "base"), ("head", "equal"))}
    assert result_file["environment"]["versions_compared"] == commits
    samples = {(result["case"], result["metric"]): result["samples"] for result in result_file["results"]}
    assert len(samples["step/base", "cpu_seconds"]) == len(samples["step/head", "cpu_seconds"]) == power_analysis.ROUNDS


@pytest.mark.slow
def test_a_slower_version_fails(repository: pathlib.Path, tmp_path: pathlib.Path) -> None:
    done, result_file = run_gate(repository, tmp_path, "base", "slow")
    assert done.returncode == 4, done.stdout
    assert "**slower**" in done.stdout
    cpu, wall = result_file["environment"]["verdicts"]
    assert (cpu["case"], cpu["metric"], cpu["word"], cpu["fails"]) == ("step", "cpu_time", "slower", True)
    assert 1.5 < cpu["low"] <= cpu["value"] <= cpu["high"]
    assert (wall["metric"], wall["fails"]) == ("wall_time", False)


@pytest.mark.slow
def test_a_faster_version_passes(repository: pathlib.Path, tmp_path: pathlib.Path) -> None:
    done, _ = run_gate(repository, tmp_path, "slow", "base")
    assert done.returncode == 0, done.stdout
    assert "**faster**" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("base", "head", "words"),
    [
        ("base", "broken", "skipped: head: ImportError: there is none"),
        ("base", "other", "images a step must be equal but differ (base 1, head 2)"),
        ("broken", "base", "skipped: base: ImportError: there is none"),  # no case was compared
    ],
)
def test_a_case_that_was_not_compared_fails(
    base: str, head: str, words: str, repository: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    done, result_file = run_gate(repository, tmp_path, base, head)
    assert done.returncode == 4, done.stdout
    assert words in done.stdout
    assert result_file["results"] == []
    assert len(result_file["skipped"]) == 1
