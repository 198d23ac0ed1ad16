"""report.html: a diagnosis as one self-contained page for phones, desktops and paper.

    with open("report.html", "w", encoding="utf-8") as file:
        file.write(render_html(diagnosis))

The page has no scripts, no fonts and no URLs except data: URLs. This module prepares the values for the template, which
escapes them.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from evenkeel.models.report import charts, figures, heat_map
from evenkeel.models.report.diagnosis_json import package_versions
from evenkeel.models.report.figures import describe_accuracy
from evenkeel.models.report.markup import render_page
from evenkeel.models.report.verdict import (
    MIN_RECOVERED_SHARE,
    choose_fix,
    ineffective_replays,
    verdict_sentence,
)
from evenkeel.models.report.wording import capitalize, format_count, format_percent, to_words
from evenkeel.models.stability.causes import CAUSES
from evenkeel.models.stability.diagnosis import Diagnosis, Finding, Picture, Replay, Suspect

MAX_CARDS = 5  # causes with a card; the others are rows of a folded table
MAX_PICTURES = 24
THUMBNAIL_SIZE = 96  # pixels: 24 pictures of noise take 0.9 MB


def render_html(diagnosis: Diagnosis) -> str:
    """Renders the page, to be written as UTF-8; smaller than 1.5 MB."""
    return render_page(
        "report.html",
        source=diagnosis.source,
        verdict=verdict_sentence(diagnosis),
        fix=_describe_fix(diagnosis),
        improvements=diagnosis.improvements,
        causes=_describe_causes(diagnosis),
        run=figures.run_figures(diagnosis),
        layers=figures.layer_figures(diagnosis),
        replays=figures.replay_figures(diagnosis),
        checks=_describe_checks(diagnosis.findings),
        pictures=_describe_pictures(diagnosis.pictures),
        footer=_footer_lines(diagnosis),
    )


def _describe_fix(diagnosis: Diagnosis) -> dict[str, Any] | None:
    fix = choose_fix(diagnosis)
    if fix is None:
        return None
    replay, effect = fix.replay, None
    if replay and diagnosis.replays and all(map(math.isfinite, (replay.accuracy, diagnosis.replays[0].accuracy))):
        effect = {
            "steps": format_count(len(replay.loss), "step"),
            "before": f"{diagnosis.replays[0].accuracy:.1%}",
            "after": f"{replay.accuracy:.1%}",
        }
    other_cause = None
    if fix.suspect is not diagnosis.suspects[0]:
        other_cause = f"{fix.suspect.title} ({format_percent(fix.suspect.probability)})"
    return {
        "helps": fix.helps,
        "other_cause": other_cause,
        "flags": " \\\n  ".join(map(shlex.quote, fix.flags)),
        "edit": fix.edit,
        "patches": any(flag.startswith("--model.patch=") for flag in fix.flags),
        "effect": effect,
    }


def _describe_causes(diagnosis: Diagnosis) -> dict[str, Any]:
    unchanged = diagnosis.replays[0] if diagnosis.replays else None
    ineffective = [
        {"text": f"{replay.name}: {describe_accuracy(replay, unchanged)}", "control": replay.generic}
        for replay in ineffective_replays(diagnosis)
    ]
    return {
        "cards": [_describe_suspect(suspect, unchanged) for suspect in diagnosis.suspects[:MAX_CARDS]],
        "ineffective": ineffective[: figures.MAX_REPLAYS],
        "more_ineffective": ineffective[figures.MAX_REPLAYS :],
        "less_probable": [
            (suspect.title, format_percent(suspect.probability), " ".join(suspect.evidence))
            for suspect in diagnosis.suspects[MAX_CARDS:]
        ],
    }


def _describe_suspect(suspect: Suspect, unchanged: Replay | None) -> dict[str, Any]:
    bar = min(max(suspect.probability, 0.0), 1.0) if math.isfinite(suspect.probability) else 0.0
    return {
        "title": capitalize(suspect.title),
        "family": CAUSES[suspect.cause].family if suspect.cause in CAUSES else "",
        "probability": format_percent(suspect.probability),
        "bar": f"{bar:.1%}",
        "evidence": suspect.evidence,
        "replay": suspect.replay and suspect.replay.name,
        "accuracy": suspect.replay and describe_accuracy(suspect.replay, unchanged),
        "recovered": format_percent(suspect.recovered),
        "helps": suspect.recovered >= MIN_RECOVERED_SHARE,
        "together": suspect.together,
        "flags": shlex.join(suspect.flags),
        "edit": suspect.edit,
    }


def _describe_checks(findings: Sequence[Finding]) -> dict[str, Any]:
    def evidence(finding: Finding) -> str:
        return ", ".join(f"{to_words(name)} {charts.format_number(value)}" for name, value in finding.evidence.items())

    passed = [finding for finding in findings if finding.ok]
    failed = [finding for finding in findings if not finding.ok]
    return {
        "lead": f"{len(failed)} of {format_count(len(findings), 'check')} failed." if failed else "All checks passed.",
        "failed": [
            {
                "title": f"{capitalize(to_words(finding.check))}: {finding.seen}",
                "rule": finding.rule,
                "remedy": finding.remedy,
                "evidence": evidence(finding),
            }
            for finding in failed
        ],
        "passed": [(to_words(finding.check), finding.seen, finding.rule) for finding in passed],
        "passed_title": f"{format_count(len(passed), 'check')} passed",
    }


def _describe_pictures(pictures: Sequence[Picture]) -> dict[str, Any]:
    hidden = f", the first {MAX_PICTURES} shown" if len(pictures) > MAX_PICTURES else ""
    return {
        "lead": f"{format_count(len(pictures), 'picture')}{hidden}.",
        "shown": [
            {"name": picture.name, "reason": picture.reason, "url": _thumbnail_url(picture.pixels)}
            for picture in pictures[:MAX_PICTURES]
        ],
    }


def _thumbnail_url(pixels: np.ndarray) -> str:
    image = Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)
    image.thumbnail((THUMBNAIL_SIZE, THUMBNAIL_SIZE))
    return heat_map.png_data_url(np.atleast_3d(np.asarray(image)))


def _footer_lines(diagnosis: Diagnosis) -> list[str]:
    seconds = diagnosis.cpu_seconds
    versions = ", ".join(f"{name} {version}" for name, version in package_versions().items())
    cost = f"{charts.format_number(seconds)} CPU seconds" if math.isfinite(seconds) else ""
    return [f"Source: {diagnosis.source}", cost, versions]
