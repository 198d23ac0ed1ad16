"""The runner of every command line: parses flags, calls main, turns errors into one line and an exit code.

COMMAND = cli.Command(main, USAGE, TrainConfig, own=("model_dir",), common=("preset", "epochs"))
if __name__ == "__main__":
    cli.run(COMMAND)
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from absl import app, flags, logging

from evenkeel.models.presets import PRESETS
from evenkeel.pipeline.errors import UsageError
from evenkeel.pipeline.system.printable import one_line
from evenkeel.tools.flags import PRESET_FLAGS, SHORT_NAMES, options
from evenkeel.tools.stdout import ignore_broken_pipe

FLAGS = flags.FLAGS
USAGE_ERROR, INTERRUPTED = 2, 130


@dataclasses.dataclass(frozen=True)
class Command:
    """A command line.

    Attributes:
      main: takes argv without the flags, returns the exit code.
      usage: the text above the flags in `--help`.
      config_class: the dataclass with the options that are flags; None if the command has only its own flags.
      own: the command's own flags.
      common: the flags that `--help` lists; empty for all. `--helpfull` always lists all.
      presets: whether the options of `config_class` can start from a preset or a file.
      roles: if any, the first argument must be one of them; `main` gets it as argv[1].
      positional: whether arguments that are not flags are allowed.
    """

    main: Callable[[list[str]], int]
    usage: str
    config_class: type | None = None
    own: tuple[str, ...] = ()
    common: tuple[str, ...] = ()
    presets: bool = True
    roles: tuple[str, ...] = ()
    positional: bool = False


def run(command: Command, argv: Sequence[str] | None = None) -> NoReturn:
    """Runs `command` on `argv` (sys.argv by default) and exits with its code; a `UsageError` is one line and code 2."""
    # TensorFlow's native log is turned off: its important messages also come as exceptions.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

    def parse(argv: list[str]) -> list[str]:
        return _parse(command, argv)

    def main(argv: list[str]) -> int:
        if command.config_class and command.presets and FLAGS.list_presets:
            print(json.dumps(PRESETS, indent=2))
            return 0
        try:
            return command.main(argv)
        except UsageError as error:
            exit_with_error(str(error))
        except KeyboardInterrupt:
            return INTERRUPTED

    logging.get_absl_handler().addFilter(_log_one_line)
    with ignore_broken_pipe():
        app.run(main, list(sys.argv if argv is None else argv), flags_parser=parse)
    raise AssertionError("app.run exits")


def exit_with_error(message: str) -> NoReturn:
    """Prints one line and exits with the code of a usage error."""
    print(f"error: {one_line(message)}", file=sys.stderr)
    sys.exit(USAGE_ERROR)


def _log_one_line(record: Any) -> bool:
    """Keeps the name of a folder that a message quotes from breaking the line and from steering the terminal."""
    record.msg, record.args = one_line(record.getMessage()), ()
    return True


def _parse(command: Command, argv: list[str]) -> list[str]:
    """Parses the flags; returns argv[0] and the remaining arguments."""
    if {"--helpfull", "-helpfull"} & set(argv[1:]):
        print(help_text(command, full=True))
        sys.exit(0)
    if {"--help", "-help", "-h"} & set(argv[1:]):
        print(help_text(command))
        sys.exit(0)
    role = argv[1:2] if command.roles else []
    if command.roles and not set(role) & set(command.roles):
        exit_with_error(f"the first argument must be {' or '.join(command.roles)}; --help shows examples.")
    try:
        rest = FLAGS([argv[0], *argv[1 + len(role) :]])
    except flags.Error as error:
        exit_with_error(" ".join(str(error).split()))
    if not FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)
    if rest[1:] and not command.positional:
        exit_with_error(f"unexpected argument {rest[1]!r}: options are written --name=value; --help lists them.")
    return [*rest, *role]


def help_text(command: Command, full: bool = False) -> str:
    """The usage and the flags: the command's common ones, or with `full` all, by group, with types and defaults."""
    config_options = {option.name: option for option in options(command.config_class)} if command.config_class else {}
    preset_flags = PRESET_FLAGS if command.config_class and command.presets else ()
    lines = [command.usage.strip(), ""]

    def describe(name: str) -> str:
        option = config_options.get(SHORT_NAMES.get(name, name))
        if option:
            return _describe_flag(name, f"{option.help} [{option.kind.__name__}]", option.default)
        return _describe_flag(name, FLAGS[name].help or "", FLAGS[name].default)

    if command.common and not full:
        lines += ["most used flags:", *map(describe, command.common), ""]
        total = len(config_options) + len(command.own) + len(preset_flags)
        lines.append(f"--helpfull lists all {total} flags.")
        return "\n".join(lines)
    own = [*command.own, *preset_flags]
    if own:
        lines += ["this command:", *map(describe, own), ""]
    group = None
    for name in config_options:
        this_group = name.rpartition(".")[0] or "run"
        if this_group != group:
            lines += [] if group is None else [""]
            lines.append(f"{this_group}:")
            group = this_group
        lines.append(describe(name))
    if config_options:
        short = "".join(f"--{short} is --{name}; " for short, name in SHORT_NAMES.items() if name in FLAGS)
        lines += ["", f"{short}--noNAME turns a bool off; --flagfile=FILE reads flags, one a line."]
    return "\n".join(lines)


def _describe_flag(name: str, help_: str, default: Any) -> str:
    shown = f" (default: {default!r})" if default not in (None, "") else ""
    return "\n".join([f"  --{name}", *(f"      {line}" for line in textwrap.wrap(help_ + shown, width=76))])
