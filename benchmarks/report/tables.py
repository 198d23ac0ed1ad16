"""What the documents quote of committed result files: tables in Markdown.

    python -m benchmarks.report.tables benchmarks/results/*.json

`headline` is the README's, `loading` that of `benchmarks/README.md`, `stability` that of `docs/stability.md`, `gate`
that of `docs/benchmarks_in_ci.md`; a test holds all of them against the files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from evenkeel.benchmarks import command, results
from evenkeel.benchmarks.regression import power_analysis
from evenkeel.benchmarks.results import Result
from evenkeel.benchmarks.timing import paired_ratio
from evenkeel.pipeline.errors import require

OWN = "evenkeel"  # the others are compared with it
TASKS = {
    "jpeg224": "JPEG files as they are, to random crops of 224 pixels",
    "bounded224": "JPEG files of a longer side of 400 pixels, to random crops of 224",
    "prepared224": "JPEG files of a shorter side of 256 pixels, to random crops of 224",
    "raw224": "the decoded pixels of those, to random crops of 224",
    "small32": "32 pixels out of memory, padded and cropped, flipped, a square cut out",
    "step32": "a training step on batches of 128 images of 32 pixels",
}
PEERS = {
    "tfdata_naive": "naive tf.data",
    "keras": "Keras",
    "tfds": "TFDS",
    "torch": "PyTorch",
    "torch/step32": "PyTorch, compiled",
    "torch_eager": "PyTorch, eager",
    "dali": "DALI on the CPU",
    "ffcv": "FFCV",
    "grain": "Grain",
}

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


Found = dict[tuple[str, str], Result]  # {(case, metric): result} of one suite


def of_suite(found: Iterable[Result], suite: str) -> Found:
    return {(each.case, each.metric): each for each in found if each.suite == suite}


def headline(found: Sequence[Result]) -> str:
    """Markdown: what evenkeel takes, beside others, of the suites of speed; what was not measured has no row."""
    rows = [*_raced_rows(found), *_fed_rows(found), *_watched_rows(found), *_started_rows(found)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [("", "evenkeel", "others"), ("---",) * 3, *rows])


Row = tuple[str, str, str]  # what, evenkeel, others


def _raced_rows(found: Sequence[Result]) -> Iterator[Row]:
    peers = of_suite(found, "peers")
    for task, what in TASKS.items():
        if of := raced(peers, task):
            (_, own, _), *others = of
            beside = ", ".join(f"{named(name, task)} {time(each)} ({ratio:.2g}x)" for name, each, ratio in others)
            yield f"{what} (n = {len(own.samples)})", time(own), beside or "-"


def _fed_rows(found: Sequence[Result]) -> Iterator[Row]:
    train = of_suite(found, "train")
    waits = {pixels: train.get((case, "input_wait")) for pixels, case in ((32, "small32"), (224, "photos224"))}
    told = [f"{wait.median:.1%} at {pixels} pixels" for pixels, wait in waits.items() if wait]
    if told:
        yield "share of training spent waiting for images, steps on one core, input on the other", ", ".join(told), "-"


def _watched_rows(found: Sequence[Result]) -> Iterator[Row]:
    observe = of_suite(found, "observe")
    if watched := observe.get(("observed", "added_cpu_fraction")):
        keras = observe.get(("keras_tensorboard", "added_cpu_fraction"))
        what = f"telemetry of every step, histograms of weights and gradients (n = {len(watched.samples)} pairs)"
        beside = f"Keras's TensorBoard callback, weights only: {percent(keras)}" if keras else "-"
        yield what, f"{percent(watched)} of CPU time", beside


def _started_rows(found: Sequence[Result]) -> Iterator[Row]:
    startup = of_suite(found, "startup")
    if ratio := startup.get(("first_step", "wall_over_bare")):
        own, bare = startup["first_step", "wall_seconds"], startup["bare", "wall_seconds"]
        what = f"wall time from the command to the end of the first steps (n = {len(own.samples)})"
        beside = f"a script with these steps alone {bare.median:.1f} s ({ratio.median:.2f}x)"
        yield what, f"{own.median:.1f} s", beside
    if answered := startup.get(("help", "wall_seconds")):
        yield "the same to `--help`, or to an error in a flag", f"{answered.median:.2f} s", "-"


def loading(found: Sequence[Result]) -> str:
    """Markdown: CPU ms an image of every loader and task, 95% interval, ratio to evenkeel of turns of one round."""
    peers = of_suite(found, "peers")
    tasks = [task for task in TASKS if task != "step32"]
    cells: dict[str, dict[str, str]] = {}
    for task in tasks:
        for name, each, ratio in raced(peers, task):
            low, high = each.ci95
            beside = "" if name == OWN else f" [{ratio:.2f}]"
            cells.setdefault(name, {})[task] = f"{figure(each.median)} ({figure(low)} to {figure(high)}){beside}"
    lines = [f"| loader | {' | '.join(f'`{task}`' for task in tasks)} |", "| --- " * (len(tasks) + 1) + "|"]
    for name, of in cells.items():
        lines.append(f"| {named(name, '')} | {' | '.join(of.get(task, '-') for task in tasks)} |")
    return "\n".join(lines)


def raced(peers: Found, task: str) -> list[tuple[str, Result, float]]:
    """[(loader, CPU ms an image, the ratio to evenkeel's)] of a task, evenkeel first."""
    of = {
        case.split("/")[0]: each
        for (case, metric), each in peers.items()
        if metric == "cpu_ms_per_image" and case.endswith(f"/{task}")
    }
    if OWN not in of:
        return []
    names = [OWN, *(name for name in PEERS if name in of)]
    return [(name, of[name], paired_ratio(of[name].samples, of[OWN].samples).median) for name in names]


def named(peer: str, task: str) -> str:
    """What a peer is called in that task."""
    return PEERS.get(f"{peer}/{task}", PEERS.get(peer, peer))


def time(of: Result) -> str:
    """CPU time an image, in milliseconds or, below a tenth of one, microseconds."""
    return f"{of.median * 1000:.2g} µs" if of.median < 0.1 else f"{of.median:.3g} ms"


def figure(milliseconds: float) -> str:
    return f"{milliseconds:.4f}" if milliseconds < 0.1 else f"{milliseconds:.3g}"


def percent(of: Result) -> str:
    low, high = of.ci95
    return f"{of.median:+.1%} ({low:+.1%} to {high:+.1%})"


def stability(found: Iterable[Result], half: str = "heldout") -> str:
    """Markdown: evenkeel and its rivals on a half of the suite, shares with their 95% intervals."""
    of = of_suite(found, "stability")
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
        what = f"CPU time of the guard, beside telemetry and histograms (n = {len(cost.samples)} pairs)"
        lines.append(f"| {what} | {percent(cost)} | - | - |")
    if cost := of.get((half, "diagnosis_cost")):
        lines.append(f"| CPU time of a diagnosis | {cost.median:.0f} times the run's | - | - |")
    return "\n".join(lines)


def gate(found: Iterable[Result]) -> str:
    """Markdown: how often `compare` fails a version that is worse, and one that is the same."""
    lines = ["| case | made worse by | found | equal versions failed |", "| --- | --- | --- | --- |"]
    rates = power_analysis.all_rates(found)
    for case, of in rates.items():
        worse = "three times the learning rate" if case == "training" else "a tenth more CPU time"
        lines.append(f"| `{case}` | {worse} | {of.power:.1%} | {of.false_alarms:.1%} |")
    return "\n".join([*lines, f"| any of them | | | {power_analysis.any_alarm(rates):.1%} |"])


def share(of: Result) -> str:
    low, high = of.ci95
    return f"{of.median:.2f} ({low:.2f} to {high:.2f})"


def main(argv: list[str]) -> int:
    require(len(argv) >= 2, "give result files: python -m benchmarks.report.tables benchmarks/results/*.json")
    for path in argv[1:]:
        found = results.read(path).results
        suites = {each.suite for each in found}
        tables = [headline(found), loading(found)] if suites - {"stability", "compare"} else []
        tables += [stability(found)] if "stability" in suites else []
        tables += [gate(found)] if "compare" in suites else []
        print(f"{path}\n\n" + "\n\n".join(tables) + "\n")
    return 0


if __name__ == "__main__":
    command.run(main)
