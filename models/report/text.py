"""A diagnosis as plain text for a terminal.

print(render_text(diagnosis))
"""

from __future__ import annotations

import math
import shlex
import textwrap

from evenkeel.models.report.verdict import (
    choose_fix,
    recovered_share,
    replays_by_accuracy,
    verdict_sentence,
)
from evenkeel.models.report.wording import format_count, format_percent
from evenkeel.models.stability.diagnosis import Diagnosis, Suspect

MAX_SUSPECTS = 3  # suspects shown with evidence; the others are named in one sentence
MAX_REPLAYS = 6
MAX_IMPROVEMENTS = 3
MAX_FINDINGS = 3
LINE_LENGTH = 100  # characters
MAX_NAME_LENGTH = 48  # characters of a replay's name


def render_text(diagnosis: Diagnosis) -> str:
    """Renders at most 40 lines: the verdict, causes with evidence, a table of replays, failed checks, and the fix."""
    lines = [verdict_sentence(diagnosis), ""]
    for rank, suspect in enumerate(diagnosis.suspects[:MAX_SUSPECTS], 1):
        lines += _suspect_lines(suspect, rank)
    if diagnosis.improvements:
        lines.append("It could still do better:")
        for sentence in diagnosis.improvements[:MAX_IMPROVEMENTS]:
            lines += _wrap(sentence)
    if others := diagnosis.suspects[MAX_SUSPECTS:]:
        causes = "; ".join(f"{suspect.title} ({format_percent(suspect.probability)})" for suspect in others)
        lines += _wrap(f"less probable: {causes}")
    if len(diagnosis.replays) > 1:
        lines += [""] * bool(lines[-1]) + _replay_table(diagnosis)
    lines += _finding_lines(diagnosis)
    lines += _fix_lines(diagnosis)
    return "\n".join(replace_unprintable(line).rstrip() for line in lines)


def replace_unprintable(line: str) -> str:
    """Replaces control characters: a file's name may contain an escape sequence that a terminal would execute."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in line)


def _suspect_lines(suspect: Suspect, rank: int) -> list[str]:
    lines = [f"{rank}. {format_percent(suspect.probability):>8}  {suspect.title}"]
    for sentence in suspect.evidence[: 3 if rank == 1 else 1]:
        lines += _wrap(sentence)
    if suspect.replay:
        share = format_percent(suspect.recovered)
        alone, together = f"{share} recovered", f"without it, {share} of the gain of all changes together is lost"
        lines += _wrap(f"tried: {suspect.replay.name}; {together if suspect.together else alone}")
    return lines


def _replay_table(diagnosis: Diagnosis) -> list[str]:
    """One line per replay: accuracy, validation loss, last training loss, share recovered."""
    replays = [diagnosis.replays[0], *replays_by_accuracy(diagnosis)[:MAX_REPLAYS]]
    names = [replay.name + (" (control)" if replay.generic else "") for replay in replays]
    width = min(max(map(len, names)), MAX_NAME_LENGTH)
    lines = [f"    {'replays of the same steps':<{width}}  accuracy  val. loss  last loss  recovered"]
    for name, replay in zip(names, replays, strict=True):
        name = name if len(name) <= width else name[: width - 1] + "…"
        last_loss = replay.loss[-1] if len(replay.loss) else math.nan
        nothing_to_recover = replay is replays[0] or (diagnosis.sound > 0 and not diagnosis.suspects)
        recovered = "" if nothing_to_recover else format_percent(recovered_share(diagnosis, replay))
        accuracy = f"{replay.accuracy:.1%}" if math.isfinite(replay.accuracy) else "none"
        lines.append(
            f"    {name:<{width}}  {accuracy:>8}  {replay.validation_loss:>9.4g}  {last_loss:>9.4g}  {recovered:>9}"
        )
    if hidden := len(diagnosis.replays) - len(replays):
        lines.append(f"    and {hidden} more, of lower accuracy")
    return lines


def _finding_lines(diagnosis: Diagnosis) -> list[str]:
    failed = [finding for finding in diagnosis.findings if not finding.ok]
    if not failed:
        return []
    lines = ["", "failed checks before training"]
    for finding in failed[:MAX_FINDINGS]:
        lines += _wrap(finding.line)
    if len(failed) > MAX_FINDINGS:
        lines.append(f"    and {format_count(len(failed) - MAX_FINDINGS, 'check')} more")
    return lines


def _fix_lines(diagnosis: Diagnosis) -> list[str]:
    fix = choose_fix(diagnosis)
    if fix is None:
        return []
    lines = [""]
    if fix.suspect is not diagnosis.suspects[0]:
        lines.append(f"the most probable cause for which there is a change: {fix.suspect.title}")
    if not fix.helps:
        share = format_percent(fix.suspect.recovered)
        lines.append(f"no fix was found: this change recovers {share} of the best change's gain")
    label = "fix" if fix.helps else "tried"
    if fix.flags:
        lines.append(f"{label}: evenkeel train ... {shlex.join(fix.flags)}")
    if fix.edit:
        start = "or instead of --model.patch" if fix.flags else label
        lines += [f"{start}, in the source of the model:", *textwrap.indent(fix.edit, " " * 4).splitlines()]
    return lines


def _wrap(sentence: str) -> list[str]:
    """Wraps the sentence to at most two indented lines."""
    return textwrap.wrap(
        " ".join(sentence.split()),
        LINE_LENGTH,
        initial_indent=" " * 4,
        subsequent_indent=" " * 6,
        max_lines=2,
        placeholder=" …",
    )
