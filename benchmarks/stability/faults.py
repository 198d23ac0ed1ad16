"""The faults of the stability suite: each makes a faulty run of a sound one, and says what the right answer is.

    fault = FAULTS["rate_x30"]
    clean, faulty = fault.twin(config), fault.apply(fault.twin(config))        # persistent: two configurations
    injection = fault.inject(first=140, seed=0)                                # transient: see `bursts`

Operators are in the manner of DeepCrime (Humbatova, Jahangirova and Tonella, ISSTA 2021): one change of data, options
or network, at a severity at which accuracy falls by points, and mostly not to chance. A twin is the sound run of those
that need another one than `networks.sound`. Causes of `models.stability.causes.CAUSES` without an operator:

* `replica_batch`: needs several replicas and a loader that hands out remainders; evenkeel's drops them.
* what is summed over replicas where it should be averaged is a learning rate times their number: `rate_x30`.

Transient faults whose cause is "" have none among `CAUSES`: broken memory is nobody's choice of an option.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from evenkeel.benchmarks.stability import corruptions, transient_faults
from evenkeel.benchmarks.stability.faulty_networks import mutant
from evenkeel.benchmarks.stability.networks import NETWORKS
from evenkeel.benchmarks.stability.transient_faults import Injection
from evenkeel.models.config import TrainConfig, from_dict, to_dict
from evenkeel.models.stability.causes import CAUSES

Change = Callable[[TrainConfig], TrainConfig]
NORMED = ("cnn", "resnet9")  # the networks that have BatchNorm
FEW = "train[:400]"
SGD = ("resnet9", "plain")  # those that train with it


class Equivalent(NamedTuple):
    """Causes whose interventions do the same to a run: one named for another counts as right."""

    causes: frozenset[str]
    reason: str


EQUIVALENT = tuple(
    Equivalent(frozenset(causes), reason)
    for causes, reason in (
        (("learning_rate_high", "no_warmup"), "both are cured by a lower rate in the first steps"),
        (("learning_rate_high", "momentum"), "sgd moves by rate / (1 - momentum) times a steady gradient"),
        (("learning_rate_high", "optimizer"), "Adam and RMSprop at sgd's rate have 10 to 100 times too high a rate"),
        (("learning_rate_low", "optimizer"), "sgd at Adam's rate has 10 to 100 times too low a rate"),
        (("learning_rate_low", "epsilon"), "where epsilon exceeds sqrt(v), Adam is sgd at rate / epsilon"),
        (("epsilon", "optimizer"), "Adam with such an epsilon is no longer Adam, and another optimizer cures it"),
        (("learning_rate_low", "too_few_steps"), "distance covered is rate times steps"),
        (("batch_large", "too_few_steps"), "at a given number of epochs, fewer steps are larger batches"),
        (("batch_large", "learning_rate_low"), "rate over batch sets the scale (Goyal et al. 2017, linear scaling)"),
        (("batch_small", "learning_rate_high"), "noise goes with rate over batch (Smith et al. 2018)"),
        (("batch_small", "batch_norm_batch"), "one option, data.batch_size, sets both; BatchNorm makes it worse"),
    )
)


def equivalent(cause: str) -> frozenset[str]:
    """`cause`, and those whose interventions do the same to a run."""
    return frozenset({cause}).union(*(group.causes for group in EQUIVALENT if cause in group.causes))


def accepted(name: str) -> frozenset[str]:
    """The causes that count as the right answer for the fault with this name."""
    return equivalent(FAULTS[name].cause) | {*FAULTS[name].also}


class Fault(NamedTuple):
    """`family` is data, hyperparameters, architecture or numerics, `kind` persistent or transient.

    `also` are causes that are as true of this one. `networks` are those it is one in; `apply` is the change of a
    persistent fault's `twin`; `inject` makes a transient one from (first step, seed), and `steps` is how many it lasts.
    """

    name: str
    family: str
    cause: str
    kind: str
    apply: Change = lambda config: config
    twin: Change = lambda config: config
    inject: Callable[..., Injection] | None = None
    steps: int = 0
    also: tuple[str, ...] = ()
    networks: tuple[str, ...] = NETWORKS


# Changes.


def options(values: dict[str, Any], of: Change = lambda config: config) -> Change:
    """Sets options by their dotted names."""

    def change(config: TrainConfig) -> TrainConfig:
        nested = to_dict(of(config))
        for name, value in values.items():
            *groups, last = name.split(".")
            functools.reduce(lambda at, group: at[group], groups, nested)[last] = value
        return from_dict(TrainConfig, nested)

    return change


def rate(times: float, of: Change = lambda config: config) -> Change:
    def change(config: TrainConfig) -> TrainConfig:
        config = of(config)
        return options({"optimizer.learning_rate": times * config.optimizer.learning_rate})(config)

    return change


def decay(share: float) -> Change:
    """Every step at the peak rate takes this share of the weights away."""

    def change(config: TrainConfig) -> TrainConfig:
        return options({"optimizer.weight_decay": share / config.optimizer.learning_rate})(config)

    return change


def network_of(config: TrainConfig) -> str:
    """Which of `NETWORKS` it trains."""
    return config.model.name.rpartition(":")[2]


def mutated(mutation: str, of: Change = lambda config: config) -> Change:
    """The network with `mutants.MUTATIONS[mutation]`."""

    def change(config: TrainConfig) -> TrainConfig:
        config = of(config)
        return options({"model.name": mutant(mutation, network_of(config)), "model.width": 0})(config)

    return change


def option_or_mutant(name: str, value: float, mutation: str) -> Change:
    """An option, or a mutated network where options do not reach."""

    def change(config: TrainConfig) -> TrainConfig:
        return (mutated(mutation) if ":" in config.model.name else options({name: value}))(config)

    return change


def dirty(kind: str) -> Change:
    """The data with `dirt.DIRT[kind]`, in as many steps where that leaves fewer images."""

    def change(config: TrainConfig) -> TrainConfig:
        data = corruptions.copied(config.data, kind)
        epochs = config.epochs * corruptions.images(config.data) / corruptions.images(data)
        return options({"data.source": data.source, "epochs": round(epochs)})(config)

    return change


# Twins.

few = options(
    {
        "data.train_split": FEW,
        "epochs": 60,  # 720 steps
        "data.augment.pad_crop": 4,
        "data.augment.rotation": 30.0,
    }
)
bare = options({"data.augment.pad_crop": 0, "data.augment.rotation": 0.0, "data.augment.flip": 0.0})
thousand = options({"data.train_split": "train[:1000]", "epochs": 8})
adam = options({"optimizer.name": "adam", "optimizer.learning_rate": 0.005})
warmed = options({"optimizer.warmup_epochs": 1.0}, of=rate(4.0))


def persistent(name: str, cause: str, apply: Change, **more: Any) -> Fault:
    return Fault(name, CAUSES[cause].family, cause, "persistent", apply, **more)


def transient(name: str, family: str, cause: str, steps: int, burst: Callable[..., Injection]) -> Fault:
    return Fault(name, family, cause, "transient", inject=functools.partial(burst, steps=steps), steps=steps)


AUGMENT = "data.augment."
_PERSISTENT = (
    # Data.
    persistent("raw_pixels", "input_scale", options({"data.normalize": False}), networks=("plain",)),
    persistent("dark_share_60", "outlier_images", dirty("dark_share_60")),
    persistent("outliers_60", "outlier_images", dirty("outliers_60")),
    persistent("label_noise_40", "label_noise", dirty("label_noise_40")),
    persistent("label_noise_60", "label_noise", dirty("label_noise_60")),
    persistent("imbalance_50", "class_imbalance", dirty("imbalance_50")),
    persistent("inverted_training", "train_validation_skew", dirty("inverted")),
    persistent("darkened_training", "train_validation_skew", dirty("darkened_8")),
    persistent("learnt_by_heart", "overfitting", bare, twin=few),
    persistent(
        "distorted",
        "too_much_augmentation",
        options({f"{AUGMENT}{name}": value for name, value in (("rotation", 180.0), ("shear", 1.0), ("zoom", 1.0))}),
    ),
    persistent("noisy_cutout", "too_much_augmentation", options({f"{AUGMENT}noise": 150.0, f"{AUGMENT}cutout": 0.7})),
    # Hyperparameters.
    persistent("rate_x30", "learning_rate_high", rate(30)),
    persistent("rate_x100", "learning_rate_high", rate(100)),
    persistent("rate_1_30", "learning_rate_low", rate(1 / 30)),
    persistent("rate_1_100", "learning_rate_low", rate(1 / 100)),
    persistent("no_warmup", "no_warmup", options({"optimizer.warmup_epochs": 0.0}), twin=warmed, networks=NORMED),
    persistent("batch_2", "batch_small", options({"data.batch_size": 2}), networks=("plain",)),
    persistent("batch_500", "batch_large", options({"data.batch_size": 500})),
    persistent("batch_1000", "batch_large", options({"data.batch_size": 1000})),
    persistent("momentum_99", "momentum", options({"optimizer.momentum": 0.99}), networks=SGD),
    persistent("momentum_999", "momentum", options({"optimizer.momentum": 0.999}), networks=SGD),
    persistent("epsilon_1", "epsilon", options({"optimizer.epsilon": 1.0}), twin=adam, networks=NORMED),
    persistent("adam_at_sgds_rate", "optimizer", options({"optimizer.name": "adam"}), networks=SGD),
    persistent(
        "rmsprop_at_sgds_rate",
        "optimizer",
        options({"optimizer.name": "rmsprop", "optimizer.momentum": 0.0, "optimizer.nesterov": False}),
        networks=SGD,
    ),
    persistent(
        "sgd_at_adams_rate",
        "optimizer",
        options({"optimizer.name": "sgd", "optimizer.momentum": 0.0, "optimizer.nesterov": False}),
        twin=adam,
        networks=NORMED,
    ),
    persistent("one_epoch", "too_few_steps", options({"epochs": 1}), twin=thousand),
    # Architecture.
    persistent("dropout_80", "dropout", option_or_mutant("model.dropout", 0.8, "dropout_80")),
    persistent("dropout_90", "dropout", option_or_mutant("model.dropout", 0.9, "dropout_90")),
    persistent("l2", "penalty", option_or_mutant("model.l2", 0.1, "l2")),
    persistent("weight_decay", "penalty", decay(0.1)),
    persistent("unnormalized", "no_normalization", mutated("unnormalized"), networks=NORMED),
    persistent("deep", "no_normalization", mutated("deep"), networks=("plain",)),
    persistent("batch_2_norm", "batch_norm_batch", options({"data.batch_size": 2}), networks=NORMED),
    persistent("slow_norm_3", "batch_norm_momentum", mutated("slow_norm_3"), networks=NORMED),
    persistent("slow_norm_4", "batch_norm_momentum", mutated("slow_norm_4"), networks=NORMED),
    persistent("zeros", "initialization", mutated("zeros")),
    persistent("huge_weights", "initialization", mutated("huge")),
    persistent("tiny_weights", "initialization", mutated("tiny"), networks=("plain",)),
    persistent("sigmoid", "saturating_activation", mutated("sigmoid")),
    # Of the next two the first is tanh and a scale, the second an initial bias: taking that back cures them.
    persistent("steep_tanh", "saturating_activation", mutated("steep_tanh"), also=("initialization",), networks=NORMED),
    persistent("dying_relu", "dying_activation", mutated("dying"), also=("initialization",)),
    persistent("softmax", "output_activation", mutated("softmax")),
    persistent("relu_output", "output_activation", mutated("relu_output")),
    persistent("tanh_output", "output_activation", mutated("tanh_output")),
    persistent("frozen", "frozen_layers", mutated("frozen")),
    # Numerics.
    persistent("half_overflow", "precision", options({"precision": "mixed_float16"}), twin=mutated("large_logits")),
    persistent("half_underflow", "precision", options({"precision": "mixed_float16"}), twin=mutated("small_logits")),
)
_TRANSIENT = (
    transient(
        "burst_outliers",
        "data",
        "outlier_images",
        20,
        functools.partial(transient_faults.batches, spoil=transient_faults.outliers),
    ),
    transient(
        "burst_labels",
        "data",
        "label_noise",
        30,
        functools.partial(transient_faults.batches, spoil=transient_faults.wrong_labels),
    ),
    transient(
        "nan_image",
        "data",
        "outlier_images",
        1,
        functools.partial(transient_faults.pixels, times=float("nan"), images=1),
    ),
    transient(
        "nan_images",
        "data",
        "outlier_images",
        8,
        functools.partial(transient_faults.pixels, times=float("nan"), images=1),
    ),
    transient(
        "bright_images", "data", "outlier_images", 6, functools.partial(transient_faults.pixels, times=1e3, images=4)
    ),
    transient(
        "surge_x30", "hyperparameters", "learning_rate_high", 20, functools.partial(transient_faults.surge, times=30.0)
    ),
    transient(
        "surge_x100",
        "hyperparameters",
        "learning_rate_high",
        10,
        functools.partial(transient_faults.surge, times=100.0),
    ),
    transient(
        "larger_logits",
        "numerics",
        "",
        1,
        functools.partial(transient_faults.weights, corrupt=transient_faults.larger_logits),
    ),
    transient(
        "flipped_bits",
        "numerics",
        "",
        1,
        functools.partial(transient_faults.weights, corrupt=transient_faults.flipped_bits),
    ),
    transient("overflow", "numerics", "precision", 5, functools.partial(transient_faults.pixels, times=float("inf"))),
)
FAULTS = {fault.name: fault for fault in (*_PERSISTENT, *_TRANSIENT)}


def has_twin(name: str) -> bool:
    """Whether its clean twin is another run than `networks.sound`."""
    return FAULTS[name].twin is not Fault._field_defaults["twin"]


def twin_of(name: str) -> str:
    """The fault that stands for its twin: the first one with the same; "" where that is `networks.sound`."""
    return next(each for each, fault in FAULTS.items() if fault.twin is FAULTS[name].twin) if has_twin(name) else ""
