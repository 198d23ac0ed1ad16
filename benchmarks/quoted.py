"""What the README says of the stability suite: the table of its result file.

python -m benchmarks.quoted benchmarks/results/stability.json
"""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks import command, results
from benchmarks.results import Result
from pipeline.config import require

# {how a rival is called: its case} of those that only detect.
DETECTING = {
    "TerminateOnNaN": "terminate_on_nan",
    "ReduceLROnPlateau": "reduce_on_plateau",
    "EarlyStopping": "early_stopping",
    "loss doubled": "loss_spike_rule",
}
# (what a row says, the metric, what it is a share of, what others do about the same).
ROWS: tuple[tuple[str, str, str, dict[str, str]], ...] = (
    ("faulty runs seen", "recall", "faulty_runs", DETECTING),
    ("false alarms on sound runs", "false_alarm_rate", "clean_runs", DETECTING),
    ("balanced accuracy of that", "balanced_accuracy", "", DETECTING),
    ("cause named first", "cause_top1", "diagnoses", {}),
    ("cause among the first three", "cause_top3", "diagnoses", {}),
    (
        "lasting faults cured, `--fix`",
        "recovered_persistent",
        "",
        {"random search": "random_search", "nothing done": "no_intervention"},
    ),
    ("passing faults survived, `--guard=act`", "recovered_transient", "", {"nothing done": "no_intervention"}),
)


def table(found: Iterable[Result], half: str = "heldout") -> str:
    """Markdown: evenkeel and its rivals on a half of the suite, shares with their 95% intervals."""
    of = {(each.case, each.metric): each for each in found}
    lines = ["| | evenkeel | AutoTrainer | others |", "| --- | --- | --- | --- |"]
    for name, metric, counted, others in ROWS:
        own = of.get((half, metric))
        if own is None:
            continue
        number = of.get((half, counted))
        cells = [f"{name} (n = {number.median:.0f})" if number else name, share(own)]
        rival = of.get((f"{half}/autotrainer", metric))
        cells.append(share(rival) if rival else "-")
        told = [
            f"{who} {each.median:.2f}" for who, case in others.items() if (each := of.get((f"{half}/{case}", metric)))
        ]
        lines.append(f"| {' | '.join([*cells, ', '.join(told) or '-'])} |")
    if cost := of.get(("all", "watch_overhead")):
        low, high = cost.ci95
        pairs = f"n = {len(cost.samples)} pairs"
        lines.append(f"| CPU time of watching ({pairs}) | {cost.median:+.1%} ({low:+.1%} to {high:+.1%}) | - | - |")
    if cost := of.get((half, "diagnosis_cost")):
        lines.append(f"| CPU time of a diagnosis | {cost.median:.0f} times the run's | - | - |")
    return "\n".join(lines)


def share(of: Result) -> str:
    low, high = of.ci95
    return f"{of.median:.2f} ({low:.2f} to {high:.2f})"


def main(argv: list[str]) -> int:
    require(len(argv) == 2, "give one result file: python -m benchmarks.quoted benchmarks/results/stability.json")
    print(table(results.read(argv[1]).results))
    return 0


if __name__ == "__main__":
    command.run(main)
