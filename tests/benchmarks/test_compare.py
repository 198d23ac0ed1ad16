"""The gate from its command line to its exit code, on versions of a small repository whose speed is known."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import pytest

from evenkeel.benchmarks.regression import power_analysis
from evenkeel.benchmarks.results import ROOT
from tests.benchmarks.regression.test_worktrees import git

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
# The command line as it is, but for what is compared, and how long its turns are.
GATE = """
import functools, pathlib, sys
from benchmarks import command, compare, trees, versions
repository, task = map(pathlib.Path, (sys.argv.pop(1), sys.argv.pop(1)))
versions.CASES, versions.SECONDS = {"step": versions.Case(str(task), "a loop")}, 0.05
compare.checked_out = functools.partial(trees.checked_out, root=repository)
command.run(compare.main)
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A branch for each of `VERSIONS`."""
    path = tmp_path_factory.mktemp("repository")
    git(path, "init", "--quiet", "--initial-branch=none")
    for name in ("requirements.lock", "requirements-gpu.lock"):
        (path / name).write_text("# nothing\n")
    for branch, source in VERSIONS.items():
        git(path, "checkout", "--quiet", "-b", branch)
        (path / "work.py").write_text(f"{source}\n")
        git(path, "add", ".")
        git(path, "commit", "--quiet", "--message", branch)
    return path


def compared(
    repository: pathlib.Path, tmp_path: pathlib.Path, base: str, head: str
) -> tuple[subprocess.CompletedProcess[str], dict]:
    """What the command printed, and its result file; both say what the comment does."""
    (tmp_path / "task.py").write_text(TASK)
    places = [f"--output={tmp_path / 'result.json'}", f"--markdown={tmp_path / 'comment.md'}"]
    line = [sys.executable, "-c", GATE, str(repository), str(tmp_path / "task.py"), "--only=step", *places]
    # Beside other tests half as much again says nothing; three times as much does.
    line += [f"--base={base}", f"--head={head}", "--least=0.5"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert (tmp_path / "comment.md").read_text().strip() == done.stdout.strip(), done.stderr
    assert len(git(repository, "worktree", "list").splitlines()) == 1
    return done, json.loads((tmp_path / "result.json").read_text())


@pytest.mark.slow
def test_equal_versions_pass(repository: pathlib.Path, tmp_path: pathlib.Path) -> None:
    done, found = compared(repository, tmp_path, "base", "equal")
    assert done.returncode == 0, done.stdout
    commits = {side: git(repository, "rev-parse", branch) for side, branch in (("base", "base"), ("head", "equal"))}
    assert found["environment"]["versions_compared"] == commits
    of = {(each["case"], each["metric"]): each["samples"] for each in found["results"]}
    assert len(of["step/base", "cpu_seconds"]) == len(of["step/head", "cpu_seconds"]) == power_analysis.ROUNDS


@pytest.mark.slow
def test_a_slower_version_fails(repository: pathlib.Path, tmp_path: pathlib.Path) -> None:
    done, found = compared(repository, tmp_path, "base", "slow")
    assert done.returncode == 4, done.stdout
    assert "**slower**" in done.stdout
    cpu, wall = found["environment"]["verdicts"]
    assert (cpu["case"], cpu["metric"], cpu["word"], cpu["fails"]) == ("step", "cpu_time", "slower", True)
    assert 1.5 < cpu["low"] <= cpu["value"] <= cpu["high"]
    assert (wall["metric"], wall["fails"]) == ("wall_time", False)


@pytest.mark.slow
def test_a_faster_version_passes(repository: pathlib.Path, tmp_path: pathlib.Path) -> None:
    done, _ = compared(repository, tmp_path, "slow", "base")
    assert done.returncode == 0, done.stdout
    assert "**faster**" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("base", "head", "words"),
    [
        ("base", "broken", "skipped: head: ImportError: there is none"),
        ("base", "other", "images a step must be equal and are not (base 1, head 2)"),
        ("broken", "base", "skipped: base: ImportError: there is none"),  # nothing has been compared
    ],
)
def test_what_was_not_compared_fails(
    base: str, head: str, words: str, repository: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    done, found = compared(repository, tmp_path, base, head)
    assert done.returncode == 4, done.stdout
    assert words in done.stdout
    assert found["results"] == []
    assert len(found["skipped"]) == 1
