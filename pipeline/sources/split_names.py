"""Usual names of splits, in any case and spelling: Training, val, dev, test_set.

split_role("Validation")    # "validation"
find_split("validation", ["train", "val"])    # "val"
"""

from __future__ import annotations

import re
from collections.abc import Iterable

TRAIN, VALIDATION, TEST = "train", "validation", "test"
ROLES = {
    **dict.fromkeys(("train", "training", "trn"), TRAIN),
    **dict.fromkeys(("validation", "validate", "valid", "val", "dev", "development", "eval", "evaluation"), VALIDATION),
    **dict.fromkeys(("test", "testing", "tst", "holdout"), TEST),
}
FILLERS = ("set", "split", "data", "dataset", "images", "imgs", "samples")  # as in test_set and trainset


def split_role(name: str) -> str:
    """`train`, `validation` or `test` if `name` is usual for such a split, else an empty string."""
    words = [word for word in re.split(r"[^a-z]+", name.lower()) if word and word not in FILLERS]
    if len(words) != 1:
        return ""
    for filler in FILLERS:
        if words[0].removesuffix(filler) in ROLES:
            return ROLES[words[0].removesuffix(filler)]
    return ROLES.get(words[0], "")


def find_split(role: str, names: Iterable[str]) -> str:
    """The first of `names` with the role, the name of the role itself first; an empty string if there is none."""
    found = sorted((name for name in names if split_role(name) == role), key=lambda name: name != role)
    return found[0] if found else ""
