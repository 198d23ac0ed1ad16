"""The configuration of a training run. This module does not import TensorFlow.

    config = TrainConfig(epochs=10, optimizer=OptimizerConfig(learning_rate=0.4))
    assert from_dict(TrainConfig, to_dict(config)) == config

The configuration is made of frozen dataclasses that check their values. Each field is a flag of `evenkeel train` under
its dotted name, such as --optimizer.learning_rate.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import typing
from types import UnionType
from typing import Any

from evenkeel.pipeline.config import DataConfig
from evenkeel.pipeline.errors import UsageError, one_of, require
from evenkeel.pipeline.options import option

RESNETS = ("resnet18", "resnet34", "resnet50")
ARCHITECTURES = ("cnn", "resnet9", *RESNETS)
MODEL_FILES = (".keras", ".h5", ".hdf5")
NORM_OPTIONS = ("batch", "sync_batch", "group")
PATCHES = (
    "relu",
    "leaky_relu",
    "he_normal",
    "batch_norm",
    "logits",
    "trainable",
    "norm_momentum",
    "no_dropout",
    "no_penalty",
    "activations",
    "less_pooling",
    "wider",
)
OPTIMIZERS = (
    *("sgd", "sgdw", "adam", "adamw", "nadam", "rmsprop", "adagrad", "adadelta"),
    *("lamb", "radam", "lookahead", "novograd"),  # of tensorflow-addons
)
# Defaults that depend on the optimizer; those of rmsprop and adadelta are Keras's.
MOMENTUM = {"sgd": 0.9, "sgdw": 0.9, "rmsprop": 0.0}
BETA_2 = {"rmsprop": 0.9, "adadelta": 0.95}
OWN_DEFAULT = -1.0
SCHEDULES = ("constant", "cosine", "one_cycle", "step", "polynomial", "restarts")
STRATEGIES = ("auto", "one", "mirrored", "multiworker")
PRECISIONS = ("auto", "float32", "mixed_bfloat16", "mixed_float16")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The network.

    Example:

        config = evenkeel.TrainConfig(model=evenkeel.ModelConfig(name="resnet18", dropout=0.1))
    """

    name: str = option(
        "resnet9",
        "cnn | resnet9 | resnet18 | resnet34 | resnet50 | path/to/file.py:function, called with (input_shape, classes),"
        " returning a Keras model | a model file of tf_keras, .keras or .h5, with its optimizer and learning rate",
    )
    width: int = option(0, "channels of the first convolution; 0: 32 for cnn and resnet9, 64 for resnet18 to resnet50")
    stem: str = option(
        "auto", "resnet18 to resnet50, first layers: imagenet (7x7, then pooling) | small (3x3) | auto: by image size"
    )
    norm: str = option("batch", "normalization: batch | sync_batch (batch statistics over all replicas) | group")
    zero_init: bool = option(True, "resnet18 to resnet50: initialize the last norm scale of each block with 0")
    stochastic_depth: float = option(
        0.0, "resnet18 to resnet50: probability of dropping the last block, less for earlier ones; 0 is off"
    )
    spectral_norm: bool = option(False, "cnn: divide kernels by their largest singular value; one replica only")
    dropout: float = option(0.0, "share of units dropped before the classifier, and after each stage of cnn; 0 is off")
    l1: float = option(0.0, "L1 penalty: this times the sum of the kernels' absolute values is added to the loss")
    l2: float = option(0.0, "L2 penalty: this times the sum of the kernels' squares is added to the loss")
    patch: str = option(
        "",
        "changes to the network, separated by commas: relu (replaces activations that saturate or explode) |"
        " leaky_relu (replaces ReLU) | he_normal (new initial weights) | batch_norm (after each kernel) | logits (no"
        " activation or dropout at the end) | trainable (no layer frozen) | norm_momentum (0.9) | no_dropout |"
        " no_penalty | activations (ReLU where none is) | less_pooling (maps keep 4 pixels) | wider (4 times the"
        " filters)",
    )

    def __post_init__(self) -> None:
        if not self.is_users_own:
            one_of("model.name", self.name, ARCHITECTURES)
        one_of("model.stem", self.stem, ("auto", "imagenet", "small"))
        one_of("model.norm", self.norm, NORM_OPTIONS)
        for name in self.patches:
            one_of("model.patch", name, PATCHES)
        require(self.width >= 0, f"model.width ({self.width}) must not be negative; 0 takes the network's default.")
        for name in ("dropout", "stochastic_depth"):
            value = getattr(self, name)
            require(0 <= value < 1, f"model.{name} ({value}) is a share: it must lie in [0, 1).")
        for name in ("l1", "l2"):
            value = getattr(self, name)
            require(value >= 0, f"model.{name} ({value}) must not be negative; 0 turns it off.")
        require(
            not self.stochastic_depth or self.name in RESNETS,
            f"model.stochastic_depth ({self.stochastic_depth}) needs a model.name of {', '.join(RESNETS)}, not"
            f" {self.name}: change model.name, or set model.stochastic_depth to 0.",
        )
        require(
            not self.spectral_norm or self.name == "cnn",
            f"model.spectral_norm needs model.name=cnn, not {self.name}: use --model.name=cnn or"
            " --nomodel.spectral_norm.",
        )

    @property
    def is_users_own(self) -> bool:
        """Whether `name` is a function in a file or a model file, not one of ARCHITECTURES."""
        return ":" in self.name or self.name.endswith(MODEL_FILES)

    @property
    def patches(self) -> tuple[str, ...]:
        """The names in `patch`."""
        return tuple(filter(None, self.patch.split(",")))


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer and its learning-rate schedule. All but sgd have Keras's defaults, except for the learning rate.

    Example:

        config = evenkeel.TrainConfig(optimizer=evenkeel.OptimizerConfig(name="adam", learning_rate=0.001))
    """

    name: str = option(
        "sgd",
        "sgd | sgdw | adam | adamw | nadam | rmsprop | adagrad | adadelta | lamb | radam | lookahead (around radam) |"
        " novograd; the last four need tensorflow-addons",
    )
    learning_rate: float = option(0.1, "peak learning rate for the global batch")
    scaling: str = option(
        "none", "how the learning rate grows with the global batch: none | linear | sqrt, relative to reference_batch"
    )
    reference_batch: int = option(256, "global batch that learning_rate is meant for; used by scaling")
    momentum: float = option(OWN_DEFAULT, "momentum of sgd and sgdw (-1: 0.9) and of rmsprop (-1: 0)")
    nesterov: bool = option(True, "sgd, sgdw: use Nesterov momentum")
    beta_1: float = option(0.9, "adam, adamw, nadam, lamb, radam, lookahead, novograd: decay of the first moment")
    beta_2: float = option(
        OWN_DEFAULT,
        "decay of the second moment, for rmsprop and adadelta called rho; -1: 0.9 for rmsprop, 0.95 for adadelta,"
        " 0.999 for all others",
    )
    epsilon: float = option(1e-7, "all but sgd and sgdw: added to the denominator")
    weight_decay: float = option(
        0.0,
        "decoupled weight decay, multiplied by the learning rate; not on biases and norms (model.l2 is the coupled"
        " form); 0 is off",
    )
    clip_value: float = option(0.0, "clip each component of the gradients to [-this, this]; 0 is off")
    clip_norm: float = option(0.0, "clip the global norm of the gradients to this; 0 is off")
    clip_adaptive: float = option(0.0, "clip each unit's gradient norm to this share of its weight norm; 0 is off")
    accumulate: int = option(1, "process each batch in this many parts to save memory; one update per batch")
    schedule: str = option(
        "cosine",
        "learning rate after warm-up: constant | cosine | one_cycle (linear to zero) | step | polynomial | restarts",
    )
    warmup_epochs: float = option(0.0, "epochs of linear warm-up from zero to the peak; may be fractional")
    milestones: str = option("30,60,80", "step: epochs at which the learning rate falls, separated by commas")
    step_factor: float = option(0.1, "step: factor applied to the learning rate at each milestone")
    power: float = option(2.0, "polynomial: exponent of (1 - share of steps done)")
    restart_epochs: float = option(10.0, "restarts: epochs of the first period")
    restart_growth: float = option(2.0, "restarts: length of each period relative to the one before")

    def __post_init__(self) -> None:
        one_of("optimizer.name", self.name, OPTIMIZERS)
        one_of("optimizer.schedule", self.schedule, SCHEDULES)
        one_of("optimizer.scaling", self.scaling, ("none", "linear", "sqrt"))
        for name in ("learning_rate", "epsilon", "power", "restart_epochs"):
            value = getattr(self, name)
            require(0 < value < float("inf"), f"optimizer.{name} ({value}) must be positive and finite.")
        for name, defaults, default in (("momentum", MOMENTUM, 0.9), ("beta_2", BETA_2, 0.999)):
            if getattr(self, name) == OWN_DEFAULT:
                object.__setattr__(self, name, defaults.get(self.name, default))
        for name in ("momentum", "beta_1", "beta_2"):
            value = getattr(self, name)
            require(0 <= value < 1, f"optimizer.{name} ({value}) must lie in [0, 1).")
        require(
            not (self.name in ("sgd", "sgdw") and self.nesterov and self.momentum == 0),
            "optimizer.nesterov needs optimizer.momentum above 0: raise it, or use --nooptimizer.nesterov.",
        )
        for name in ("weight_decay", "clip_value", "clip_norm", "clip_adaptive", "warmup_epochs"):
            value = getattr(self, name)
            require(
                0 <= value < float("inf"),
                f"optimizer.{name} ({value}) must not be negative or infinite; 0 turns it off.",
            )
        for name in ("accumulate", "reference_batch"):
            value = getattr(self, name)
            require(value >= 1, f"optimizer.{name} ({value}) must be at least 1.")
        require(0 < self.step_factor < 1, f"optimizer.step_factor ({self.step_factor}) must lie in (0, 1).")
        require(
            1 <= self.restart_growth < 100, f"optimizer.restart_growth ({self.restart_growth}) must lie in [1, 100)."
        )
        epochs = self.milestone_epochs
        require(
            bool(epochs) and epochs[0] > 0 and list(epochs) == sorted(set(epochs)),
            f"optimizer.milestones ({self.milestones}) must be positive epochs in rising order, for example 30,60,80.",
        )

    @property
    def milestone_epochs(self) -> tuple[float, ...]:
        """The numbers in `milestones`; empty if one of them is not a number."""
        try:
            return tuple(float(epoch) for epoch in self.milestones.split(","))
        except ValueError:
            return ()


@dataclasses.dataclass(frozen=True)
class AveragingConfig:
    """Averages of the weights, used in evaluation."""

    name: str = option(
        "none", "average of the weights to evaluate: none | ema (exponential moving average) | swa (mean over epochs)"
    )
    decay: float = option(0.999, "ema: share of the average kept at each step")
    start: float = option(0.75, "swa: share of the run after which epochs enter the mean")

    def __post_init__(self) -> None:
        one_of("averaging.name", self.name, ("none", "ema", "swa"))
        for name in ("decay", "start"):
            value = getattr(self, name)
            require(0 <= value < 1, f"averaging.{name} ({value}) must lie in [0, 1).")


@dataclasses.dataclass(frozen=True)
class MixingConfig:
    """Mixup and CutMix of each training batch, on the device."""

    mixup: float = option(
        0.0, "blend pairs of images: parameter of the Beta distribution of the weights (0.2 is usual); 0 is off"
    )
    cutmix: float = option(
        0.0,
        "paste rectangles between pairs of images: parameter of the Beta distribution of their area (1 is usual); 0 is"
        " off; with mixup, each image draws one of the two",
    )

    def __post_init__(self) -> None:
        for name in ("mixup", "cutmix"):
            value = getattr(self, name)
            require(0 <= value <= 100, f"mixing.{name} ({value}) must be from 0 to 100; 0 turns it off.")


@dataclasses.dataclass(frozen=True)
class StrategyConfig:
    """The tf.distribute strategy: the devices that train together."""

    name: str = option(
        "auto", "auto (mirrored if there are several GPUs, else one) | one | mirrored | multiworker (needs TF_CONFIG)"
    )
    devices: str = option("", "mirrored: devices to use, for example GPU:0,GPU:1; default: all")
    logical_cpus: int = option(
        0, "split the CPU into this many devices, to test several replicas without GPUs; 0 is off"
    )

    def __post_init__(self) -> None:
        one_of("strategy.name", self.name, STRATEGIES)
        require(self.logical_cpus >= 0, f"strategy.logical_cpus ({self.logical_cpus}) must not be negative.")
        require(
            not self.devices or self.name == "mirrored",
            f"strategy.devices ({self.devices}) needs --strategy.name=mirrored: add it, or leave the devices out.",
        )


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """Checkpoints. A run also writes one at its end, one when it gets a signal, and one of the best epoch."""

    every_epochs: int = option(1, "epochs between checkpoints")
    every_steps: int = option(0, "steps between checkpoints, rounded up to the end of a compiled call; 0 is off")
    every_minutes: float = option(
        0.0, "minutes between checkpoints, rounded up to the end of a compiled call; 0 is off"
    )
    keep: int = option(3, "number of the newest checkpoints to keep, besides the best")

    def __post_init__(self) -> None:
        for name in ("every_epochs", "keep"):
            value = getattr(self, name)
            require(value >= 1, f"checkpoint.{name} ({value}) must be at least 1.")
        for name in ("every_steps", "every_minutes"):
            value = getattr(self, name)
            require(0 <= value < float("inf"), f"checkpoint.{name} ({value}) must be finite and not negative.")


@dataclasses.dataclass(frozen=True)
class ProfileConfig:
    """The TensorFlow profiler."""

    steps: str = option("", "A:B writes a profiler trace of the compiled calls that contain steps A to B")

    def __post_init__(self) -> None:
        if self.steps:
            first, _, last = self.steps.partition(":")
            valid = first.isdigit() and last.isdigit() and int(first) < int(last)
            require(valid, f"profile.steps ({self.steps}) must be A:B with whole numbers A < B.")

    @property
    def step_range(self) -> tuple[int, int] | None:
        """The steps (A, B) of the profiler trace; None without a trace."""
        first, _, last = self.steps.partition(":")
        return (int(first), int(last)) if self.steps else None


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """The whole configuration of a run, except for its directory. A preset changes some of these defaults.

    Example:

        config = evenkeel.TrainConfig(epochs=10, data=evenkeel.DataConfig(source="photos", image_size=96))
    """

    epochs: int = option(10, "passes over the training split")
    seed: int = option(0, "seed of the data order, augmentation, initial weights and dropout")
    precision: str = option(
        "auto",
        "auto (mixed_bfloat16 if the hardware supports it, else float32) | float32 | mixed_bfloat16 | mixed_float16",
    )
    xla: str = option("auto", "compile the forward and backward pass with XLA: auto (on for GPUs) | on | off")
    loss: str = option("crossentropy", "crossentropy (softmax) | focal (sigmoid focal loss, needs tensorflow-addons)")
    label_smoothing: float = option(0.0, "crossentropy: share of the target that is spread evenly over all classes")
    focal_gamma: float = option(
        2.0, "focal: exponent of (1 - probability of the true class); larger values favour hard examples"
    )
    class_weights: str = option("none", "none | balanced: all classes have the same total weight in the training loss")
    evaluate_flipped: bool = option(
        False, "evaluate the mean logits of each image and its mirror image: more accurate, takes twice the time"
    )
    steps_per_execution: int = option(0, "training steps per compiled call; 0 is automatic, 20 at most")
    histograms_every: int = option(100, "steps between histograms of weights and gradients; 0 is off")
    guard: str = option(
        "watch",
        "off | watch (records incidents) | act (also rolls back, cuts the learning rate, and finally stops the run)",
    )
    preflight: str = option(
        "on",
        "checks before training: off | on (settings and network before the first step, images in the background;"
        " problems are logged as warnings) | full (also overfits one batch and runs a learning-rate range test: about"
        " a minute)",
    )
    early_stopping: int = option(0, "stop after this many epochs without a better validation loss; 0 is off")
    deterministic: bool = option(
        False, "bit-identical results in every run, by TensorFlow's op determinism; somewhat slower on GPUs"
    )
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    averaging: AveragingConfig = dataclasses.field(default_factory=AveragingConfig)
    mixing: MixingConfig = dataclasses.field(default_factory=MixingConfig)
    strategy: StrategyConfig = dataclasses.field(default_factory=StrategyConfig)
    checkpoint: CheckpointConfig = dataclasses.field(default_factory=CheckpointConfig)
    profile: ProfileConfig = dataclasses.field(default_factory=ProfileConfig)

    def __post_init__(self) -> None:
        require(self.epochs >= 1, f"epochs ({self.epochs}) must be at least 1.")
        require(0 <= self.seed < 2**31, f"seed ({self.seed}) must lie in [0, 2^31).")
        one_of("precision", self.precision, PRECISIONS)
        one_of("xla", self.xla, ("auto", "on", "off"))
        one_of("guard", self.guard, ("off", "watch", "act"))
        one_of("preflight", self.preflight, ("off", "on", "full"))
        one_of("loss", self.loss, ("crossentropy", "focal"))
        one_of("class_weights", self.class_weights, ("none", "balanced"))
        require(0 <= self.label_smoothing < 1, f"label_smoothing ({self.label_smoothing}) must lie in [0, 1).")
        require(
            not (self.loss == "focal" and self.label_smoothing),
            f"label_smoothing ({self.label_smoothing}) needs --loss=crossentropy: set it to 0 or change the loss.",
        )
        require(
            0 <= self.focal_gamma < float("inf"), f"focal_gamma ({self.focal_gamma}) must be finite and not negative."
        )
        require(
            not (self.deterministic and self.data.service),
            f"deterministic cannot go with data.service ({self.data.service}): its workers deliver batches in any"
            " order; use --data.service= or --nodeterministic.",
        )
        require(
            not (self.checkpoint.every_minutes and self.strategy.name == "multiworker"),
            f"checkpoint.every_minutes ({self.checkpoint.every_minutes}) does not work with strategy.name=multiworker:"
            " the workers' clocks differ, but all must save at the same step; use --checkpoint.every_steps.",
        )
        for name in ("steps_per_execution", "histograms_every", "early_stopping"):
            value = getattr(self, name)
            require(value >= 0, f"{name} ({value}) must not be negative.")
        require(
            not (self.histograms_every and self.steps_per_execution > self.histograms_every),
            f"histograms_every ({self.histograms_every}) must be at least steps_per_execution"
            f" ({self.steps_per_execution}), because a compiled call keeps one set of histograms: raise it, or set it"
            " to 0.",
        )


def to_dict(config: Any) -> dict[str, Any]:
    """The configuration as a nested dictionary."""
    return dataclasses.asdict(config)


def from_dict(cls: type, values: dict[str, Any], prefix: str = "") -> Any:
    """Creates the dataclass `cls` from a nested dictionary; fields missing in the dictionary get their defaults.

    `prefix` is put before the names of options in error messages.

    Raises:
      UsageError: an unknown key, or a value of the wrong type.
    """
    types, known = typing.get_type_hints(cls), {field.name for field in dataclasses.fields(cls)}
    arguments = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if key not in known:
            raise UsageError(f"the configuration has no option {name}; known here: {', '.join(sorted(known))}.")
        kind = types[key]
        if dataclasses.is_dataclass(kind):
            if not isinstance(value, dict):
                raise UsageError(f"{name} ({value!r}) must be a group of options.")
            arguments[key] = from_dict(typing.cast(type, kind), value, name + ".")
        elif isinstance(value, bool) != (kind is bool) or not isinstance(value, (kind, int) if kind is float else kind):
            raise UsageError(f"{name} ({value!r}) must be of type {getattr(kind, '__name__', kind)}.")
        else:
            arguments[key] = value if isinstance(kind, UnionType) else kind(value)
    return cls(**arguments)


def with_options(config: TrainConfig, options: dict[str, Any]) -> TrainConfig:
    """Returns a copy of `config` with the values of `options`, {dotted name: value}.

    Raises:
      UsageError: an unknown option, or an invalid value.
    """
    values = to_dict(config)
    for name, value in options.items():
        *group_names, option_name = name.split(".")
        group = values
        for group_name in group_names:
            group = group.setdefault(group_name, {})
            require(isinstance(group, dict), f"{name} is not an option: {group_name} is not a group of options.")
        group[option_name] = value
    return from_dict(TrainConfig, values)


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Returns {dotted name: value} of every option."""
    options: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            options.update(flatten(value, f"{prefix}{field.name}."))
        else:
            options[prefix + field.name] = value
    return options


def config_json(config: Any) -> str:
    """The content of config.json."""
    return json.dumps(to_dict(config), indent=2)


def config_hash(config: TrainConfig) -> str:
    """12 hexadecimal digits, the same for equal configurations."""
    return hashlib.sha256(json.dumps(to_dict(config), sort_keys=True).encode()).hexdigest()[:12]
