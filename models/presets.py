"""Presets. Each sets some options, nested as in `TrainConfig`; all other options keep their defaults."""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    # Trains on the built-in data set `shapes`; this takes about a minute on two cores.
    "quick": {
        "epochs": 6,
        "histograms_every": 50,
        "data": {"source": "shapes", "batch_size": 64, "augment": {"flip": 0.5, "pad_crop": 4}},
        "model": {"name": "resnet9", "width": 16},
        "optimizer": {"learning_rate": 0.2, "weight_decay": 5e-4, "schedule": "one_cycle", "warmup_epochs": 1.5},
    },
    # CIFAR-10 and other photographs of 32 pixels.
    "cifar": {
        "epochs": 30,
        "label_smoothing": 0.1,
        "data": {"image_size": 32, "batch_size": 128, "augment": {"flip": 0.5, "pad_crop": 4}},
        "model": {"name": "resnet9", "width": 32},
        "optimizer": {"learning_rate": 0.4, "weight_decay": 5e-4, "schedule": "one_cycle", "warmup_epochs": 2.0},
    },
    # The most accurate setting found for 30 epochs of 10,000 photographs of 32 pixels. Compared with cifar, it has four
    # times the weights, more augmentation against overfitting, half the batch for twice the steps, averaged weights,
    # and evaluation with mirror images.
    "cifar-best": {
        "epochs": 30,
        "label_smoothing": 0.1,
        "evaluate_flipped": True,
        "data": {
            "image_size": 32,
            "batch_size": 64,
            "augment": {
                "flip": 0.5,
                "pad_crop": 4,
                "cutout": 0.375,
                "randaugment_ops": 1,
                "randaugment_magnitude": 5.0,
            },
        },
        "model": {"name": "resnet9", "width": 64},
        "optimizer": {"learning_rate": 0.2, "weight_decay": 4e-3, "schedule": "one_cycle", "warmup_epochs": 2.0},
        "averaging": {"name": "ema", "decay": 0.995},
    },
    # ImageNet, with the settings of MLPerf's reference for ResNet-50 v1.5 with momentum. The reference's option names
    # are: global_batch_size 256, opt_base_learning_rate 0.1 per 256, opt_learning_rate_warmup_epochs 5, 90 epochs,
    # label smoothing 0.1, crops of 8 to 100% of the area, opt_weight_decay 1e-4. Our l2 is half of this last value,
    # because it multiplies the full sum of squares.
    "imagenet": {
        "epochs": 90,
        "label_smoothing": 0.1,
        "data": {
            "image_size": 224,
            "batch_size": 256,
            "eval_crop": 0.875,
            "augment": {"flip": 0.5, "random_resized_crop": 0.92},
        },
        "model": {"name": "resnet50", "width": 64, "l2": 5e-5},
        "optimizer": {
            "learning_rate": 0.1,
            "scaling": "linear",
            "reference_batch": 256,
            "nesterov": False,
            "schedule": "cosine",
            "warmup_epochs": 5.0,
        },
    },
}

# `--keras_defaults`: the rates of Keras's optimizers; those of tensorflow-addons have 0.001 as well.
KERAS_LEARNING_RATES = {"sgd": 0.01, "sgdw": 0.01}
KERAS_LEARNING_RATE = 0.001


def keras_defaults(optimizer: str) -> dict[str, Any]:
    """The options with which a network trains here as in Keras's `compile` and `fit`, with this optimizer."""
    rate = KERAS_LEARNING_RATES.get(optimizer, KERAS_LEARNING_RATE)
    plain_momentum = {"momentum": 0.0, "nesterov": False} if optimizer in KERAS_LEARNING_RATES else {}
    decay = {"weight_decay": 0.004} if optimizer == "adamw" else {}
    schedule = {"schedule": "constant", "warmup_epochs": 0.0}
    return {"data": {"batch_size": 32}, "optimizer": {"learning_rate": rate, **schedule, **plain_momentum, **decay}}
