"""Interventions worth a replay: for each plausible cause, the flags that would remove it.

    for intervention in propose_interventions(evidence):
        print(intervention.cause, intervention.flags, intervention.prior)

The prior of an intervention is 0 if its cause is merely possible, and higher if the configuration has an unusual value
or a finding or an alarm supports the cause. Generic interventions help nearly any run, whatever its trouble. So they
explain little, and are the control arm for specific interventions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tf_keras as keras

from evenkeel.models.config import TrainConfig
from evenkeel.models.networks import surgery
from evenkeel.models.networks.activations import grows_faster_than_linearly
from evenkeel.models.networks.layers import DROPOUT_LAYERS
from evenkeel.models.networks.layers import kernel as kernel_of
from evenkeel.models.optim import schedules
from evenkeel.models.stability.causes import PROVEN_BY_FINDING
from evenkeel.models.stability.diagnosis import Finding
from evenkeel.models.stability.trace import Trace
from evenkeel.pipeline.config import AugmentConfig

layers = keras.layers

# Log odds before any replay; a failed check of preflight raises the prior of its causes to `PRIOR_FOUND`.
PRIOR_UNLIKELY, PRIOR_POSSIBLE, PRIOR_UNUSUAL, PRIOR_FOUND = -2.0, 0.0, 1.5, 3.0
PRIOR_PROVEN = 9.0  # of `PROVEN_BY_FINDING`: more than a found cause whose replay gains everything
ADAM_LIKE_OPTIMIZERS = ("adam", "adamw", "nadam", "rmsprop", "lamb", "radam", "lookahead", "novograd")
UNSTABLE_KINDS = {  # alarms that suggest too high a rate
    "nonfinite",
    "loss_spike",
    "divergence",
    "exploding",
    "large_updates",
    "large_first_update",
    "oscillation",
}
EARLY_STEPS = 100  # steps in which too high a rate kills units
USUAL_FILTERS = 32  # the widest convolution of a published network for photographs has so many filters, or more
MIN_CLIPPED_SHARE = 0.1  # of the usual length of a gradient
SCHEDULE_SAMPLES, MIN_SCHEDULE_SHARE = 100, 0.15  # cosine has half of the peak on average, three steps of 0.1 a third
TARGET_UPDATES = 200  # if a run has too few updates, the fix raises their number to this
MILD_AUGMENTATION = {"data.augment.flip": 0.5, "data.augment.pad_crop": 4, "data.augment.cutout": 0.25}


@dataclasses.dataclass(frozen=True)
class Intervention:
    """A change of the configuration that would remove a cause.

    Attributes:
      cause: name of the cause in `causes.CAUSES`; empty for the unchanged run and for several changes together.
      flags: the change, {dotted name: value}.
      prior: log odds of the cause before the replay.
      reasons: sentences that make the cause plausible.
      generic: whether the change helps nearly any run.
      cures: False if the change only demonstrates the cause, and no flag removes it.
    """

    cause: str
    flags: dict[str, Any]
    prior: float = PRIOR_POSSIBLE
    reasons: tuple[str, ...] = ()
    generic: bool = False
    cures: bool = True


@dataclasses.dataclass(frozen=True, eq=False)
class RunEvidence:
    """What is known about a run before any change is tried.

    Attributes:
      config: the run's configuration.
      network: the run's network with the initial weights.
      findings: findings of preflight.
      trace: telemetry of the probe.
      alarm_kinds: kinds of the alarms in `trace`.
      train_images: number of training images.
      total_steps: steps of the whole run.
      replicas: number of replicas.
    """

    config: TrainConfig
    network: keras.Model
    findings: tuple[Finding, ...]
    trace: Trace
    alarm_kinds: frozenset[str]
    train_images: int
    total_steps: int
    replicas: int = 1

    def finding_lines(self, cause: str) -> tuple[str, ...]:
        """The lines of failed checks that support `cause`."""
        return tuple(finding.line for finding in self.findings if not finding.ok and cause in finding.causes)


def propose_interventions(evidence: RunEvidence) -> list[Intervention]:
    """Returns every intervention that could help, including the control arm; usually one or two per cause."""
    interventions = []
    for propose in PROPOSERS:
        for intervention in propose(evidence):
            lines = evidence.finding_lines(intervention.cause)
            prior = max(intervention.prior, PRIOR_FOUND) if lines else intervention.prior
            reasons = (*intervention.reasons, *lines)
            interventions.append(dataclasses.replace(intervention, prior=prior, reasons=reasons))
    return interventions


def causes_without_intervention(evidence: RunEvidence, tried: list[Intervention]) -> list[Intervention]:
    """Returns an intervention without flags for each cause that findings support, but no `tried` intervention has."""
    tried_causes = {intervention.cause for intervention in tried}
    supported = dict.fromkeys(cause for finding in evidence.findings if not finding.ok for cause in finding.causes)
    return [
        Intervention(
            cause,
            {},
            PRIOR_PROVEN if cause in PROVEN_BY_FINDING else PRIOR_FOUND,
            evidence.finding_lines(cause),
            cures=False,
        )
        for cause in supported
        if cause not in tried_causes
    ]


def drop_flags(config: TrainConfig, drop: str, share: float) -> dict[str, Any]:
    """Returns flags that drop a `share` of the training images, with more epochs for the same number of steps."""
    flags: dict[str, Any] = {"data.drop": ",".join(filter(None, [config.data.drop, drop]))}
    epochs = round(config.epochs / max(1 - share, 0.01))
    return {**flags, "epochs": epochs} if epochs != config.epochs else flags


# Hyperparameters; the control arm first.


def _propose_learning_rates(evidence: RunEvidence) -> Iterator[Intervention]:
    """A grid of rates, a factor of 10 apart, on the side that the evidence suggests; `refine_fix` halves its gaps."""
    rate = evidence.config.optimizer.learning_rate
    unstable = evidence.alarm_kinds & UNSTABLE_KINDS
    reasons: tuple[str, ...] = (f"alarms during the run: {', '.join(sorted(unstable))}",) if unstable else ()
    if died := _early_deaths(evidence.trace):
        share, step = died
        reasons += (f"{share:.0%} of a layer's units, alive at the start, were dead after {step} steps",)
    high = bool(reasons)
    # Dead units have no updates, so they explain small updates, which are then no evidence for too low a rate.
    slow = "small_updates" in evidence.alarm_kinds and _dead_share(evidence.trace) <= 0.5
    prior = PRIOR_UNUSUAL if high else PRIOR_POSSIBLE
    yield Intervention("learning_rate_high", {"optimizer.learning_rate": rate / 4}, prior, reasons, generic=True)
    if not evidence.config.optimizer.clip_norm:
        yield Intervention("learning_rate_high", {"optimizer.clip_norm": 1.0}, prior, reasons, generic=True)
    for factor in () if slow else (10, 100) if high else (10,):
        yield Intervention("learning_rate_high", {"optimizer.learning_rate": rate / factor}, prior, reasons)
    if not high:
        reasons = ("updates are tiny relative to the weights",) if slow else ()
        for factor in (10, 100) if slow or not _loss_has_fallen(evidence) else (10,):
            flags = {"optimizer.learning_rate": rate * factor}
            yield Intervention("learning_rate_low", flags, 2 * bool(slow), reasons)


def _early_deaths(trace: Trace) -> tuple[float, int] | None:
    """(Share, step) of units of a layer that died in the first `EARLY_STEPS` steps; None if at most half of them did.

    One update that is too large kills units. Units that are dead at the start have other causes.
    """
    dead = trace.layers.get("dead")
    if dead is None or not len(dead) or trace.due[0] != 0:
        return None
    died = np.nan_to_num(dead[trace.due <= EARLY_STEPS] - dead[0]).max(axis=1, initial=0.0)
    first = int(np.argmax(died > 0.5))
    return (float(died[first]), int(trace.due[first])) if died[first] > 0.5 else None


def _dead_share(trace: Trace) -> float:
    """The largest share of dead units of a layer, in the last three samples."""
    dead = trace.layers.get("dead")
    return float(np.nanmax(dead[-3:])) if dead is not None and np.isfinite(dead[-3:]).any() else 0.0


def _loss_has_fallen(evidence: RunEvidence) -> bool:
    first_loss = evidence.trace.began or np.nan
    return bool(_recent_median(evidence.trace.loss) < 0.9 * first_loss)


def _propose_warmup(evidence: RunEvidence) -> Iterator[Intervention]:
    config = evidence.config
    if config.optimizer.warmup_epochs or evidence.trace.steps[:1].sum() or not evidence.alarm_kinds:
        return
    epochs = min(0.25 * config.epochs, 100 * config.data.batch_size / evidence.train_images)
    large = "large_first_update" in evidence.alarm_kinds
    reasons = ("the first update is large relative to the weights",) if large else ()
    if epochs < config.epochs:
        # Less than that of a lower rate, which also calms the first steps: if both help as much, the rate is wrong.
        prior = PRIOR_UNUSUAL - 0.5 if large else PRIOR_POSSIBLE - 0.5
        yield Intervention("no_warmup", {"optimizer.warmup_epochs": round(epochs, 4)}, prior, reasons)


def _propose_schedule(evidence: RunEvidence) -> Iterator[Intervention]:
    config = evidence.config
    steps_per_epoch = max(1, evidence.total_steps // config.epochs)
    schedule = schedules.Schedule(config.optimizer, config.data.batch_size, steps_per_epoch, config.epochs)
    sampled = np.linspace(0, evidence.total_steps - 1, SCHEDULE_SAMPLES)
    share = float(np.mean([float(schedule(step)) for step in sampled.astype(np.float32)])) / schedule.peak
    if share < MIN_SCHEDULE_SHARE:
        reason = f"on average over the run, the learning rate is {share:.0%} of its peak"
        flags = {"optimizer.schedule": "cosine", "optimizer.warmup_epochs": 0.0}
        yield Intervention("schedule", flags, PRIOR_UNUSUAL, (reason,))


def _propose_clipping(evidence: RunEvidence) -> Iterator[Intervention]:
    """No clipping, if a common gradient is clipped to less than `MIN_CLIPPED_SHARE`; adaptive optimizers rescale it."""
    optimizer, norm = evidence.config.optimizer, _recent_median(evidence.trace.gradient_norm)
    if optimizer.clip_norm and optimizer.clip_norm < MIN_CLIPPED_SHARE * norm:
        reason = f"the gradient's norm is usually {norm:.3g}, and it is clipped to {optimizer.clip_norm:g}"
        prior = PRIOR_POSSIBLE if optimizer.name in ADAM_LIKE_OPTIMIZERS else PRIOR_UNUSUAL
        yield Intervention("clipping", {"optimizer.clip_norm": 0.0}, prior, (reason,))
    for name, usual in (("clip_value", 1e-3), ("clip_adaptive", 1e-3)):
        if 0 < getattr(optimizer, name) < usual:
            reason = f"optimizer.{name} is {getattr(optimizer, name):g}"
            yield Intervention("clipping", {f"optimizer.{name}": 0.0}, PRIOR_UNUSUAL, (reason,))


def _propose_optimizer(evidence: RunEvidence) -> Iterator[Intervention]:
    optimizer = evidence.config.optimizer
    flags: dict[str, Any]
    if optimizer.name in ("sgd", "sgdw"):
        reason = f"the momentum is {optimizer.momentum:g}"
        if optimizer.momentum > 0.95:
            reason += f": an update sums {1 / (1 - optimizer.momentum):.0f} gradients"
            yield Intervention("momentum", {"optimizer.momentum": 0.9}, PRIOR_UNUSUAL, (reason,))
        elif optimizer.momentum < 0.5:
            yield Intervention("momentum", {"optimizer.momentum": 0.9}, PRIOR_POSSIBLE, (reason,))
    elif optimizer.beta_1 > 0.97 or not 0.9 <= optimizer.beta_2 < 1:
        reason = f"beta_1 is {optimizer.beta_1:g} and beta_2 is {optimizer.beta_2:g}"
        flags = {"optimizer.beta_1": 0.9, "optimizer.beta_2": 0.999}
        yield Intervention("momentum", flags, PRIOR_UNUSUAL, (reason,))
    if optimizer.name in ADAM_LIKE_OPTIMIZERS and optimizer.epsilon > 1e-3:
        reason = f"epsilon is {optimizer.epsilon:g}"
        yield Intervention("epsilon", {"optimizer.epsilon": 1e-7}, PRIOR_UNUSUAL, (reason,))
    if optimizer.name != "adam" or optimizer.learning_rate > 0.02 or optimizer.learning_rate < 5e-5:
        flags = {"optimizer.name": "adam", "optimizer.learning_rate": 1e-3}
        if optimizer.name in ("rmsprop", "adadelta"):  # whose beta_2 is another
            flags["optimizer.beta_2"] = 0.999
        yield Intervention("optimizer", flags, PRIOR_UNLIKELY, generic=True)


def _propose_batch_size(evidence: RunEvidence) -> Iterator[Intervention]:
    batch, replicas = evidence.config.data.batch_size, evidence.replicas
    per_pass = batch // replicas // evidence.config.optimizer.accumulate
    has_batch_norm = any(isinstance(layer, layers.BatchNormalization) for layer in evidence.network._flatten_layers())
    if has_batch_norm and per_pass < 8:
        reason = f"BatchNorm takes its statistics from {per_pass} images"
        yield Intervention("batch_norm_batch", {"data.batch_size": 32 * replicas}, PRIOR_UNUSUAL, (reason,))
    elif batch < 12:
        # Preflight says whether the rate is high for such a batch.
        reason = f"a batch has {batch} images"
        yield Intervention("batch_small", {"data.batch_size": 32 * replicas}, PRIOR_POSSIBLE, (reason,))
    if batch > 64 and (evidence.total_steps < 150 or batch > evidence.train_images / 16):
        sizes = [size for size in (64, 32, 16) if size <= batch // 8] or [batch // 8]
        images_in_run = evidence.total_steps * batch
        smaller = next((size for size in sizes if images_in_run >= TARGET_UPDATES * size), sizes[-1])
        smaller = max(replicas, smaller // replicas * replicas)
        reason = f"a batch has {batch} images, and the run has {evidence.total_steps} updates"
        yield Intervention("batch_large", {"data.batch_size": smaller}, PRIOR_UNUSUAL, (reason,))


def _propose_longer_run(evidence: RunEvidence) -> Iterator[Intervention]:
    if evidence.total_steps < 120 and evidence.config.data.batch_size <= 64:
        reason = f"the run has {evidence.total_steps} updates"
        factor = max(4, -(-TARGET_UPDATES // evidence.total_steps))
        flags = {"epochs": evidence.config.epochs * factor}
        yield Intervention("too_few_steps", flags, PRIOR_UNUSUAL, (reason,))


# Data.


def _propose_data_changes(evidence: RunEvidence) -> Iterator[Intervention]:
    config = evidence.config.data
    checked = next((finding for finding in evidence.findings if finding.check == "input_scale"), None)
    if not (config.normalize or config.standardize) and not (checked and checked.ok):  # it may rescale its input itself
        reason = checked.seen if checked else "pixels are not normalized before the network"
        yield Intervention("input_scale", {"data.normalize": True}, PRIOR_UNUSUAL, (reason,))
    failed = {finding.check: finding for finding in evidence.findings if not finding.ok}
    if outliers := failed.get("outlier_images"):
        yield Intervention("outlier_images", drop_flags(evidence.config, "outliers", outliers.evidence["share"]))
    if evidence.finding_lines("class_imbalance") and config.balance == "none":
        yield Intervention("class_imbalance", {"data.balance": "classes"})
    if evidence.config.class_weights == "balanced" and config.balance == "classes":
        reason = (
            "class_weights=balanced multiplies the loss of rare classes, which data.balance=classes already repeats"
        )
        yield Intervention("class_weights", {"class_weights": "none"}, PRIOR_UNUSUAL, (reason,))
    if "image_skew" in failed and not config.standardize:
        reason = "normalising each image by its own mean and deviation removes differences in brightness and contrast"
        yield Intervention("train_validation_skew", {"data.standardize": True}, reasons=(reason,))
    if evidence.finding_lines("train_validation_skew"):
        flags = {"data.train_split": "train[:80%]", "data.validation_split": "train[80%:]"}
        reason = "the replay validates on held-out training images"
        yield Intervention("train_validation_skew", flags, reasons=(reason,), cures=False)


def _propose_augmentation(evidence: RunEvidence) -> Iterator[Intervention]:
    augment, trace = evidence.config.data.augment, evidence.trace
    mild = AugmentConfig(flip=min(augment.flip, 0.5), pad_crop=min(augment.pad_crop, 4))
    weaker = {
        f"data.augment.{field.name}": getattr(mild, field.name)
        for field in dataclasses.fields(AugmentConfig)
        if field.name != "randaugment_magnitude" and getattr(augment, field.name) != getattr(mild, field.name)
    }
    mixing = evidence.config.mixing
    weaker |= {f"mixing.{name}": 0.0 for name in ("mixup", "cutmix") if getattr(mixing, name)}
    if weaker:
        yield Intervention("too_much_augmentation", weaker)
    stronger = {
        name: value for name, value in MILD_AUGMENTATION.items() if not getattr(augment, name.rpartition(".")[2])
    }
    if min(evidence.config.data.image_shape) < 16:
        stronger.pop("data.augment.pad_crop", None)
    if stronger and _overfits(evidence):
        losses = _recent_median(trace.loss), trace.validation_loss[-1]
        reason = f"the training loss is {losses[0]:.2g} and the validation loss {losses[1]:.2g}"
        decay = {"optimizer.weight_decay": 5e-3} if not evidence.config.optimizer.weight_decay else {}
        yield Intervention("overfitting", {**stronger, **decay}, PRIOR_UNUSUAL, (reason,))


def _overfits(evidence: RunEvidence) -> bool:
    if "overfitting" in evidence.alarm_kinds:
        return True
    validation_loss = evidence.trace.validation_loss
    return len(validation_loss) > 0 and validation_loss[-1] > 1.5 * _recent_median(evidence.trace.loss)


def _recent_median(x: np.ndarray) -> float:
    return float(np.median(x[-20:])) if len(x) else float("nan")


# Regularization, architecture and numerics.


def _propose_regularization(evidence: RunEvidence) -> Iterator[Intervention]:
    model, decay = evidence.config.model, evidence.config.optimizer.weight_decay
    is_users_network = model.is_users_own
    network_layers = evidence.network._flatten_layers()
    rates = [layer.rate for layer in network_layers if isinstance(layer, DROPOUT_LAYERS)]
    if max([model.dropout, model.stochastic_depth, *rates]) > 0.4:
        flags = {"model.dropout": 0.0, "model.stochastic_depth": 0.0}
        if is_users_network:
            flags = _patch_flags(evidence, "no_dropout")
        reason = f"the dropout rate is {max([model.dropout, *rates]):g}"
        yield Intervention("dropout", flags, PRIOR_UNUSUAL, (reason,))
    flags = {f"model.{name}": 0.0 for name in ("l1", "l2") if getattr(model, name) > 1e-4}
    if decay > 0.01 or (decay and decay * evidence.config.optimizer.learning_rate > 1e-3):
        flags["optimizer.weight_decay"] = 5e-4
    if is_users_network and surgery.has_effect(evidence.network, "no_penalty"):
        flags |= _patch_flags(evidence, "no_penalty")
    if flags:
        yield Intervention("penalty", flags, PRIOR_UNUSUAL, ("penalties on weights are strong",))


def _propose_patches(evidence: RunEvidence) -> Iterator[Intervention]:
    dead_share, died_early = _dead_share(evidence.trace), _early_deaths(evidence.trace) is not None
    saturated, explosive = evidence.trace.layers.get("saturated"), _has_explosive_activation(evidence.network)
    unusual_weights = _has_unusual_weights(evidence.network)
    found = lambda cause: bool(evidence.finding_lines(cause))  # noqa: E731
    for cause, patch, prior, plausible, reason in (
        ("no_normalization", "batch_norm", PRIOR_UNLIKELY, True, "there is no normalization layer"),
        (
            "saturating_activation",
            "relu",
            PRIOR_UNUSUAL,
            np.isfinite(saturated).any() if saturated is not None else not explosive,
            "activations saturate at both ends",
        ),
        (
            "unbounded_activation",
            "relu",
            PRIOR_UNUSUAL,
            explosive,
            "an activation more than triples if its input doubles",
        ),
        (
            "missing_activation",
            "activations",
            PRIOR_POSSIBLE,
            True,
            "there is no activation between some convolutions or dense layers",
        ),
        (
            "early_pooling",
            "less_pooling",
            PRIOR_UNUSUAL,
            True,
            "of a convolution's kernel, only the center acts on maps of one pixel",
        ),
        (
            "dying_activation",
            "leaky_relu",
            PRIOR_UNUSUAL if dead_share > 0.5 and not died_early else PRIOR_POSSIBLE,  # the rate kills units early
            dead_share > 0.3 or found("dying_activation"),
            f"{dead_share:.0%} of a layer's units are dead",
        ),
        (
            "initialization",
            "he_normal",
            PRIOR_UNUSUAL if unusual_weights else PRIOR_POSSIBLE,
            unusual_weights or found("initialization"),
            "the initial weights are unusual",
        ),
        (
            "output_activation",
            "logits",
            PRIOR_FOUND,
            True,
            "an activation or dropout changes the outputs, but the loss takes logits",
        ),
        ("frozen_layers", "trainable", PRIOR_UNUSUAL, True, "some layers are not trainable"),
        (
            "batch_norm_momentum",
            "norm_momentum",
            PRIOR_UNUSUAL,
            not _has_usual_momentum(evidence),
            "BatchNorm's momentum is unusual",
        ),
    ):
        if plausible and surgery.has_effect(evidence.network, patch):
            generic = patch == "batch_norm" and not found(cause)
            yield Intervention(cause, _patch_flags(evidence, patch), prior, (reason,), generic)
    yield from _propose_wider_network(evidence)


def _propose_wider_network(evidence: RunEvidence) -> Iterator[Intervention]:
    filters = [layer.filters for layer in evidence.network._flatten_layers() if type(layer) is layers.Conv2D]
    if not filters or max(filters) >= USUAL_FILTERS or _overfits(evidence):
        return
    try:  # a network that adds its input, or reshapes, cannot be made wider
        surgery.apply_patches(evidence.network, ["wider"])
    except ValueError:
        return
    reason = f"the widest convolution has {max(filters)} filters; {USUAL_FILTERS} to 512 are usual"
    yield Intervention("small_network", _patch_flags(evidence, "wider"), PRIOR_POSSIBLE, (reason,))


def _has_explosive_activation(network: keras.Model) -> bool:
    return any(
        grows_faster_than_linearly(layer)
        for layer in network._flatten_layers(include_self=False)
        if not isinstance(layer, keras.Model)
    )


def _has_usual_momentum(evidence: RunEvidence) -> bool:
    """Whether every BatchNorm's momentum is 0.5 to 0.99, or averages fewer steps than the run has."""
    network_layers = evidence.network._flatten_layers()
    momenta = [layer.momentum for layer in network_layers if isinstance(layer, layers.BatchNormalization)]
    # 3 / (1 - momentum) steps hold 95% of the weight; Keras's default, 0.99, averages 100 steps.
    return all(0.5 <= momentum <= 0.99 or 3 / (1 - momentum + 1e-12) < evidence.total_steps for momentum in momenta)


def _has_unusual_weights(network: keras.Model) -> bool:
    """Whether a kernel's deviation is 3 times larger or smaller than He's or Glorot's, or a mean or bias far from 0.

    BatchNorm's scales and offsets count as well, see `surgery.starts_extreme`.
    """
    for layer in network._flatten_layers():
        if isinstance(layer, layers.BatchNormalization) and surgery.starts_extreme(layer):
            return True
        kernel = kernel_of(layer) if not isinstance(layer, keras.Model) else None
        if kernel is None or len(kernel.shape) < 2:
            continue
        values = kernel.numpy()
        fan_in, fan_out = np.prod(values.shape[:-1]), np.prod(values.shape) / values.shape[-2]
        usual = [np.sqrt(2 / fan_in), np.sqrt(2 / (fan_in + fan_out)), np.sqrt(1 / fan_in)]
        deviation = float(values.std())
        if not min(usual) / 3 < deviation < max(usual) * 3 or abs(values.mean()) > 3 * max(usual):
            return True
        biases = [v.numpy() for v in layer.weights if "bias" in v.name]
        if any(np.abs(bias).max() > 0.5 for bias in biases):
            return True
    return False


def _propose_precision(evidence: RunEvidence) -> Iterator[Intervention]:
    if evidence.config.precision == "mixed_float16":
        reason = "the run computes in half precision"
        yield Intervention("precision", {"precision": "float32"}, PRIOR_UNUSUAL, (reason,))


def _patch_flags(evidence: RunEvidence, patch: str) -> dict[str, Any]:
    return {"model.patch": ",".join([*evidence.config.model.patches, patch])}


PROPOSERS: tuple[Callable[[RunEvidence], Iterator[Intervention]], ...] = (
    _propose_learning_rates,
    _propose_warmup,
    _propose_schedule,
    _propose_clipping,
    _propose_optimizer,
    _propose_batch_size,
    _propose_longer_run,
    _propose_data_changes,
    _propose_augmentation,
    _propose_regularization,
    _propose_patches,
    _propose_precision,
)
