"""One virtual environment a peer, outside the project's lock: rivals may want what the project must not have.

    python = python_of("torch", ("torch",), Path("~/.cache/evenkeel/peers").expanduser())

What to install stands once, in pyproject.toml's extra `peers`; it is read back from the installed project's metadata.
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

INSTALL_SECONDS = 1800


class Unavailable(Exception):
    """A peer that cannot be installed or run here; the text is the reason, one line."""


def default_directory() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "evenkeel" / "peers"


def requirements(packages: Sequence[str]) -> list[str]:
    """pip's lines for `packages`: the version of the extra `peers`, or else the very one that this project runs on."""
    try:
        lines = importlib.metadata.requires("evenkeel") or []
    except importlib.metadata.PackageNotFoundError as error:
        raise Unavailable("evenkeel is not installed here, so its extra is unknown: pip install -e .") from error
    listed = {}
    for line in lines:
        requirement, _, marker = line.partition(";")
        if re.search(r"""extra\s*==\s*['"]peers['"]""", marker):
            listed[re.split(r"[^\w.-]", requirement.strip())[0].lower()] = requirement.strip()
    return [listed.get(name) or f"{name}=={_installed(name)}" for name in packages]


def python_of(name: str, packages: Sequence[str], directory: Path, say: Callable[[str], None] = print) -> Path:
    """The interpreter of `directory/name`, built or rebuilt first where its requirements are not what it holds.

    Raises:
      Unavailable: it cannot be installed.
    """
    wanted = "\n".join([f"# Python {sys.version.split()[0]} of {sys.base_prefix}", *requirements(packages), ""])
    home = directory / name
    python, stamp = home / "bin" / "python", home / "requirements.txt"
    if python.exists() and stamp.is_file() and stamp.read_text() == wanted:
        return python
    say(f"{name}: installing {', '.join(wanted.split(chr(10))[1:-1])} into {home}")
    try:
        shutil.rmtree(home, ignore_errors=True)
        _call(sys.executable, "-m", "venv", str(home))
        unfinished = home / "wanted.txt"
        unfinished.write_text(wanted)
        _call(str(python), "-m", "pip", "install", "--quiet", "--requirement", str(unfinished))
        unfinished.rename(stamp)  # the last thing: an interrupted installation has no stamp
    except OSError as error:
        raise Unavailable(f"{home} cannot be written: {error.strerror}") from error
    return python


def _installed(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError as error:
        raise Unavailable(f"{package} is neither in the extra peers nor installed here") from error


def _call(*command: str) -> None:
    what = "venv" if "venv" in command else "pip"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"{what} did not finish in {INSTALL_SECONDS} s") from error
    if done.returncode:
        lines = [line.strip() for line in (done.stdout + "\n" + done.stderr).splitlines() if line.strip()]
        errors = (
            [line for line in lines if line.lower().startswith("error")] or lines or [f"exit code {done.returncode}"]
        )
        raise Unavailable(f"{what} failed: {errors[-1][:300]}")
