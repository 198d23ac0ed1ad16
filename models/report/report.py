"""report.html: a diagnosis as one page that needs nothing but itself, on a phone, a desktop or paper.

    with open("report.html", "w", encoding="utf-8") as file:
        file.write(report.html(diagnosis))

No scripts, no fonts, no addresses but data: ones. Whatever a user may have named is escaped.
"""

from __future__ import annotations

import html as markup
import math
import re
import string
from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image

from evenkeel.models.report import charts, heat_map
from evenkeel.models.report import text as report_text
from evenkeel.models.report.charts import Axis, Curve, Mark
from evenkeel.models.report.style import page
from evenkeel.models.report.text import counted, percent
from evenkeel.models.stability import detectors
from evenkeel.models.stability.causes import CAUSES
from evenkeel.models.stability.detectors import Alarm
from evenkeel.models.stability.diagnosis import (
    Diagnosis,
    Finding,
    Picture,
    Replay,
    Suspect,
    command_line,
)

CARDS = 5  # suspects in full; the others are a table
IN_FULL = 8  # replays; the others are folded
SMOOTHED_FROM = 100  # steps; below, a curve is plain as it is
SMOOTHED = 32  # steps whose median is drawn, as in detectors.stall
OFF = 10.0  # times the usual first loss: replays above are marked at the edge, or one that explodes would flatten all
SMALL_COLUMNS = 240
PICTURES = 24
THUMBNAIL = 96  # pixels: 24 of them, noise throughout, take 0.9 MB
LISTED = 12  # steps of one kind of alarm


def html(diagnosis: Diagnosis) -> str:
    """The page, as text to be written in UTF-8; below 1.5 MB."""
    parts = [
        _verdict(diagnosis),
        _causes(diagnosis),
        _run(diagnosis),
        _layers(diagnosis),
        _replays(diagnosis),
        _findings(diagnosis.findings),
        _pictures(diagnosis.pictures),
        _small_print(diagnosis),
    ]
    # A file name that is not UTF-8 reaches Python as lone surrogates, which nothing can write.
    body = "\n".join(parts).encode("utf-8", "replace").decode()
    return page(escape(f"{diagnosis.source}: diagnosis"), body)


def escape(text: str) -> str:
    return markup.escape(text.encode("utf-8", "replace").decode())


# The parts of the page, in its order.


def _verdict(diagnosis: Diagnosis) -> str:
    parts = [
        f'<p class="eyebrow">Diagnosis of {escape(diagnosis.source)}</p>',
        f"<h1>{escape(report_text.sentence(diagnosis))}</h1>",
    ]
    found = report_text.cure(diagnosis)
    if found is None:
        if diagnosis.suspects:
            parts.append("<p>None of the changes that were tried cures it.</p>")
        return f'<header id="verdict">{"".join(parts)}</header>'
    if found.suspect is not diagnosis.suspects[0]:
        parts.append(
            "<p>There is no change to try for that. The most probable cause with one:"
            f" {escape(found.suspect.title)} ({percent(found.suspect.probability)}).</p>"
        )
    to_fix = "To fix it," if found.helps else "What was tried for it does not help:"
    if found.flags:
        flags = escape(" \\\n  ".join(map(report_text.quoted, ([each] for each in found.flags))))
        words = "add to the run's" if found.helps else "added to the run's"
        parts.append(f"<p>{to_fix} {words} <code>python -m tools.train ...</code></p><pre>{flags}</pre>")
    if found.edit:
        instead = found.flags and any(flag.startswith("--model.patch=") for flag in found.flags)
        words = "Or, instead of <code>--model.patch</code>, change" if instead else f"{to_fix} change"
        parts.append(f"<p>{words} in the source of the model</p><pre>{escape(found.edit)}</pre>")
    replay = found.replay
    if replay and diagnosis.replays and all(map(math.isfinite, (replay.accuracy, diagnosis.replays[0].accuracy))):
        before, after = (f"{each.accuracy:.1%}" for each in (diagnosis.replays[0], replay))
        parts.append(f"<p>Tried over {_steps(replay)}, it takes validation accuracy from {before} to {after}.</p>")
    return f'<header id="verdict">{"".join(parts)}</header>'


def _causes(diagnosis: Diagnosis) -> str:
    if not diagnosis.suspects:
        return _section("causes", "Causes", "No cause has anything to show for itself.", "")
    cards = "".join(_card(diagnosis, each) for each in diagnosis.suspects[:CARDS])
    body = f'<ol class="causes">{cards}</ol>'
    if vain := report_text.without_effect(diagnosis):
        lines = [f"{escape(each.name)}: {_accuracy(each, diagnosis.replays[0])}{_badge(each)}" for each in vain]
        listed = _list(lines[:IN_FULL])
        if more := lines[IN_FULL:]:
            listed += _folded(f"{len(more)} more", _list(more))
        body += f'<div class="vain-list"><h3>What did not help</h3>{listed}</div>'
    if others := diagnosis.suspects[CARDS:]:
        rows = [[escape(each.title), percent(each.probability), escape(" ".join(each.evidence))] for each in others]
        body += _folded(f"{len(others)} less probable", _table(["cause", "probability", "evidence"], rows, {1}))
    return _section("causes", "Causes, ranked", "How probable each is after all that was measured and tried.", body)


def _card(diagnosis: Diagnosis, suspect: Suspect) -> str:
    family = CAUSES[suspect.cause].family if suspect.cause in CAUSES else ""
    wide = min(max(suspect.probability, 0.0), 1.0) if math.isfinite(suspect.probability) else 0.0
    title = f'{escape(_sentence(suspect.title))} <span class="family">{escape(family)}</span>'
    probability = f'<b class="probability">{percent(suspect.probability)}</b>'
    bar = f'<div class="bar"><i style="width:{wide:.1%}"></i></div>'
    parts = [f"<header><h3>{title}</h3>{probability}{bar}</header>"]
    if suspect.evidence:
        parts.append(_list(list(map(escape, suspect.evidence))))
    if replay := suspect.replay:
        vain = "" if suspect.recovered >= report_text.HELPED else " vain"
        against = diagnosis.replays[0] if diagnosis.replays else None
        flags = f"<br><code>{escape(report_text.quoted(suspect.flags))}</code>" if suspect.flags else ""
        parts.append(
            f'<p class="tried{vain}">Tried: {escape(replay.name)}. {_recovers(suspect)}; {"alone, " * suspect.together}'
            f"{_accuracy(replay, against)}.{flags}</p>"
        )
    elif not suspect.edit:
        parts.append('<p class="tried vain soft">No change could be tried for it.</p>')
    if suspect.edit:
        parts.append(f"<pre>{escape(suspect.edit)}</pre>")
    return f'<li class="cause">{"".join(parts)}</li>'


def _recovers(suspect: Suspect) -> str:
    share = f"<b>{percent(suspect.recovered)}</b>"
    if suspect.together:
        return f"Without it, {share} of what all changes gain together is lost"
    return f"It recovers {share} of what the best change does"


def _run(diagnosis: Diagnosis) -> str:
    trace = diagnosis.trace
    if not len(trace.steps):
        return _section("run", "The run", "No step was recorded.", "")
    x_axis = charts.span(trace.steps, trace.validated)
    letters = dict(
        zip(
            dict.fromkeys(alarm.kind for alarm in diagnosis.alarms),
            string.ascii_uppercase + string.ascii_lowercase,
            strict=False,
        )
    )
    marks = [Mark(each.step, letters[each.kind], f"{_words(each.kind)}, step {each.step}") for each in diagnosis.alarms]
    curves = _smoothed("training loss", trace.steps, trace.loss)
    keys = [(curve.style, curve.name) for curve in curves]
    if len(trace.validated):
        curves.append(Curve("validation loss", trace.validated, trace.validation_loss, "dots"))
        keys.append(("dots", "validation loss"))
    y_axis = Axis.of(trace.loss, trace.validation_loss)
    if any(charts.off_scale(curve, x_axis, y_axis) for curve in curves):
        keys.append(("off", "not finite"))
    if marks:
        keys.append(("mark", "alarm"))
    loss = charts.line_chart(curves, "Loss", "loss in nats", x_axis, y_axis, marks=marks)
    body = _figure("Loss", loss + _alarms(diagnosis.alarms, letters), keys)
    for title, unit, values, log in (
        ("Gradient norm", "Euclidean norm", trace.gradient_norm, True),
        ("Learning rate", "learning rate", trace.learning_rate, False),
    ):
        curve = Curve(title.lower(), trace.steps, values)
        axis = Axis.of(values, log=log)
        off = [("off", "not finite")] if charts.off_scale(curve, x_axis, axis) else []
        low = "" if log else "low"
        body += _figure(title, charts.line_chart([curve], title, unit, x_axis, axis, size=low), off)
    lead = f"{counted(len(trace.steps), 'step')}, {trace.steps[0]:,} to {trace.steps[-1]:,}; "
    lead += f"{counted(len(diagnosis.alarms), 'alarm') if diagnosis.alarms else 'no alarm'}."
    return _section("run", "The run", lead, body)


def _alarms(alarms: Sequence[Alarm], letters: dict[str, str]) -> str:
    """What each letter in the chart stands for: the kind, its rule, its steps and the first one's numbers."""
    items = []
    for kind, letter in letters.items():
        of_kind = [alarm for alarm in alarms if alarm.kind == kind]
        steps = ", ".join(f"{alarm.step:,}" for alarm in of_kind[:LISTED])
        if len(of_kind) > LISTED:
            steps += f" and {len(of_kind) - LISTED} more"
        numbers = ", ".join(f"{_words(name)} {charts.number(value)}" for name, value in of_kind[0].evidence.items())
        items.append(
            f"<dt>{letter}</dt><dd><b>{escape(_sentence(_words(kind)))}</b> at step {steps}"
            f'<p class="soft">{escape(_rule(kind))}{escape(f" Here: {numbers}.") if numbers else ""}</p></dd>'
        )
    return f'<dl class="alarms">{"".join(items)}</dl>' if items else ""


def _rule(kind: str) -> str:
    """The first line of what the detector says of itself, its constants as numbers."""
    detector = detectors.ALONE.get(kind) or detectors.TOGETHER.get(kind)
    line = (detector.__doc__ or "").split("\n")[0] if detector else ""
    return re.sub("`([A-Z]+)`", lambda found: charts.number(getattr(detectors, found[1])), line)


def _layers(diagnosis: Diagnosis) -> str:
    trace = diagnosis.trace
    layers = {name: values for name, values in trace.layers.items() if values.ndim == 2 and values.size}
    maps = []
    with np.errstate(all="ignore"):
        if {"gradient_norm", "weight_norm"} <= set(layers):
            weights = np.maximum(layers["weight_norm"], 1e-12)
            maps.append(("Gradient against weight", layers["gradient_norm"] / weights, True, "gradient / weight norm"))
        if {"update_norm", "weight_norm"} <= set(layers):
            ratio = layers["update_norm"] / np.maximum(layers["weight_norm"], 1e-12)
            maps.append(("Update against weight", ratio, True, "update / weight norm"))
    maps += [
        (title, layers[name], False, legend)
        for name, title, legend in (
            ("dead", "Dead channels", "share of channels"),
            ("saturated", "Saturated values", "share of values"),
        )
        if name in layers and np.isfinite(layers[name]).any()
    ]
    if not maps:
        return _section("layers", "Layer by layer", "No layer was looked at.", "")
    body, tables = "", ""
    for title, values, log, legend in maps:
        named = diagnosis.places if "weight" in title else diagnosis.activations
        places = _places(named, values.shape[1])
        body += _figure(title, heat_map.draw(values, trace.due, places, title, log, legend))
        tables += f"<h3>{title}</h3>{_numbers(values, places)}"
    lead = (
        f"The input's layer on top, the output's below; a column for each of {counted(len(trace.due), 'look')}."
        " In a sound network no depth learns a thousand times slower than another."
    )
    return _section("layers", "Layer by layer", lead, body + _folded("The numbers", tables))


def _places(places: Sequence[str], count: int) -> list[str]:
    """Names for `count` rows: `places`, or numbers where they are not known."""
    return list(places) if len(places) == count else [f"activation {each}" for each in range(1, count + 1)]


def _numbers(values: np.ndarray, places: Sequence[str]) -> str:
    rows = []
    for place, of_place in zip(places, values.T, strict=True):
        finite = of_place[np.isfinite(of_place)]
        middle = float(np.median(finite)) if len(finite) else math.nan
        low, high = (float(finite.min()), float(finite.max())) if len(finite) else (math.nan, math.nan)
        shown = (float(of_place[0]), low, middle, high, float(of_place[-1]))
        rows.append([escape(place), *map(charts.number, shown)])
    return _table(["layer", "first", "least", "median", "largest", "last"], rows, set(range(1, 6)))


def _replays(diagnosis: Diagnosis) -> str:
    if len(diagnosis.replays) < 2:
        return _section("replays", "Replays", "The run was not replayed with any change.", "")
    unchanged = diagnosis.replays[0]
    losses = [each.loss for each in diagnosis.replays]
    began = [detectors.first_loss(loss) for loss in losses if np.isfinite(loss).any()]
    x_axis = charts.span(*(np.arange(len(loss)) for loss in losses))
    # Up to `OFF` times the first loss, a linear axis would leave the curves that matter a tenth of it.
    log = all((loss[np.isfinite(loss)] > 0).all() for loss in losses) or None
    y_axis = Axis.of(*losses, log=log, most=OFF * float(np.median(began)) if began else math.inf)
    base = Curve("unchanged", np.arange(len(unchanged.loss)), unchanged.loss, "base")
    figures = []
    for replay in report_text.ranked(diagnosis):
        style = "control" if replay.generic else "main"
        curve = Curve(replay.name, np.arange(len(replay.loss)), replay.loss, style)
        chart = charts.line_chart(
            [base, curve], replay.name, "loss in nats", x_axis, y_axis, size="small", columns=SMALL_COLUMNS
        )
        flags = f"<code>{escape(report_text.quoted(command_line(replay.flags)))}</code>" if replay.flags else "no flag"
        figures.append(
            f"<figure><figcaption>{escape(_sentence(replay.name))}{_badge(replay)}</figcaption>{chart}"
            f"<p>{_sentence(_accuracy(replay, unchanged))}; loss {charts.number(replay.validation_loss)}</p>"
            f'<p class="soft">{flags}</p></figure>'
        )
    keys = [("base", "unchanged"), ("main", "with the change")]
    if any(each.generic for each in diagnosis.replays):
        keys.append(("control", "control: calms any run, explains none"))
    if any((~np.isfinite(loss) | (loss > y_axis.high)).any() for loss in losses):
        keys.append(("off", "not finite, or above the axis"))
    lead = (
        "The same steps with one change each, best first, on the same axes."
        " Numbers are of validation images, at the end."
        f" Unchanged: {_accuracy(unchanged, None)}; loss {charts.number(unchanged.validation_loss)}."
    )
    first, others = (f'<div class="multiples">{"".join(part)}</div>' for part in (figures[:IN_FULL], figures[IN_FULL:]))
    folded = _folded(f"{len(figures) - IN_FULL} more", others) if len(figures) > IN_FULL else ""
    return _section("replays", "Replays", lead, _legend(keys) + first + folded)


def _findings(findings: Sequence[Finding]) -> str:
    if not findings:
        return _section("preflight", "Before the first step", "Nothing was checked.", "")
    failed, passed = [each for each in findings if not each.ok], [each for each in findings if each.ok]
    items = "".join(
        f"<li><h3>{escape(_sentence(_words(each.check)))}: {escape(each.seen)}</h3>"
        f'<p class="soft">Rule: {escape(each.rule)}</p>' + (f"<p>{escape(each.remedy)}</p>" if each.remedy else "")
        + (f'<p class="soft">{escape(_evidence(each))}</p>' if each.evidence else "") + "</li>"
        for each in failed
    )  # fmt: skip
    body = f'<ul class="findings">{items}</ul>' if failed else ""
    if passed:
        rows = [[escape(_words(each.check)), escape(each.seen), escape(each.rule)] for each in passed]
        body += _folded(f"{counted(len(passed), 'check')} passed", _table(["check", "seen", "rule"], rows, set()))
    lead = f"{len(failed)} of {counted(len(findings), 'check')} failed." if failed else "Every check passed."
    return _section("preflight", "Before the first step", lead, body)


def _pictures(pictures: Sequence[Picture]) -> str:
    if not pictures:
        return _section("pictures", "Pictures worth a look", "No picture stands out.", "")
    items = "".join(
        f'<figure><img alt="{escape(each.name)}" src="{_thumbnail(each.pixels)}">'
        f"<figcaption>{escape(each.name)}<p>{escape(each.reason)}</p></figcaption></figure>"
        for each in pictures[:PICTURES]
    )
    lead = counted(len(pictures), "picture") + (f", the first {PICTURES} shown" if len(pictures) > PICTURES else "")
    return _section("pictures", "Pictures worth a look", f"{lead}.", f'<div class="pictures">{items}</div>')


def _small_print(diagnosis: Diagnosis) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in report_text.versions().items())
    spent = f"{charts.number(diagnosis.cpu_seconds)} CPU seconds" if math.isfinite(diagnosis.cpu_seconds) else ""
    lines = (f"Source: {diagnosis.source}", spent, versions)
    return f"<footer>{''.join(f'<p>{escape(line)}</p>' for line in lines)}</footer>"


# Parts of parts.


def _section(name: str, title: str, lead: str, body: str) -> str:
    return f'<section id="{name}"><h2>{title}</h2><p class="lead">{lead}</p>{body}</section>'


def _figure(title: str, chart: str, keys: Sequence[tuple[str, str]] = ()) -> str:
    legend = _legend(keys) if len(keys) > 1 or any(style != "main" for style, _ in keys) else ""
    return f"<figure><figcaption>{escape(title)}{legend}</figcaption>{chart}</figure>"


def _legend(keys: Sequence[tuple[str, str]]) -> str:
    items = "".join(f'<span class="key"><i class="{style}"></i>{escape(name)}</span>' for style, name in keys)
    return f'<div class="legend">{items}</div>'


def _list(items: Sequence[str]) -> str:
    """Of what is escaped."""
    return f'<ul class="evidence">{"".join(f"<li>{each}</li>" for each in items)}</ul>'


def _folded(summary: str, body: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: set[int]) -> str:
    """Of cells that are escaped; columns `numbers` are set to the right."""
    kind = ['class="n"' if at in numbers else "" for at in range(len(head))]
    line = "".join(f"<th {of}>{name}</th>" for name, of in zip(head, kind, strict=True))
    body = "".join(
        f"<tr>{''.join(f'<td {of}>{cell}</td>' for cell, of in zip(row, kind, strict=True))}</tr>" for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{line}</tr></thead><tbody>{body}</tbody></table></div>'


def _smoothed(name: str, steps: np.ndarray, values: np.ndarray) -> list[Curve]:
    """The curve as it is, and a running median of what is finite over it where it is long."""
    if len(values) < SMOOTHED_FROM:
        return [Curve(name, steps, values)]
    finite = np.where(np.isfinite(values), values, np.nan)
    windows = sliding_window_view(np.concatenate([np.full(SMOOTHED - 1, np.nan), finite]), SMOOTHED)
    middle = np.full(len(values), np.nan)
    middle[np.isfinite(finite)] = np.nanmedian(windows[np.isfinite(finite)], axis=1)
    return [Curve(name, steps, values, "raw"), Curve(f"median of the last {SMOOTHED} steps", steps, middle)]


def _accuracy(replay: Replay, unchanged: Replay | None) -> str:
    """The accuracy, and in points the change of it."""
    if not math.isfinite(replay.accuracy):
        return "no accuracy"
    said = f"accuracy {replay.accuracy:.1%}"
    if unchanged is None or not math.isfinite(unchanged.accuracy):
        return said
    return f"{said} ({100 * (replay.accuracy - unchanged.accuracy):+.1f} points)".replace("-", charts.MINUS)


def _badge(replay: Replay) -> str:
    return '<span class="badge">control</span>' if replay.generic else ""


def _evidence(finding: Finding) -> str:
    return ", ".join(f"{_words(name)} {charts.number(value)}" for name, value in finding.evidence.items())


def _thumbnail(pixels: np.ndarray) -> str:
    image = Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    return heat_map.png(np.atleast_3d(np.asarray(image)))


def _steps(replay: Replay) -> str:
    return counted(len(replay.loss), "step")


def _words(name: str) -> str:
    return name.replace("_", " ")


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:]
