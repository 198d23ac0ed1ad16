"""absl flags made from the configuration dataclasses.

    define_flags(TrainConfig)
    config = config_from_flags(TrainConfig)

Defaults < --keras_defaults < settings of a model file < preset < --config file < flags given: later values win.

Imports no TensorFlow, so `--help` and errors in flags are instant.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import typing
from collections.abc import Callable, Iterator
from types import UnionType
from typing import Any

from absl import flags

from evenkeel.models import config as configs
from evenkeel.models.presets import PRESETS, keras_defaults
from evenkeel.models.saved_model import read_saved_model
from evenkeel.pipeline.errors import UsageError, one_of, require

FLAGS = flags.FLAGS
SHORT_NAMES = {"batch_size": "data.batch_size"}
PRESET_FLAGS = ("preset", "config", "keras_defaults", "list_presets", "print_config")


@dataclasses.dataclass(frozen=True)
class Option:
    """One option of a configuration dataclass.

    Attributes:
      name: its dotted name, which is the flag's name.
      kind: its type: bool, int, float or str; str for options that take numbers as well.
      default: its default value.
      help: its help text.
    """

    name: str
    kind: type
    default: Any
    help: str


def options(config_class: type, prefix: str = "") -> Iterator[Option]:
    """All options of a configuration dataclass; options of nested dataclasses have dotted names."""
    kinds = typing.get_type_hints(config_class)
    for field in dataclasses.fields(config_class):
        name, kind = prefix + field.name, kinds[field.name]
        if dataclasses.is_dataclass(kind):
            yield from options(typing.cast(type, kind), name + ".")
        else:
            number_or_text = isinstance(kind, UnionType)
            default = str(field.default) if number_or_text else field.default
            yield Option(name, str if number_or_text else kind, default, field.metadata["help"])


def define_flags(config_class: type, presets: bool = True) -> None:
    """Defines a flag for each option of `config_class`; with `presets`, also the PRESET_FLAGS."""
    define: dict[type, Callable[..., Any]] = {
        bool: flags.DEFINE_bool,
        int: flags.DEFINE_integer,
        float: flags.DEFINE_float,
        str: flags.DEFINE_string,
    }
    for option in options(config_class):
        define[option.kind](option.name, option.default, option.help)
    if not presets:
        return
    for short, name in SHORT_NAMES.items():
        flags.DEFINE_alias(short, name)
    flags.DEFINE_string("preset", "", f"start from the values of a preset: {', '.join(PRESETS)}")
    flags.DEFINE_string("config", "", "start from a config.json, as a run saves it and --print_config prints it")
    flags.DEFINE_bool(
        "keras_defaults",
        False,
        "defaults of Keras for the optimizer: its learning rate, constant; for sgd no momentum; batches of 32",
    )
    flags.DEFINE_bool("list_presets", False, "print the presets and exit")
    flags.DEFINE_bool("print_config", False, "print the resolved configuration and exit")


def config_from_flags(config_class: type, presets: bool = True) -> Any:
    """The configuration that the parsed flags give; `define_flags` must have defined them.

    Raises:
      UsageError: an unknown preset, an unreadable file, or a bad value.
    """
    values: dict[str, Any] = {}
    if presets and FLAGS.preset:
        one_of("preset", FLAGS.preset, tuple(PRESETS))
        _merge(values, PRESETS[FLAGS.preset])
    if presets and FLAGS.config:
        _merge(values, _read_config(FLAGS.config))
    short_names = {name: short for short, name in SHORT_NAMES.items()} if presets else {}
    for option in options(config_class):
        if not (FLAGS[option.name].present or (option.name in short_names and FLAGS[short_names[option.name]].present)):
            continue
        *groups, last = option.name.split(".")
        group = values
        for name in groups:
            group = group.setdefault(name, {})
            require(isinstance(group, dict), f"{name} ({group!r}) of --config must be a group of options.")
        group[last] = FLAGS[option.name].value
    if presets:
        values = _merge_into_defaults(values)
    return configs.from_dict(config_class, values)


def require_flag(name: str, what: str) -> None:
    """Raises `UsageError` if the flag `name` is empty; the message asks for `what`."""
    if not FLAGS[name].value:
        raise UsageError(f"--{name} is missing: give {what}.")


def _merge(target: dict[str, Any], values: dict[str, Any]) -> None:
    """Copies nested `values` into `target`; groups of options are merged, other values replaced."""
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(target.setdefault(key, {}), dict):
            _merge(target[key], value)
        else:
            target[key] = value


def _merge_into_defaults(values: dict[str, Any]) -> dict[str, Any]:
    """Returns `values` over the options of the model file that they name, and these over Keras's defaults.

    Keras's defaults apply with `--keras_defaults`, and to a compiled model. Lines on stderr say what a model file was
    compiled with; if `values` are the whole configuration of a run, the file is not read.
    """
    name = values.get("model", {}).get("name", "")
    is_run = "data" in values and "profile" in values
    saved: dict[str, Any] = {}
    defaults: dict[str, Any] = {}
    if name.endswith(configs.MODEL_FILES) and not is_run:
        found = read_saved_model(name)
        print(*found.notes, sep="\n", file=sys.stderr)
        saved = found.options
    if FLAGS.keras_defaults or "optimizer" in saved:
        optimizer = values.get("optimizer", {}).get("name") or saved.get("optimizer", {}).get("name", "sgd")
        defaults = keras_defaults(optimizer)
    _merge(defaults, saved)
    _merge(defaults, values)
    return defaults


def _read_config(path: str) -> dict[str, Any]:
    try:
        with open(path) as file:
            values = json.load(file)
    except (OSError, ValueError) as error:
        raise UsageError(f"--config={path} cannot be read: {error}; give the config.json of a run.") from error
    if not isinstance(values, dict):
        raise UsageError(f"--config={path} must hold a JSON object with the options of a run.")
    return values
