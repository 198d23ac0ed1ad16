"""Versions of a small repository of our own."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

from evenkeel.benchmarks.regression import worktrees
from evenkeel.pipeline.errors import UsageError


def git(repository: pathlib.Path, *arguments: str) -> str:
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    done = subprocess.run(["git", "-C", str(repository), *who, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: pathlib.Path) -> pathlib.Path:
    """Two commits, and a change that is not committed."""
    path = tmp_path / "repository"
    path.mkdir()
    git(path, "init", "--quiet", "--initial-branch=main")
    for value in ("1", "2"):
        for name in ("requirements.lock", "requirements-gpu.lock"):
            (path / name).write_text("# nothing\n")
        (path / "version.py").write_text(f"VALUE = {value}\n")
        git(path, "add", ".")
        git(path, "commit", "--quiet", "--message", value)
    (path / "version.py").write_text("VALUE = 3\n")
    return path


@pytest.mark.parametrize(("ref", "value"), [("main~1", "1"), ("main", "2"), ("", "3")])
def test_each_version_imports_its_own_modules(repository: pathlib.Path, ref: str, value: str) -> None:
    with worktrees.checked_out(ref, repository) as tree:
        line = [tree.python, "-c", "import version; print(version.VALUE)"]
        done = subprocess.run(line, env=tree.environ, capture_output=True, text=True, check=True, cwd="/")
        assert done.stdout.strip() == value
        assert tree.python == sys.executable, "the lock is the same"
        assert tree.commit == (
            git(repository, "rev-parse", ref) if ref else git(repository, "rev-parse", "main") + "-dirty"
        )
    assert tree.path.exists() == (ref == "")
    assert len(git(repository, "worktree", "list").splitlines()) == 1


def test_a_tree_is_gone_after_a_failure(repository: pathlib.Path) -> None:
    def fails() -> None:
        with worktrees.checked_out("main", repository):
            assert len(git(repository, "worktree", "list").splitlines()) == 2
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert len(git(repository, "worktree", "list").splitlines()) == 1


def test_what_is_no_commit_is_named(repository: pathlib.Path) -> None:
    with pytest.raises(UsageError, match=r"v9 is no commit of .*: give a branch, a tag or a hash"):
        worktrees.commit_of("v9", repository)


def test_another_lock_gets_packages_of_its_own(
    repository: pathlib.Path, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    """Here none, so that nothing is fetched."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("requirements.lock", "requirements-gpu.lock"):
        (repository / name).write_text("# nothing, but other\n")
    with worktrees.checked_out("main", repository) as tree:
        assert tree.python.startswith(str(tmp_path / "cache"))
        done = subprocess.run([tree.python, "-m", "pip", "list", "--format=freeze"], capture_output=True, text=True)
        assert "tensorflow" not in done.stdout
    built = pathlib.Path(tree.python).stat().st_mtime_ns
    with worktrees.checked_out("main", repository) as tree:
        assert pathlib.Path(tree.python).stat().st_mtime_ns == built, "it is kept"
