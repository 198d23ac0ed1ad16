"""A result file as a page: what takes how long, beside whom, and how sure that is.

    html = page_of(results.read("result.json"))

Self-contained, in the looks of a run's report. What has a picture of its own is drawn; the rest is in a table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from html import escape
from typing import Any

import numpy as np

from evenkeel.benchmarks.report import tables
from evenkeel.benchmarks.results import Report, Result, short
from evenkeel.models.report import charts
from evenkeel.models.report.charts import Axis, Curve, Mark
from evenkeel.models.report.style import page

AT_RATE = "loss_at_rate"  # `scored`'s, of a case NETWORK/DATA/RATE
DECODER = "decoder"  # what `benchmarks.speed.stages` has beside the stages
OBSERVED = {
    "observed": "telemetry of every step and histograms, over a plain Keras model",
    "guarded": "the guard and the looks at each layer, over that",
    "keras_tensorboard": "Keras's TensorBoard callback, weights only, over a plain Keras model",
}


def page_of(report: Report) -> str:
    """The page; `Result`s of one suite are in one section."""
    suites: dict[str, list[Result]] = {}
    for each in report.results:
        suites.setdefault(each.suite, []).append(each)
    floors = {each.case.split("/")[0]: each for each in suites.get("stages", ()) if _is_floor(each)}
    drawn: dict[str, Callable[[Sequence[Result]], str]] = {
        "peers": partial(_peers, floors=floors),
        "stages": _stages,
        "observe": _observed,
        "stability": _stability,
        "train": _fed,
    }
    sections = "".join(drawn[suite](suites[suite]) for suite in drawn if suite in suites)
    rest = [each for each in report.results if not _pictured(each)]
    if rest:
        sections += _section("Every other number", "Medians with 95% intervals.", _table(rest))
    if report.skipped:
        items = "".join(f"<li>{escape(entry.case)}: {escape(entry.reason)}</li>" for entry in report.skipped)
        sections += _section("Not measured, or not passed", "And why.", f'<ul class="evidence">{items}</ul>')
    return page("evenkeel: benchmarks", f"{_head(report.environment)}{sections}{_foot(report.environment)}")


def _pictured(of: Result) -> bool:
    if of.suite in ("peers", "stages"):
        return of.metric == "cpu_ms_per_image"
    if of.suite == "observe":
        return of.metric == "added_cpu_fraction"
    if of.suite == "train":
        return True
    if of.metric == AT_RATE:
        return True
    half, *rival = of.case.split("/")
    shown = {metric for _, metric, *_ in tables.ROWS} | {counted for _, _, counted, _ in tables.ROWS}
    whose = {"autotrainer", *(case for *_, others in tables.ROWS for case in others.values())}
    return of.suite == "stability" and half == "heldout" and of.metric in shown and set(rival) <= whose


def _head(where: dict[str, Any]) -> str:
    gpus = "".join(f", {escape(str(gpu))}" for gpu in where.get("gpu") or ())
    machine = f"{where.get('cores')} cores of {escape(str(where.get('cpu')))}{gpus}"
    return f'<p class="eyebrow">{machine}</p><h1>What evenkeel takes, and what others do</h1>'


def _foot(where: dict[str, Any]) -> str:
    of = ", ".join(f"{escape(name)} {escape(str(version))}" for name, version in (where.get("versions") or {}).items())
    commit = escape(short(str(where.get("git_commit"))))
    system = f"Python {escape(str(where.get('python')))}; {of}; {escape(str(where.get('os')))}"
    return f"<footer>Commit {commit}; {system}.</footer>"


def _section(title: str, lead: str, body: str) -> str:
    return f'<section><h2>{escape(title)}</h2><p class="lead">{escape(lead)}</p>{body}</section>'


def _is_floor(of: Result) -> bool:
    return of.case.endswith(f"/{DECODER}")


def _peers(found: Sequence[Result], floors: Mapping[str, Result]) -> str:
    of_tasks: dict[str, list[tuple[str, Result, str]]] = {}
    for each in found:
        if each.metric == "cpu_ms_per_image":
            peer, task = each.case.split("/", 1)
            of_tasks.setdefault(task, []).append((tables.named(peer, task), each, _milliseconds(each.median)))
    what = tables.TASKS
    figures = "".join(
        f"<figure><figcaption>{escape(task)}</figcaption>"
        f'<p class="note">{escape(what.get(task, ""))}; CPU time per image, shorter is better{_told(floors.get(task))}'
        f"</p>{_bars(sorted(of, key=lambda row: row[1].median), floors.get(task))}</figure>"
        for task, of in of_tasks.items()
    )
    lead = "User and system time of all processes and threads; the same images, cores and output for all."
    return _section("Beside other libraries", lead, f'<div class="multiples">{figures}</div>')


def _told(floor: Result | None) -> str:
    return f"; the line is TensorFlow's decoder alone, {_milliseconds(floor.median)}" if floor else ""


def _stages(found: Sequence[Result]) -> str:
    """A waterfall for each task: every stage begins where the one before it ends."""
    of_tasks: dict[str, list[tuple[str, Result]]] = {}
    for each in found:
        task, stage = each.case.split("/", 1)
        of_tasks.setdefault(task, []).append((stage, each))
    figures = []
    for task, of in of_tasks.items():
        stages = [(stage, each) for stage, each in of if not _is_floor(each)]
        whole, at, items = sum(each.median for _, each in stages) or 1.0, 0.0, []
        for stage, each in stages:
            items.append(_falling(stage, each, at, whole))
            at += each.median
        items += [_falling("the decoder alone", each, 0.0, whole) for _, each in of if _is_floor(each)]
        note = f"{_milliseconds(whole)} of CPU time an image in all"
        caption = f'<figcaption>{escape(task)}</figcaption><p class="note">{note}</p>'
        figures.append(f'<figure>{caption}<ol class="bars">{"".join(items)}</ol></figure>')
    lead = "The input pipeline taken apart, and TensorFlow's decoder on the same files, which it cannot beat."
    return _section("Where an image's time goes", lead, f'<div class="multiples">{"".join(figures)}</div>')


def _falling(name: str, of: Result, at: float, whole: float) -> str:
    own = "" if _is_floor(of) else " own"
    place = f"left:{at / whole:.2%};width:{max(0.0, of.median) / whole:.2%}"
    return (
        f'<li class="peer{own}"><span>{escape(name)}</span><b>{_milliseconds(of.median)}</b>'
        f'<div class="track"><i style="{place}"></i></div></li>'
    )


def _milliseconds(value: float) -> str:
    return f"{value * 1000:.3g} µs" if value < 0.1 else f"{value:.3g} ms"


def _bars(rows: Iterable[tuple[str, Result, str]], floor: Result | None = None) -> str:
    """A bar from 0 to the median of each (name, result, text), a thin line over its 95% interval, a mark at `floor`."""
    rows = list(rows)
    most = max(max(each.median, each.ci95[1]) for _, each, _ in rows) or 1.0
    mark = f'<s style="left:{min(1.0, floor.median / most):.2%}"></s>' if floor else ""
    items = []
    for name, each, text in rows:
        low, high = (max(0.0, end) / most for end in each.ci95)
        own = " own" if name == tables.OWN else ""
        items.append(
            f'<li class="peer{own}"><span>{escape(name)}</span><b>{escape(text)}</b>'
            f'<div class="track"><i style="width:{max(0.0, each.median) / most:.2%}"></i>'
            f'<u style="left:{low:.2%};width:{high - low:.2%}"></u>{mark}</div></li>'
        )
    return f'<ol class="bars">{"".join(items)}</ol>'


def _observed(found: Sequence[Result]) -> str:
    of = [each for each in found if each.metric == "added_cpu_fraction"]
    rows = [(OBSERVED.get(each.case, each.case), each, tables.percent(each)) for each in of]
    return _section("What watching costs", "CPU time that is added, with 95% intervals of pairs.", _bars(rows))


def _fed(found: Sequence[Result]) -> str:
    lead = "Training fed by the input pipeline, against the same steps on one batch in memory."
    return _section("Whether the input keeps up", lead, _table(found))


def _stability(found: Sequence[Result]) -> str:
    header, _, *rows = (line.strip("| ").split(" | ") for line in tables.stability(found).splitlines())
    head = "".join(f"<th>{escape(cell)}</th>" for cell in ["", *header][-4:])
    body = "".join(f"<tr>{''.join(f'<td>{_plain(cell)}</td>' for cell in row)}</tr>" for row in rows)
    lead = "On the half of faults, networks and seeds that nothing was tuned on; shares with 95% intervals."
    table = f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    return _section("Trouble seen, explained and cured", lead, table) + _rates(found)


def _rates(found: Sequence[Result]) -> str:
    """Where training stays stable: the loss that a run ends with over its learning rate, a curve for each network."""
    curves: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for each in found:
        if each.metric == AT_RATE:
            network, data, rate = each.case.split("/")
            curves.setdefault((network, data), []).append((float(rate), each.median))
    if not curves:
        return ""
    largest = {each.case: each.median for each in found if each.metric == "largest_stable_rate"}
    figures = []
    for (network, data), points in curves.items():
        x, y = np.array(sorted(points)).T
        shared = [loss for (_, of), each in curves.items() if of == data for _, loss in each]
        curve, dots = Curve("loss", x, y), Curve("loss", x, y, "dots")
        stable = largest.get(f"{network}/{data}", 0.0)
        told = f"largest stable rate {charts.number(stable)}" if stable else "no rate is stable"
        drawn = charts.line_chart(
            [curve, dots],
            f"{network} on {data}",
            "nats",
            Axis.of(x, log=True),
            Axis.of(np.array([0.0, *shared]), log=False),
            x_label="learning rate, log scale",
            marks=[Mark(stable, "", told)] if stable else [],
            size="small",
        )
        caption = f"<figcaption>{escape(network)} on {escape(data)}</figcaption>"
        note = f"{told}, marked" if stable else told
        figures.append(f'<figure>{caption}<p class="note">{escape(note)}</p>{drawn}</figure>')
    lead = "The validation loss that runs end with over their learning rate; one that diverges counts as guessing."
    return _section("Where training stays stable", lead, f'<div class="multiples">{"".join(figures)}</div>')


def _plain(cell: str) -> str:
    return escape(cell.replace("`", ""))


def _table(found: Sequence[Result]) -> str:
    rows = "".join(
        f"<tr><td>{escape(each.suite)}</td><td>{escape(each.case)}</td><td>{escape(each.metric)}</td>"
        f'<td class="n">{charts.number(each.median)}</td>'
        f'<td class="n">{charts.number(each.ci95[0])} to {charts.number(each.ci95[1])}</td>'
        f'<td>{escape(each.unit)}</td><td class="n">{len(each.samples)}</td></tr>'
        for each in found
    )
    head = (
        '<tr><th>suite</th><th>case</th><th>metric</th><th class="n">median</th><th class="n">95% interval</th>'
        '<th>unit</th><th class="n">n</th></tr>'
    )
    return f'<div class="scroll"><table><thead>{head}</thead><tbody>{rows}</tbody></table></div>'
