"""What is said of a run that does not train well: findings before it, replays of it, and the verdict.

Plain data: `preflight` and `doctor` make it, `report` shows it, and `Diagnosis.json` holds what can be read again.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from evenkeel.models.stability.detectors import Alarm, Trace

RATE, PATCH = "optimizer.learning_rate", "model.patch"  # flags of which a fix may have more than a change has


@dataclasses.dataclass(frozen=True)
class Finding:
    """What one check says: in words the value `seen`, the `rule` it is held against and, unless `ok`, the `remedy`.

    `evidence` are the numbers, `causes` the names of those in `causes.CAUSES` that it speaks for.
    """

    check: str
    ok: bool
    seen: str
    rule: str
    remedy: str = ""
    evidence: dict[str, float] = dataclasses.field(default_factory=dict)
    causes: tuple[str, ...] = ()

    @property
    def line(self) -> str:
        """Value, rule, remedy."""
        return f"{self.check}: {self.seen}; {self.rule}." + (f" {self.remedy}" if self.remedy and not self.ok else "")


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image of the data that is worth a look: `pixels` uint8 [h, w, c]."""

    name: str
    pixels: np.ndarray
    reason: str


@dataclasses.dataclass(frozen=True)
class Replay:
    """The same steps under one change: `flags` of `tools.train`, none for the run as it was.

    `loss` and `gradient_norm` are float64 [steps]; `accuracy` and `validation_loss` are those on validation images at
    its end. `generic` changes are the control arm: they calm any run, so that they explain none.
    """

    name: str
    flags: dict[str, Any]
    loss: np.ndarray
    gradient_norm: np.ndarray
    accuracy: float
    validation_loss: float
    generic: bool = False
    seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class Suspect:
    """A cause, by its name in `causes.CAUSES`, as probable as all that was seen makes it.

    `evidence` are sentences; `replay` is the change that was tried for it, None where nothing could be; `recovered` is
    the share of what the best replay gained that this change alone gained or, where changes help only `together`, that
    is lost without it; `edit` is what to change in the source of a model that no flag reaches.
    """

    cause: str
    title: str
    probability: float
    evidence: tuple[str, ...]
    replay: Replay | None
    recovered: float
    edit: str = ""
    together: bool = False

    @property
    def flags(self) -> list[str]:
        """The fix, as written on the command line of `tools.train`."""
        return command_line(self.replay.flags) if self.replay else []


@dataclasses.dataclass(frozen=True, eq=False)
class Diagnosis:
    """All that the doctor found. `suspects` come most probable first; there is none in a run that is sound.

    `trace` is the run's telemetry, or that of a probe; `places` are the names of the layers in it,
    `activations` of those with an activation; `replays` holds the
    run as it was first, then every change tried; `fix` are the flags that did best, several changes together perhaps,
    and `edit` is what to change in the source of a model in place of its patches.
    """

    source: str
    trace: Trace
    places: tuple[str, ...]
    alarms: tuple[Alarm, ...]
    findings: tuple[Finding, ...]
    replays: tuple[Replay, ...]
    suspects: tuple[Suspect, ...]
    pictures: tuple[Picture, ...]
    cpu_seconds: float
    fix: dict[str, Any] = dataclasses.field(default_factory=dict)
    edit: str = ""
    activations: tuple[str, ...] = ()


def command_line(flags: dict[str, Any]) -> list[str]:
    """`--name=value`, or --name and --noname for what is true or false."""
    return [
        (f"--{name}" if value else f"--no{name}") if isinstance(value, bool) else f"--{name}={value}"
        for name, value in flags.items()
    ]
