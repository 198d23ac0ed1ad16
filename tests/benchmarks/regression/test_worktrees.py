"""Work trees of a small repository."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

from evenkeel.benchmarks.regression import worktrees
from evenkeel.pipeline.errors import UsageError
from tests.command_line import run_git


@pytest.fixture
def repository(tmp_path: pathlib.Path) -> pathlib.Path:
    """A repository that is the package `evenkeel`: two commits, and a change that is not committed."""
    path = tmp_path / "repository"
    path.mkdir()
    run_git(path, "init", "--quiet", "--initial-branch=main")
    for value in ("1", "2"):
        for name in ("requirements.lock", "requirements-gpu.lock"):
            (path / name).write_text("# nothing\n")
        (path / "__init__.py").touch()
        (path / "version.py").write_text(f"VALUE = {value}\n")
        run_git(path, "add", ".")
        run_git(path, "commit", "--quiet", "--message", value)
    (path / "version.py").write_text("VALUE = 3\n")
    return path


@pytest.mark.parametrize(("ref", "value"), [("main~1", "1"), ("main", "2"), ("", "3")])
def test_each_version_imports_its_own_modules(repository: pathlib.Path, ref: str, value: str) -> None:
    with worktrees.check_out(ref, repository) as tree:
        # From the root of the tree before 0.2, and as the package `evenkeel` since.
        for module in ("version", "evenkeel.version"):
            command = [tree.python, "-c", f"import {module} as version; print(version.VALUE)"]
            process = subprocess.run(command, env=tree.environ, capture_output=True, text=True, check=True, cwd="/")
            assert process.stdout.strip() == value, module
        assert tree.python == sys.executable, "the lock files are equal"
        assert tree.commit == (
            run_git(repository, "rev-parse", ref) if ref else run_git(repository, "rev-parse", "main") + "-dirty"
        )
    assert tree.path.exists() == (ref == "")
    assert not tree.import_path.exists()
    assert len(run_git(repository, "worktree", "list").splitlines()) == 1


def test_a_work_tree_is_removed_after_an_exception(repository: pathlib.Path) -> None:
    def fail() -> None:
        with worktrees.check_out("main", repository):
            assert len(run_git(repository, "worktree", "list").splitlines()) == 2
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert len(run_git(repository, "worktree", "list").splitlines()) == 1


def test_an_unknown_commit_is_an_error(repository: pathlib.Path) -> None:
    with pytest.raises(UsageError, match=r"v9 is not a commit of .*: give a branch, a tag or a hash"):
        worktrees.resolve_commit("v9", repository)


@pytest.mark.slow
def test_another_lock_file_gets_its_own_interpreter(
    repository: pathlib.Path, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    """The other lock file is empty, so that nothing is downloaded."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("requirements.lock", "requirements-gpu.lock"):
        (repository / name).write_text("# nothing, in other words\n")
    with worktrees.check_out("main", repository) as tree:
        assert tree.python.startswith(str(tmp_path / "cache"))
        process = subprocess.run([tree.python, "-m", "pip", "list", "--format=freeze"], capture_output=True, text=True)
        assert "tensorflow" not in process.stdout
    installed = pathlib.Path(tree.python).stat().st_mtime_ns
    with worktrees.check_out("main", repository) as tree:
        assert pathlib.Path(tree.python).stat().st_mtime_ns == installed, "the environment is reused"


def test_a_version_has_its_own_task_files(repository: pathlib.Path) -> None:
    task = repository / "benchmarks" / "somewhere" / "load_evenkeel.py"
    task.parent.mkdir(parents=True)
    task.touch()
    run_git(repository, "add", "benchmarks")
    run_git(repository, "commit", "--quiet", "--message", "a task")
    with worktrees.check_out("main", repository) as tree:
        assert tree.find_benchmark_file("load_evenkeel.py") == tree.path / "benchmarks" / "somewhere" / task.name
    with worktrees.check_out("main~1", repository) as tree:
        assert tree.find_benchmark_file("load_evenkeel.py") is None
