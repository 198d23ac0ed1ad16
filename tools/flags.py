"""absl flags made from the configuration dataclasses, and what every command line here shares.

    flags.define(TrainConfig)
    config = flags.config(TrainConfig)    # defaults < preset < --config file < flags given; later values win

Imports no TensorFlow, so `--help` and errors in flags are instant.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import textwrap
import typing
from collections.abc import Callable, Iterator
from typing import Any

from absl import app, logging
from absl import flags as absl_flags

from evenkeel.models import config as configs
from evenkeel.models.presets import PRESETS
from evenkeel.pipeline.errors import UsageError, one_of, require
from evenkeel.tools import stdout

FLAGS = absl_flags.FLAGS
USAGE_ERROR = 2
SHORT = {"batch_size": "data.batch_size"}


@dataclasses.dataclass(frozen=True)
class Option:
    """One option of a dataclass: its dotted name, type, default and help."""

    name: str
    kind: type
    default: Any
    help: str


def options(cls: type, prefix: str = "") -> Iterator[Option]:
    """All options of a configuration dataclass, nested ones under dotted names."""
    kinds = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        name, kind = prefix + field.name, kinds[field.name]
        if dataclasses.is_dataclass(kind):
            yield from options(typing.cast(type, kind), name + ".")
        else:
            yield Option(name, kind, field.default, field.metadata["help"])


def define(cls: type, presets: bool = True) -> None:
    """A flag for each option of `cls`; with `presets`, `--preset`, `--config` and what prints them."""
    makers: dict[type, Callable[..., Any]] = {
        bool: absl_flags.DEFINE_bool,
        int: absl_flags.DEFINE_integer,
        float: absl_flags.DEFINE_float,
        str: absl_flags.DEFINE_string,
    }
    for option in options(cls):
        makers[option.kind](option.name, option.default, option.help)
    if not presets:
        return
    for short, name in SHORT.items():
        absl_flags.DEFINE_alias(short, name)
    absl_flags.DEFINE_string("preset", "", f"start from one of {', '.join(PRESETS)}")
    absl_flags.DEFINE_string("config", "", "start from a config.json, as runs save it and --print_config prints it")
    absl_flags.DEFINE_bool("list_presets", False, "print the presets and exit")
    absl_flags.DEFINE_bool("print_config", False, "print the resolved configuration and exit")


def config(cls: type, presets: bool = True) -> Any:
    """The configuration that the parsed flags give, as `define` made them.

    Raises:
      UsageError: an unknown preset, an unreadable file, or a bad value.
    """
    values: dict[str, Any] = {}
    if presets and FLAGS.preset:
        one_of("preset", FLAGS.preset, tuple(PRESETS))
        _merge(values, PRESETS[FLAGS.preset])
    if presets and FLAGS.config:
        _merge(values, _read(FLAGS.config))
    short_of = {name: short for short, name in SHORT.items()}
    for option in options(cls):
        given = FLAGS[option.name].present or (
            presets and option.name in short_of and FLAGS[short_of[option.name]].present
        )
        if given:
            *groups, last = option.name.split(".")
            group = values
            for name in groups:
                group = group.setdefault(name, {})
                require(isinstance(group, dict), f"{name} ({group!r}) of --config must be a group of options.")
            group[last] = FLAGS[option.name].value
    return configs.from_dict(cls, values)


def _merge(into: dict[str, Any], values: dict[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(into.setdefault(key, {}), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path) as file:
            values = json.load(file)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"--config={path} cannot be read: {error}; give a config.json that a run has saved."
        ) from error
    if not isinstance(values, dict):
        raise UsageError(f"--config={path} must hold a JSON object with the options of a run.")
    return values


def help_text(usage: str, cls: type | None, own: list[str]) -> str:
    """Usage, the command's `own` flags, then the options of `cls` by group, with types and defaults."""
    lines = [usage.strip(), ""]
    if own:
        lines += ["this command:", *(_flag_lines(name, FLAGS[name].help, FLAGS[name].default) for name in own), ""]
    group = None
    for option in options(cls) if cls else ():
        this = option.name.rpartition(".")[0] or "run"
        if this != group:
            lines += [] if group is None else [""]
            lines.append(f"{this}:")
            group = this
        lines.append(_flag_lines(option.name, f"{option.help} [{option.kind.__name__}]", option.default))
    if cls:
        short = "".join(f"--{short} is --{name}; " for short, name in SHORT.items() if name in FLAGS)
        lines += ["", f"{short}--noNAME turns a bool off; --flagfile=FILE reads flags, one a line."]
    return "\n".join(lines)


def _flag_lines(name: str, help: str, default: Any) -> str:
    shown = f" (default: {default!r})" if default not in (None, "") else ""
    wrapped = textwrap.wrap(help + shown, width=76)
    return "\n".join([f"  --{name}", *(f"      {line}" for line in wrapped)])


OWN = ("preset", "config", "list_presets", "print_config")


def run(
    main: Callable[[list[str]], int],
    usage: str,
    cls: type | None = None,
    own: tuple[str, ...] = (),
    presets: bool = True,
    roles: tuple[str, ...] = (),
) -> None:
    """Parses the flags, calls `main` and exits with what it returns; a `UsageError` is one line and exit code 2.

    Where there are `roles`, the first argument must be one of them; `main` gets it as argv[1].
    """
    # TensorFlow's native log: what matters in it also comes as an exception.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

    def parse(argv: list[str]) -> list[str]:
        if {"--help", "-help", "-h"} & set(argv[1:]):
            print(help_text(usage, cls, [*own, *(OWN if cls and presets else ())]))
            sys.exit(0)
        role = argv[1:2] if roles else []
        if roles and not set(role) & set(roles):
            fail(f"say first what to run, {' or '.join(roles)}; --help tells more.")
        try:
            left = FLAGS([argv[0], *argv[1 + len(role) :]])
        except absl_flags.Error as error:
            fail(" ".join(str(error).split()))
        if not FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)
        if left[1:]:
            fail(f"unexpected argument {left[1]!r}: options are written --name=value; --help lists them.")
        return [*left, *role]

    def checked(argv: list[str]) -> int:
        if cls and presets and FLAGS.list_presets:
            print(json.dumps(PRESETS, indent=2))
            return 0
        try:
            return main(argv)
        except UsageError as error:
            fail(str(error))

    with stdout.may_break():
        app.run(checked, flags_parser=parse)


def need(name: str, what: str) -> None:
    """Raises `UsageError` unless the flag `name` was given."""
    if not FLAGS[name].value:
        raise UsageError(f"--{name} is missing: give {what}.")


def fail(message: str) -> typing.NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(USAGE_ERROR)
