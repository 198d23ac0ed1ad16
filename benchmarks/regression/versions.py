"""The same work by two versions of this project, in turns, and what each case says of the later one.

    compared = compare("step", {"base": base, "head": head}, rounds=15, least=0.05)
    print(compared.verdicts["cpu_time"].word)

The work is described once, by the version that compares (`peers/load_evenkeel.py`, `peers/step32_evenkeel.py`,
`training_turns.py`); `pipeline` and `models` are each version's own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from evenkeel.benchmarks import statistics
from evenkeel.benchmarks.peers.interleaved import Raced, command, raced
from evenkeel.benchmarks.regression import power_analysis, verdicts
from evenkeel.benchmarks.regression.verdicts import LEAST_SPIKES, SAME, Verdict
from evenkeel.benchmarks.regression.worktrees import Tree
from evenkeel.benchmarks.results import Result, Skipped, short

SECONDS = 2.0  # of a turn
# Of a turn, alternating with the other side's: what a neighbour does to a core lasts for seconds. Ratios of equal turns
# of `small_input` deviated by 0.12 to 0.14 in one part, by 0.035 to 0.053 in 4, and by 0.017 in 10.
PARTS = 10
# Of both sides, among which turns are shared out: where a process's memory lies stays for its life.
STARTS = power_analysis.STARTS
LAST = 40  # steps whose loss is the last one of a run
GUESSING = math.log(10)  # nats; a loss above it, or none at all, is not told apart from it


class Case(NamedTuple):
    """`reads` is the task of `peers.sources` whose images it reads; `steps` are those of a turn, 0: for `SECONDS`."""

    file: str
    about: str
    reads: str = ""
    steps: int = 0


CASES = {
    "input": Case("peers/load_evenkeel.py", "batches of 224 pixels out of JPEG files", reads="prepared224"),
    "small_input": Case("peers/load_evenkeel.py", "batches of 32 pixels out of memory", reads="small32"),
    "step": Case("peers/step32_evenkeel.py", "training steps on 32 pixels, bfloat16"),
    "training": Case("training_turns.py", "200 steps of a network that is easily upset, a seed a run", steps=1),
}
MEASURED = {"cpu_time": "cpu_seconds", "wall_time": "wall_seconds"}  # {what a verdict is about: what it compares}
TOLD_ONLY = ("wall_time",)  # which other programs disturb: no version fails for it
STEADINESS = ("training",)  # what it says is in the losses, not in the time


class Compared(NamedTuple):
    """`verdicts` by metric; `results` hold every sample."""

    case: str
    verdicts: dict[str, Verdict]
    results: list[Result]


def compare(case: str, trees: Mapping[str, Tree], rounds: int, least: float, folder: str = "") -> Compared:
    """`rounds` turns of both `trees`, `base` and `head`. `folder` holds what the case reads.

    Raises:
      Unavailable, Refused: as `turns_of`.
    """
    found = turns_of(case, trees, rounds, folder)
    if case in STEADINESS:
        of_runs = {name: [numbers(turn.seen["losses"]) for turn in turns] for name, turns in found.turns.items()}
        losses = {name: [final_loss(of) for of in runs] for name, runs in of_runs.items()}
        spikes = {name: [statistics.spike_score(of) for of in runs] for name, runs in of_runs.items()}
        told = {
            "final_loss": verdicts.of_losses(losses["base"], losses["head"], least),
            "spike_score": verdicts.of_shares(spikes["base"], spikes["head"], LEAST_SPIKES),
        }
        measured = [*_results(case, "final_loss", "nats", losses), *_results(case, "spike_score", "share", spikes)]
        return Compared(case, told, measured)
    cpu, wall = ({name: found.samples(name, kind) for name in trees} for kind in ("cpu_seconds", "wall_seconds"))
    kinds = {"cpu_time": cpu, "wall_time": wall}
    told = {name: verdicts.of_times(of["base"], of["head"], least) for name, of in kinds.items()}
    return Compared(case, told, [*_results(case, "cpu_seconds", "s", cpu), *_results(case, "wall_seconds", "s", wall)])


def _results(case: str, metric: str, unit: str, samples: Mapping[str, Sequence[float]]) -> list[Result]:
    return [Result("compare", f"{case}/{name}", metric, unit, "lower", tuple(of)) for name, of in samples.items()]


def turns_of(case: str, trees: Mapping[str, Tree], rounds: int, folder: str = "", starts: int = STARTS) -> Raced:
    """`rounds` turns of each version, shared out among so many `starts` of both.

    Raises:
      Unavailable: a version cannot do it.
      Refused: it does not do what the other does.
    """
    of, settings = CASES[case], {"folder": folder} if folder else {}
    commands = {name: (command(tree.python, of.file, settings), tree.environ) for name, tree in trees.items()}
    if case in STEADINESS:
        return raced(commands, rounds, steps=of.steps, quiet_cores=math.inf)
    found = [raced(commands, rounds // starts, SECONDS, parts=PARTS)]
    for start in range(1, starts):
        share = rounds // starts + (start <= rounds % starts)
        # Who starts first is some percent slower for its life.
        order = dict(reversed(commands.items())) if start % 2 else commands
        found.append(raced(order, share, steps=found[0].steps, parts=PARTS))
    turns = {name: [turn for of in found for turn in of.turns[name]] for name in trees}
    return Raced(turns, found[0].steps)


def final_loss(losses: np.ndarray) -> float:
    """The median of the last steps, in nats; at most that of guessing."""
    last = float(np.median(losses[-LAST:]))
    return min(last, GUESSING) if math.isfinite(last) else GUESSING


def numbers(losses: Sequence[float | str]) -> np.ndarray:
    return np.array([float(loss) for loss in losses])


def failed(compared: Sequence[Compared]) -> bool:
    """Whether the later version is worse in anything that counts."""
    return any(
        verdict.word in verdicts.FAILED
        for one in compared
        for metric, verdict in one.verdicts.items()
        if metric not in TOLD_ONLY
    )


def words(compared: Sequence[Compared]) -> list[dict[str, Any]]:
    """Each verdict for a result file, beside the samples that it follows from."""
    return [
        {"case": one.case, "metric": metric, **verdict._asdict(), "fails": metric not in TOLD_ONLY}
        for one in compared
        for metric, verdict in one.verdicts.items()
    ]


def markdown(
    versions: Mapping[str, str],
    where: Mapping[str, Any],
    least: float,
    compared: Sequence[Compared],
    skipped: Sequence[Skipped] = (),
) -> str:
    """A table of the verdicts, for a person and for a pull request; `versions` are hashes by side."""
    sides = " against ".join(f"`{short(versions[side])}`" for side in ("head", "base"))
    lines = [
        f"{sides}, on {where['cores']} cores of {where['cpu']}; a change of {least:.0%} matters.",
        "",
        "| case | metric | base | head | head / base, 95% interval | verdict |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for one in compared:
        of = {(each.case, each.metric): each for each in one.results}
        for metric, verdict in one.verdicts.items():
            measured = [of[f"{one.case}/{side}", MEASURED.get(metric, metric)] for side in ("base", "head")]
            sides = " | ".join(f"{each.median:.4g} {each.unit}" for each in measured)
            word = verdict.word if verdict.word == SAME else f"**{verdict.word}**"
            kind = ", head - base" if metric == "spike_score" else ""
            word += " (told only)" if metric in TOLD_ONLY else ""
            lines.append(f"| {one.case} | {metric} | {sides} | {verdict}{kind} | {word} |")
    lines += [f"| {entry.case} | - | - | - | - | skipped: {entry.reason} |" for entry in skipped]
    return "\n".join(lines) + "\n"
