"""Measures the same work with two versions of evenkeel, `base` and `head`, in alternating turns, and judges `head`.

    comparison = compare_case("step", {"base": base, "head": head}, rounds=15, min_effect=0.05)
    print(comparison.verdicts["cpu_time"].word)

Each version runs its own task file, which is found by its name anywhere in the `benchmarks` of that version. A version
without such a file runs the file of the version that compares. One file could not run both versions, because names
inside the package may differ between them. The comparison is fair, because the facts that both report under `same`
(images, batch size, parameters, ...) must agree; otherwise nothing is compared.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from evenkeel.benchmarks import statistics
from evenkeel.benchmarks.peers.environments import UnavailableError
from evenkeel.benchmarks.peers.interleaved import InterleavedTurns, run_interleaved, worker_command
from evenkeel.benchmarks.regression import power_analysis, verdicts
from evenkeel.benchmarks.regression.first_call import measure_first_call
from evenkeel.benchmarks.regression.verdicts import MIN_SPIKE_SHARE, SAME, Verdict
from evenkeel.benchmarks.regression.worktrees import Tree
from evenkeel.benchmarks.results import Result, Skipped, short_commit
from evenkeel.benchmarks.timing import Sample, turn_order
from evenkeel.pipeline.errors import UsageError

TURN_SECONDS = 2.0
# Each version's turn is split into parts, and the parts of both versions alternate, because a disturbance by other
# programs lasts for seconds and then affects both. Between two processes of one version, the ratio of the times of
# `small_input` deviated from 1 by 0.12 to 0.14 with one part per turn, 0.035 to 0.053 with 4 and 0.017 with 10 parts.
PARTS_PER_TURN = 10
# Processes started per version; the turns are divided among them. The memory layout of a process affects all its turns.
STARTS = power_analysis.STARTS
FINAL_LOSS_STEPS = 40  # the final loss of a run is the median over its last steps
CHANCE_LOSS = math.log(
    10
)  # nats, for guessing among 10 classes; a final loss that is higher or not finite counts as this


class Case(NamedTuple):
    """A case that a task file describes.

    Attributes:
      file: path of the task file below `benchmarks`.
      about: description of the measurement.
      reads: the entry of `peers.sources` that provides the data; "" if the case reads no data.
      steps: steps in a turn, the time in which one version works; 0 means as many as take `TURN_SECONDS`.
    """

    file: str
    about: str
    reads: str = ""
    steps: int = 0


CASES = {
    "input": Case("peers/task_files/load_evenkeel.py", "batches of 224 pixels from JPEG files", reads="prepared224"),
    "small_input": Case("peers/task_files/load_evenkeel.py", "batches of 32 pixels from memory", reads="small32"),
    "step": Case("peers/task_files/step32_evenkeel.py", "training steps on 32 pixels"),
    "training": Case(
        "regression/training_turns.py", "200 steps of a network that easily becomes unstable, one run per seed", steps=1
    ),
}
STARTUP = "startup"  # whole commands without a task file: `evenkeel train` up to the end of its first call of steps
STABILITY_CASES = ("training",)  # these cases are judged by their losses, not by their times
SAMPLED_METRICS = {
    "cpu_time": "cpu_seconds",
    "wall_time": "wall_seconds",
}  # {metric of a verdict: metric of its samples}
INFORMATIONAL_METRICS = ("wall_time",)  # other programs disturb wall time, so no version fails because of it


class CaseComparison(NamedTuple):
    """The result of one case.

    Attributes:
      case: name of the case.
      verdicts: {metric: verdict}.
      results: results with all samples of both versions.
    """

    case: str
    verdicts: dict[str, Verdict]
    results: list[Result]


def compare_case(
    case: str, trees: Mapping[str, Tree], rounds: int, min_effect: float, folder: str = ""
) -> CaseComparison:
    """Compares `rounds` turns of the versions `base` and `head`; `folder` contains the data that the case reads.

    Raises:
      UnavailableError: a version cannot run the case.
      UnequalWorkError: the versions do not do the same work.
    """
    if case == STARTUP:
        return _compare_times(case, measure_first_calls(trees, rounds), min_effect)
    turns = measure_turns(case, trees, rounds, folder)
    if case in STABILITY_CASES:
        return _compare_losses(case, turns, min_effect)
    samples = {name: [turn.sample for turn in turns.turns[name]] for name in trees}
    return _compare_times(case, samples, min_effect)


def _compare_times(case: str, samples: Mapping[str, Sequence[Sample]], min_effect: float) -> CaseComparison:
    case_verdicts, results = {}, []
    for metric, kind in SAMPLED_METRICS.items():
        seconds = {name: [getattr(sample, kind) for sample in version] for name, version in samples.items()}
        case_verdicts[metric] = verdicts.judge_times(seconds["base"], seconds["head"], min_effect)
        results += _results(case, kind, "s", seconds)
    return CaseComparison(case, case_verdicts, results)


def _compare_losses(case: str, turns: InterleavedTurns, min_effect: float) -> CaseComparison:
    runs = {
        name: [parse_losses(turn.seen["losses"]) for turn in version_turns]
        for name, version_turns in turns.turns.items()
    }
    losses = {name: [final_loss(run) for run in version_runs] for name, version_runs in runs.items()}
    spikes = {name: [statistics.spike_score(run) for run in version_runs] for name, version_runs in runs.items()}
    case_verdicts = {
        "final_loss": verdicts.judge_losses(losses["base"], losses["head"], min_effect),
        "spike_score": verdicts.judge_spike_shares(spikes["base"], spikes["head"], MIN_SPIKE_SHARE),
    }
    results = [*_results(case, "final_loss", "nats", losses), *_results(case, "spike_score", "share", spikes)]
    return CaseComparison(case, case_verdicts, results)


def _results(case: str, metric: str, unit: str, samples: Mapping[str, Sequence[float]]) -> list[Result]:
    return [
        Result("compare", f"{case}/{name}", metric, unit, "lower", tuple(version_samples))
        for name, version_samples in samples.items()
    ]


def measure_turns(
    case: str, trees: Mapping[str, Tree], rounds: int, folder: str = "", starts: int = STARTS
) -> InterleavedTurns:
    """Measures `rounds` turns of each version, divided among `starts` processes per version.

    Raises:
      UnavailableError: a version cannot run the case.
      UnequalWorkError: the versions do not do the same work.
    """
    about, settings = CASES[case], {"folder": folder} if folder else {}
    commands = {
        name: (worker_command(tree.python, find_task_file(tree, about.file), settings), tree.environ)
        for name, tree in trees.items()
    }
    if case in STABILITY_CASES:
        return run_interleaved(commands, rounds, steps=about.steps, max_others_cores=math.inf)
    parts = [run_interleaved(commands, rounds // starts, TURN_SECONDS, parts=PARTS_PER_TURN)]
    for start in range(1, starts):
        start_rounds = rounds // starts + (start <= rounds % starts)
        # The process that is started first stays a few percent slower than the second one.
        order = dict(reversed(commands.items())) if start % 2 else commands
        parts.append(run_interleaved(order, start_rounds, steps=parts[0].steps, parts=PARTS_PER_TURN))
    turns = {name: [turn for part in parts for turn in part.turns[name]] for name in trees}
    return InterleavedTurns(turns, parts[0].steps)


def find_task_file(tree: Tree, file: str) -> Path:
    """Returns the task file of this name in `tree`; if there is none, `file`, which the version that compares has."""
    return tree.find_benchmark_file(Path(file).name) or Path(file)


def measure_first_calls(trees: Mapping[str, Tree], rounds: int) -> dict[str, list[Sample]]:
    """Measures `rounds` starts of training with each version, in alternating order.

    Each version first makes one start that does not count: this start renders the images and brings files into memory.

    Raises:
      UnavailableError: a version cannot train.
    """
    samples: dict[str, list[Sample]] = {name: [] for name in trees}
    for round_ in range(-1, rounds):
        for name in turn_order(list(trees), round_):
            print(f"{STARTUP}: {name}, {round_ + 1} of {rounds}", file=sys.stderr, flush=True)
            tree = trees[name]
            try:
                sample = measure_first_call(tree.python, tree.path, environ=tree.environ)
            except UsageError as error:
                raise UnavailableError(f"{name}: {error}") from error
            if round_ >= 0:
                samples[name].append(sample)
    return samples


def final_loss(losses: np.ndarray) -> float:
    """The median loss of the last steps, in nats, but at most the loss of random guessing (`CHANCE_LOSS`)."""
    loss = float(np.median(losses[-FINAL_LOSS_STEPS:]))
    return min(loss, CHANCE_LOSS) if math.isfinite(loss) else CHANCE_LOSS


def parse_losses(losses: Sequence[float | str]) -> np.ndarray:
    """Returns the loss of each step, float64 [steps]. The strings "nan" and "inf" become numbers."""
    return np.array([float(loss) for loss in losses])


def any_failure(comparisons: Sequence[CaseComparison]) -> bool:
    """Whether head is worse than base in any metric that can fail a version."""
    return any(
        verdict.word in verdicts.FAILING_WORDS
        for comparison in comparisons
        for metric, verdict in comparison.verdicts.items()
        if metric not in INFORMATIONAL_METRICS
    )


def verdict_entries(comparisons: Sequence[CaseComparison]) -> list[dict[str, Any]]:
    """Returns all verdicts in the form in which a result file keeps them beside the samples."""
    return [
        {
            "case": comparison.case,
            "metric": metric,
            **verdict._asdict(),
            "fails": metric not in INFORMATIONAL_METRICS,
        }
        for comparison in comparisons
        for metric, verdict in comparison.verdicts.items()
    ]


def markdown_table(
    commits: Mapping[str, str],
    environment: Mapping[str, Any],
    min_effect: float,
    comparisons: Sequence[CaseComparison],
    skipped: Sequence[Skipped] = (),
) -> str:
    """Returns the verdicts as a Markdown table, for the terminal or a pull request. `commits` is {side: hash}."""
    versions = " against ".join(f"`{short_commit(commits[side])}`" for side in ("head", "base"))
    lines = [
        f"{versions}, on {environment['cores']} cores of {environment['cpu']}; a change of {min_effect:.0%} matters.",
        "",
        "| case | metric | base | head | head / base, 95% interval | verdict |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for comparison in comparisons:
        results = {(result.case, result.metric): result for result in comparison.results}
        for metric, verdict in comparison.verdicts.items():
            sampled = SAMPLED_METRICS.get(metric, metric)
            sides = [results[f"{comparison.case}/{side}", sampled] for side in ("base", "head")]
            medians = " | ".join(f"{result.median:.4g} {result.unit}" for result in sides)
            word = verdict.word if verdict.word == SAME else f"**{verdict.word}**"
            word += " (for information)" if metric in INFORMATIONAL_METRICS else ""
            kind = ", head - base" if metric == "spike_score" else ""
            lines.append(f"| {comparison.case} | {metric} | {medians} | {verdict}{kind} | {word} |")
    lines += [f"| {entry.case} | - | - | - | - | skipped: {entry.reason} |" for entry in skipped]
    return "\n".join(lines) + "\n"
