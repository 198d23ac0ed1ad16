"""Evaluation: means over all examples whatever the batches, and the numbers per class against scikit-learn."""

from __future__ import annotations

import dataclasses
import pathlib
import re

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from evenkeel.models import evaluation, train
from evenkeel.models.config import AveragingConfig
from evenkeel.models.evaluation import Evaluation, evaluate_run
from evenkeel.models.telemetry.scores import precision_per_class, recall_per_class
from evenkeel.pipeline.errors import UsageError
from tests.runs import STEPS, TINY, finished


@pytest.mark.slow
def test_a_run_is_evaluated_from_its_directory() -> None:
    model_dir, summary = finished()
    last, best = evaluate_run(model_dir, "last"), evaluate_run(model_dir)
    assert last.checkpoint.endswith(f"step-{2 * STEPS:08d}")
    assert best.checkpoint.endswith(f"step-{summary['best']['step']:08d}")
    for found, expected in ((last, summary["final"]), (best, summary["best"])):
        assert found.loss == pytest.approx(expected["loss"], rel=1e-5)
        assert found.accuracy == pytest.approx(expected["accuracy"], rel=1e-6)
        assert found.matrix.sum() == 60
    training = evaluate_run(model_dir, "last", split="train[:50]")
    assert training.matrix.sum() == 50


@pytest.mark.slow
def test_what_is_averaged_is_what_a_run_is_evaluated_with(tmp_path: pathlib.Path) -> None:
    config = dataclasses.replace(TINY, averaging=AveragingConfig("swa", start=0.5))
    summary = train.train(config, str(tmp_path / "run"))
    found = evaluate_run(str(tmp_path / "run"), "last")
    assert found.loss == pytest.approx(summary["final"]["loss"], rel=1e-5)
    assert abs(found.loss - finished()[1]["final"]["loss"]) > 1e-4


def predictions(classes: int = 4, count: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Labels and predictions that agree half of the time; nobody predicts or is of the last class."""
    rng = np.random.default_rng(0)
    labels, guesses = rng.integers(classes - 1, size=(2, count))
    return labels, np.where(rng.random(count) < 0.5, labels, guesses)


def evaluated(classes: int = 4) -> Evaluation:
    labels, predicted = predictions(classes)
    matrix = confusion_matrix(labels, predicted, labels=range(classes)).astype(np.float32)
    names = tuple(f"class {number}" for number in range(classes))
    return Evaluation("step-1", 1.25, matrix, names, {"macro_f1": 0.5, "kappa": 0.25})


def test_accuracy_is_the_share_of_the_diagonal() -> None:
    labels, predicted = predictions()
    assert evaluated().accuracy == pytest.approx((labels == predicted).mean())


def test_the_text_holds_every_number() -> None:
    found = evaluated()
    lines = evaluation.format_text(found).splitlines()
    assert lines[0] == "200 images, step-1"
    assert lines[1] == f"accuracy {found.accuracy:.4f}  loss 1.2500"
    assert lines[2] == "macro_f1 0.5000  kappa 0.2500"
    of_class = zip(precision_per_class(found.matrix), recall_per_class(found.matrix), strict=True)
    for number, (name, (right, found_again)) in enumerate(zip(found.classes, of_class, strict=True)):
        rows = [line.removeprefix(name).split() for line in lines if line.startswith(name)]
        numbers = [f"{right:.4f}", f"{found_again:.4f}", f"{found.matrix[number].sum():.0f}"]
        assert rows == [numbers, [f"{count:.0f}" for count in found.matrix[number]]]


def test_a_directory_without_a_run_or_checkpoint_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UsageError, match=re.escape(f"model_dir ({tmp_path}) holds no run")):
        evaluate_run(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="checkpoints holds no complete checkpoint: train first"):
        evaluate_run(str(tmp_path))


def test_a_split_that_does_not_exist_is_named() -> None:
    with pytest.raises(UsageError, match="vaildation"):
        evaluate_run(finished()[0], split="vaildation")
