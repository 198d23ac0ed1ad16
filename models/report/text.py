"""A diagnosis in words: the sentence that sums it up, the cure, plain text for a terminal, and plain data for JSON.

print(report_text.text(diagnosis))
json.dumps(report_text.to_json(diagnosis), allow_nan=False)
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import math
import platform
import shlex
import textwrap
from typing import Any, NamedTuple

import numpy as np

from evenkeel.models.stability.diagnosis import (
    PATCH,
    RATE,
    Diagnosis,
    Replay,
    Suspect,
    command_line,
)

HELPED = 0.2  # of what the best change gained: a fifth is within the noise of a few hundred validation images
LEAST_GAIN = 0.02  # of accuracy: a best change that gains less gains nothing
SHOWN = 3  # suspects in full
SHOWN_REPLAYS = 6
SHOWN_FINDINGS = 3
WIDTH = 100  # characters


class Cure(NamedTuple):
    """What to do: the `flags` of `tools.train` and what to `edit`, for `suspect` or for several at once.

    `helps` unless it was tried, as `replay` shows, and recovered next to nothing.
    """

    suspect: Suspect
    flags: list[str]
    edit: str
    helps: bool
    replay: Replay | None = None


def sentence(diagnosis: Diagnosis) -> str:
    """What is most probably wrong and how sure that is, or that nothing is."""
    if diagnosis.suspects:
        first = diagnosis.suspects[0]
        sure = next(word for least, word in ((0.9, "Almost certainly"), (0.5, "Most probably"), (-1, "Perhaps"))
                    if first.probability >= least)  # fmt: skip
        others = [each for each in diagnosis.suspects[1:] if each.probability >= 0.5]
        named = [f"{each.title} ({percent(each.probability)})" for each in (first, *others)]
        return f"{sure}, {'; and '.join(named)}."
    if not len(diagnosis.trace.steps) and not diagnosis.findings:
        return "Nothing is known of this run: it has no steps to look at."
    failed, alarms = [each for each in diagnosis.findings if not each.ok], diagnosis.alarms
    if failed or alarms:
        said = [counted(len(failed), "check")] * bool(failed) + [counted(len(alarms), "alarm")] * bool(alarms)
        speak = "speaks" if len(failed) + len(alarms) == 1 else "speak"
        return f"No cause was found, though {' and '.join(said)} {speak} against this run."
    return "Nothing is wrong with this run."


def cure(diagnosis: Diagnosis) -> Cure | None:
    """What did best, or that of the most probable cause that there is one for; None if there is none."""
    if diagnosis.suspects and diagnosis.fix:
        of = [each for each in diagnosis.suspects if each.replay and _within(each.replay.flags, diagnosis.fix)]
        replay = next((each for each in diagnosis.replays if each.flags == diagnosis.fix), None)
        return Cure([*of, diagnosis.suspects[0]][0], command_line(diagnosis.fix), diagnosis.edit, True, replay)
    for suspect in diagnosis.suspects:
        if suspect.flags or suspect.edit:
            helps = suspect.replay is None or suspect.recovered >= HELPED
            return Cure(suspect, suspect.flags, suspect.edit, helps, suspect.replay)
    return None


def _within(flags: dict[str, Any], fix: dict[str, Any]) -> bool:
    """Whether `fix` sets all of them; its learning rate may be a finer one, and it may patch more."""

    def set_there(name: str, value: Any) -> bool:
        if name == PATCH:
            return set(value.split(",")) <= set(fix.get(name, "").split(","))
        return name in fix and (name == RATE or fix[name] == value)

    return all(set_there(name, value) for name, value in flags.items())


def quoted(flags: list[str]) -> str:
    """As a shell takes them."""
    return " ".join(map(shlex.quote, flags))


def share(diagnosis: Diagnosis, replay: Replay) -> float:
    """Of the accuracy that the best change gained, what `replay` gained; 0 where none gained.

    A suspect's own `recovered` goes first.
    """
    known = next(
        (
            each.recovered
            for each in diagnosis.suspects
            if each.replay and each.replay.name == replay.name and not each.together
        ),
        None,
    )
    if known is not None:
        return known
    unchanged = diagnosis.replays[0].accuracy
    unchanged = unchanged if math.isfinite(unchanged) else 0.0
    gains = [each.accuracy - unchanged for each in diagnosis.replays]
    best = max((gain for gain in gains if math.isfinite(gain)), default=0.0)
    gain = replay.accuracy - unchanged
    return max(gain / best, 0.0) if best >= LEAST_GAIN and math.isfinite(gain) else 0.0


def without_effect(diagnosis: Diagnosis) -> list[Replay]:
    """The changes that were tried and did not help."""
    return [replay for replay in diagnosis.replays[1:] if share(diagnosis, replay) < HELPED]


def ranked(diagnosis: Diagnosis) -> list[Replay]:
    """The changes tried, by accuracy; what has none comes last."""
    return sorted(diagnosis.replays[1:], key=lambda each: -each.accuracy if math.isfinite(each.accuracy) else math.inf)


def percent(value: float) -> str:
    """Of a probability or share; never 0% or 100% of what is neither."""
    if not math.isfinite(value):
        return "unknown"
    if 0 < value < 0.01:
        return "under 1%"
    return "over 99%" if 0.99 < value < 1 else f"{value:.0%}"


def counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def versions() -> dict[str, str]:
    """Of Python and the packages that a diagnosis depends on."""
    packages = ("tensorflow", "tf_keras", "numpy")
    return {"python": platform.python_version(), **{each: importlib.metadata.version(each) for each in packages}}


# For a terminal.


def text(diagnosis: Diagnosis) -> str:
    """About 40 lines: the verdict, causes with their evidence, replays in aligned columns, the cure."""
    lines = [sentence(diagnosis), ""]
    for number, suspect in enumerate(diagnosis.suspects[:SHOWN], 1):
        lines.append(f"{number}. {percent(suspect.probability):>8}  {suspect.title}")
        lines += [line for each in suspect.evidence[: 3 if number == 1 else 1] for line in _wrapped(each)]
        if suspect.replay:
            of = "of what all gain together is lost without it" if suspect.together else "recovered"
            lines += _wrapped(f"tried: {suspect.replay.name}; {percent(suspect.recovered)} {of}")
    if more := diagnosis.suspects[SHOWN:]:
        lines += _wrapped("less probable: " + "; ".join(f"{each.title} ({percent(each.probability)})" for each in more))
    if len(diagnosis.replays) > 1:
        lines += ["", *_table(diagnosis)]
    if failed := [each for each in diagnosis.findings if not each.ok]:
        lines += ["", "before the first step"]
        lines += [line for each in failed[:SHOWN_FINDINGS] for line in _wrapped(each.line)]
        if len(failed) > SHOWN_FINDINGS:
            lines.append(f"    and {counted(len(failed) - SHOWN_FINDINGS, 'check')} more")
    if found := cure(diagnosis):
        lines.append("")
        if found.suspect is not diagnosis.suspects[0]:
            lines.append(f"for the most probable cause that a change was found for: {found.suspect.title}")
        if not found.helps:
            lines.append(f"no fix was found: of what was gained, this recovers {percent(found.suspect.recovered)}")
        fix = "fix" if found.helps else "tried"
        if found.flags:
            lines.append(f"{fix}: python -m tools.train ... {quoted(found.flags)}")
        if found.edit:
            lines += [
                f"{'or instead of --model.patch' if found.flags else fix}, in the source of the model:",
                *_indented(found.edit),
            ]
    return "\n".join(printable(line).rstrip() for line in lines)


def printable(line: str) -> str:
    """A file's name may hold what a terminal takes for a command."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in line)


def _wrapped(sentence: str) -> list[str]:
    """At most two lines."""
    return textwrap.wrap(
        " ".join(sentence.split()),
        WIDTH,
        initial_indent=" " * 4,
        subsequent_indent=" " * 6,
        max_lines=2,
        placeholder=" …",
    )


def _indented(source: str) -> list[str]:
    return [" " * 4 + line for line in source.splitlines()]


def _table(diagnosis: Diagnosis) -> list[str]:
    """A line for each replay: accuracy, validation loss, last training loss, share recovered."""
    rows = [diagnosis.replays[0], *ranked(diagnosis)[:SHOWN_REPLAYS]]
    names = [each.name + (" (control)" if each.generic else "") for each in rows]
    wide = min(max(map(len, names)), 48)
    lines = [f"    {'the same steps again':<{wide}}  accuracy  val. loss  last loss  recovered"]
    for name, each in zip(names, rows, strict=True):
        name = name if len(name) <= wide else name[: wide - 1] + "…"
        last = each.loss[-1] if len(each.loss) else math.nan
        gained = "" if each is rows[0] else percent(share(diagnosis, each))
        accuracy = f"{each.accuracy:.1%}" if math.isfinite(each.accuracy) else "none"
        lines.append(f"    {name:<{wide}}  {accuracy:>8}  {each.validation_loss:>9.4g}  {last:>9.4g}  {gained:>9}")
    if left := len(diagnosis.replays) - len(rows):
        lines.append(f"    and {left} more, of less accuracy")
    return lines


# For JSON.


def to_json(diagnosis: Diagnosis) -> dict[str, Any]:
    """All but pixels. JSON knows no infinity: a number that is not one is written as its name, as in incidents.jsonl.

    A suspect names its replay, whose curves are among `replays`.
    """
    found = cure(diagnosis)
    return {
        "source": diagnosis.source,
        "verdict": sentence(diagnosis),
        "fix": {"suspect": found.suspect.cause, "flags": found.flags, "edit": found.edit, "helps": found.helps}
        if found
        else None,
        "suspects": [
            _plain({**_shallow(each), "replay": each.replay.name if each.replay else None, "flags": each.flags})
            for each in diagnosis.suspects
        ],
        "replays": [_plain(_shallow(each)) for each in diagnosis.replays],
        "findings": [_plain(_shallow(each)) for each in diagnosis.findings],
        "alarms": [_plain(_shallow(each)) for each in diagnosis.alarms],
        "places": list(diagnosis.places),
        "trace": _plain(_shallow(diagnosis.trace)),
        "pictures": [
            {"name": each.name, "reason": each.reason, "shape": list(each.pixels.shape)} for each in diagnosis.pictures
        ],
        "cpu_seconds": _plain(diagnosis.cpu_seconds),
        "versions": versions(),
    }


def _shallow(instance: Any) -> dict[str, Any]:
    return {field.name: getattr(instance, field.name) for field in dataclasses.fields(instance)}


def _plain(value: Any) -> Any:
    """Arrays as lists, numbers that are not finite as their names."""
    if isinstance(value, dict):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return _plain(value.tolist())
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
