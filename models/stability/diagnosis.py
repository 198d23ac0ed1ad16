"""The record of a diagnosis: findings before a run, replays of it, suspected causes, and the fix.

Plain data: `preflight` and `doctor` create it, `report` shows it. diagnosis.json holds the fields under these names.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from evenkeel.models.stability.trace import Alarm, Trace

# Flags that may have another value in a fix than in the change it contains: the rate is tuned, patches are added.
LEARNING_RATE_FLAG, PATCH_FLAG = "optimizer.learning_rate", "model.patch"


@dataclasses.dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
      check: name of the check.
      ok: whether the rule holds.
      seen: the value that was measured, in words.
      rule: what the value must satisfy, in words.
      remedy: what to do if the value does not satisfy the rule.
      evidence: the measured numbers.
      causes: names in `causes.CAUSES` that a failed check supports.
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
        """Check, value, rule, and the remedy if the check failed."""
        return f"{self.check}: {self.seen}; {self.rule}." + (f" {self.remedy}" if self.remedy and not self.ok else "")


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image of the data that a person should look at.

    Attributes:
      name: name of the image in its data set.
      pixels: uint8 [h, w, c].
      reason: what is unusual about the image.
    """

    name: str
    pixels: np.ndarray
    reason: str


@dataclasses.dataclass(frozen=True)
class Replay:
    """A replay: the same steps of a run with one change.

    Attributes:
      name: the change in words.
      flags: the change as flags of `evenkeel train`; empty for the unchanged run.
      loss: training loss of each step in nats, float64 [steps].
      gradient_norm: global gradient norm of each step, float64 [steps].
      accuracy: validation accuracy after the last step.
      validation_loss: validation loss after the last step.
      generic: whether the change calms any run; such changes are the control arm and explain no run.
      seconds: CPU time of the replay.
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
    """A suspected cause.

    Attributes:
      cause: name of the cause in `causes.CAUSES`.
      title: title of the cause in `causes.CAUSES`.
      probability: probability of the cause, given all evidence.
      evidence: sentences that support the cause.
      replay: the change that was tried against the cause; None if there is none.
      recovered: share of the best replay's gain that this change alone gains; with `together`, the share that is lost
        without this change.
      edit: what to change in the model's source code instead of the patches in the change; empty without patches.
      together: whether the change helps only in combination with others.
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
        """The change as command-line flags of `evenkeel train`."""
        return command_line(self.replay.flags) if self.replay else []


@dataclasses.dataclass(frozen=True, eq=False)
class Diagnosis:
    """Everything that the doctor found.

    Attributes:
      source: what was examined, in words.
      trace: telemetry of the run or of a probe.
      places: names of the layers in the trace.
      alarms: alarms of the detectors, in the order of steps.
      findings: findings of preflight.
      replays: the unchanged run first, then every change that was tried.
      suspects: most probable first; none if the run is sound.
      pictures: images that stand out.
      cpu_seconds: CPU time of the diagnosis.
      fix: the flags that did best, possibly several changes together; empty if nothing helps.
      edit: what to change in the source code of the model instead of the patches in `fix`.
      activations: names of the layers with an activation in the trace.
      sound: probability that nothing is wrong with the run.
      unknown: probability that the cause is none of those that are known.
      improvements: sentences on changes that do better, if it is most probable that nothing is wrong.
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
    sound: float = 0.0
    unknown: float = 0.0
    improvements: tuple[str, ...] = ()


def command_line(flags: dict[str, Any]) -> list[str]:
    """Returns `flags` as command-line arguments: --name=value, or --name and --noname for booleans."""
    return [
        (f"--{name}" if value else f"--no{name}") if isinstance(value, bool) else f"--{name}={value}"
        for name, value in flags.items()
    ]
