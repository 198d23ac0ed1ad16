"""Diagnoses for tests of the report: one of a run that diverges, with all there is to show, and the odd ones."""

from __future__ import annotations

import dataclasses

import numpy as np

from evenkeel.models.stability.causes import CAUSES
from evenkeel.models.stability.diagnosis import (
    Diagnosis,
    Finding,
    Picture,
    Replay,
    Suspect,
)
from evenkeel.models.stability.trace import Alarm, Trace


def trace(steps: int = 600, places: int = 8, every: int = 20) -> Trace:
    """A loss that falls, spikes at two thirds, is not a number for 12 steps, and comes back; gradients vanish."""
    rng = np.random.default_rng(0)
    at = np.arange(steps)
    loss = 2.3 * (0.08 + np.exp(-at / (steps / 4))) * np.exp(0.15 * rng.normal(size=steps))
    norm = 1.5 * np.exp(0.3 * rng.normal(size=steps))
    bad = steps * 2 // 3
    loss[bad : bad + 6] *= [2, 8, 30, 80, 40, 10][: max(0, steps - bad)]
    norm[bad : bad + 6] *= 60
    loss[bad + 6 : bad + 18] = np.nan
    norm[bad + 6 : bad + 18] = np.inf
    due = at[::every]
    looks = len(due)
    depth = np.logspace(-3.5, 0, places)
    weight = np.full((looks, places), 12.0)
    gradient = weight * 0.02 * depth * np.exp(0.4 * rng.normal(size=(looks, places)))
    gradient[looks * 2 // 3 : looks * 2 // 3 + 1] = np.nan
    gradient[: looks // 5, 0] = 0.0
    dead = np.clip(np.linspace(0, 0.9, looks)[:, None] * np.linspace(0.2, 1, places), 0, 1)
    validated = np.arange(steps // 6, steps + 1, max(1, steps // 6)) if steps > 5 else np.zeros(0, np.int64)
    return Trace(
        steps=at,
        loss=loss,
        gradient_norm=norm,
        learning_rate=0.1 * np.minimum(1, (at + 1) / 50) * (0.5 + 0.5 * np.cos(np.pi * at / steps)),
        loss_scale=np.ones(steps),
        nonfinite=(~np.isfinite(norm)).astype(np.float64),
        warmup=50,
        due=due,
        layers={
            "gradient_norm": gradient,
            "weight_norm": weight,
            "update_norm": gradient * 0.1,
            "moment_ratio": np.full((looks, places), np.nan),
            "dead": dead,
            "saturated": np.full((looks, places), np.nan),
            "deviation": np.ones((looks, places)),
            "shift": np.zeros((looks, 2)),
            "spread": np.zeros((looks, 2)),
            "log_variance": np.zeros((looks, 2)),
            "inference_loss": np.ones(looks),
            "training_loss": np.ones(looks),
            "noise_scale": np.full(looks, np.nan),
        },
        validated=validated,
        validation_loss=2.3 * (0.2 + np.exp(-validated / (steps / 4))),
        training_loss=np.ones(len(validated)),
        began=2.3,
    )


def replays(steps: int = 60) -> tuple[Replay, ...]:
    rng = np.random.default_rng(1)
    at = np.arange(steps)

    def falling(to: float) -> np.ndarray:
        return (to + (2.3 - to) * np.exp(-at / 20)) * np.exp(0.05 * rng.normal(size=steps))

    diverging = np.where(at < 30, 2.3 * np.exp(at / 8), np.nan)
    return (
        Replay("the run as it was", {}, diverging, diverging, 0.1, float("nan")),
        Replay(
            "a quarter of the learning rate", {"optimizer.learning_rate": 0.025}, falling(0.6), at + 1.0, 0.812, 0.58
        ),
        Replay("clip the gradient's norm at 1", {"optimizer.clip_norm": 1.0}, falling(1.1), at + 1.0, 0.62, 1.08, True),
        Replay("normalised input", {"data.normalize": True}, diverging * 1.02, diverging, 0.104, float("inf")),
        Replay("full precision", {"precision": "float32"}, diverging * 0.97, diverging, 0.1, float("nan")),
        Replay("ReLU instead of sigmoid", {"model.activation": "relu"}, falling(1.9), at + 1.0, 0.35, 1.85),
    )


def findings() -> tuple[Finding, ...]:
    return (
        Finding("initial_loss", True, "2.31 nats", "ln(10) = 2.30 is that of a guess", "", {"loss": 2.31}),
        Finding(
            "outliers",
            False,
            "14 of 5,000 images lie more than 6 deviations off",
            "at most 0.1% should",
            "Look at them below, or leave them out with --data.outliers=drop.",
            {"share": 0.0028},
            ("outlier_images",),
        ),
        Finding("class_balance", True, "the rarest class has 480 images, the most frequent 520", "a tenth is enough"),
    )


def diagnosis(**changes: object) -> Diagnosis:
    """Of a learning rate that is too high."""
    made = replays()
    suspects = (
        Suspect(
            "learning_rate_high",
            CAUSES["learning_rate_high"].title,
            0.87,
            (
                "The loss spiked at step 402 to 30 times what it had been, and was not a number from step 406 on.",
                "Gradient norms rose 60-fold in the same five steps, at all depths.",
                "A quarter of the learning rate alone removes it, at the same batches.",
            ),
            made[1],
            1.0,
        ),
        Suspect(
            "saturating_activation",
            CAUSES["saturating_activation"].title,
            0.09,
            ("Gradients against weights are 3,000 times smaller in the first layer than in the last.",),
            made[5],
            0.35,
            'x = keras.layers.Dense(64, activation="relu")(x)  # sigmoid',
        ),
        Suspect("outlier_images", CAUSES["outlier_images"].title, 0.03, ("14 images lie far off.",), None, 0.0),
    )
    rng = np.random.default_rng(2)
    pictures = tuple(
        Picture(f"Köter/{at:04}.jpg", rng.integers(0, 60 + 40 * at, (32, 32, 3), np.uint8), "11 deviations darker")
        for at in range(5)
    )
    alarms = (
        Alarm("vanishing", 120, {"ratio": 3.1e-4}),
        Alarm("loss_spike", 402, {"z": 24.1, "times": 30.2}),
        Alarm("exploding", 402, {"z": 18.8, "times": 60.0}),
        Alarm("nonfinite", 408, {"in_a_row": 3.0, "loss_scale": 1.0}),
        Alarm("loss_spike", 540, {"z": 7.9, "times": 1.8}),
    )
    places = (*(f"stage_{at // 3 + 1}_block_{at % 3 + 1}_conv" for at in range(7)), "logits")
    whole = Diagnosis("runs/pets", trace(), places, alarms, findings(), made, suspects, pictures, 41.7)
    return dataclasses.replace(whole, **changes)


def empty() -> Diagnosis:
    nothing = np.zeros(0)
    return Diagnosis(
        "runs/nothing", Trace(nothing.astype(np.int64), *(nothing,) * 5), (), (), (), (), (), (), float("nan")
    )


def sound() -> Diagnosis:
    return diagnosis(suspects=(), alarms=(), findings=findings()[:1], replays=(), pictures=())


def long() -> Diagnosis:
    """10,000 steps, 100 layers looked at 500 times, 26 kinds of everything."""
    places = tuple(f"stage_{at // 10}_block_{at % 10}_convolution" for at in range(100))
    made = replays(1000)
    many = (
        made[0],
        *(dataclasses.replace(made[1 + at % 5], name=f"change {at}", accuracy=at / 50) for at in range(25)),
    )
    suspects = tuple(
        Suspect(name, cause.title, 0.5**at, ("evidence " * 30,) * 4, many[1 + at % 25], 0.02 * (at % 25))
        for at, (name, cause) in enumerate(CAUSES.items(), 1)
    )
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    pictures = (Picture("noise", noise, "random"),) * 40
    alarms = tuple(Alarm(kind, step, {"z": 9.0}) for step in range(0, 10_000, 40) for kind in ("loss_spike", "dying"))
    return diagnosis(
        trace=trace(10_000, 100), places=places, replays=many, suspects=suspects, pictures=pictures, alarms=alarms
    )


def not_finite() -> Diagnosis:
    """Nothing but NaN and infinity."""
    of_run, made = trace(50, 3), replays()
    nan = {
        field.name: np.full_like(getattr(of_run, field.name), (np.nan, np.inf, -np.inf)[at % 3])
        for at, field in enumerate(dataclasses.fields(Trace))
        if field.name in ("loss", "gradient_norm", "learning_rate", "loss_scale", "validation_loss", "training_loss")
    }
    layers = {name: np.full_like(values, np.nan) for name, values in of_run.layers.items()}
    bad = np.full(50, np.nan)
    return diagnosis(
        trace=dataclasses.replace(of_run, layers=layers, **nan),
        places=("a", "b", "c"),
        replays=tuple(
            dataclasses.replace(each, loss=bad, gradient_norm=bad, accuracy=np.nan, validation_loss=np.inf)
            for each in made
        ),
    )
