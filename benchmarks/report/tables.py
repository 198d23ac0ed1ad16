"""Formats result files as the Markdown tables that the documents contain.

    python -m benchmarks.report.tables benchmarks/results/*.json

`headline_table` is in README.md, `loading_table` in benchmarks/README.md, `stability_table` in docs/stability.md and
`gate_table` in docs/benchmarks_in_ci.md. A test compares the documents with the committed result files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from evenkeel.benchmarks import command, results
from evenkeel.benchmarks.regression import power_analysis
from evenkeel.benchmarks.results import Result
from evenkeel.benchmarks.timing import paired_ratio
from evenkeel.pipeline.errors import require

OWN_NAME = "evenkeel"  # the loader that the others are compared with
TASKS = {
    "jpeg224": "original JPEG files, to random crops of 224 pixels",
    "bounded224": "JPEG files with a longer side of 400 pixels, to random crops of 224",
    "prepared224": "JPEG files with a shorter side of 256 pixels, to random crops of 224",
    "raw224": "the same images as decoded pixels, to random crops of 224",
    "small32": "images of 32 pixels in memory: padded, cropped, flipped, a square cut out",
    "step32": "a training step on batches of 128 images of 32 pixels",
}
PEER_NAMES = {
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

# {name of a baseline: its case}, for the baselines that only detect problems.
DETECTION_BASELINES = {
    "TerminateOnNaN": "terminate_on_nan",
    "ReduceLROnPlateau": "reduce_on_plateau",
    "EarlyStopping": "early_stopping",
    "loss doubled": "loss_spike_rule",
}
# (text of the row, metric, metric that counts the runs, {name of a baseline with the same metric: its case}).
STABILITY_ROWS: tuple[tuple[str, str, str, dict[str, str]], ...] = (
    ("faulty runs detected", "recall", "faulty_runs", DETECTION_BASELINES),
    ("false alarms on sound runs", "false_alarm_rate", "clean_runs", DETECTION_BASELINES),
    ("balanced accuracy of the detection", "balanced_accuracy", "", DETECTION_BASELINES),
    ("true cause ranked first", "cause_top1", "diagnoses", {}),
    ("true cause among the first three", "cause_top3", "diagnoses", {}),
    (
        "persistent faults fixed, `--fix`",
        "recovered_persistent",
        "",
        {"random search": "random_search", "no intervention": "no_intervention"},
    ),
    ("transient faults survived, `--guard=act`", "recovered_transient", "", {"no intervention": "no_intervention"}),
)

SuiteResults = dict[tuple[str, str], Result]  # {(case, metric): result} of one suite
HeadlineRow = tuple[str, str, str]  # (name of the measurement, evenkeel's number, the others' numbers)


def main(argv: list[str]) -> int:
    require(len(argv) >= 2, "give result files: python -m benchmarks.report.tables benchmarks/results/*.json")
    for path in argv[1:]:
        measured = results.read(path).results
        suites = {result.suite for result in measured}
        tables = [headline_table(measured), loading_table(measured)] if suites - {"stability", "compare"} else []
        tables += [stability_table(measured)] if "stability" in suites else []
        tables += [gate_table(measured)] if "compare" in suites else []
        print(f"{path}\n\n" + "\n\n".join(tables) + "\n")
    return 0


def headline_table(measured: Sequence[Result]) -> str:
    """Returns a Markdown table of the costs of evenkeel and others in the speed suites, with the measured rows only."""
    rows = [*_loader_rows(measured), *_input_wait_rows(measured), *_telemetry_rows(measured), *_startup_rows(measured)]
    return "\n".join(map(_markdown_row, [("", "evenkeel", "others"), ("---",) * 3, *rows]))


def loading_table(measured: Sequence[Result]) -> str:
    """Returns a Markdown table of CPU ms per image per loader and task, with 95% intervals and ratios to evenkeel."""
    peers = index_suite(measured, "peers")
    tasks = [task for task in TASKS if task != "step32"]
    cells: dict[str, dict[str, str]] = {}
    for task in tasks:
        for peer, result, ratio in compare_peers(peers, task):
            low, high = result.ci95
            bracket = "" if peer == OWN_NAME else f" [{ratio:.2f}]"
            interval = f"({_format_milliseconds(low)} to {_format_milliseconds(high)})"
            cells.setdefault(peer, {})[task] = f"{_format_milliseconds(result.median)} {interval}{bracket}"
    lines = [f"| loader | {' | '.join(f'`{task}`' for task in tasks)} |", "| --- " * (len(tasks) + 1) + "|"]
    lines += [
        _markdown_row([peer_name(peer, ""), *(row.get(task, "-") for task in tasks)]) for peer, row in cells.items()
    ]
    return "\n".join(lines)


def stability_table(measured: Iterable[Result], half: str = "heldout") -> str:
    """Returns a Markdown table of evenkeel and the baselines on one half of the stability suite, with 95% intervals."""
    header = ["| | evenkeel | AutoTrainer | others |", "| --- | --- | --- | --- |"]
    return "\n".join([*header, *map(_markdown_row, stability_rows(measured, half))])


def gate_table(measured: Iterable[Result]) -> str:
    """Returns a Markdown table of how often `benchmarks.compare` fails a worse version and an equal version."""
    lines = ["| case | made worse by | detected | equal versions failed |", "| --- | --- | --- | --- |"]
    rates = power_analysis.rates_by_case(measured)
    for case, rate in rates.items():
        change = "three times the learning rate" if case == "training" else "a tenth more CPU time"
        lines.append(f"| `{case}` | {change} | {rate.power:.1%} | {rate.false_alarms:.1%} |")
    return "\n".join([*lines, f"| any of them | | | {power_analysis.any_false_alarm_rate(rates):.1%} |"])


def stability_rows(measured: Iterable[Result], half: str = "heldout") -> list[list[str]]:
    """Returns the rows [name of the measurement, evenkeel, AutoTrainer, other baselines] of the stability suite."""
    suite = index_suite(measured, "stability")
    rows = []
    for text, metric, count_metric, baselines in STABILITY_ROWS:
        own = suite.get((half, metric))
        if own is None:
            continue
        count = suite.get((half, count_metric))
        autotrainer = suite.get((f"{half}/autotrainer", metric))
        others = [
            f"{name} {result.median:.2f}"
            for name, case in baselines.items()
            if (result := suite.get((f"{half}/{case}", metric)))
        ]
        rows.append(
            [
                f"{text} (n = {count.median:.0f})" if count else text,
                _format_share(own),
                _format_share(autotrainer) if autotrainer else "-",
                ", ".join(others) or "-",
            ]
        )
    if cost := suite.get(("all", "watch_overhead")):
        text = f"CPU time that the guard adds to telemetry and histograms (n = {len(cost.samples)} pairs)"
        rows.append([text, format_percent(cost), "-", "-"])
    if cost := suite.get((half, "diagnosis_cost")):
        rows.append(["CPU time of a diagnosis", f"{cost.median:.0f} times the run's", "-", "-"])
    return rows


def index_suite(measured: Iterable[Result], suite: str) -> SuiteResults:
    return {(result.case, result.metric): result for result in measured if result.suite == suite}


def compare_peers(peers: SuiteResults, task: str) -> list[tuple[str, Result, float]]:
    """Returns [(peer, CPU ms per image, ratio to evenkeel)] for one task, evenkeel first.

    The ratio is the median of the ratios in each round. The list is empty if there is no result of evenkeel.
    """
    times = {
        case.split("/")[0]: result
        for (case, metric), result in peers.items()
        if metric == "cpu_ms_per_image" and case.endswith(f"/{task}")
    }
    if OWN_NAME not in times:
        return []
    own = times[OWN_NAME]
    names = [OWN_NAME, *(name for name in PEER_NAMES if name in times)]
    return [(name, times[name], paired_ratio(times[name].samples, own.samples).median) for name in names]


def peer_name(peer: str, task: str) -> str:
    """The display name of `peer`; it may depend on the task."""
    return PEER_NAMES.get(f"{peer}/{task}", PEER_NAMES.get(peer, peer))


def format_percent(result: Result) -> str:
    low, high = result.ci95
    return f"{result.median:+.1%} ({low:+.1%} to {high:+.1%})"


def _loader_rows(measured: Sequence[Result]) -> Iterator[HeadlineRow]:
    peers = index_suite(measured, "peers")
    for task, text in TASKS.items():
        if compared := compare_peers(peers, task):
            (_, own, _), *others = compared
            numbers = (f"{peer_name(peer, task)} {_format_time(time)} ({ratio:.2g}x)" for peer, time, ratio in others)
            yield f"{text} (n = {len(own.samples)})", _format_time(own), ", ".join(numbers) or "-"


def _input_wait_rows(measured: Sequence[Result]) -> Iterator[HeadlineRow]:
    train = index_suite(measured, "train")
    waits = {pixels: train.get((case, "input_wait")) for pixels, case in ((32, "small32"), (224, "photos224"))}
    numbers = [f"{wait.median:.1%} at {pixels} pixels" for pixels, wait in waits.items() if wait]
    if numbers:
        text = "share of training time spent waiting for images; steps on one core, input on the other"
        yield text, ", ".join(numbers), "-"


def _telemetry_rows(measured: Sequence[Result]) -> Iterator[HeadlineRow]:
    observe = index_suite(measured, "observe")
    if cost := observe.get(("observed", "added_cpu_fraction")):
        keras = observe.get(("keras_tensorboard", "added_cpu_fraction"))
        text = f"telemetry of every step, histograms of weights and gradients (n = {len(cost.samples)} pairs)"
        other = f"Keras's TensorBoard callback, weights only: {format_percent(keras)}" if keras else "-"
        yield text, f"{format_percent(cost)} of CPU time", other


def _startup_rows(measured: Sequence[Result]) -> Iterator[HeadlineRow]:
    startup = index_suite(measured, "startup")
    if ratio := startup.get(("first_step", "wall_over_bare")):
        own, bare = startup["first_step", "wall_seconds"], startup["bare", "wall_seconds"]
        text = f"wall time from the command to the end of the first steps (n = {len(own.samples)})"
        other = f"a script with these steps alone {bare.median:.1f} s ({ratio.median:.2f}x)"
        yield text, f"{own.median:.1f} s", other
    if help_time := startup.get(("help", "wall_seconds")):
        yield "wall time until `--help`, or the error of a wrong flag, is printed", f"{help_time.median:.2f} s", "-"


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _format_time(result: Result) -> str:
    """Formats the CPU time per image in milliseconds; below 0.1 ms, in microseconds."""
    return f"{result.median * 1000:.2g} µs" if result.median < 0.1 else f"{result.median:.3g} ms"


def _format_milliseconds(milliseconds: float) -> str:
    return f"{milliseconds:.4f}" if milliseconds < 0.1 else f"{milliseconds:.3g}"


def _format_share(result: Result) -> str:
    low, high = result.ci95
    return f"{result.median:.2f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    command.run(main, positional=True)
