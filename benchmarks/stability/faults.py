"""Defines the faults of the stability suite. A fault turns a clean run into a faulty run and has a known cause.

    fault = FAULTS["rate_x30"]
    clean = fault.twin(networks.clean_config("cnn", data))
    faulty = fault.apply(clean)                                # persistent: another configuration
    injection = FAULTS["nan_image"].inject(first_step=140, seed=0)    # transient: see `transient_faults`

The faults follow the mutation operators of DeepCrime (Humbatova, Jahangirova and Tonella, ISSTA 2021): each changes
data, options or network, so severely that the accuracy falls by several points, but in most cases not to chance. The
clean twin of a faulty run is the same run without the fault. Its configuration is `networks.clean_config`. Faults that
have no effect on this configuration define another `twin`. Two causes of instability have no fault:

* `replica_batch` needs several replicas and a loader that returns incomplete batches; evenkeel's loader drops them.
* Gradients that are summed over replicas instead of averaged have the same effect as a learning rate times the number
  of replicas, like the fault `rate_x30`.

Two transient faults have the cause "", because `models.stability.causes.CAUSES` are choices of options, which defective
memory is not.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from evenkeel.benchmarks.stability import corruptions, transient_faults
from evenkeel.benchmarks.stability.faulty_networks import model_name
from evenkeel.benchmarks.stability.networks import NETWORKS
from evenkeel.benchmarks.stability.transient_faults import Injection
from evenkeel.models.config import TrainConfig, from_dict, to_dict
from evenkeel.models.stability.causes import CAUSES

Change = Callable[[TrainConfig], TrainConfig]
BATCH_NORM_NETWORKS = ("cnn", "resnet9")
SGD_NETWORKS = ("resnet9", "plain")


class EquivalentCauses(NamedTuple):
    """A group of causes with equivalent remedies. A diagnosis may name any cause in the group."""

    causes: frozenset[str]
    reason: str


EQUIVALENT_CAUSES = tuple(
    EquivalentCauses(frozenset(causes), reason)
    for causes, reason in (
        (("learning_rate_high", "no_warmup"), "both are fixed by a lower learning rate in the first steps"),
        (("learning_rate_high", "momentum"), "under a steady gradient g, sgd moves by rate / (1 - momentum) * g"),
        (("learning_rate_high", "optimizer"), "sgd's learning rate is 10 to 100 times too high for Adam and RMSprop"),
        (("learning_rate_low", "optimizer"), "Adam's learning rate is 10 to 100 times too low for sgd"),
        (("learning_rate_low", "epsilon"), "if epsilon exceeds sqrt(v), Adam is sgd with a rate of rate / epsilon"),
        (("learning_rate_low", "clipping"), "a gradient that is clipped to a hundredth is a rate a hundredth as high"),
        (("learning_rate_low", "schedule"), "what counts is the rate over the steps of the run"),
        (("epsilon", "optimizer"), "Adam with such an epsilon is no longer Adam, and another optimizer fixes it"),
        (("learning_rate_low", "too_few_steps"), "the distance covered is rate times steps"),
        (("batch_large", "too_few_steps"), "at a fixed number of epochs, larger batches mean fewer steps"),
        (("batch_large", "learning_rate_low"), "rate / batch sets the scale (Goyal et al. 2017, linear scaling)"),
        (("batch_small", "learning_rate_high"), "noise is proportional to rate / batch (Smith et al. 2018)"),
        (("batch_small", "batch_norm_batch"), "data.batch_size sets both; BatchNorm makes a small batch worse"),
    )
)


def equivalent_causes(cause: str) -> frozenset[str]:
    """Returns `cause` and all causes that have equivalent remedies."""
    return frozenset({cause}).union(*(group.causes for group in EQUIVALENT_CAUSES if cause in group.causes))


def accepted_causes(name: str) -> frozenset[str]:
    """Returns the causes that count as the right answer for the fault with this name."""
    return equivalent_causes(FAULTS[name].cause) | {*FAULTS[name].other_causes}


class Fault(NamedTuple):
    """A fault that the suite puts into training runs.

    Attributes:
      name: key in `FAULTS`.
      family: data, hyperparameters, architecture or numerics.
      cause: a key of `CAUSES`, or "".
      kind: persistent or transient.
      apply: function that adds a persistent fault to the configuration of the clean twin.
      twin: function that turns `networks.clean_config` into the configuration of the clean twin.
      inject: function of (first_step, seed) that returns the injection of a transient fault.
      steps: number of steps that a transient fault lasts.
      other_causes: further causes that are right for this fault.
      networks: networks in which the change is a fault.
    """

    name: str
    family: str
    cause: str
    kind: str
    apply: Change = lambda config: config
    twin: Change = lambda config: config
    inject: Callable[..., Injection] | None = None
    steps: int = 0
    other_causes: tuple[str, ...] = ()
    networks: tuple[str, ...] = NETWORKS


# Changes of a configuration.


def set_options(values: dict[str, Any], after: Change = lambda config: config) -> Change:
    """Returns a change that first applies `after` and then sets options by their dotted names."""

    def change(config: TrainConfig) -> TrainConfig:
        nested = to_dict(after(config))
        for name, value in values.items():
            *groups, option = name.split(".")
            functools.reduce(lambda group, key: group[key], groups, nested)[option] = value
        return from_dict(TrainConfig, nested)

    return change


def multiply_learning_rate(factor: float) -> Change:
    def change(config: TrainConfig) -> TrainConfig:
        return set_options({"optimizer.learning_rate": factor * config.optimizer.learning_rate})(config)

    return change


def decay_weights(share: float) -> Change:
    """Returns a change of the weight decay. Each step at the peak learning rate then removes `share` of the weights."""

    def change(config: TrainConfig) -> TrainConfig:
        return set_options({"optimizer.weight_decay": share / config.optimizer.learning_rate})(config)

    return change


def network_name(config: TrainConfig) -> str:
    """Returns the name in `NETWORKS` of the network that `config` trains."""
    return config.model.name.rpartition(":")[2]


def mutate_network(mutation: str) -> Change:
    """Returns a change that applies `faulty_networks.MUTATIONS[mutation]` to the network."""

    def change(config: TrainConfig) -> TrainConfig:
        return set_options({"model.name": model_name(mutation, network_name(config)), "model.width": 0})(config)

    return change


def set_option_or_mutate(name: str, value: float, mutation: str) -> Change:
    """Returns a change that sets an option of evenkeel's networks but mutates user networks, which ignore options."""

    def change(config: TrainConfig) -> TrainConfig:
        return (mutate_network(mutation) if ":" in config.model.name else set_options({name: value}))(config)

    return change


def corrupt_data(corruption: str) -> Change:
    """Returns a change of a configuration: it trains on data with `CORRUPTIONS[corruption]`.

    If the corruption removes images, the number of epochs rises, so that the number of steps stays about the same.
    """

    def change(config: TrainConfig) -> TrainConfig:
        data = corruptions.write_copy(config.data, corruption)
        before, after = (corruptions.count_training_images(each) for each in (config.data, data))
        return set_options({"data.source": data.source, "epochs": round(config.epochs * before / after)})(config)

    return change


# Clean twins.

train_on_400_images = set_options(
    {
        "data.train_split": "train[:400]",
        "epochs": 60,  # 720 steps
        "data.augment.pad_crop": 4,
        "data.augment.rotation": 30.0,
    }
)
disable_augmentation = set_options({"data.augment.pad_crop": 0, "data.augment.rotation": 0.0, "data.augment.flip": 0.0})
train_on_16_images = set_options({"data.train_split": "train[:16]", "data.batch_size": 16, "epochs": 400})
train_on_1000_images = set_options({"data.train_split": "train[:1000]", "epochs": 8})
use_adam = set_options({"optimizer.name": "adam", "optimizer.learning_rate": 0.005})
use_high_rate_with_warmup = set_options({"optimizer.warmup_epochs": 1.0}, after=multiply_learning_rate(4.0))


# The faults.


def persistent_fault(name: str, cause: str, apply: Change, **fields: Any) -> Fault:
    return Fault(name, CAUSES[cause].family, cause, "persistent", apply, **fields)


def transient_fault(
    name: str, family: str, cause: str, steps: int, inject: Callable[..., Injection], **options: Any
) -> Fault:
    return Fault(
        name, family, cause, "transient", inject=functools.partial(inject, steps=steps, **options), steps=steps
    )


AUGMENT = "data.augment."
_PERSISTENT = (
    # Data.
    persistent_fault("raw_pixels", "input_scale", set_options({"data.normalize": False}), networks=("plain",)),
    persistent_fault("dark_share_60", "outlier_images", corrupt_data("dark_share_60")),
    persistent_fault("outliers_60", "outlier_images", corrupt_data("outliers_60")),
    persistent_fault("blank_95", "empty_images", corrupt_data("blank_95")),
    persistent_fault("label_noise_40", "label_noise", corrupt_data("label_noise_40")),
    persistent_fault("label_noise_60", "label_noise", corrupt_data("label_noise_60")),
    # Such a run learns its images by heart.
    persistent_fault("few_images", "too_few_images", train_on_16_images, other_causes=("overfitting",)),
    persistent_fault("shuffled_labels", "labels_unrelated", corrupt_data("shuffled_labels")),
    persistent_fault("rotated_labels", "split_labels", corrupt_data("rotated_labels")),
    persistent_fault("imbalance_50", "class_imbalance", corrupt_data("imbalance_50")),
    persistent_fault(
        "balanced_twice",
        "class_weights",
        set_options({"class_weights": "balanced"}),
        twin=set_options({"data.balance": "classes"}, after=corrupt_data("imbalance_50")),
    ),
    persistent_fault("inverted_training", "train_validation_skew", corrupt_data("inverted")),
    persistent_fault("darkened_training", "train_validation_skew", corrupt_data("darkened_8")),
    persistent_fault("learnt_by_heart", "overfitting", disable_augmentation, twin=train_on_400_images),
    persistent_fault(
        "distorted",
        "too_much_augmentation",
        set_options(
            {f"{AUGMENT}{name}": value for name, value in (("rotation", 180.0), ("shear", 1.0), ("zoom", 1.0))}
        ),
    ),
    persistent_fault(
        "noisy_cutout", "too_much_augmentation", set_options({f"{AUGMENT}noise": 150.0, f"{AUGMENT}cutout": 0.7})
    ),
    # Hyperparameters.
    persistent_fault("rate_x30", "learning_rate_high", multiply_learning_rate(30)),
    persistent_fault("rate_x100", "learning_rate_high", multiply_learning_rate(100)),
    persistent_fault("rate_1_30", "learning_rate_low", multiply_learning_rate(1 / 30)),
    persistent_fault("rate_1_100", "learning_rate_low", multiply_learning_rate(1 / 100)),
    persistent_fault(
        "no_warmup",
        "no_warmup",
        set_options({"optimizer.warmup_epochs": 0.0}),
        twin=use_high_rate_with_warmup,
        networks=BATCH_NORM_NETWORKS,
    ),
    persistent_fault("batch_2", "batch_small", set_options({"data.batch_size": 2}), networks=("plain",)),
    persistent_fault("batch_500", "batch_large", set_options({"data.batch_size": 500})),
    persistent_fault("batch_1000", "batch_large", set_options({"data.batch_size": 1000})),
    persistent_fault(
        "early_decay", "schedule", set_options({"optimizer.schedule": "polynomial", "optimizer.power": 80.0})
    ),
    persistent_fault("clipped", "clipping", set_options({"optimizer.clip_norm": 3e-3}), networks=SGD_NETWORKS),
    persistent_fault("momentum_99", "momentum", set_options({"optimizer.momentum": 0.99}), networks=SGD_NETWORKS),
    persistent_fault("momentum_999", "momentum", set_options({"optimizer.momentum": 0.999}), networks=SGD_NETWORKS),
    persistent_fault(
        "epsilon_1", "epsilon", set_options({"optimizer.epsilon": 1.0}), twin=use_adam, networks=BATCH_NORM_NETWORKS
    ),
    persistent_fault("adam_at_sgds_rate", "optimizer", set_options({"optimizer.name": "adam"}), networks=SGD_NETWORKS),
    persistent_fault(
        "rmsprop_at_sgds_rate",
        "optimizer",
        set_options({"optimizer.name": "rmsprop", "optimizer.momentum": 0.0, "optimizer.nesterov": False}),
        networks=SGD_NETWORKS,
    ),
    persistent_fault(
        "sgd_at_adams_rate",
        "optimizer",
        set_options({"optimizer.name": "sgd", "optimizer.momentum": 0.0, "optimizer.nesterov": False}),
        twin=use_adam,
        networks=BATCH_NORM_NETWORKS,
    ),
    persistent_fault("one_epoch", "too_few_steps", set_options({"epochs": 1}), twin=train_on_1000_images),
    # Architecture.
    persistent_fault("dropout_80", "dropout", set_option_or_mutate("model.dropout", 0.8, "dropout_80")),
    persistent_fault("dropout_90", "dropout", set_option_or_mutate("model.dropout", 0.9, "dropout_90")),
    persistent_fault("l2", "penalty", set_option_or_mutate("model.l2", 0.1, "l2")),
    persistent_fault("weight_decay", "penalty", decay_weights(0.1)),
    persistent_fault("unnormalized", "no_normalization", mutate_network("unnormalized"), networks=BATCH_NORM_NETWORKS),
    persistent_fault("deep", "no_normalization", mutate_network("deep"), networks=("plain",)),
    persistent_fault(
        "batch_2_norm", "batch_norm_batch", set_options({"data.batch_size": 2}), networks=BATCH_NORM_NETWORKS
    ),
    persistent_fault("slow_norm_3", "batch_norm_momentum", mutate_network("slow_norm_3"), networks=BATCH_NORM_NETWORKS),
    persistent_fault("slow_norm_4", "batch_norm_momentum", mutate_network("slow_norm_4"), networks=BATCH_NORM_NETWORKS),
    persistent_fault("zeros", "initialization", mutate_network("zeros")),
    persistent_fault("huge_weights", "initialization", mutate_network("huge")),
    persistent_fault("tiny_weights", "initialization", mutate_network("tiny"), networks=("plain",)),
    persistent_fault("sigmoid", "saturating_activation", mutate_network("sigmoid")),
    # Another activation fixes the next two faults, and so do other initial values: of the scale before tanh, and of the
    # bias before ReLU. Both causes count as right.
    persistent_fault(
        "steep_tanh",
        "saturating_activation",
        mutate_network("steep_tanh"),
        other_causes=("initialization",),
        networks=BATCH_NORM_NETWORKS,
    ),
    persistent_fault("dying_relu", "dying_activation", mutate_network("dying"), other_causes=("initialization",)),
    persistent_fault("exponential", "unbounded_activation", mutate_network("exponential"), networks=("plain",)),
    persistent_fault("linear", "missing_activation", mutate_network("linear"), networks=("plain",)),
    persistent_fault("narrow", "small_network", mutate_network("narrow"), networks=("plain",)),
    persistent_fault("one_pixel", "early_pooling", mutate_network("one_pixel"), networks=("plain",)),
    persistent_fault("output_dropout", "output_activation", mutate_network("output_dropout")),
    persistent_fault("softmax", "output_activation", mutate_network("softmax")),
    persistent_fault("relu_output", "output_activation", mutate_network("relu_output")),
    persistent_fault("tanh_output", "output_activation", mutate_network("tanh_output")),
    persistent_fault("frozen", "frozen_layers", mutate_network("frozen")),
    # Numerics.
    persistent_fault(
        "half_overflow", "precision", set_options({"precision": "mixed_float16"}), twin=mutate_network("large_logits")
    ),
    persistent_fault(
        "half_underflow", "precision", set_options({"precision": "mixed_float16"}), twin=mutate_network("small_logits")
    ),
)
_TRANSIENT = (
    transient_fault(
        "burst_outliers",
        "data",
        "outlier_images",
        20,
        transient_faults.corrupt_batches,
        corrupt=transient_faults.replace_by_outliers,
    ),
    transient_fault(
        "burst_labels",
        "data",
        "label_noise",
        30,
        transient_faults.corrupt_batches,
        corrupt=transient_faults.replace_labels,
    ),
    transient_fault(
        "nan_image", "data", "outlier_images", 1, transient_faults.multiply_pixels, factor=float("nan"), images=1
    ),
    transient_fault(
        "nan_images", "data", "outlier_images", 8, transient_faults.multiply_pixels, factor=float("nan"), images=1
    ),
    transient_fault(
        "bright_images", "data", "outlier_images", 6, transient_faults.multiply_pixels, factor=1e3, images=4
    ),
    transient_fault(
        "surge_x30", "hyperparameters", "learning_rate_high", 20, transient_faults.multiply_learning_rate, factor=30.0
    ),
    transient_fault(
        "surge_x100", "hyperparameters", "learning_rate_high", 10, transient_faults.multiply_learning_rate, factor=100.0
    ),
    transient_fault(
        "larger_logits", "numerics", "", 1, transient_faults.corrupt_weights, corrupt=transient_faults.negate_logits
    ),
    transient_fault(
        "flipped_bits", "numerics", "", 1, transient_faults.corrupt_weights, corrupt=transient_faults.flip_bits
    ),
    transient_fault("overflow", "numerics", "precision", 5, transient_faults.multiply_pixels, factor=float("inf")),
)
FAULTS = {fault.name: fault for fault in (*_PERSISTENT, *_TRANSIENT)}


def has_own_twin(name: str) -> bool:
    """Whether the clean twin of the fault differs from `networks.clean_config`."""
    return FAULTS[name].twin is not Fault._field_defaults["twin"]


def twin_name(name: str) -> str:
    """Returns the name of the clean twin: the first fault with this twin, or "" if it is `networks.clean_config`."""
    if not has_own_twin(name):
        return ""
    return next(other for other, fault in FAULTS.items() if fault.twin is FAULTS[name].twin)
