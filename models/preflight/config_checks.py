"""Checks of the configuration alone: values outside the range that trains.

    for finding in check_config(config, images=len(data.train), replicas=1):
        print(finding.line)

The checks use only the given numbers. `data_checks`, `image_checks` and `network_checks` check everything else.
"""

from __future__ import annotations

from evenkeel.models.config import TrainConfig
from evenkeel.models.optim import schedules
from evenkeel.models.stability.diagnosis import Finding

MIN_STEPS = 100  # the shortest preset takes 564; a task that is learnt in fewer steps needs no network
MAX_BATCH_SHARE = 0.25  # share of the training split in a batch: gives four updates per epoch
MIN_IMAGES = 20  # with fewer, no batch is neither too large nor too small; `check_image_count` says so
NOISY_BATCH = 4  # up to this many images, one image's gradient dominates the update
# Rates per image above which such updates are mostly noise. Published with 4 images: sgd at 0.001 / (1 - 0.9), which is
# 0.0025 per image (PyTorch's tutorial). Usual with more: sgd 0.1 / (1 - 0.9) / 128 = 0.008, Adam 0.001 / 32 = 3e-5.
MAX_SGD_RATE_PER_IMAGE, MAX_ADAPTIVE_RATE_PER_IMAGE = 0.03, 3e-4
MAX_MOMENTUM = 0.98  # averages 50 steps; 0.9 to 0.95 are usual (Smith 2018, section 4.3)
MAX_EPSILON = 1e-2  # 1e-8 to 1e-3 are usual; above this, second moments of 1e-4 and less have no effect
MAX_DECAY_PER_STEP = 0.01  # share of the weights; halves them in 69 steps. The presets have 2e-4 to 8e-4
MAX_MIXING_ALPHA = 1.5  # Zhang et al. 2018 use 0.2 to 0.4 on ImageNet, 1 on CIFAR; at 5 most images are half and half
ADAPTIVE_OPTIMIZERS = ("adam", "adamw", "nadam", "rmsprop", "radam", "lookahead")
LAYERWISE_OPTIMIZERS = ("lamb", "novograd", "adagrad")  # adagrad's first update is rate * sign(gradient), then less
MAX_ADADELTA_RATE = 30.0  # its paper has none, which is 1; Keras's default of 0.001 hardly trains (Zeiler 2012)
# Peak learning rates at which an update is as large as the weights. Adam: 30 times its usual 1e-3. LAMB and NovoGrad
# usually have 0.01. SGD's rate counts times 1 / (1 - momentum): 0.1 / (1 - 0.9) = 1 is usual, the presets have up to 4.
MAX_ADAPTIVE_RATE, MAX_LAYERWISE_RATE, MAX_SGD_RATE = 0.03, 1.0, 50.0


def check_config(config: TrainConfig, images: int, replicas: int) -> list[Finding]:
    """Returns the findings of all checks, for a training split of `images` images."""
    return [
        check_steps(config, images),
        check_large_batch(config, images),
        check_small_batch(config, images),
        check_replica_batches(config, replicas),
        check_learning_rate(config),
        check_momentum(config),
        check_epsilon(config),
        check_weight_decay(config, images),
        check_mixing(config),
    ]


def steps_in_run(config: TrainConfig, images: int) -> int:
    return max(1, round(images / config.data.batch_size)) * config.epochs


def check_steps(config: TrainConfig, images: int) -> Finding:
    steps = steps_in_run(config, images)
    return Finding(
        "steps",
        steps >= MIN_STEPS,
        f"{config.epochs} epochs of {images} images in batches of {config.data.batch_size} are {steps} updates",
        f"a network learns little in fewer than {MIN_STEPS} updates",
        "Raise --epochs." if images < MIN_IMAGES else "Raise --epochs or lower --data.batch_size.",
        {"steps": steps},
        ("too_few_steps",),
    )


def check_large_batch(config: TrainConfig, images: int) -> Finding:
    """Whether the run has many updates, or at least four in an epoch."""
    batch, steps = config.data.batch_size, steps_in_run(config, images)
    smaller = max(NOISY_BATCH + 1, int(MAX_BATCH_SHARE * images / 4))
    return Finding(
        "batch_large",
        images < MIN_IMAGES or batch <= MAX_BATCH_SHARE * images or steps >= MIN_STEPS,
        f"data.batch_size is {batch}, the training split has {images} images, and the run has {steps} updates",
        f"in fewer than {MIN_STEPS} updates, a batch must hold at most {MAX_BATCH_SHARE:.0%} of the images",
        f"Use --data.batch_size={smaller}.",
        {"share": batch / images},
        ("batch_large",),
    )


def check_small_batch(config: TrainConfig, images: int) -> Finding:
    batch, optimizer = config.data.batch_size, config.optimizer
    larger = min(32, int(MAX_BATCH_SHARE * images))  # more would be too large
    return Finding(
        "batch_small",
        images < MIN_IMAGES or not _is_noisy_batch(config),
        f"data.batch_size is {batch}, and the learning rate of {optimizer.name} is {optimizer.learning_rate:g}",
        f"with {NOISY_BATCH} images or fewer, an update at such a rate is mostly noise",
        f"Use --data.batch_size={larger}" + (" or more." if larger == 32 else "."),
        {"batch": batch},
        ("batch_small",),
    )


def _is_noisy_batch(config: TrainConfig) -> bool:
    """Whether updates are mostly noise: the batch is small, and the rate is high for its size (Smith et al. 2018)."""
    batch, optimizer = config.data.batch_size, config.optimizer
    rate = schedules.peak_learning_rate(optimizer, batch)
    if optimizer.name in ("sgd", "sgdw"):
        rate, limit = rate / (1 - optimizer.momentum), MAX_SGD_RATE_PER_IMAGE
    else:
        limit = MAX_ADAPTIVE_RATE_PER_IMAGE
    return batch <= NOISY_BATCH and rate / batch > limit


def check_replica_batches(config: TrainConfig, replicas: int) -> Finding:
    """Whether the batch is divisible by the number of replicas times the number of accumulated parts.

    `strategy.replica_shard` and `build_model.check_replica_support` raise an error if it is not.
    """
    parts = replicas * config.optimizer.accumulate
    batch = config.data.batch_size
    return Finding(
        "replica_batches",
        batch % parts == 0,
        f"data.batch_size is {batch}, for {replicas} replicas with optimizer.accumulate={config.optimizer.accumulate}",
        f"the batch must be a multiple of {parts}, or a replica gets a partial batch",
        f"Use --data.batch_size={max(1, round(batch / parts)) * parts}.",
        {"left_over": batch % parts},
        ("replica_batch",),
    )


def check_learning_rate(config: TrainConfig) -> Finding:
    """Finds only learning rates at which no network trains; the range test finds the limit of a given network."""
    rate, name = schedules.peak_learning_rate(config.optimizer, config.data.batch_size), config.optimizer.name
    if name in ("sgd", "sgdw"):
        effective, limit = rate / (1 - config.optimizer.momentum), MAX_SGD_RATE
        explanation = f", and {effective:g} after division by 1 - momentum ({config.optimizer.momentum:g})"
    else:
        limit = MAX_ADAPTIVE_RATE if name in ADAPTIVE_OPTIMIZERS else MAX_LAYERWISE_RATE
        limit = MAX_ADADELTA_RATE if name == "adadelta" else limit
        effective, explanation = rate, ""
    return Finding(
        "learning_rate",
        effective < limit,
        f"the peak learning rate of {name} is {rate:g}{explanation}",
        f"it must be below {limit:g}, or an update is as large as the weights",
        f"Use --optimizer.learning_rate={config.optimizer.learning_rate * limit / effective / 30:.1g}.",
        {"learning_rate": rate, "limit": limit},
        ("learning_rate_high",),
    )


def check_momentum(config: TrainConfig) -> Finding:
    optimizer = config.optimizer
    option = "momentum" if optimizer.name in ("sgd", "sgdw", "rmsprop") else "beta_1"
    value = getattr(optimizer, option)
    return Finding(
        "momentum",
        value < MAX_MOMENTUM,
        f"optimizer.{option} is {value:g}: an update averages {1 / (1 - value):.0f} gradients",
        f"it must be below {MAX_MOMENTUM:g}",
        f"Use --optimizer.{option}=0.9.",
        {"momentum": value},
        ("momentum",),
    )


def check_epsilon(config: TrainConfig) -> Finding:
    optimizer = config.optimizer
    used = optimizer.name in (*ADAPTIVE_OPTIMIZERS, *LAYERWISE_OPTIMIZERS)
    return Finding(
        "epsilon",
        not used or optimizer.epsilon <= MAX_EPSILON,
        f"optimizer.epsilon is {optimizer.epsilon:g}" + ("" if used else f"; {optimizer.name} does not use it"),
        f"it must be at most {MAX_EPSILON:g}, or gradients are divided by epsilon alone",
        "Use --optimizer.epsilon=1e-7.",
        {"epsilon": optimizer.epsilon},
        ("epsilon",),
    )


def check_weight_decay(config: TrainConfig, images: int) -> Finding:
    """Checks the share of the weights that decoupled decay removes in a step: learning rate * weight_decay.

    This is the share at the peak rate; over the run it is half as large on average.
    """
    rate = schedules.peak_learning_rate(config.optimizer, config.data.batch_size)
    per_step = rate * config.optimizer.weight_decay
    in_run = per_step / 2 * steps_in_run(config, images)
    return Finding(
        "weight_decay",
        per_step < MAX_DECAY_PER_STEP or in_run < 1,
        f"learning rate times optimizer.weight_decay removes {per_step:.2g} of the weights in a step",
        f"it must remove less than {MAX_DECAY_PER_STEP:g}, or weights vanish before they have learnt",
        f"Use --optimizer.weight_decay={MAX_DECAY_PER_STEP / rate / 20:.1g}.",
        {"each": per_step, "whole": in_run},
        ("penalty",),
    )


def check_mixing(config: TrainConfig) -> Finding:
    """Checks the parameter of mixup and CutMix: shares of an image come from Beta(alpha, alpha).

    The deviation of this distribution is 1 / (2 sqrt(2 alpha + 1)).
    """
    alpha = max(config.mixing.mixup, config.mixing.cutmix)
    return Finding(
        "mixing",
        alpha <= MAX_MIXING_ALPHA,
        f"mixing draws shares from Beta({alpha:g}, {alpha:g})" if alpha else "images are not mixed",
        f"its parameter must be at most {MAX_MIXING_ALPHA:g}, so that one image dominates most mixtures",
        "Use --mixing.mixup=0.2 or --mixing.cutmix=1.",
        {"alpha": alpha},
        ("too_much_augmentation",),
    )
