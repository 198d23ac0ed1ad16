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

from pipeline.config import DataConfig, UsageError, one_of, option, require

ARCHITECTURES = ("cnn", "resnet9")
OPTIMIZERS = ("sgd", "adam", "rmsprop")
SCHEDULES = ("constant", "cosine", "one_cycle")
STRATEGIES = ("auto", "one", "mirrored", "multiworker")
PRECISIONS = ("auto", "float32", "mixed_bfloat16", "mixed_float16")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The network. Widths and depths are those of small images; regularizers act on kernels only."""

    name: str = option("resnet9", "cnn | resnet9 | path/to/file.py:function returning a functional Keras model")
    width: int = option(32, "channels of the first convolution; later ones are multiples of it")
    dropout: float = option(0.0, "share of units dropped before the classifier (and after each stage of cnn)")
    l1: float = option(0.0, "L1 penalty on kernels, added to the loss")
    l2: float = option(0.0, "L2 penalty on kernels, added to the loss")

    def __post_init__(self) -> None:
        if ":" not in self.name:
            one_of("model.name", self.name, ARCHITECTURES)
        require(self.width >= 1, f"model.width ({self.width}) must be at least 1 channel.")
        require(0 <= self.dropout < 1, f"model.dropout ({self.dropout}) is a share: it must lie in [0, 1).")
        for name in ("l1", "l2"):
            value = getattr(self, name)
            require(value >= 0, f"model.{name} ({value}) must not be negative; 0 turns it off.")


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """The update rule and its schedule. Defaults of adam and rmsprop are Keras's."""

    name: str = option("sgd", "sgd | adam | rmsprop")
    learning_rate: float = option(0.1, "peak learning rate, for the global batch")
    momentum: float = option(0.9, "momentum of sgd and rmsprop")
    nesterov: bool = option(True, "Nesterov's form of sgd's momentum")
    beta_1: float = option(0.9, "adam's decay of the first moment")
    beta_2: float = option(0.999, "adam's decay of the second moment, rmsprop's rho")
    epsilon: float = option(1e-7, "added to the denominator of adam and rmsprop")
    weight_decay: float = option(0.0, "decoupled decay, times the learning rate; not on biases and norms")
    clip_norm: float = option(0.0, "clip gradients to this global norm; 0 is off")
    schedule: str = option("cosine", "constant | cosine (to zero) | one_cycle (linear to zero), after the warm-up")
    warmup_epochs: float = option(0.0, "epochs of linear warm-up from zero to the peak; fractions allowed")

    def __post_init__(self) -> None:
        one_of("optimizer.name", self.name, OPTIMIZERS)
        one_of("optimizer.schedule", self.schedule, SCHEDULES)
        finite = 0 < self.learning_rate < float("inf")
        require(finite, f"optimizer.learning_rate ({self.learning_rate}) must be positive and finite.")
        for name in ("momentum", "beta_1", "beta_2"):
            value = getattr(self, name)
            require(0 <= value < 1, f"optimizer.{name} ({value}) must lie in [0, 1).")
        require(
            not (self.name == "sgd" and self.nesterov and self.momentum == 0),
            "optimizer.nesterov needs optimizer.momentum above 0: give one or --nooptimizer.nesterov.",
        )
        require(self.epsilon > 0, f"optimizer.epsilon ({self.epsilon}) must be positive.")
        for name in ("weight_decay", "clip_norm", "warmup_epochs"):
            value = getattr(self, name)
            require(value >= 0, f"optimizer.{name} ({value}) must not be negative; 0 turns it off.")


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
    label_smoothing: float = option(0.0, "share of the target spread evenly over all classes")
    steps_per_execution: int = option(0, "training steps in one compiled call; 0 chooses")
    histograms_every: int = option(100, "steps between histograms of weights and gradients; 0 is off")
    checkpoint_every_epochs: int = option(1, "epochs between checkpoints; the last three and the best are kept")
    early_stopping: int = option(0, "stop after this many epochs without a better validation loss; 0 is off")
    deterministic: bool = option(False, "bit-equal runs: TensorFlow's op determinism, somewhat slower on GPUs")
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    strategy: StrategyConfig = dataclasses.field(default_factory=StrategyConfig)
    profile: ProfileConfig = dataclasses.field(default_factory=ProfileConfig)

    def __post_init__(self) -> None:
        require(self.epochs >= 1, f"epochs ({self.epochs}) must be at least 1.")
        require(0 <= self.seed < 2**31, f"seed ({self.seed}) must lie in [0, 2^31).")
        one_of("precision", self.precision, PRECISIONS)
        one_of("xla", self.xla, ("auto", "on", "off"))
        require(0 <= self.label_smoothing < 1, f"label_smoothing ({self.label_smoothing}) must lie in [0, 1).")
        for name in ("steps_per_execution", "histograms_every", "early_stopping"):
            value = getattr(self, name)
            require(value >= 0, f"{name} ({value}) must not be negative.")
        require(self.checkpoint_every_epochs >= 1, "checkpoint_every_epochs must be at least 1.")
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
