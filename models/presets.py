"""Presets are data: what each says differently from the defaults of `TrainConfig`, nested as it is."""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    # The embedded data set in about a minute on two cores.
    "quick": {
        "epochs": 6,
        "histograms_every": 50,
        "data": {"source": "shapes", "batch_size": 64, "augment": {"flip": 0.5, "pad_crop": 4}},
        "model": {"name": "resnet9", "width": 16},
        "optimizer": {"learning_rate": 0.2, "weight_decay": 5e-4, "schedule": "one_cycle", "warmup_epochs": 1.5},
    },
    # 32-pixel photographs, CIFAR-10 above all.
    "cifar": {
        "epochs": 30,
        "label_smoothing": 0.1,
        "data": {"image_size": 32, "batch_size": 128, "augment": {"flip": 0.5, "pad_crop": 4}},
        "model": {"name": "resnet9", "width": 32},
        "optimizer": {"learning_rate": 0.4, "weight_decay": 5e-4, "schedule": "one_cycle", "warmup_epochs": 2.0},
    },
    # 224-pixel photographs: the usual recipe (He et al. 2019) at global batch 256.
    "imagenet": {
        "epochs": 90,
        "label_smoothing": 0.1,
        "data": {
            "image_size": 224,
            "batch_size": 256,
            "eval_crop": 0.875,
            "augment": {"flip": 0.5, "random_resized_crop": 0.92},
        },
        "model": {"name": "resnet9", "width": 64},
        "optimizer": {"learning_rate": 0.1, "weight_decay": 5e-4, "schedule": "cosine", "warmup_epochs": 5.0},
    },
}
