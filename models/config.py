"""What a training run can be told, without importing TensorFlow.

    config = TrainConfig(epochs=10, optimizer=OptimizerConfig(learning_rate=0.4))
    assert from_dict(TrainConfig, to_dict(config)) == config

Frozen dataclasses that check themselves; every field is a flag of `tools.train` under its dotted name.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import typing
from typing import Any

from evenkeel.pipeline.config import DataConfig
from evenkeel.pipeline.errors import UsageError, one_of, require
from evenkeel.pipeline.options import option

RESNETS = ("resnet18", "resnet34", "resnet50")
ARCHITECTURES = ("cnn", "resnet9", *RESNETS)
NORMS = ("batch", "sync_batch", "group")
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
)
OPTIMIZERS = ("sgd", "sgdw", "adam", "adamw", "rmsprop", "lamb", "radam", "lookahead", "novograd")
SCHEDULES = ("constant", "cosine", "one_cycle", "step", "polynomial", "restarts")
STRATEGIES = ("auto", "one", "mirrored", "multiworker")
PRECISIONS = ("auto", "float32", "mixed_bfloat16", "mixed_float16")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The network. Regularizers act on kernels only."""

    name: str = option(
        "resnet9",
        "cnn | resnet9 | resnet18 | resnet34 | resnet50 | path/to/file.py:function returning a functional Keras model",
    )
    width: int = option(0, "channels of the first convolution; 0: 32 for cnn and resnet9, 64 for the published ones")
    stem: str = option(
        "auto", "first layers of resnet18 to 50: imagenet (7x7, pooled) | small (3x3) | auto by image size"
    )
    norm: str = option("batch", "batch | sync_batch (batch statistics over all replicas) | group")
    zero_init: bool = option(True, "start the last norm scale of each block of resnet18 to 50 at 0")
    stochastic_depth: float = option(0.0, "chance to leave out the last block of resnet18 to 50; earlier ones less")
    spectral_norm: bool = option(False, "divide the kernels of cnn by their largest singular value; one replica only")
    dropout: float = option(0.0, "share of units dropped before the classifier (and after each stage of cnn)")
    l1: float = option(0.0, "L1 penalty on kernels, added to the loss")
    l2: float = option(0.0, "L2 penalty on kernels, added to the loss: value times sum of squares")
    patch: str = option(
        "",
        "changes of the network, several by comma: relu (for activations that saturate) | leaky_relu (for ReLU) |"
        " he_normal (initial weights) | batch_norm (behind each kernel) | logits (no activation at the end) | trainable"
        " (no layer frozen) | norm_momentum (0.9) | no_dropout | no_penalty",
    )

    def __post_init__(self) -> None:
        if ":" not in self.name:
            one_of("model.name", self.name, ARCHITECTURES)
        one_of("model.stem", self.stem, ("auto", "imagenet", "small"))
        one_of("model.norm", self.norm, NORMS)
        for name in self.patches:
            one_of("model.patch", name, PATCHES)
        require(self.width >= 0, f"model.width ({self.width}) must not be negative; 0 takes the network's own.")
        for name in ("dropout", "stochastic_depth"):
            value = getattr(self, name)
            require(0 <= value < 1, f"model.{name} ({value}) is a share: it must lie in [0, 1).")
        for name in ("l1", "l2"):
            value = getattr(self, name)
            require(value >= 0, f"model.{name} ({value}) must not be negative; 0 turns it off.")
        require(
            not self.stochastic_depth or self.name in RESNETS,
            f"model.stochastic_depth ({self.stochastic_depth}) is for {', '.join(RESNETS)}; {self.name} has no such"
            " blocks: choose another model.name or turn it off with 0.",
        )
        require(
            not self.spectral_norm or self.name == "cnn",
            f"model.spectral_norm is for model.name=cnn, not {self.name}: give one or the other.",
        )

    @property
    def patches(self) -> tuple[str, ...]:
        return tuple(filter(None, self.patch.split(",")))


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """The update rule and its schedule. Defaults of the Adam family are Keras's."""

    name: str = option(
        "sgd",
        "sgd | adam | rmsprop | sgdw | adamw | lamb | radam | lookahead (on radam) | novograd; the last four: addons",
    )
    learning_rate: float = option(0.1, "peak learning rate, for the global batch")
    scaling: str = option("none", "learning rate by global batch: none | linear | sqrt, relative to reference_batch")
    reference_batch: int = option(256, "the global batch at which learning_rate holds, where scaling is on")
    momentum: float = option(0.9, "momentum of sgd, sgdw and rmsprop")
    nesterov: bool = option(True, "Nesterov's form of the momentum of sgd and sgdw")
    beta_1: float = option(0.9, "decay of the first moment: adam and its relatives, lamb, novograd")
    beta_2: float = option(0.999, "decay of the second moment there; rmsprop's rho")
    epsilon: float = option(1e-7, "added to the denominator there")
    weight_decay: float = option(
        0.0, "decoupled decay, times the learning rate; not on biases and norms (the coupled form is model.l2)"
    )
    clip_value: float = option(0.0, "clip each component of the gradients to this; 0 is off")
    clip_norm: float = option(0.0, "clip gradients to this global norm; 0 is off")
    clip_adaptive: float = option(0.0, "clip each unit's gradient to this share of its weights' norm; 0 is off")
    accumulate: int = option(1, "parts that a batch is taken in, one after another, to save memory; one update a batch")
    schedule: str = option(
        "cosine", "constant | cosine | one_cycle (linear to zero) | step | polynomial | restarts, after the warm-up"
    )
    warmup_epochs: float = option(0.0, "epochs of linear warm-up from zero to the peak; fractions allowed")
    milestones: str = option("30,60,80", "step: epochs after which the rate falls")
    step_factor: float = option(0.1, "step: what the rate is multiplied with at each milestone")
    power: float = option(2.0, "polynomial: (1 - share done) to this power")
    restart_epochs: float = option(10.0, "restarts: epochs of the first period")
    restart_growth: float = option(2.0, "restarts: how many times as long each next period is")

    def __post_init__(self) -> None:
        one_of("optimizer.name", self.name, OPTIMIZERS)
        one_of("optimizer.schedule", self.schedule, SCHEDULES)
        one_of("optimizer.scaling", self.scaling, ("none", "linear", "sqrt"))
        for name in ("learning_rate", "epsilon", "power", "restart_epochs"):
            value = getattr(self, name)
            require(0 < value < float("inf"), f"optimizer.{name} ({value}) must be positive and finite.")
        for name in ("momentum", "beta_1", "beta_2"):
            value = getattr(self, name)
            require(0 <= value < 1, f"optimizer.{name} ({value}) must lie in [0, 1).")
        require(
            not (self.name in ("sgd", "sgdw") and self.nesterov and self.momentum == 0),
            "optimizer.nesterov needs optimizer.momentum above 0: give one or --nooptimizer.nesterov.",
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
        require(0 < self.step_factor < 1, f"optimizer.step_factor ({self.step_factor}) must lie between 0 and 1.")
        require(
            1 <= self.restart_growth < 100, f"optimizer.restart_growth ({self.restart_growth}) must lie in [1, 100)."
        )
        marks = self.milestone_epochs
        require(
            bool(marks) and marks[0] > 0 and list(marks) == sorted(set(marks)),
            f"optimizer.milestones ({self.milestones}) must be epochs in rising order, for example 30,60,80.",
        )

    @property
    def milestone_epochs(self) -> tuple[float, ...]:
        """Empty where `milestones` are not numbers."""
        try:
            return tuple(float(mark) for mark in self.milestones.split(","))
        except ValueError:
            return ()


@dataclasses.dataclass(frozen=True)
class AveragingConfig:
    """Averages of the weights, evaluated in their place."""

    name: str = option("none", "none | ema (exponential moving average) | swa (mean over epochs): what is evaluated")
    decay: float = option(0.999, "ema: share of the average kept at each step")
    start: float = option(0.75, "swa: share of the run after which epochs enter the mean")

    def __post_init__(self) -> None:
        one_of("averaging.name", self.name, ("none", "ema", "swa"))
        for name in ("decay", "start"):
            value = getattr(self, name)
            require(0 <= value < 1, f"averaging.{name} ({value}) must lie in [0, 1).")


@dataclasses.dataclass(frozen=True)
class MixingConfig:
    """Batches mixed with themselves on the device, labels too."""

    mixup: float = option(
        0.0, "blend pairs of images: the Beta distribution's parameter of the share (0.2 is usual); 0 is off"
    )
    cutmix: float = option(
        0.0, "paste rectangles between pairs: its parameter likewise (1 is usual); with both, each image draws"
    )

    def __post_init__(self) -> None:
        for name in ("mixup", "cutmix"):
            value = getattr(self, name)
            require(0 <= value <= 100, f"mixing.{name} ({value}) must lie in 0 to 100; 0 turns it off.")


@dataclasses.dataclass(frozen=True)
class StrategyConfig:
    """The devices a run is spread over."""

    name: str = option("auto", "auto (mirrored over several GPUs, else one) | one | mirrored | multiworker (TF_CONFIG)")
    devices: str = option("", "devices of mirrored, for example GPU:0,GPU:1; default all")
    logical_cpus: int = option(0, "split the CPU into this many devices, to try several replicas without GPUs")

    def __post_init__(self) -> None:
        one_of("strategy.name", self.name, STRATEGIES)
        require(self.logical_cpus >= 0, f"strategy.logical_cpus ({self.logical_cpus}) must not be negative.")
        require(
            not self.devices or self.name == "mirrored",
            f"strategy.devices ({self.devices}) goes with --strategy.name=mirrored only.",
        )


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """What a run that is killed goes on from; one is also written at the end, at a signal, and of the best epoch."""

    every_epochs: int = option(1, "epochs between checkpoints")
    every_steps: int = option(0, "steps between checkpoints, to the next end of a compiled call; 0 is off")
    every_minutes: float = option(0.0, "minutes between checkpoints, to the next end of a compiled call; 0 is off")
    keep: int = option(3, "how many of the newest stay, beside the best")

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

    steps: str = option(
        "", "A:B writes a profiler trace of steps A to B, both at ends of compiled calls or next to one"
    )

    def __post_init__(self) -> None:
        if self.steps:
            first, _, last = self.steps.partition(":")
            ok = first.isdigit() and last.isdigit() and int(first) < int(last)
            require(ok, f"profile.steps ({self.steps}) must be A:B with whole numbers A < B.")

    @property
    def range(self) -> tuple[int, int] | None:
        first, _, last = self.steps.partition(":")
        return (int(first), int(last)) if self.steps else None


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """A whole run but for where it lives. What the presets do not say stands at these defaults."""

    epochs: int = option(10, "passes over the training split")
    seed: int = option(0, "order, augmentation, initialisation and dropout are functions of it")
    precision: str = option(
        "auto", "auto | float32 | mixed_bfloat16 | mixed_float16; auto: bfloat16 where hardware has it"
    )
    xla: str = option("auto", "auto (on for GPUs) | on | off: compile forward and backward with XLA")
    loss: str = option("crossentropy", "crossentropy (softmax) | focal (sigmoid focal loss of tensorflow-addons)")
    label_smoothing: float = option(0.0, "share of crossentropy's target spread evenly over all classes")
    focal_gamma: float = option(2.0, "focal: how fast the weight of an example falls as it is got right")
    class_weights: str = option("none", "none | balanced: every class weighs the same in the training loss")
    evaluate_flipped: bool = option(
        False, "evaluate the mean of the logits of each image and its mirror image: more accurate, twice the time"
    )
    steps_per_execution: int = option(0, "training steps in one compiled call; 0 chooses")
    histograms_every: int = option(100, "steps between histograms of weights and gradients; 0 is off")
    guard: str = option(
        "watch",
        "off | watch (what goes wrong is recorded) | act (rolls back, cuts the learning rate, stops in the end)",
    )
    preflight: str = option(
        "on",
        "off | on (settings and network are checked before the first step, images beside the steps after it: what looks"
        " wrong is a warning) | full (one batch learnt by heart and a learning-rate range test, too: a minute or so)",
    )
    early_stopping: int = option(0, "stop after this many epochs without a better validation loss; 0 is off")
    deterministic: bool = option(False, "bit-equal runs: TensorFlow's op determinism, somewhat slower on GPUs")
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
            f"label_smoothing ({self.label_smoothing}) goes with --loss=crossentropy: set it to 0 or change the loss.",
        )
        require(0 <= self.focal_gamma < float("inf"), f"focal_gamma ({self.focal_gamma}) must not be negative.")
        require(
            not (self.deterministic and self.data.service),
            f"deterministic cannot go with data.service ({self.data.service}): its batches come as they are ready;"
            " use --data.service= or --nodeterministic.",
        )
        require(
            not (self.checkpoint.every_minutes and self.strategy.name == "multiworker"),
            f"checkpoint.every_minutes ({self.checkpoint.every_minutes}) goes by each worker's own clock, and all must"
            " save at the same step: use --checkpoint.every_steps.",
        )
        for name in ("steps_per_execution", "histograms_every", "early_stopping"):
            value = getattr(self, name)
            require(value >= 0, f"{name} ({value}) must not be negative.")
        require(
            not (self.histograms_every and self.steps_per_execution > self.histograms_every),
            f"histograms_every ({self.histograms_every}) must be at least steps_per_execution"
            f" ({self.steps_per_execution}): a compiled call keeps one set of histograms.",
        )


def to_dict(config: Any) -> dict[str, Any]:
    return dataclasses.asdict(config)


def config_json(config: Any) -> str:
    """As config.json holds it."""
    return json.dumps(to_dict(config), indent=2)


def from_dict(cls: type, values: dict[str, Any], name: str = "") -> Any:
    """The dataclass `cls` from a nested dictionary; what is missing takes its default.

    Raises:
      UsageError: an unknown key, or a value of the wrong kind.
    """
    kinds, known = typing.get_type_hints(cls), {field.name for field in dataclasses.fields(cls)}
    arguments = {}
    for key, value in values.items():
        full = f"{name}{key}"
        if key not in known:
            raise UsageError(f"the configuration has no option {full}; known here: {', '.join(sorted(known))}.")
        kind = kinds[key]
        if dataclasses.is_dataclass(kind):
            if not isinstance(value, dict):
                raise UsageError(f"{full} ({value!r}) must be a group of options.")
            arguments[key] = from_dict(typing.cast(type, kind), value, full + ".")
        elif isinstance(value, bool) != (kind is bool) or not isinstance(value, (kind, int) if kind is float else kind):
            raise UsageError(f"{full} ({value!r}) must be of type {kind.__name__}.")
        else:
            arguments[key] = kind(value)
    return cls(**arguments)


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """{dotted name: value} of every option."""
    options: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            options.update(flat(value, f"{prefix}{field.name}."))
        else:
            options[prefix + field.name] = value
    return options


def config_hash(config: TrainConfig) -> str:
    """12 hexadecimal digits that two equal configurations share."""
    return hashlib.sha256(json.dumps(to_dict(config), sort_keys=True).encode()).hexdigest()[:12]
