"""Training and validation rows of a data set: splits by their usual names, a stratified holdout, k folds, groups.

    splits = select_splits(index, source_splits, config)
    splits.train, splits.validation, splits.validation_name

Which rows are held out depends on the names of the images, not on their order or on other classes.
"""

from __future__ import annotations

import collections
import dataclasses
import difflib
import hashlib
import os
import re
from collections.abc import Callable

import numpy as np
from absl import logging

from evenkeel.pipeline.config import DataConfig
from evenkeel.pipeline.errors import UsageError
from evenkeel.pipeline.index.index import Index
from evenkeel.pipeline.index.split_rows import SplitRows
from evenkeel.pipeline.sources.split_names import TEST, VALIDATION, find_split, split_role

MIN_SIMILARITY = 0.6  # of names of classes, as difflib measures it: cat and cats have 0.86, cat and dog 0


@dataclasses.dataclass(frozen=True, eq=False)
class Splits:
    """The two splits of a run.

    Attributes:
      train, validation: their rows, corrupt ones included.
      train_name, validation_name: where the rows come from: TFDS syntax, or `holdout 0.1 of train`.
    """

    train: Index
    validation: Index
    train_name: str
    validation_name: str


def select_splits(index: Index, splits: SplitRows, config: DataConfig) -> Splits:
    """The splits that `config` asks for, of all `splits` of the data set.

    Without `data.validation_split` and `data.fold`, validation is the split named validation, val, valid, dev or eval;
    else the split named test; else a part of each class of the training split.

    Raises:
      UsageError: a split does not exist or is empty, too few images for a holdout, a group in both splits, or no class
        in both.
    """
    names = list(splits.rows)
    train_name = resolve_split(config.train_split, names)
    train = index.take(splits.select(train_name))
    if config.fold:
        fold, folds = map(int, config.fold.split("/"))
        held_out = _of_usable(train, lambda rows: find_fold(rows, fold, folds, find_groups(rows, config.group)))
        return _hold_out(train, held_out, train_name, f"fold {config.fold} of {train_name}")
    validation_name = resolve_split(config.validation_split, names) if config.validation_split else ""
    validation_name = validation_name or find_split(VALIDATION, names) or find_split(TEST, names)
    if not validation_name:
        held_out = _of_usable(train, lambda rows: find_holdout(rows, config.holdout, find_groups(rows, config.group)))
        return _hold_out(train, held_out, train_name, f"holdout {config.holdout} of {train_name}")
    if not config.validation_split and split_role(validation_name) == TEST:
        logging.warning(
            "split %s serves as validation, because there is no other: the best checkpoint is chosen on it, so its"
            " accuracy is too good for an estimate of new images",
            validation_name,
        )
    validation = index.take(splits.select(validation_name))
    _check_common_classes(train, validation, train_name, validation_name)
    if config.group:
        _check_groups(train, validation, config.group)
    return Splits(train, validation, train_name, validation_name)


def similar_names(names: list[str], others: list[str]) -> list[tuple[str, str]]:
    """Pairs of a name and the most similar of `others`, such as (cats, cat); no pair if none is similar."""
    folded = {other.casefold(): other for other in others}
    pairs = []
    for name in names:
        found = difflib.get_close_matches(name.casefold(), list(folded), n=1, cutoff=MIN_SIMILARITY)
        pairs += [(name, folded[found[0]])] if found else []
    return pairs


def _check_common_classes(train: Index, validation: Index, train_name: str, validation_name: str) -> None:
    """Raises `UsageError` if no class has images in both splits: the accuracy would be 0."""
    classes = train.features.classes
    used, known = (sorted(set(index.columns["label"].tolist())) for index in (validation, train))
    if not used or not known or set(used) & set(known):
        return
    names, others = ([classes[label] for label in labels] for labels in (used, known))
    pairs = similar_names(names, others)
    alike = f": {', '.join(f'{name} looks like {other}' for name, other in pairs[:5])}" if pairs else ""
    raise UsageError(
        f"no class of split {validation_name} ({', '.join(names[:5])}) is in split {train_name}"
        f" ({', '.join(others[:5])}){alike}. Give a class the same name in both splits."
    )


def find_held_out(index: Index, source_splits: SplitRows, splits: Splits) -> dict[str, Index]:
    """The rows that a model is not trained on, by name: `validation`, and other splits for validation or test.

    `index` holds all rows of the data set, `source_splits` its splits. Rows of the two `splits` are not repeated.
    """
    held_out = {"validation": splits.validation}
    used = np.concatenate([_record_numbers(splits.train), _record_numbers(splits.validation)])
    for role in (VALIDATION, TEST):
        name = find_split(role, list(source_splits.rows))
        if name and len(source_splits.rows[name]):
            rows = index.take(source_splits.rows[name])
            rows = rows.take(~np.isin(_record_numbers(rows), used))
            if len(rows):
                held_out[f"split {name}"] = rows
    return held_out


def _record_numbers(index: Index) -> np.ndarray:
    """A number for each row, int64 [rows], that no other row of the data set has."""
    return index.columns["shard"].astype(np.int64) << 40 | index.columns["record"]


def resolve_split(text: str, names: list[str]) -> str:
    """`text`, a split in TFDS syntax, with each usual name that is not in `names` replaced by the one that means it."""

    def resolve(match: re.Match[str]) -> str:
        role = split_role(match[0])
        return (role and match[0] not in names and find_split(role, names)) or match[0]

    return re.sub(r"(?:^|(?<=\+))\w+", resolve, text)


def _of_usable(train: Index, find: Callable[[Index], np.ndarray]) -> np.ndarray:
    """The rows that `find` selects of the usable ones, bool [rows]: a corrupt image is nobody's validation image."""
    usable = train.columns["keep"]
    if not usable.any():  # the caller of `select_splits` says so
        return find(train)
    held_out = np.zeros(len(train), np.bool_)
    held_out[usable] = find(train.kept_rows)
    return held_out


def _hold_out(train: Index, held_out: np.ndarray, train_name: str, validation_name: str) -> Splits:
    return Splits(train.take(~held_out), train.take(held_out), train_name, validation_name)


def find_groups(index: Index, pattern: str) -> list[str]:
    """The group of each row: what `pattern` finds in its name, the first bracket if there is one, else its name."""
    # Names of records without file names begin with the path of their shard, which may be moved.
    names = index.names if index.features.filename else [os.path.basename(name) for name in index.names]
    if not pattern:
        return names
    expression, groups, without = re.compile(pattern), [], 0
    for name in names:
        found = expression.search(name)
        without += found is None
        groups.append(name if found is None else found[1 if expression.groups else 0] or name)
    if without == len(groups):
        raise UsageError(f"data.group ({pattern}) is found in no name, such as {groups[0]}: correct the expression.")
    if without:
        logging.warning("data.group (%s) is not found in %d of %d names", pattern, without, len(groups))
    return groups


def find_holdout(index: Index, share: float, groups: list[str]) -> np.ndarray:
    """Which rows to hold out, bool [rows]: about `share` of each class, at least one image of each, whole groups.

    A class with a single group stays in training.

    Raises:
      UsageError: no class can spare an image.
    """
    labels = index.columns["label"]
    counts = collections.Counter(labels.tolist())
    target = {label: max(1, round(share * count)) for label, count in counts.items()}
    if len(set(groups)) == len(groups):
        held_out = _first_of_each_class(labels, target, groups)
        _check_holdout(held_out, index)
        return held_out
    rows_of = _rows_by_group(groups)
    groups_of: dict[int, list[str]] = collections.defaultdict(list)
    for group in sorted(rows_of, key=_hash):
        for label in set(labels[rows_of[group]].tolist()):
            groups_of[label].append(group)
    taken: collections.Counter[int] = collections.Counter()
    left = {label: len(of_label) for label, of_label in groups_of.items()}  # groups that are not held out
    held_out = np.zeros(len(labels), np.bool_)
    for label in sorted(groups_of, key=lambda label: counts[label]):  # rare classes first: they have the least choice
        for group in groups_of[label]:
            rows = rows_of[group]
            if taken[label] >= target[label] or held_out[rows[0]]:
                continue
            size = int((labels[rows] == label).sum())
            if taken[label] and taken[label] + size / 2 > target[label]:
                continue
            present = set(labels[rows].tolist())
            if any(left[other] == 1 for other in present):  # a class would have no training image
                continue
            held_out[rows] = True
            taken.update(labels[rows].tolist())
            for other in present:
                left[other] -= 1
    _check_holdout(held_out, index)
    return held_out


def _first_of_each_class(labels: np.ndarray, target: dict[int, int], names: list[str]) -> np.ndarray:
    """The result of `find_holdout` if each image is a group by itself: 0.2 s instead of 0.8 s for 100,000 images."""
    order = np.array(sorted(range(len(names)), key=[_hash(name) for name in names].__getitem__))
    held_out = np.zeros(len(labels), np.bool_)
    by_label = order[np.argsort(labels[order], kind="stable")]
    for rows in np.split(by_label, np.flatnonzero(np.diff(labels[by_label])) + 1):
        held_out[rows[: min(target[int(labels[rows[0]])], len(rows) - 1)]] = True
    return held_out


def _check_holdout(held_out: np.ndarray, index: Index) -> None:
    """Names a class without validation images; raises `UsageError` if none has any."""
    labels = index.columns["label"]
    if not held_out.any():
        raise UsageError(
            f"no validation images can be held out of {len(labels)} images: each class has only one image or group;"
            " name a split with --data.validation_split."
        )
    counts = collections.Counter(labels.tolist())
    taken = set(labels[held_out].tolist())
    without = [index.features.classes[label] for label in counts if label not in taken]
    if without:
        logging.warning("%d classes have no validation image, such as %s", len(without), without[0])


def find_fold(index: Index, fold: int, folds: int, groups: list[str]) -> np.ndarray:
    """Which rows are in fold number `fold` (from 1) of `folds`, bool [rows]: folds of equal size in each class.

    Raises:
      UsageError: there are fewer groups than folds.
    """
    labels = index.columns["label"]
    rows_of = _rows_by_group(groups)
    if len(rows_of) < folds:
        raise UsageError(f"data.fold ({fold}/{folds}) needs {folds} images or groups, and there are {len(rows_of)}.")
    sizes = np.zeros((folds, len(index.features.classes)), np.int64)
    held_out = np.zeros(len(labels), np.bool_)
    for group in sorted(rows_of, key=lambda group: (-len(rows_of[group]), _hash(group))):
        rows = rows_of[group]
        content = np.bincount(labels[rows], minlength=sizes.shape[1])
        # The fold that lacks most of these classes; of equal ones the smallest, so that rare classes do not pile up.
        chosen = min(range(folds), key=lambda number: (int(sizes[number] @ content), int(sizes[number].sum()), number))
        sizes[chosen] += content
        held_out[rows] = chosen == fold - 1
    return held_out


def _rows_by_group(groups: list[str]) -> dict[str, np.ndarray]:
    rows: dict[str, list[int]] = collections.defaultdict(list)
    for row, group in enumerate(groups):
        rows[group].append(row)
    return {group: np.array(numbers) for group, numbers in rows.items()}


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=8).digest()


def _check_groups(train: Index, validation: Index, pattern: str) -> None:
    shared = set(find_groups(train, pattern)) & set(find_groups(validation, pattern))
    if shared:
        raise UsageError(
            f"data.group ({pattern}): {len(shared)} groups, such as {min(shared)}, have images in training and in"
            " validation: move each to one side, or use --data.fold=1/5, which keeps groups together."
        )
