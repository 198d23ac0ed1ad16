"""Checks out versions of evenkeel into git work trees and installs the packages of their lock files.

with check_out("main~3") as tree:
    subprocess.run([tree.python, "-m", "tools.train", "--help"], cwd=tree.path, env=tree.environ)
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
from evenkeel.benchmarks.results import ROOT, git_commit
from evenkeel.pipeline.errors import UsageError, require


@dataclasses.dataclass(frozen=True)
class Tree:
    """A version of the project on disk.

    Attributes:
      path: the work tree.
      commit: the full hash, with "-dirty" appended for a working tree with changes.
      python: the interpreter that has the packages of the version.
      import_path: a directory that contains a symbolic link `evenkeel` to `path`.
    """

    path: Path
    commit: str
    python: str
    import_path: Path

    @property
    def environ(self) -> dict[str, str]:
        """Environment variables of a process that imports this version.

        The package `evenkeel` is the checkout itself. Its folder may have any name, so a link gives it the right name.
        Versions before 0.2 import `pipeline` and `models` from the root of the tree, so the root is on the path, too.
        """
        variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
        return {
            **variables,
            "PYTHONPATH": f"{self.import_path}{os.pathsep}{self.path}",
            "CUDA_VISIBLE_DEVICES": "-1",
            "TF_CPP_MIN_LOG_LEVEL": "2",
        }

    def find_benchmark_file(self, name: str) -> Path | None:
        """Finds the file `name` in the `benchmarks` of this version; None if there is no such file."""
        return min((self.path / "benchmarks").rglob(name), default=None)


@contextlib.contextmanager
def check_out(ref: str, root: Path = ROOT) -> Iterator[Tree]:
    """Provides a work tree of the version `ref` of the repository `root` until the block ends.

    If `ref` is "", provides the working tree itself.

    Raises:
      UsageError: the version does not exist, or its packages cannot be installed.
    """
    with tempfile.TemporaryDirectory(prefix="evenkeel-") as directory:
        import_path = Path(directory, "import")
        import_path.mkdir()
        if not ref:
            run_git(root, "rev-parse", "HEAD")  # raises UsageError if `root` is not a repository or has no commit
            (import_path / "evenkeel").symlink_to(root, target_is_directory=True)
            yield Tree(root, str(git_commit(root)), sys.executable, import_path)
            return
        commit = resolve_commit(ref, root)
        path = Path(directory, commit[:12])
        try:
            run_git(root, "worktree", "add", "--quiet", "--detach", str(path), commit)
            (import_path / "evenkeel").symlink_to(path, target_is_directory=True)
            yield Tree(path, commit, install_interpreter(path, root), import_path)
        finally:
            shutil.rmtree(path, ignore_errors=True)
            run_git(root, "worktree", "prune")


def resolve_commit(ref: str, root: Path = ROOT) -> str:
    """Returns the full hash of the commit that `ref` names.

    Raises:
      UsageError: the commit does not exist.
    """
    try:
        return run_git(root, "rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}")
    except UsageError as error:
        reason = "" if str(error).endswith("failed") else f" ({error})"
        raise UsageError(
            f"{ref} is not a commit of {root}{reason}: give a branch, a tag or a hash; in a shallow clone, fetch first."
        ) from error


def run_git(root: Path, *arguments: str) -> str:
    """Runs a git command in the repository `root` and returns its standard output.

    Raises:
      UsageError: git is missing, or the command failed.
    """
    require(bool(shutil.which("git")), "git is not installed: install git, which is needed to check out versions.")
    process = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
    require(process.returncode == 0, f"git {' '.join(arguments)}: {' '.join(process.stderr.split()) or 'failed'}")
    return process.stdout.strip()


def install_interpreter(tree: Path, root: Path = ROOT) -> str:
    """Returns an interpreter that has the packages of the lock file of `tree`, and installs them if needed.

    If `root` has the same lock file, returns the running interpreter.

    Raises:
      UsageError: the version has no lock file, or its packages cannot be installed.
    """
    lock = lock_file(tree)
    require(lock.is_file(), f"the version has no {lock.name}: give a version that has this file.")
    if lock_file(root).read_bytes() == lock.read_bytes():
        return sys.executable
    key = hashlib.sha256(f"{sys.version} {sys.base_prefix}".encode() + lock.read_bytes()).hexdigest()[:16]
    environment = environments.default_directory().parent / "versions" / key
    python, ready = environment / "bin" / "python", environment / "ready"
    if not ready.exists():
        print(f"installing the packages of {lock.name} into {environment}", file=sys.stderr, flush=True)
        shutil.rmtree(environment, ignore_errors=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes", "-r", str(lock)]
        for command in ([sys.executable, "-m", "venv", str(environment)], pip):
            process = subprocess.run(command, capture_output=True, text=True, check=False)
            require(process.returncode == 0, f"{' '.join(command)} failed: {' '.join(process.stderr.split())[-300:]}")
        ready.touch()
    return str(python)


def lock_file(tree: Path) -> Path:
    """Returns the path of the lock file that the Makefile would choose on this machine."""
    return tree / ("requirements-gpu.lock" if shutil.which("nvidia-smi") else "requirements.lock")
