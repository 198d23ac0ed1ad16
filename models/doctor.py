"""Why does this run not train well? A probe, detectors, then controlled replays of every plausible cause.

    diagnosis = diagnose(config, Bench(config.strategy))
    print(diagnosis.suspects[0].cause, diagnosis.fix)

The probe is the run's own start. Each plausible change is replayed on the same batches; the better half goes on
(sequential halving, Karnin et al. 2013), and where no single change is enough, the best ones together are: what then
fails again without one of them has that as a cause.
"""

from __future__ import annotations

import dataclasses
import math
import os
import time
from typing import Any

import numpy as np
from absl import logging

from models import changes, confident, detectors, patch
from models import train as training
from models.causes import CAUSES
from models.changes import Case, Change
from models.config import TrainConfig
from models.detectors import Alarm
from models.diagnosis import Diagnosis, Finding, Picture, Replay, Suspect
from models.replay import Bench, Run, changed
from pipeline.config import UsageError

PROBE = 300  # steps at most: what the run does first
PARTS = 3  # of the probe, each with a validation
LEAST = 60  # steps of a replay, however large its batch
GAIN = 0.03  # of utility, accuracy above all: below, two runs are alike. 1,000 images tell 0.02 apart
EVEN = 0.02  # a specific change that does so much worse than the control arm still counts as no worse
KEPT = 0.5  # of the candidates that go on after the first part
WEIGHT = 4.0  # log odds of a change that recovers all there is to recover, against one that recovers nothing
NAMED = 0.02  # least probability that is reported


@dataclasses.dataclass(eq=False)
class _Trial:
    """A change on its way."""

    change: Change
    run: Run
    seconds: float = 0.0

    @property
    def utility(self) -> float:
        return utility(self.run)


def utility(run: Run) -> float:
    """What a run is worth: its accuracy on validation, less a tenth of the loss there.

    The loss breaks ties, and sees progress before an accuracy does; it counts up to twice that of guessing.
    """
    _, accuracy, loss = run.validated[-1]
    worst = 2 * math.log(len(run.data.classes))
    return accuracy - 0.1 * min(loss if math.isfinite(loss) else worst, worst)


def diagnose(
    config: TrainConfig,
    bench: Bench,
    findings: tuple[Finding, ...] = (),
    pictures: tuple[Picture, ...] = (),
    source: str = "",
    output: str = "",
    steps: int = PROBE,
    checkpoint: str = "",
) -> Diagnosis:
    """Everything that speaks for a cause of trouble in `config`, and replays that show which it is.

    Args:
      findings: of `preflight`.
      output: a directory for what a fix needs beside flags, as a list of images to leave out.
      steps: of the probe and of each replay, at most.
      checkpoint: where the trouble begins late: what the replays start from, as far as they can.
    """
    begun = time.process_time()
    probe = bench.begin(config, checkpoint)
    total = training.steps_in_epoch(config, probe.data) * config.epochs
    steps = min(steps, total - probe.step)
    baseline = _Trial(Change("", {}), probe)
    for _ in range(PARTS):
        _go_on(bench, baseline, math.ceil(steps / PARTS))
    trace = bench.trace(probe)
    alarms = tuple(detectors.alarms(trace))
    case = Case(
        config,
        bench.network(probe),
        findings,
        trace,
        frozenset(alarm.kind for alarm in alarms),
        len(probe.data.train),
        total,
        bench.replicas,
    )
    wanted = changes.candidates(case)
    wanted += _wrong_labels(bench, probe, case, output)
    trials = _halved(bench, baseline, wanted, steps, checkpoint)
    together, without = _together(bench, baseline, trials, steps, checkpoint)
    suspects, fix = _verdict(case, baseline, trials, together, without, changes.unchangeable(case, wanted))
    shown = [baseline, *trials, *([together] if together else []), *without]
    return Diagnosis(
        source=source,
        trace=trace,
        places=tuple(bench.model(probe).probe.groups),
        alarms=alarms,
        findings=findings,
        replays=tuple(map(_replay, shown)),
        suspects=suspects,
        pictures=pictures,
        cpu_seconds=time.process_time() - begun,
        fix=fix,
    )


def _go_on(bench: Bench, trial: _Trial, steps: int) -> None:
    begun = time.process_time()
    bench.advance(trial.run, steps)
    bench.validate(trial.run)
    trial.seconds += time.process_time() - begun


def _halved(bench: Bench, baseline: _Trial, wanted: list[Change], steps: int, checkpoint: str) -> list[_Trial]:
    """Every change for a part of the probe's images, the promising ones for all of them."""
    trials = []
    for change in wanted:
        trial = _begun(bench, baseline, change, checkpoint)
        if trial:
            _go_on(bench, trial, math.ceil(_steps(baseline, trial, steps) / PARTS))
            trials.append(trial)
    by_promise = sorted(trials, key=lambda trial: -trial.utility - 0.1 * trial.change.prior)
    going_on = by_promise[: max(2, math.ceil(KEPT * len(by_promise)))]
    for trial in trials:
        # What something speaks for, and the control arm, are heard to the end.
        if trial in going_on or trial.change.generic or trial.change.prior >= changes.SHOWN:
            _finish(bench, baseline, trial, steps)
    return trials


def _begun(bench: Bench, baseline: _Trial, change: Change, checkpoint: str) -> _Trial | None:
    begun = time.process_time()
    try:
        config = changed(baseline.run.config, change.flags)
        run = bench.begin(config, checkpoint if _keeps_variables(change) else "")
    except UsageError as error:  # two options that do not go together
        logging.info("not tried: %s: %s", change.flags, error)
        return None
    return _Trial(change, run, time.process_time() - begun)


def _keeps_variables(change: Change) -> bool:
    rebuilt = ("model.", "optimizer.name", "optimizer.momentum", "precision", "data.train_split")
    return not any(name.startswith(rebuilt) for name in change.flags)


def _steps(baseline: _Trial, trial: _Trial, steps: int) -> int:
    """So many that the run sees as many images, and all that a longer run is about."""
    before, after = baseline.run.config, trial.run.config
    longer = after.epochs / before.epochs
    return max(LEAST, round(steps * longer * before.data.batch_size / after.data.batch_size))


def _finish(bench: Bench, baseline: _Trial, trial: _Trial, steps: int) -> None:
    left = _steps(baseline, trial, steps) - (trial.run.step - trial.run.first_step)
    if left > 0:
        _go_on(bench, trial, left)


def _wrong_labels(bench: Bench, probe: Run, case: Case, output: str) -> list[Change]:
    """A list of images whose labels the probe does not believe, where something speaks for there being many."""
    fits_worse = len(case.trace.validation_loss) and _inference_loss(case) > 1.15 * case.trace.validation_loss[-1]
    lines = case.finds("label_noise")
    if not (lines or fits_worse) or not output:
        return []
    suspected = confident.wrong_labels(bench, probe)
    share = len(suspected) / len(probe.data.train)
    if not 0.02 < share < 0.9:
        return []
    path = os.path.join(output, "wrong_labels.txt")
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(suspected) + "\n")
    why = (f"the network does not believe {share:.0%} of the labels", *lines)
    drop = ",".join(filter(None, [case.config.data.drop, path]))
    return [Change("label_noise", {"data.drop": drop}, changes.SHOWN if lines else changes.UNUSUAL, why)]


def _inference_loss(case: Case) -> float:
    looks = case.trace.layers.get("inference_loss")
    return float(np.nanmean(looks[-8:])) if looks is not None and len(looks) else float("nan")


def _together(
    bench: Bench, baseline: _Trial, trials: list[_Trial], steps: int, checkpoint: str
) -> tuple[_Trial | None, list[_Trial]]:
    """All likely changes at once, and all but one for each of them; (None, []) where that does no better than one.

    Two faults at a time hide each other: each change alone then leaves the other one in.
    """
    likely = _likely(baseline, trials)
    if len(likely) < 2:
        return None, []
    flags: dict[str, Any] = {}
    for change in likely:
        flags |= change.flags
    joint = _begun(bench, baseline, Change("", flags), checkpoint)
    if joint is None:
        return None, []
    _finish(bench, baseline, joint, steps)
    best = max([baseline, *trials], key=lambda trial: trial.utility)
    if joint.utility < best.utility + GAIN:
        return None, []
    without = []
    for change in likely:
        rest: dict[str, Any] = {}
        for other in likely:
            rest |= other.flags if other is not change else {}
        trial = _begun(bench, baseline, Change(change.cause, rest, change.prior), checkpoint)
        if trial:
            _finish(bench, baseline, trial, steps)
            without.append(trial)
    return joint, without


def _likely(baseline: _Trial, trials: list[_Trial]) -> list[Change]:
    """Up to four changes of different causes and flags: what something speaks for, and the best learning rate."""
    ranked = sorted(trials, key=lambda trial: -trial.utility - 0.1 * trial.change.prior)
    chosen: list[Change] = []
    for trial in ranked:
        change = trial.change
        speaks = change.prior >= changes.UNUSUAL or trial.utility > baseline.utility + GAIN
        taken = {name for other in chosen for name in other.flags} & set(change.flags)
        again = any(change.cause == other.cause for other in chosen)
        # A clipped gradient stands for a lower rate, an optimizer of its own rate for both.
        if speaks and change.cures and not taken and not again and "optimizer.clip_norm" not in change.flags:
            chosen.append(change)
    return chosen[:4]


def _verdict(
    case: Case,
    baseline: _Trial,
    trials: list[_Trial],
    together: _Trial | None,
    without: list[_Trial],
    unchangeable: list[Change],
) -> tuple[tuple[Suspect, ...], dict[str, Any]]:
    """(suspects, most probable first, the flags that did best).

    Odds multiply: exp(prior) for what speaks for a cause beforehand, exp(WEIGHT * share) for the share of the best
    gain that its change made alone. A specific change that did worse than the control arm counts half.
    """
    curing = [trial for trial in trials if trial.change.cures]
    best = max([baseline, *curing, *([together] if together else [])], key=lambda trial: trial.utility)
    gain = best.utility - baseline.utility
    control = max((trial.utility for trial in trials if trial.change.generic), default=-math.inf)
    control_gains = control - baseline.utility > GAIN
    scores: dict[str, tuple[float, _Trial | None, float, tuple[str, ...]]] = {}
    for trial in trials:
        share = _share(trial, baseline, gain)
        specific = trial.change.cause not in ("learning_rate_high", "no_warmup", "learning_rate_low")
        if specific and control_gains and trial.utility < control - EVEN:
            share /= 2
        if together:
            share = max(share, _needed(trial.change.cause, together, without, baseline))
        score = trial.change.prior + WEIGHT * share
        if share > 0 or trial.change.prior >= changes.SHOWN:
            known = scores.get(trial.change.cause)
            if known is None or score > known[0]:
                scores[trial.change.cause] = (score, trial, share, trial.change.why)
    for change in unchangeable:
        scores.setdefault(change.cause, (change.prior, None, 0.0, change.why))
    if gain < GAIN:
        scores = {cause: entry for cause, entry in scores.items() if entry[0] >= changes.SHOWN and case.finds(cause)}
    total = sum(math.exp(score) for score, *_ in scores.values()) + 1.0  # 1: something else
    suspects = []
    for cause, (score, trial, share, why) in sorted(scores.items(), key=lambda item: -item[1][0]):
        probability = math.exp(score) / total
        if probability < NAMED:
            continue
        evidence = [*why, *_told(trial, baseline, case)]
        for left_out in without:
            if together and left_out.change.cause == cause and together.utility - left_out.utility > GAIN:
                evidence.append(
                    f"with all other changes but this one, accuracy is {left_out.run.validated[-1][1]:.1%} instead of"
                    f" {together.run.validated[-1][1]:.1%}"
                )
        names = case.config.model.patches
        own = (
            [name for name in changed(case.config, trial.change.flags).model.patches if name not in names]
            if trial
            else []
        )
        edit = "\n".join(patch.edits(case.network, own)) if own else ""
        replay = _replay(trial) if trial and trial.change.cures else None
        suspects.append(Suspect(cause, CAUSES[cause].title, probability, tuple(evidence), replay, share, edit))
    return tuple(suspects), dict(best.change.flags) if gain >= GAIN else {}


def _share(trial: _Trial, baseline: _Trial, gain: float) -> float:
    if gain < GAIN:
        return 0.0
    return min(max(0.0, (trial.utility - baseline.utility) / gain), 1.0)


def _needed(cause: str, together: _Trial, without: list[_Trial], baseline: _Trial) -> float:
    """The share of all that the changes gain together which is lost when that of `cause` is left out."""
    gain = together.utility - baseline.utility
    losses = [together.utility - trial.utility for trial in without if trial.change.cause == cause]
    return min(max(0.0, max(losses, default=0.0) / gain), 1.0) if gain >= GAIN else 0.0


def _told(trial: _Trial | None, baseline: _Trial, case: Case) -> list[str]:
    if trial is None:
        return []
    steps = trial.run.step - trial.run.first_step
    return [
        f"with this one change, accuracy after {steps} steps is {trial.run.validated[-1][1]:.1%} instead of"
        f" {baseline.run.validated[-1][1]:.1%}"
    ]


def _replay(trial: _Trial) -> Replay:
    _, accuracy, loss = trial.run.validated[-1]
    return Replay(
        name=CAUSES[trial.change.cause].title if trial.change.cause else "as it was",
        flags=trial.change.flags,
        loss=trial.run.loss,
        gradient_norm=trial.run.gradient_norm,
        accuracy=accuracy,
        validation_loss=loss,
        generic=trial.change.generic,
        seconds=trial.seconds,
    )


def names_of(alarms: tuple[Alarm, ...]) -> list[str]:
    return sorted({alarm.kind for alarm in alarms})
