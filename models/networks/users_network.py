"""Networks of the user: from a function in a file, in any form that Keras knows.

    network = create_users_network("mine.py:network", (32, 32, 3), classes=10)

Whatever the form (functional, Sequential, subclassed; ending in logits, softmax or one sigmoid unit), the result is a
functional model with logits.
"""

from __future__ import annotations

import importlib.util
import pathlib
import re
import sys
from typing import Any

import tf_keras as keras

from evenkeel.models.networks.layers import is_users_own
from evenkeel.models.networks.outputs import convert_to_logits
from evenkeel.pipeline.errors import UsageError

_said: set[tuple[str, str]] = set()


def create_users_network(name: str, input_shape: tuple[int, int, int], classes: int) -> keras.Model:
    """Calls the function that `name`, path/to/file.py:function, names, and completes what it returns.

    Raises:
      UsageError: the file or the function fails, or the model does not fit the data.
    """
    path, _, function = name.rpartition(":")
    remedy = "it must be path/to/file.py:function, called with (input_shape, classes)."
    if not pathlib.Path(path).is_file():
        raise UsageError(f"model.name ({name}): there is no file {path}; {remedy}")
    spec = importlib.util.spec_from_file_location("users_model", path)
    if spec is None or spec.loader is None:
        raise UsageError(f"model.name ({name}): {path} is not a Python file; {remedy}")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        build = getattr(module, function, None)
        model = build(input_shape, classes) if callable(build) else None
    except Exception as error:  # the user's code may raise anything; its message is shown in one line
        message = f"model.name ({name}) failed with {type(error).__name__}: {one_line(error)}; {remedy}"
        raise UsageError(message) from error
    if not callable(build):
        raise UsageError(f"model.name ({name}): {path} has no function {function!r}; {remedy}")
    return complete_network(model, f"model.name ({name})", input_shape, classes)


def complete_network(model: Any, origin: str, input_shape: tuple[int, int, int], classes: int) -> keras.Model:
    """Returns the user's `model` as a functional model, images [b, h, w, c] -> logits [b, classes].

    A model without a graph (a subclass with its own `call`, or a Sequential without an input) is called on an input of
    `input_shape`. `origin` says in messages where the model comes from. Lines on stderr say what differs from `model`
    and what cannot be changed.

    Raises:
      UsageError: this is not a model of tf_keras, it fails, or its input or outputs do not fit the data.
    """
    if not isinstance(model, keras.Model):
        raise UsageError(
            f"{origin} returned {type(model).__module__}.{type(model).__name__}: it must return a model of tf_keras"
            " (import tf_keras as keras; keras.Model(inputs, outputs))."
        )
    has_any_size = model._is_graph_network and len(model.inputs) == 1 and None in model.input_shape[1:]
    if not model._is_graph_network or (has_any_size and _fits(model.input_shape, input_shape)):
        model = _call_on_input(model, origin, input_shape)
    if len(model.inputs) != 1 or not _fits(model.input_shape, input_shape):
        raise UsageError(f"{origin} takes {model.input_shape}: it must take one image of {input_shape}.")
    sizes = [(classes,), (1,)] if classes == 2 else [(classes,)]
    if len(model.outputs) != 1 or tuple(model.output_shape[1:]) not in sizes:
        raise UsageError(
            f"{origin} has outputs of shape {model.output_shape}; the data has {classes} classes: it must end in"
            f" {classes} units{', or one' if classes == 2 else ''}."
        )
    try:
        network, change = convert_to_logits(model, classes)
    except UsageError as error:
        raise UsageError(f"{origin}: {error}") from error
    if change:
        _say(origin, "outputs", change)
    own = sorted({type(each).__name__ for each in network._flatten_layers(include_self=False) if is_users_own(each)})
    if own:
        line = f"--model.patch cannot change the layers inside of {', '.join(own)}; they are trained and watched"
        _say(origin, "own layers", line)
    return network


def _call_on_input(model: keras.Model, origin: str, input_shape: tuple[int, int, int]) -> keras.Model:
    try:
        if isinstance(model, keras.Sequential) and not model._is_graph_network:
            model.build((None, *input_shape))
            return model
        inputs = keras.Input(input_shape)
        return keras.Model(inputs, model(inputs), name=model.name)
    except Exception as error:  # the user's `call` may raise anything
        raise UsageError(
            f"{origin} fails on keras.Input({input_shape}) with {type(error).__name__}: {_own_words(error)}; its call"
            " must take a batch of images and return a tensor [batch, classes]."
        ) from error


def _own_words(error: Exception) -> str:
    """The message of an error in a `call`, without the traceback that Keras puts around it."""
    found = re.findall(rf"^\s*{type(error).__name__}: (.+)$", str(error), re.MULTILINE)
    return found[-1][:200] if found else one_line(error)


def _fits(shape: tuple[int | None, ...], input_shape: tuple[int, int, int]) -> bool:
    """Whether images of `input_shape` fit a model's input of `shape`, in which None is any size."""
    return len(shape) == 4 and all(size in (None, wanted) for size, wanted in zip(shape[1:], input_shape, strict=True))


def _say(origin: str, subject: str, line: str) -> None:
    """Prints a line on stderr once for each (origin, subject): a process creates a network several times."""
    if (origin, subject) not in _said:
        _said.add((origin, subject))
        print(f"{origin}: {line}", file=sys.stderr)


def one_line(error: BaseException) -> str:
    """The message of any exception on one line of at most 200 characters."""
    return " ".join(str(error).split())[:200] or type(error).__name__
