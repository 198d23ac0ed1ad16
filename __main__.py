"""The command `evenkeel`, and `python -m evenkeel`: finds the command line that the first argument names."""

from __future__ import annotations

import difflib
import importlib
import sys

from evenkeel import __version__
from evenkeel.tools.stdout import ignore_broken_pipe

COMMANDS = {
    "train": "train a CNN on a data set",
    "doctor": "find out why a run does not train well, or check one before it starts",
    "evaluate": "measure a trained model on a split of its data set",
    "export": "write a SavedModel that takes image files",
    "prepare": "store images in the form that training reads fastest, with a report on them",
    "profile": "measure the input pipeline stage by stage",
    "augmentations": "draw what augmentations do to the images",
    "launch": "train with several workers on this machine",
    "cache": "list what the cache of prepared images holds, and clear it",
    "data-service": "run a process of a tf.data service cluster",
}
MODULES = {"profile": "profile_pipeline", "augmentations": "show_augmentations", "data-service": "data_service"}
HELP_FLAGS = ("--help", "-help", "-h", "--helpfull", "help")


def main() -> None:
    """Runs the command that sys.argv names."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in HELP_FLAGS:
        with ignore_broken_pipe():
            print(help_text())
        return
    if name in ("--version", "-version"):
        print(f"evenkeel {__version__}")
        return
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        known = ", ".join(COMMANDS)
        print(f"error: evenkeel has no command {name!r}: it must be one of {known}.{hint}", file=sys.stderr)
        sys.exit(2)
    from evenkeel.tools import cli

    command = importlib.import_module(f"evenkeel.tools.{MODULES.get(name, name)}").COMMAND
    cli.run(command, [f"evenkeel {name}", *arguments])


def help_text() -> str:
    """The commands, a line each."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {summary}" for name, summary in COMMANDS.items()]
    return "\n".join(
        ["Usage: evenkeel COMMAND [--FLAG=VALUE ...]", "", *lines, "", "evenkeel COMMAND --help shows its flags."]
    )


if __name__ == "__main__":
    main()
