"""Networks of the user: from a function in a file, or from a model file, in any form that Keras knows.

    network = create_users_network("mine.py:network", (32, 32, 3), classes=10)

Whatever the form (functional, Sequential, subclassed; ending in logits, softmax or one sigmoid unit), the result is a
functional model with logits.
"""

from __future__ import annotations

import functools
import importlib.util
import io
import linecache
import pathlib
import re
import sys
import tempfile
import types
import zipfile
from collections.abc import Callable
from typing import Any

import h5py
import tensorflow as tf
import tf_keras as keras

from evenkeel.models import saved_model
from evenkeel.models.config import MODEL_FILES
from evenkeel.models.networks.layers import copy_layer, is_users_own, leaf_layers
from evenkeel.models.networks.outputs import convert_to_logits
from evenkeel.pipeline.errors import UsageError

_said: set[tuple[str, str]] = set()
_offered: dict[str, Callable[[], keras.Model]] = {}


def create_users_network(name: str, input_shape: tuple[int, int, int], classes: int) -> keras.Model:
    """Creates the network that `name` names: path/to/file.py:function, or a model file of tf_keras.

    A file is read once, until `read_files_again`: replays of a run take the same network, whatever an editor does.

    Raises:
      UsageError: the file or the function fails, or the model does not fit the data.
    """
    if name in _offered:
        model: Any = _offered[name]()
    else:
        model = load_model_file(name) if name.endswith(MODEL_FILES) else _call_function(name, input_shape, classes)
    return complete_network(model, f"model.name ({name})", input_shape, classes)


def offer(name: str, model: keras.Model, shape: tuple[int, int, int], scaling: tuple[float, float]) -> None:
    """Makes `name` stand for copies of a model in memory, of images of `shape` and 0 to 255.

    The model gets images * scale + offset, where `scaling` is (scale, offset). A copy has the model's weights of now,
    but new initial weights if its optimizer has trained it. Layers of the user's own classes cannot be copied: they are
    shared, and always start with their weights of now.
    """
    if not model.built:
        model(tf.zeros([1, *shape]))
    weights = model.get_weights()
    own = [each for each in model._flatten_layers() if is_users_own(each)]
    trained = int(model.optimizer.iterations) > 0
    if trained:
        words = "starts from its weights of now: it cannot be copied" if own else "new initial weights are drawn"
        _say(name, "weights", f"it was trained already: {words}")

    def build() -> keras.Model:
        if own:
            model.set_weights(weights)
            copy = model
        else:
            copy = keras.models.clone_model(model, clone_function=copy_layer)
            if not trained:
                copy.set_weights(weights)
        inputs = keras.Input(shape)
        return keras.Model(inputs, copy(keras.layers.Rescaling(*scaling)(inputs)), name=copy.name)

    _offered[name] = build


def read_files_again() -> None:
    """Makes the next network come from the files as they are then."""
    _read_source.cache_clear()
    _read_model_file.cache_clear()


def load_model_file(path: str) -> keras.Model:
    """Returns the model of a file, not compiled, after checks that loading it runs no code of the file's author.

    If its optimizer has trained it, weights are drawn anew, except for those of frozen layers.
    """
    content = _read_model_file(path)
    saved_model.require_safe(saved_model.read_descriptions(content, path)[0], path)
    with tempfile.TemporaryDirectory() as directory:
        copy = pathlib.Path(directory) / f"model{pathlib.Path(path).suffix}"
        copy.write_bytes(content)
        try:
            with keras.src.saving.serialization_lib.SafeModeScope(safe_mode=True):
                model = keras.models.load_model(copy, compile=False)
        except Exception as error:  # whatever Keras raises for a damaged or unknown description
            raise UsageError(
                f"model.name ({path}) cannot be loaded by tf_keras: {type(error).__name__}: {one_line(error)}; name a"
                " function that returns the network instead: --model.name=file.py:function."
            ) from error
    if not _was_trained(content, path):
        return model
    _say(
        f"model.name ({path})", "weights", "it was trained already: new initial weights are drawn, but of frozen layers"
    )
    return _with_fresh_weights(model)


def _was_trained(content: bytes, path: str) -> bool:
    """Whether the optimizer that is saved in the file has made a step."""
    try:
        if path.endswith(".keras"):
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                content = archive.read("model.weights.h5")
        with h5py.File(io.BytesIO(content)) as file:
            group = file.get("optimizer") or file.get("optimizer_weights")
            counters: list[int] = []
            if group is not None:
                group.visititems(lambda name, x: counters.append(int(x[()])) if _is_counter(name, x) else None)
            return any(counters)
    except (OSError, KeyError):
        return False


def _is_counter(name: str, value: object) -> bool:
    return isinstance(value, h5py.Dataset) and value.shape == () and value.dtype.kind in "iu"


def _with_fresh_weights(model: keras.Model) -> keras.Model:
    fresh = keras.models.clone_model(model)
    for new, old in zip(leaf_layers(fresh), leaf_layers(model), strict=True):
        if old.weights and not old.trainable:
            new.set_weights(old.get_weights())
    return fresh


@functools.cache
def _read_model_file(path: str) -> bytes:
    return saved_model.read_model_file(path)


@functools.cache
def _read_source(path: str) -> str:
    source = importlib.util.decode_source(pathlib.Path(path).read_bytes())
    # AutoGraph and tracebacks look up lines of code here; an entry without a time is not compared with the file.
    linecache.cache[path] = len(source), None, source.splitlines(True), path
    return source


def _call_function(name: str, input_shape: tuple[int, int, int], classes: int) -> object:
    path, _, function = name.rpartition(":")
    remedy = "it must be path/to/file.py:function, called with (input_shape, classes)."
    if not pathlib.Path(path).is_file():
        raise UsageError(f"model.name ({name}): there is no file {path}; {remedy}")
    if not path.endswith(".py"):
        raise UsageError(f"model.name ({name}): {path} is not a Python file; {remedy}")
    module = types.ModuleType("users_model")
    module.__file__ = path
    try:
        exec(compile(_read_source(path), path, "exec"), module.__dict__)
        build = getattr(module, function, None)
        model = build(input_shape, classes) if callable(build) else None
    except Exception as error:  # the user's code may raise anything; its message is shown in one line
        message = f"model.name ({name}) failed with {type(error).__name__}: {one_line(error)}; {remedy}"
        raise UsageError(message) from error
    if not callable(build):
        raise UsageError(f"model.name ({name}): {path} has no function {function!r}; {remedy}")
    return model


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
