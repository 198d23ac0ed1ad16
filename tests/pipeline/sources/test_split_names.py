"""Usual names of splits."""

from __future__ import annotations

import pytest

from evenkeel.pipeline.sources.split_names import find_split, split_role


@pytest.mark.parametrize(
    ("role", "names"),
    [
        ("train", ["train", "Train", "TRAINING", "training_set", "train-data", "trainset", "train_images"]),
        ("validation", ["val", "Valid", "validation", "dev", "eval", "Validation Set", "valset", "evaluation"]),
        ("test", ["test", "Testing", "TEST_SET", "test-images", "testset"]),
        (
            "",
            ["cat", "training_wheels", "trainer", "contest", "devil", "2023", "", "set", "rest", "value", "train_val"],
        ),
    ],
)
def test_the_role_of_a_name(role: str, names: list[str]) -> None:
    assert {name: split_role(name) for name in names} == dict.fromkeys(names, role)


def test_the_name_of_the_role_itself_comes_first() -> None:
    assert find_split("validation", ["train", "dev", "validation"]) == "validation"
    assert find_split("validation", ["train", "dev", "val"]) == "dev"
    assert find_split("validation", ["train", "test"]) == ""
