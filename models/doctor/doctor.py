"""Why does this run not train well? A probe, detectors, then controlled replays of every plausible cause.

diagnosis = diagnose(config, Bench(config.strategy), findings)
print(diagnosis.suspects[0].cause, diagnosis.fix)
"""

from __future__ import annotations

import os
import time

import numpy as np

from evenkeel.models import train as training
from evenkeel.models.config import TrainConfig
from evenkeel.models.doctor import confident_learning, interventions
from evenkeel.models.doctor.attribution import (
    in_words,
    new_patches,
    replay,
    verdict,
)
from evenkeel.models.doctor.interventions import Case, Change
from evenkeel.models.doctor.refine_fix import improved
from evenkeel.models.doctor.replay import Bench, Run
from evenkeel.models.doctor.trials import Trial, Trials
from evenkeel.models.networks import surgery
from evenkeel.models.stability import detectors
from evenkeel.models.stability.causes import CAUSES
from evenkeel.models.stability.diagnosis import Diagnosis, Finding, Picture

PROBE = 300  # steps at most


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
      pictures: of images that are worth a look; they are passed on.
      source: what was examined, in words.
      output: a directory for what a fix needs beside flags: a list of images to leave out.
      steps: of the probe and of each replay, at most.
      checkpoint: where the trouble begins late: what the replays start from, as far as they can.
    """
    begun = time.process_time()
    data = bench.data_of(config)
    total = training.steps_in_epoch(config, data) * config.epochs
    trials = Trials(bench, config, min(steps, total), checkpoint)
    probe = trials.unchanged.run
    trace = bench.trace(probe)
    alarms = tuple(detectors.alarms(trace))
    case = Case(
        config=config,
        network=bench.network(probe),
        findings=findings,
        trace=trace,
        kinds=frozenset(alarm.kind for alarm in alarms),
        images=len(data.train),
        total_steps=total,
        replicas=bench.replicas,
    )
    tried = trials.halved([*interventions.candidates(case), *_wrong_labels(bench, probe, case, output)])
    tried += _judged_again(bench, trials, tried, case, output)
    joint, without = trials.together(tried)
    suspects, fix = verdict(case, trials.unchanged, tried, joint, without)
    fix, finer = improved(trials, fix, [*tried, *([joint] if joint else [])])
    replays = [replay(trials.unchanged, "as it was"), *map(replay, tried)]
    replays += [replay(joint, "all likely changes at once")] if joint else []
    replays += [replay(trial, f"all of them but against: {CAUSES[trial.change.cause].title}") for trial in without]
    replays += [replay(trial, f"the fix: {in_words(trial.change.flags)}") for trial in finer]
    return Diagnosis(
        source=source,
        trace=trace,
        places=tuple(bench.places(probe)),
        alarms=alarms,
        findings=findings,
        replays=tuple(replays),
        suspects=suspects,
        pictures=pictures,
        cpu_seconds=time.process_time() - begun,
        fix=fix,
        edit="\n".join(surgery.edits(case.network, new_patches(config, fix))),
        activations=tuple(bench.activations(probe)),
    )


def _wrong_labels(bench: Bench, probe: Run, case: Case, output: str) -> list[Change]:
    """A list of images whose labels the probe does not believe, where something speaks for there being many."""
    lines = case.finds("label_noise")
    if not output or not (lines or _fits_worse(case)):
        return []
    path = os.path.join(output, "wrong_labels.txt")
    return _disbelieved(bench, probe, case, path, interventions.SHOWN if lines else interventions.UNUSUAL, lines)


def _judged_again(bench: Bench, trials: Trials, tried: list[Trial], case: Case, output: str) -> list[Trial]:
    """Where leaving these images out helps, the same by a network that learnt without them: it knows better.

    With 30% of the labels of `shapes` wrong, accuracy went from 0.71 to 0.83, then to 0.86; a third time added 0.005
    (one run).
    """
    trial = next((each for each in tried if each.change.cause == "label_noise"), None)
    if trial is None:
        return []
    trials.finish(trial)
    if trial.utility <= trials.unchanged.utility:
        return []
    path = os.path.join(output, "wrong_labels_again.txt")
    found = _disbelieved(bench, trial.run, case, path, trial.change.prior, case.finds("label_noise"))
    return [again for change in found if (again := trials.whole(change))]


def _disbelieved(bench: Bench, run: Run, case: Case, path: str, prior: float, lines: tuple[str, ...]) -> list[Change]:
    """Leaves out what `run`'s network does not believe, and writes it to `path`; none where that is few or most."""
    suspected = confident_learning.wrong_labels(bench, run, bench.data_of(case.config).train)
    share = len(suspected) / case.images
    if not LABELS[0] < share < LABELS[1]:
        return []
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(suspected) + "\n")
    why = (f"the network does not believe {share:.0%} of the labels", *lines)
    return [Change("label_noise", interventions.dropped(case.config, path, share), prior, why)]


LABELS = (0.02, 0.9)  # shares of images between which leaving them out is worth a trial
WORSE = 1.15  # times the validation loss: images learnt from are fitted worse than others only if they are unlike them


def _fits_worse(case: Case) -> bool:
    looks = case.trace.layers.get("inference_loss")
    if looks is None or not len(looks) or not len(case.trace.validation_loss):
        return False
    return float(np.nanmean(looks[-8:])) > WORSE * case.trace.validation_loss[-1]
