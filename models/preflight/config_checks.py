"""What the configuration alone says against a run: numbers outside of what trains, a check for each.

    for finding in checks(config, images=len(data.train), replicas=1):
        print(finding.line)

Nothing is computed but with the numbers given; `network_checks` looks at the network, `data_checks` at the images.
"""

from __future__ import annotations

from evenkeel.models.config import TrainConfig
from evenkeel.models.optim import schedules
from evenkeel.models.stability.diagnosis import Finding

LEAST_STEPS = 100  # the quickest preset takes 564; what trains in fewer is no network
LARGEST_SHARE = 0.25  # of the training split in a batch: four updates an epoch
SMALLEST_BATCH = 4  # up to here the gradient of one image is most of an update's
MOST_MOMENTUM = 0.98  # 50 steps are averaged; 0.9 to 0.95 are usual (Smith 2018, section 4.3)
MOST_EPSILON = 1e-2  # 1e-8 to 1e-3 are usual; second moments of 1e-4 and below are swallowed from here on
MOST_DECAY = 0.01  # of the weights in each step: halved in 69. The presets come to 2e-4 to 8e-4
MOST_MIXUP = 1.5  # Zhang et al. 2018 take 0.2 to 0.4 on ImageNet and 1 on CIFAR; at 5 most images are halves of two
ADAPTIVE = ("adam", "adamw", "rmsprop", "radam", "lookahead")
LAYERWISE = ("lamb", "novograd")
# Peak rates from which an update is as large as the weights: 30 times Adam's usual 1e-3; LAMB's and NovoGrad's are
# 0.01 or so; SGD's counts times 1 / (1 - momentum), 0.1 / (1 - 0.9) = 1 being usual and the presets' largest 4.
MOST_ADAPTIVE, MOST_LAYERWISE, MOST_SGD = 0.03, 1.0, 50.0


def checks(config: TrainConfig, images: int, replicas: int) -> list[Finding]:
    """Every check, for a training split of so many images on so many replicas."""
    return [
        steps(config, images),
        large_batch(config, images),
        small_batch(config),
        divides(config, replicas),
        learning_rate(config),
        momentum(config),
        epsilon(config),
        weight_decay(config, images),
        mixing(config),
    ]


def steps_in_run(config: TrainConfig, images: int) -> int:
    return max(1, round(images / config.data.batch_size)) * config.epochs


def steps(config: TrainConfig, images: int) -> Finding:
    count = steps_in_run(config, images)
    return Finding(
        "steps",
        count >= LEAST_STEPS,
        f"{config.epochs} epochs of {images} images in batches of {config.data.batch_size} make {count} updates",
        f"a network learns little in fewer than {LEAST_STEPS}",
        "Raise --epochs or lower --data.batch_size.",
        {"steps": count},
        ("too_few_steps",),
    )


def large_batch(config: TrainConfig, images: int) -> Finding:
    batch = config.data.batch_size
    return Finding(
        "batch_large",
        batch <= LARGEST_SHARE * images,
        f"data.batch_size is {batch}, the training split {images} images",
        f"a batch is at most {LARGEST_SHARE:.0%} of them",
        f"Use --data.batch_size={max(1, int(LARGEST_SHARE * images / 4))}.",
        {"share": batch / images},
        ("batch_large",),
    )


def small_batch(config: TrainConfig) -> Finding:
    batch = config.data.batch_size
    return Finding(
        "batch_small",
        batch > SMALLEST_BATCH,
        f"data.batch_size is {batch}",
        f"of {SMALLEST_BATCH} images or fewer an update is mostly noise",
        "Use --data.batch_size=32 or more.",
        {"batch": batch},
        ("batch_small",),
    )


def divides(config: TrainConfig, replicas: int) -> Finding:
    """`strategy.share` and `creation.refuse_on_replicas` refuse such a run; here it is one finding among others."""
    parts = replicas * config.optimizer.accumulate
    batch = config.data.batch_size
    return Finding(
        "replica_batches",
        batch % parts == 0,
        f"data.batch_size is {batch} for {replicas} replicas that take it in {config.optimizer.accumulate} parts",
        "it divides by both, so that no replica gets a partial batch",
        f"Use --data.batch_size={max(1, round(batch / parts)) * parts}.",
        {"left_over": batch % parts},
        ("replica_batch",),
    )


def learning_rate(config: TrainConfig) -> Finding:
    """Only what is out of the question; a range test finds what a network bears."""
    rate, name = schedules.peak(config.optimizer, config.data.batch_size), config.optimizer.name
    if name in ("sgd", "sgdw"):
        seen, most = rate / (1 - config.optimizer.momentum), MOST_SGD
        words = f" with momentum {config.optimizer.momentum:g}: {seen:g} in the long run"
    else:
        seen, most, words = rate, MOST_ADAPTIVE if name in ADAPTIVE else MOST_LAYERWISE, ""
    return Finding(
        "learning_rate",
        seen < most,
        f"the peak learning rate of {name} is {rate:g}{words}",
        f"it stays below {most:g}",
        f"Use --optimizer.learning_rate={config.optimizer.learning_rate * most / seen / 30:.1g}.",
        {"learning_rate": rate, "limit": most},
        ("learning_rate_high",),
    )


def momentum(config: TrainConfig) -> Finding:
    of = config.optimizer
    option = "momentum" if of.name in ("sgd", "sgdw", "rmsprop") else "beta_1"
    value = getattr(of, option)
    return Finding(
        "momentum",
        value < MOST_MOMENTUM,
        f"optimizer.{option} is {value:g}: an update is the mean of {1 / (1 - value):.0f} gradients",
        f"it stays below {MOST_MOMENTUM:g}",
        f"Use --optimizer.{option}=0.9.",
        {"momentum": value},
        ("momentum",),
    )


def epsilon(config: TrainConfig) -> Finding:
    of = config.optimizer
    used = of.name in (*ADAPTIVE, *LAYERWISE)
    return Finding(
        "epsilon",
        not used or of.epsilon <= MOST_EPSILON,
        f"optimizer.epsilon is {of.epsilon:g}" + ("" if used else f", and {of.name} has no use for it"),
        f"it is at most {MOST_EPSILON:g}, or it is all that gradients are divided by",
        "Use --optimizer.epsilon=1e-7.",
        {"epsilon": of.epsilon},
        ("epsilon",),
    )


def weight_decay(config: TrainConfig, images: int) -> Finding:
    """Decoupled decay takes rate times weight_decay of the weights in each step, and half of that on average."""
    rate = schedules.peak(config.optimizer, config.data.batch_size)
    each = rate * config.optimizer.weight_decay
    whole = each / 2 * steps_in_run(config, images)
    return Finding(
        "weight_decay",
        each < MOST_DECAY or whole < 1,
        f"learning rate times optimizer.weight_decay takes {each:.2g} of the weights in a step",
        f"it takes less than {MOST_DECAY:g}, or they are gone before they have learnt",
        f"Use --optimizer.weight_decay={MOST_DECAY / rate / 20:.1g}.",
        {"each": each, "whole": whole},
        ("penalty",),
    )


def mixing(config: TrainConfig) -> Finding:
    """mixup and CutMix draw an image's share from Beta(alpha, alpha), of deviation 1 / (2 sqrt(2 alpha + 1))."""
    alpha = max(config.mixing.mixup, config.mixing.cutmix)
    return Finding(
        "mixing",
        alpha <= MOST_MIXUP,
        f"mixing draws shares from Beta({alpha:g}, {alpha:g})" if alpha else "images are not mixed",
        f"its parameter is at most {MOST_MIXUP:g}, so that most images are mostly one",
        "Use --mixing.mixup=0.2 or --mixing.cutmix=1.",
        {"alpha": alpha},
        ("too_much_augmentation",),
    )
