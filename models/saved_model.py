"""Reads a model file of tf_keras, .keras or .h5: the settings with which its model was compiled. Imports no TensorFlow.

    saved = read_saved_model("net.keras")
    saved.options             # {"optimizer": {"name": "adam", "learning_rate": 0.001, ...}}
    print(*saved.notes)       # what it was compiled with, and what is different here

Only the descriptions in the file are read. `require_safe` refuses files whose model could run the author's code.
"""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile
from collections.abc import Iterator
from typing import Any

from evenkeel.models.config import OPTIMIZERS
from evenkeel.models.presets import keras_defaults
from evenkeel.pipeline.errors import UsageError

SAFE_MODULES = ("keras", "tf_keras", "builtins")
# Operations of TensorFlow inside of a functional model that neither touch files nor call Python.
SAFE_OPERATIONS = ("__operators__.", "math.", "nn.", "image.", "linalg.")
SAFE_FUNCTIONS = (  # separated by spaces
    " abs add cast clip_by_value concat convert_to_tensor divide exp expand_dims identity matmul maximum"
    " minimum multiply ones_like pad pow reduce_max reduce_mean reduce_min reduce_sum repeat reshape"
    " reverse round sigmoid sign split sqrt square squeeze stack stop_gradient subtract tanh tile"
    " transpose unstack zeros_like "
)
CROSSENTROPIES = ("crossentropy", "sparse_categorical_crossentropy", "categorical_crossentropy", "binary_crossentropy")
OPTIONS = {"rho": "beta_2", "global_clipnorm": "clip_norm", "clipvalue": "clip_value"}  # where names differ
SCHEDULES = {"CosineDecay": "cosine"}


@dataclasses.dataclass(frozen=True)
class SavedModel:
    """What a model file says of its training.

    Attributes:
      options: nested as in `TrainConfig`; empty if the model was not compiled.
      notes: sentences on these settings, and on those that evenkeel lacks.
    """

    options: dict[str, Any]
    notes: tuple[str, ...]


def read_saved_model(path: str) -> SavedModel:
    """Reads the settings of the model file at `path`.

    Raises:
      UsageError: this is no model file of tf_keras, or it is not safe to load.
    """
    model, compiled = read_descriptions(read_model_file(path), path)
    require_safe(model, path)
    options, notes = describe_settings(path, compiled, _last_activation(model))
    if _scales_images(model):
        options["data"] = {"normalize": False}
        notes.append(
            f"{path}: the network scales images itself, so that it gets values of 0 to 255 (data.normalize off)"
        )
    return SavedModel(options, tuple(notes))


def describe_settings(
    origin: str, compiled: dict[str, Any] | None, last_activation: str
) -> tuple[dict[str, Any], list[str]]:
    """Returns (options nested as in `TrainConfig`, sentences) of the arguments of a model's `compile`; None for none.

    `origin` is the model in the sentences, `last_activation` the activation of its last layer.
    """
    options: dict[str, Any] = {}
    notes: list[str] = []
    optimizer = (compiled or {}).get("optimizer_config") or (compiled or {}).get("optimizer")
    if isinstance(optimizer, str):  # compile("adam")
        optimizer = {"class_name": optimizer, "config": {}}
    if compiled and isinstance(optimizer, dict):
        options["optimizer"], lacks = _optimizer_options(optimizer)
        words = ", ".join(f"{key} {_plain(value)}" for key, value in options["optimizer"].items() if key != "name")
        notes.append(f"{origin} was compiled with {_class_name(optimizer)} ({words}), which is taken; flags change it")
        loss_options, loss_notes = _loss_options(compiled.get("loss"), last_activation)
        options |= loss_options
        notes += [f"{origin}: {note}" for note in loss_notes]
        if lacks:
            notes.append(f"{origin}: evenkeel has no {', '.join(lacks)}: it trains without")
    else:
        notes.append(f"{origin} was saved without compile(): the optimizer and its rate are those of the flags")
    return options, notes


def read_descriptions(content: bytes, path: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Returns (the model's configuration, the arguments of its `compile` or None) of a model file's `content`.

    Raises:
      UsageError: this is no model file.
    """
    remedy = "it must be a model that tf_keras has saved (model.save('net.keras'))"
    try:
        if path.endswith(".keras"):
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                model = json.loads(archive.read("config.json"))
            compiled = model.get("compile_config")
        else:
            import h5py

            with h5py.File(io.BytesIO(content)) as file:
                model = json.loads(file.attrs["model_config"])
                compiled = json.loads(file.attrs.get("training_config", "null"))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise UsageError(
            f"model.name ({path}) cannot be read: {' '.join(str(error).split())[:100]}; {remedy}."
        ) from error
    if any(
        "batch_shape" in each.get("config", {}) for each in _objects(model) if each.get("class_name") == "InputLayer"
    ):
        raise UsageError(
            f"model.name ({path}) was saved by Keras 3, whose files tf_keras cannot read: name a function that returns"
            " the network (--model.name=file.py:function), or save it with TF_USE_LEGACY_KERAS=1 and tf_keras."
        )
    return model, compiled


def require_safe(model: dict[str, Any], path: str) -> None:
    """Raises `UsageError` if the model has parts that could run any code: Python functions, or classes of a module."""
    remedy = "name a function that returns the network instead: --model.name=file.py:function"
    for each in _objects(model):
        kind, module = each.get("class_name"), each.get("module")
        if kind == "Lambda":
            raise UsageError(f"model.name ({path}) has a Lambda layer, whose code is not run: {remedy}.")
        if isinstance(module, str) and module.split(".")[0] not in SAFE_MODULES:
            raise UsageError(f"model.name ({path}) has the class {module}.{kind}, which is not Keras's: {remedy}.")
        if kind in ("TFOpLambda", "SlicingOpLambda", "InstanceMethod", "InstanceProperty", "ClassMethod"):
            function = str(each.get("config", {}).get("function", ""))
            if kind not in ("TFOpLambda", "SlicingOpLambda") or not (
                function.startswith(SAFE_OPERATIONS) or f" {function} " in SAFE_FUNCTIONS
            ):
                raise UsageError(f"model.name ({path}) calls {function or kind}, which is not run: {remedy}.")


def read_model_file(path: str) -> bytes:
    """Returns the content of the file at `path`.

    Raises:
      UsageError: it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise UsageError(f"model.name ({path}) cannot be read: {error.strerror}.") from error


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """All dictionaries inside of a nested value."""
    if isinstance(value, dict):
        yield value
        for each in value.values():
            yield from _objects(each)
    elif isinstance(value, list):
        for each in value:
            yield from _objects(each)


def _class_name(description: dict[str, Any]) -> str:
    return str(description.get("class_name", "")).rpartition(">")[2]


def _optimizer_options(description: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Returns (options of `OptimizerConfig`, what evenkeel lacks)."""
    name, values = _class_name(description).lower(), dict(description.get("config", {}))
    if name == "lossscaleoptimizer":
        return _optimizer_options(values.get("inner_optimizer", {}))
    options, lacks = keras_defaults(name)["optimizer"], []
    del options["warmup_epochs"]
    rate = values.pop("learning_rate", options["learning_rate"])
    if name in OPTIMIZERS:
        options = {"name": name, **options}
    else:
        lacks.append(f"optimizer {name}")
    if isinstance(rate, dict):
        options["schedule"] = SCHEDULES.get(_class_name(rate), "constant")
        if _class_name(rate) not in SCHEDULES:
            lacks.append(f"schedule {_class_name(rate)}")
        rate = rate.get("config", {}).get("initial_learning_rate", options["learning_rate"])
    options["learning_rate"] = _rounded(rate)
    for key in ("momentum", "beta_1", "beta_2", "rho", "epsilon", "weight_decay", "global_clipnorm", "clipvalue"):
        if values.get(key) is not None:
            options[OPTIONS.get(key, key)] = _rounded(values[key])
    if name in ("sgd", "sgdw"):
        options["nesterov"] = bool(values.get("nesterov")) and options.get("momentum", 0.0) > 0
    lacks += [key for key in ("clipnorm", "centered", "amsgrad", "use_ema") if values.get(key)]
    return options, lacks


def _loss_options(loss: Any, last_activation: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Returns (options of `TrainConfig`, sentences) for the compiled loss and the activation of the last layer."""
    config = loss.get("config", {}) if isinstance(loss, dict) else {}
    config = config if isinstance(config, dict) else {}
    name = config.get("name") if isinstance(loss, dict) else loss
    name = name if isinstance(name, str) else "its own loss"
    notes = []
    if name not in CROSSENTROPIES:
        notes.append(f"its loss is {name}; evenkeel trains with the cross-entropy")
    elif bool(config.get("from_logits")) == (last_activation in ("softmax", "sigmoid")):
        given = "from_logits=True" if config.get("from_logits") else "from_logits=False"
        notes.append(
            f"its loss has {given}, but its last layer ends in {last_activation or 'no activation'}: compile it"
            " with the other value; evenkeel trains on the logits"
        )
    smoothing = config.get("label_smoothing")
    return ({"label_smoothing": smoothing} if smoothing else {}), tuple(notes)


def _scales_images(model: dict[str, Any]) -> bool:
    """Whether a layer before the first layer with weights is a Rescaling or Normalization of Keras."""
    for layer in model.get("config", {}).get("layers", []):
        if layer.get("class_name") in ("Rescaling", "Normalization"):
            return True
        if "kernel_initializer" in layer.get("config", {}):
            return False
        if "layers" in layer.get("config", {}) and _scales_images(layer):
            return True
    return False


def _last_activation(model: dict[str, Any]) -> str:
    layers = model.get("config", {}).get("layers", [])
    layer = layers[-1] if layers else {}
    if layer.get("class_name") == "Softmax":
        return "softmax"
    if "layers" in layer.get("config", {}):
        return _last_activation(layer)
    activation = layer.get("config", {}).get("activation", "")
    activation = activation.get("config", "") if isinstance(activation, dict) else activation
    return "" if activation == "linear" else str(activation)


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")  # files hold 0.001 as the float32 0.0010000000474974513


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
