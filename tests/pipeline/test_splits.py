"""Which images are trained on and which are held out."""

from __future__ import annotations

import collections
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenkeel.pipeline.config import DataConfig
from evenkeel.pipeline.errors import UsageError
from evenkeel.pipeline.index.features import Features
from evenkeel.pipeline.index.index import Index
from evenkeel.pipeline.index.split_rows import SplitRows, consecutive_splits
from evenkeel.pipeline.splits import find_fold, find_groups, find_held_out, find_holdout, resolve_split, select_splits


def index(names: list[str]) -> Index:
    """Rows with these names, CLASS/...; all are in one shard."""
    classes = sorted({name.split("/")[0] for name in names})
    columns = {
        "name": np.array([name.encode() for name in names]),
        "label": np.array([classes.index(name.split("/")[0]) for name in names], np.int64),
        "shard": np.zeros(len(names), np.int32),
        "record": np.arange(len(names)),
        "keep": np.ones(len(names), np.bool_),
    }
    return Index(("shard",), (1,), Features("image", "label", "filename", tuple(classes)), columns, {})


def split_rows(**ranges: tuple[int, int]) -> SplitRows:
    """Splits that hold the rows from one number up to another."""
    rows = {name: np.arange(first, last) for name, (first, last) in ranges.items()}
    infos = consecutive_splits("pets", {name: len(numbers) for name, numbers in rows.items()}).infos
    return SplitRows("pets", infos, rows)


def all_rows(*names: str) -> SplitRows:
    """Splits with these names; each has all rows."""
    return split_rows(**dict.fromkeys(names, (0, len(NAMES))))


NAMES = [f"{kind}/{number}.png" for kind, count in (("a", 10), ("b", 20), ("c", 30)) for number in range(count)]


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (("train", "test", "validation"), "validation"),
        (("train", "val", "test"), "val"),
        (("train", "test", "dev"), "dev"),
        (("train", "valid"), "valid"),
        (("train", "test"), "test"),
        (("train",), "holdout 0.1 of train"),
        (("train", "extra"), "holdout 0.1 of train"),
    ],
)
def test_the_validation_split_is_that_with_the_usual_name(names: tuple[str, ...], chosen: str) -> None:
    assert select_splits(index(NAMES), all_rows(*names), DataConfig()).validation_name == chosen


def test_only_test_as_validation_is_said(caplog: pytest.LogCaptureFixture) -> None:
    select_splits(index(NAMES), all_rows("train", "test"), DataConfig())
    assert [message.split(",")[0] for message in caplog.messages] == [
        "split test serves as validation",
    ]
    caplog.clear()
    select_splits(index(NAMES), all_rows("train", "test"), DataConfig(validation_split="test"))
    assert caplog.messages == [], "it was asked for"


@pytest.mark.parametrize("fold", ["", "1/2"])
def test_corrupt_images_are_not_held_out(fold: str) -> None:
    rows = index(NAMES)
    rows.columns["keep"][1:10] = False  # only one image of class a is usable
    splits = select_splits(rows, all_rows("train"), DataConfig(holdout=0.5, fold=fold))
    assert splits.validation.columns["keep"].all()
    assert len(splits.train) + len(splits.validation) == len(NAMES)
    assert collections.Counter(name[0] for name in splits.validation.names)["b"] == 10


def test_usual_names_in_flags_mean_the_split_that_there_is() -> None:
    assert resolve_split("train[:90%]", ["Training", "Testing"]) == "Training[:90%]"
    assert resolve_split("val+test[:10]", ["train", "validation", "test"]) == "validation+test[:10]"
    assert resolve_split("extra", ["train", "test"]) == "extra"
    assert resolve_split("val", ["train", "val", "validation"]) == "val"


@pytest.mark.parametrize("share", [0.05, 0.1, 0.25])
def test_each_class_gives_its_share_and_at_least_one_image(share: float) -> None:
    counts = {name: size for name in range(100) for size in ((10, 20, 30, 50)[name % 4],)}
    rows = index([f"{name:03}/{number}.png" for name, size in counts.items() for number in range(size)])
    held_out = find_holdout(rows, share, rows.names)
    found = np.bincount(rows.columns["label"][held_out])
    assert found.tolist() == [max(1, round(share * size)) for size in counts.values()]


def test_held_out_images_stay_the_same_when_others_come() -> None:
    def held_out(names: list[str]) -> set[str]:
        rows = index(names)
        return {name for name, held in zip(rows.names, find_holdout(rows, 0.1, rows.names), strict=True) if held}

    before = held_out(NAMES)
    assert held_out(NAMES[::-1]) == before
    assert held_out([*NAMES, *(f"d/{number}.png" for number in range(10))]) >= before


def test_a_class_of_one_image_keeps_it_for_training(caplog: pytest.LogCaptureFixture) -> None:
    rows = index(["a/1.png", "b/1.png", "b/2.png"])
    held_out = find_holdout(rows, 0.5, rows.names)
    assert not held_out[0]
    assert held_out.sum() == 1
    assert caplog.messages == ["1 classes have no validation image, such as a"]
    alone = index(["a/1.png", "b/1.png"])
    with pytest.raises(UsageError, match="no validation images can be held out of 2 images"):
        find_holdout(alone, 0.5, alone.names)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 12)), min_size=8, max_size=80), st.integers(2, 4))
def test_groups_are_never_divided(members: list[tuple[int, int]], folds: int) -> None:
    rows = index([f"{label}/patient{patient}_{number}.png" for number, (label, patient) in enumerate(members)])
    groups = find_groups(rows, r"(patient[0-9]+)_")
    masks = []
    if len(set(groups)) >= folds:
        masks = [find_fold(rows, fold, folds, groups) for fold in range(1, folds + 1)]
        assert (np.sum(masks, axis=0) == 1).all(), "each row is in one fold"
    try:
        masks.append(find_holdout(rows, 0.2, groups))
    except UsageError:
        groups_of = collections.defaultdict(set)
        for label, patient in members:
            groups_of[label].add(patient)
        shared = len({patient for _, patient in members}) < sum(map(len, groups_of.values()))
        assert shared or max(map(len, groups_of.values())) == 1, "some class could have spared a group"
    for held_out in masks:
        sides = collections.defaultdict(set)
        for group, held in zip(groups, held_out, strict=True):
            sides[group].add(bool(held))
        assert all(len(side) == 1 for side in sides.values())


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9999)), min_size=1, max_size=60, unique=True),
    st.floats(0.05, 0.9),
)
def test_images_that_are_groups_by_themselves_are_held_out_as_groups_are(
    images: list[tuple[int, int]], share: float
) -> None:
    """Two rows of one name are a group, so a copy of any row in a class of its own turns the short cut off."""
    rows = index([f"{kind}/{number}.png" for kind, number in images] + ["z/1.png", "z/1.png", "z/2.png"])
    part = rows.take(np.arange(len(images)))
    if max(collections.Counter(kind for kind, _ in images).values()) > 1:
        assert find_holdout(part, share, part.names).tolist() == find_holdout(rows, share, rows.names)[:-3].tolist()


def test_folds_have_equal_shares_of_each_class() -> None:
    rows = index(NAMES)
    for fold in range(1, 6):
        held_out = find_fold(rows, fold, 5, rows.names)
        assert np.bincount(rows.columns["label"][held_out]).tolist() == [2, 4, 6]
    splits = select_splits(rows, all_rows("train", "test"), DataConfig(fold="2/5"))
    assert (splits.validation_name, len(splits.train), len(splits.validation)) == ("fold 2/5 of train", 48, 12)


def test_a_group_on_both_sides_of_given_splits_is_an_error() -> None:
    config = DataConfig(group="[0-9]+")
    with pytest.raises(UsageError, match=re.escape("data.group ([0-9]+): 30 groups, such as 0, have images in")):
        select_splits(index(NAMES), all_rows("train", "test"), config)
    with pytest.raises(UsageError, match=r"data\.group \(xyz\) is found in no name, such as a/0\.png"):
        select_splits(index(NAMES), all_rows("train"), DataConfig(group="xyz"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"holdout": 0.0}, r"data\.holdout \(0\.0\) is a share"),
        ({"holdout": 1.0}, r"data\.holdout \(1\.0\) is a share"),
        ({"fold": "0/5"}, r"data\.fold \(0/5\) must be K/N"),
        ({"fold": "3"}, r"data\.fold \(3\) must be K/N"),
        ({"fold": "1/1"}, r"data\.fold \(1/1\) must be K/N"),
        ({"group": "("}, r"data\.group \(\(\) is not a regular expression"),
    ],
)
def test_impossible_options_are_one_line(changes: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        DataConfig(**changes)


@pytest.mark.parametrize(
    ("config", "held_out"),
    [
        (DataConfig(), {"validation": 10, "split test": 10}),
        (DataConfig(validation_split="test"), {"validation": 10, "split val": 10}),
        (DataConfig(fold="1/4"), {"validation": 10, "split val": 10, "split test": 10}),
        (DataConfig(train_split="train+test"), {"validation": 10}),
        (DataConfig(train_split="train+test[:50%]"), {"validation": 10, "split test": 5}),
    ],
)
def test_other_splits_for_validation_or_test_are_held_out_too(config: DataConfig, held_out: dict[str, int]) -> None:
    source_splits = split_rows(train=(0, 40), val=(40, 50), test=(50, 60), extra=(0, 0))
    rows = index(NAMES)
    splits = select_splits(rows, source_splits, config)
    found = find_held_out(rows, source_splits, splits)
    assert {name: len(split) for name, split in found.items()} == held_out
