"""Which changes are worth a replay: for each plausible cause, the flags that would remove it.

    for change in candidates(case): print(change.cause, change.flags, change.prior)

A change carries a prior: 0 where its cause is only possible, more where the configuration has an unusual value or a
finding or an alarm speaks for it. Generic changes help nearly any run, whatever ails it: they explain least, and are
what specific ones are held against.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tf_keras as keras

from evenkeel.models.config import TrainConfig
from evenkeel.models.networks import surgery
from evenkeel.models.networks.layers import DROPOUTS
from evenkeel.models.networks.layers import kernel as kernel_of
from evenkeel.models.stability.detectors import Trace
from evenkeel.models.stability.diagnosis import Finding
from evenkeel.pipeline.config import AugmentConfig

layers = keras.layers

UNLIKELY, POSSIBLE, UNUSUAL, SHOWN = -2.0, 0.0, 1.5, 3.0  # log odds; a finding of preflight makes it SHOWN
ADAMS = ("adam", "adamw", "rmsprop", "lamb", "radam", "lookahead", "novograd")
UPDATES = 200  # that a fix of a run with few of them comes to
MILD = {"data.augment.flip": 0.5, "data.augment.pad_crop": 4, "data.augment.cutout": 0.25}


@dataclasses.dataclass(frozen=True)
class Change:
    """`flags` that would remove `cause`; `why` are sentences about what makes it plausible.

    `cures` is False where the change shows the cause, and what to do about it is no flag.
    """

    cause: str
    flags: dict[str, Any]
    prior: float = POSSIBLE
    why: tuple[str, ...] = ()
    generic: bool = False
    cures: bool = True


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """What is known of a run when changes are looked for."""

    config: TrainConfig
    network: keras.Model
    findings: tuple[Finding, ...]
    trace: Trace
    kinds: frozenset[str]  # of alarms
    images: int  # to train on
    total_steps: int
    replicas: int = 1

    def finds(self, cause: str) -> tuple[str, ...]:
        """What preflight found that speaks for `cause`."""
        return tuple(finding.line for finding in self.findings if not finding.ok and cause in finding.causes)


def candidates(case: Case) -> list[Change]:
    """Every change that could help, at most one or two for a cause; the control arm is among them."""
    found = []
    for source in SOURCES:
        for change in source(case):
            lines = case.finds(change.cause)
            prior = max(change.prior, SHOWN) if lines else change.prior
            found.append(dataclasses.replace(change, prior=prior, why=(*change.why, *lines)))
    return found


def unchangeable(case: Case, tried: list[Change]) -> list[Change]:
    """Causes that findings speak for and no flag can remove."""
    known = {change.cause for change in tried}
    named = dict.fromkeys(cause for finding in case.findings if not finding.ok for cause in finding.causes)
    return [Change(cause, {}, SHOWN, case.finds(cause), cures=False) for cause in named if cause not in known]


def dropped(config: TrainConfig, what: str, share: float) -> dict[str, Any]:
    """Flags that leave a `share` of the training images out, and train as many steps on the others."""
    flags: dict[str, Any] = {"data.drop": ",".join(filter(None, [config.data.drop, what]))}
    epochs = round(config.epochs / max(1 - share, 0.01))
    return {**flags, "epochs": epochs} if epochs != config.epochs else flags


# The control arm, and the learning rate.


def _rates(case: Case) -> Iterator[Change]:
    rate = case.config.optimizer.learning_rate
    wild = case.kinds & {
        "nonfinite",
        "loss_spike",
        "divergence",
        "exploding",
        "large_updates",
        "oscillation",
    }
    slow = case.kinds & {"small_updates"}
    high = UNUSUAL if wild else POSSIBLE
    why = (f"alarms of {', '.join(sorted(wild))}",) if wild else ()
    yield Change("learning_rate_high", {"optimizer.learning_rate": rate / 4}, high, why, generic=True)
    if not case.config.optimizer.clip_norm:
        yield Change("learning_rate_high", {"optimizer.clip_norm": 1.0}, high, why, generic=True)
    for factor in () if slow else (32, 256) if wild else (32,):
        yield Change("learning_rate_high", {"optimizer.learning_rate": rate / factor}, high, why)
    if not wild:
        why = ("updates are tiny against the weights",) if slow else ()
        for factor in (8, 64) if slow or not _learns(case) else (8,):
            yield Change("learning_rate_low", {"optimizer.learning_rate": rate * factor}, 2 * bool(slow), why)


def _learns(case: Case) -> bool:
    began = case.trace.began or np.nan
    return bool(_last(case.trace.loss) < 0.9 * began)


def _warmup(case: Case) -> Iterator[Change]:
    if case.config.optimizer.warmup_epochs or case.trace.steps[:1].sum() or not case.kinds:
        return
    epochs = min(0.25 * case.config.epochs, 100 * case.config.data.batch_size / case.images)
    large = "large_first_update" in case.kinds
    why = ("the first update is large against the weights",) if large else ()
    if epochs < case.config.epochs:
        prior = UNUSUAL if large else POSSIBLE
        yield Change("no_warmup", {"optimizer.warmup_epochs": round(epochs, 4)}, prior, why)


def _optimizer(case: Case) -> Iterator[Change]:
    optimizer = case.config.optimizer
    if optimizer.name in ("sgd", "sgdw"):
        if optimizer.momentum > 0.95:
            why = (f"momentum {optimizer.momentum:g}: an update is {1 / (1 - optimizer.momentum):.0f} gradients",)
            yield Change("momentum", {"optimizer.momentum": 0.9}, UNUSUAL, why)
        elif optimizer.momentum < 0.5:
            yield Change("momentum", {"optimizer.momentum": 0.9}, POSSIBLE, (f"momentum {optimizer.momentum:g}",))
    elif optimizer.beta_1 > 0.97 or not 0.9 <= optimizer.beta_2 < 1:
        why = (f"beta_1 {optimizer.beta_1:g}, beta_2 {optimizer.beta_2:g}",)
        yield Change("momentum", {"optimizer.beta_1": 0.9, "optimizer.beta_2": 0.999}, UNUSUAL, why)
    if optimizer.name in ADAMS and optimizer.epsilon > 1e-3:
        yield Change("epsilon", {"optimizer.epsilon": 1e-7}, UNUSUAL, (f"epsilon {optimizer.epsilon:g}",))
    if optimizer.name != "adam" or optimizer.learning_rate > 0.02 or optimizer.learning_rate < 5e-5:
        yield Change("optimizer", {"optimizer.name": "adam", "optimizer.learning_rate": 1e-3}, UNLIKELY, (), True)


def _batch(case: Case) -> Iterator[Change]:
    batch = case.config.data.batch_size
    each = batch // case.replicas // case.config.optimizer.accumulate
    norms = any(isinstance(layer, layers.BatchNormalization) for layer in case.network._flatten_layers())
    if norms and each < 8:
        yield Change("batch_norm_batch", {"data.batch_size": 32 * case.replicas}, UNUSUAL, (f"{each} images each",))
    elif batch < 12:
        yield Change("batch_small", {"data.batch_size": 32 * case.replicas}, UNUSUAL, (f"batches of {batch}",))
    if batch > 64 and (case.total_steps < 150 or batch > case.images / 16):
        sizes = [size for size in (64, 32, 16) if size <= batch // 8] or [batch // 8]
        images = case.total_steps * batch
        smaller = next((size for size in sizes if images >= UPDATES * size), sizes[-1])
        smaller = max(case.replicas, smaller // case.replicas * case.replicas)
        why = (f"batches of {batch}: {case.total_steps} updates in the run",)
        yield Change("batch_large", {"data.batch_size": smaller}, UNUSUAL, why)


def _length(case: Case) -> Iterator[Change]:
    if case.total_steps < 120 and case.config.data.batch_size <= 64:
        why = (f"the run is {case.total_steps} updates long",)
        times = max(4, -(-UPDATES // case.total_steps))
        yield Change("too_few_steps", {"epochs": case.config.epochs * times}, UNUSUAL, why)


# Data.


def _data(case: Case) -> Iterator[Change]:
    config = case.config.data
    if not (config.normalize or config.standardize):
        yield Change("input_scale", {"data.normalize": True}, UNUSUAL, ("the network sees values of 0 to 255",))
    found = next((each for each in case.findings if each.check == "outlier_images" and not each.ok), None)
    if found:
        yield Change("outlier_images", dropped(case.config, "outliers", found.evidence["share"]))
    if case.finds("class_imbalance") and config.balance == "none":
        yield Change("class_imbalance", {"data.balance": "classes"})
    if any(each.check == "image_skew" and not each.ok for each in case.findings) and not config.standardize:
        why = ("each image by its own mean and deviation: brightness and contrast count no more",)
        yield Change("train_validation_skew", {"data.standardize": True}, why=why)
    if case.finds("train_validation_skew"):
        held_out = {"data.train_split": "train[:80%]", "data.validation_split": "train[80%:]"}
        why = ("validation on training images held out",)
        yield Change("train_validation_skew", held_out, why=why, cures=False)


def _augmentation(case: Case) -> Iterator[Change]:
    augment, plain = case.config.data.augment, AugmentConfig()
    mild = AugmentConfig(flip=min(augment.flip, 0.5), pad_crop=min(augment.pad_crop, 4))
    strong = {
        f"data.augment.{field.name}": getattr(mild, field.name)
        for field in dataclasses.fields(plain)
        if field.name != "randaugment_magnitude" and getattr(augment, field.name) != getattr(mild, field.name)
    }
    mixing = case.config.mixing
    strong |= {f"mixing.{name}": 0.0 for name in ("mixup", "cutmix") if getattr(mixing, name)}
    if strong:
        yield Change("too_much_augmentation", strong)
    weak = {name: value for name, value in MILD.items() if not getattr(augment, name.rpartition(".")[2])}
    if case.config.data.image_size < 16:
        weak.pop("data.augment.pad_crop", None)
    if weak and _learnt_by_heart(case):
        why = (f"training loss {_last(case.trace.loss):.2g}, validation loss {case.trace.validation_loss[-1]:.2g}",)
        more = {"optimizer.weight_decay": 5e-3} if not case.config.optimizer.weight_decay else {}
        yield Change("overfitting", {**weak, **more}, UNUSUAL, why)


def _learnt_by_heart(case: Case) -> bool:
    if "overfitting" in case.kinds:
        return True
    return len(case.trace.validation_loss) > 0 and case.trace.validation_loss[-1] > 1.5 * _last(case.trace.loss)


def _last(x: np.ndarray) -> float:
    return float(np.median(x[-20:])) if len(x) else float("nan")


# Regularization and architecture.


def _regularizers(case: Case) -> Iterator[Change]:
    model, decay = case.config.model, case.config.optimizer.weight_decay
    rates = [layer.rate for layer in case.network._flatten_layers() if isinstance(layer, DROPOUTS)]
    if max([model.dropout, model.stochastic_depth, *rates]) > 0.4:
        own = ":" not in model.name
        flags = {"model.dropout": 0.0, "model.stochastic_depth": 0.0} if own else _patch(case, "no_dropout")
        yield Change("dropout", flags, UNUSUAL, (f"dropout of {max([model.dropout, *rates]):g}",))
    flags = {f"model.{name}": 0.0 for name in ("l1", "l2") if getattr(model, name) > 1e-4}
    if decay > 0.01 or (decay and decay * case.config.optimizer.learning_rate > 1e-3):
        flags["optimizer.weight_decay"] = 5e-4
    if ":" in model.name and surgery.changes_anything(case.network, "no_penalty"):
        flags |= _patch(case, "no_penalty")
    if flags:
        yield Change("penalty", flags, UNUSUAL, ("penalties on weights are strong",))


def _architecture(case: Case) -> Iterator[Change]:
    dead = case.trace.layers.get("dead")
    share = float(np.nanmax(dead[-3:])) if dead is not None and np.isfinite(dead[-3:]).any() else 0.0
    saturated = case.trace.layers.get("saturated")
    for cause, name, prior, why in (
        ("no_normalization", "batch_norm", UNLIKELY, "no normalization layer"),
        ("saturating_activation", "relu", UNUSUAL, "activations that saturate on both sides"),
        (
            "dying_activation",
            "leaky_relu",
            UNUSUAL if share > 0.5 else POSSIBLE,
            f"{share:.0%} of a layer's units dead",
        ),
        ("initialization", "he_normal", UNUSUAL if _far_from_usual(case.network) else POSSIBLE, "initial weights"),
        ("output_activation", "logits", SHOWN, "the last layer has an activation; the loss takes logits"),
        ("frozen_layers", "trainable", UNUSUAL, "some layers are not trainable"),
        ("batch_norm_momentum", "norm_momentum", UNUSUAL, "BatchNorm's momentum"),
    ):
        if name == "norm_momentum" and _usual_momentum(case):
            continue
        if name == "leaky_relu" and share <= 0.3 and not case.finds(cause):
            continue
        if name == "he_normal" and not (_far_from_usual(case.network) or case.finds(cause)):
            continue
        if name == "relu" and saturated is not None and not np.isfinite(saturated).any():
            continue
        if surgery.changes_anything(case.network, name):
            helps_any = name == "batch_norm" and not case.finds(cause)
            yield Change(cause, _patch(case, name), prior, (why,), generic=helps_any)


def _usual_momentum(case: Case) -> bool:
    momenta = [
        layer.momentum for layer in case.network._flatten_layers() if isinstance(layer, layers.BatchNormalization)
    ]
    # Steps that the statistics reach back, against those that there are; Keras's 0.99 is 100.
    return all(0.5 <= momentum <= 0.99 or 3 / (1 - momentum + 1e-12) < case.total_steps for momentum in momenta)


def _far_from_usual(network: keras.Model) -> bool:
    """Whether a kernel's values are 3 times larger or smaller than He's or Glorot's, or biases are far from zero.

    Or BatchNorm's scales and offsets, see `patch.wild`.
    """
    for layer in network._flatten_layers():
        if isinstance(layer, layers.BatchNormalization) and surgery.wild(layer):
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


def _numerics(case: Case) -> Iterator[Change]:
    if case.config.precision == "mixed_float16":
        yield Change("precision", {"precision": "float32"}, UNUSUAL, ("half precision",))


def _patch(case: Case, name: str) -> dict[str, Any]:
    return {"model.patch": ",".join([*case.config.model.patches, name])}


SOURCES: tuple[Callable[[Case], Iterator[Change]], ...] = (
    _rates,
    _warmup,
    _optimizer,
    _batch,
    _length,
    _data,
    _augmentation,
    _regularizers,
    _architecture,
    _numerics,
)
