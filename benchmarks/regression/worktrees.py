"""Versions of this project in work trees of their own, each with the packages that its lock file names.

with checked_out("main~3") as tree:
    subprocess.run([tree.python, "-m", "tools.train", "--help"], env=tree.environ)
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from evenkeel.benchmarks.peers import environments
from evenkeel.benchmarks.results import ROOT
from evenkeel.benchmarks.results import commit as commit_there
from evenkeel.pipeline.errors import UsageError, require


@dataclasses.dataclass(frozen=True)
class Tree:
    """`commit` is the full hash, with "-dirty" behind it for the working tree as it is, where that has changes."""

    path: Path
    commit: str
    python: str

    @property
    def environ(self) -> dict[str, str]:
        """Of a process that imports this version's modules."""
        variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
        return {
            **variables,
            "PYTHONPATH": str(self.path),
            "CUDA_VISIBLE_DEVICES": "-1",
            "TF_CPP_MIN_LOG_LEVEL": "2",
        }


@contextlib.contextmanager
def checked_out(ref: str, root: Path = ROOT) -> Iterator[Tree]:
    """The version `ref` of the repository `root`, until the block ends; "" is its working tree as it is.

    Raises:
      UsageError: there is no such version, or its packages cannot be installed.
    """
    if not ref:
        git(root, "rev-parse", "HEAD")  # which says what is wrong, if anything is
        yield Tree(root, str(commit_there(root)), sys.executable)
        return
    commit = commit_of(ref, root)
    with tempfile.TemporaryDirectory(prefix="evenkeel-") as directory:
        path = Path(directory, commit[:12])
        try:
            git(root, "worktree", "add", "--quiet", "--detach", str(path), commit)
            yield Tree(path, commit, python_of(path, root))
        finally:
            shutil.rmtree(path, ignore_errors=True)
            git(root, "worktree", "prune")


def commit_of(ref: str, root: Path = ROOT) -> str:
    """The full hash of the commit that `ref` names.

    Raises:
      UsageError: it names none.
    """
    try:
        return git(root, "rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}")
    except UsageError as error:
        why = "" if str(error).endswith("failed") else f" ({error})"
        raise UsageError(
            f"{ref} is no commit of {root}{why}: give a branch, a tag or a hash; a shallow clone fetches it first."
        ) from error


def git(root: Path, *arguments: str) -> str:
    """What git prints.

    Raises:
      UsageError: it fails, with its reason.
    """
    require(bool(shutil.which("git")), "git is not installed: versions come out of it.")
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
    require(done.returncode == 0, f"git {' '.join(arguments)}: {' '.join(done.stderr.split()) or 'failed'}")
    return done.stdout.strip()


def python_of(tree: Path, root: Path = ROOT) -> str:
    """The interpreter with the packages of the tree's lock: this very one, where `root` has the same lock."""
    lock = lock_of(tree)
    require(lock.is_file(), f"that version has no {lock.name}: compare with one that has.")
    if lock_of(root).read_bytes() == lock.read_bytes():
        return sys.executable
    wanted = hashlib.sha256(f"{sys.version} {sys.base_prefix}".encode() + lock.read_bytes()).hexdigest()[:16]
    home = environments.default_directory().parent / "versions" / wanted
    python, ready = home / "bin" / "python", home / "ready"
    if not ready.exists():
        print(f"installing the packages of {lock.name} into {home}", file=sys.stderr, flush=True)
        shutil.rmtree(home, ignore_errors=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes", "-r", str(lock)]
        for command in ([sys.executable, "-m", "venv", str(home)], pip):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            require(done.returncode == 0, f"{' '.join(command)}: {' '.join(done.stderr.split())[-300:]}")
        ready.touch()
    return str(python)


def lock_of(tree: Path) -> Path:
    """As the Makefile chooses it."""
    return tree / ("requirements-gpu.lock" if shutil.which("nvidia-smi") else "requirements.lock")
