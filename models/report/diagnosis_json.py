"""A diagnosis as plain data, for diagnosis.json.

json.dumps(to_json(diagnosis), allow_nan=False)
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import math
import platform
from typing import Any

import numpy as np

from evenkeel.models.report.verdict import choose_fix, verdict_sentence
from evenkeel.models.stability.diagnosis import Diagnosis


def to_json(diagnosis: Diagnosis) -> dict[str, Any]:
    """Returns the diagnosis without its pixels, in dicts, lists, strings and numbers.

    JSON has no infinity and no NaN: such a number is written as its name, as in incidents.jsonl. A suspect has the name
    of its replay; the curves of the replay are in `replays`.
    """
    fix = choose_fix(diagnosis)
    return {
        "source": diagnosis.source,
        "verdict": verdict_sentence(diagnosis),
        "fix": {"suspect": fix.suspect.cause, "flags": fix.flags, "edit": fix.edit, "helps": fix.helps}
        if fix
        else None,
        "suspects": [
            _to_plain(
                {
                    **_fields(suspect),
                    "replay": suspect.replay.name if suspect.replay else None,
                    "flags": suspect.flags,
                }
            )
            for suspect in diagnosis.suspects
        ],
        "sound": _to_plain(diagnosis.sound),
        "unknown": _to_plain(diagnosis.unknown),
        "improvements": list(diagnosis.improvements),
        "replays": [_to_plain(_fields(replay)) for replay in diagnosis.replays],
        "findings": [_to_plain(_fields(finding)) for finding in diagnosis.findings],
        "alarms": [_to_plain(_fields(alarm)) for alarm in diagnosis.alarms],
        "places": list(diagnosis.places),
        "trace": _to_plain(_fields(diagnosis.trace)),
        "pictures": [
            {"name": picture.name, "reason": picture.reason, "shape": list(picture.pixels.shape)}
            for picture in diagnosis.pictures
        ],
        "cpu_seconds": _to_plain(diagnosis.cpu_seconds),
        "versions": package_versions(),
    }


def package_versions() -> dict[str, str]:
    """Returns {name: version} of Python and of the packages that influence a diagnosis."""
    packages = ("tensorflow", "tf_keras", "numpy")
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in packages}}


def _fields(instance: Any) -> dict[str, Any]:
    """Returns {field: value} of a dataclass; unlike `dataclasses.asdict`, it does not convert the values."""
    return {field.name: getattr(instance, field.name) for field in dataclasses.fields(instance)}


def _to_plain(value: Any) -> Any:
    """Converts arrays to lists, and numbers that are not finite to their names."""
    if isinstance(value, dict):
        return {str(name): _to_plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_plain(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return _to_plain(value.tolist())
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
