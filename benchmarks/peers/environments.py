"""Installs a virtual environment for each peer, outside the lock file, because the project must not have its packages.

    python = install_environment("torch", ("torch",), Path("~/.cache/evenkeel/peers").expanduser())

The versions to install are those of the extra `peers` in pyproject.toml. They are read from the metadata of the
installed project.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

INSTALL_TIMEOUT_SECONDS = 1800


class UnavailableError(Exception):
    """A peer or a version cannot be installed or run on this machine; the message is the reason, in one line."""


def default_directory() -> Path:
    """The cache directory that contains the environments."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "evenkeel" / "peers"


def install_environment(
    name: str, packages: Sequence[str], directory: Path, log: Callable[[str], None] = print
) -> Path:
    """Returns the interpreter of the environment `directory/name`, which is installed if its requirements have changed.

    Raises:
      UnavailableError: the environment cannot be installed.
    """
    stamp_text = "\n".join([f"# Python {sys.version.split()[0]} of {sys.base_prefix}", *requirements(packages), ""])
    environment = directory / name
    python, stamp = environment / "bin" / "python", environment / "requirements.txt"
    if python.exists() and stamp.is_file() and stamp.read_text() == stamp_text:
        return python
    log(f"{name}: installing {', '.join(stamp_text.split(chr(10))[1:-1])} into {environment}")
    try:
        shutil.rmtree(environment, ignore_errors=True)
        _run(sys.executable, "-m", "venv", str(environment))
        unfinished = environment / "wanted.txt"
        unfinished.write_text(stamp_text)
        _run(str(python), "-m", "pip", "install", "--quiet", "--requirement", str(unfinished))
        unfinished.rename(stamp)  # the last step, so that an interrupted installation has no stamp
    except OSError as error:
        raise UnavailableError(f"{environment} cannot be written: {error.strerror}") from error
    return python


def requirements(packages: Sequence[str]) -> list[str]:
    """Returns pip requirements of `packages`: the version in the extra `peers`, or else the version installed here."""
    try:
        lines = importlib.metadata.requires("evenkeel") or []
    except importlib.metadata.PackageNotFoundError as error:
        raise UnavailableError(
            "evenkeel is not installed, so its extra `peers` cannot be read: pip install -e ."
        ) from error
    pinned = {}
    for line in lines:
        requirement, _, marker = line.partition(";")
        if re.search(r"""extra\s*==\s*['"]peers['"]""", marker):
            pinned[re.split(r"[^\w.-]", requirement.strip())[0].lower()] = requirement.strip()
    return [pinned.get(name) or f"{name}=={_installed_version(name)}" for name in packages]


def _installed_version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError as error:
        raise UnavailableError(f"{package} is neither in the extra peers nor installed here") from error


def _run(*command: str) -> None:
    tool = "venv" if "venv" in command else "pip"
    try:
        process = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(f"{tool} did not finish in {INSTALL_TIMEOUT_SECONDS} s") from error
    if process.returncode:
        lines = [line.strip() for line in (process.stdout + "\n" + process.stderr).splitlines() if line.strip()]
        errors = [line for line in lines if line.lower().startswith("error")]
        reason = (errors or lines or [f"exit code {process.returncode}"])[-1]
        raise UnavailableError(f"{tool} failed: {reason[:300]}")
