"""Evaluation: means over all examples whatever the batches, and the numbers per class against scikit-learn."""

from __future__ import annotations

import dataclasses
import pathlib
import re

import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import cohen_kappa_score, confusion_matrix, f1_score, matthews_corrcoef, top_k_accuracy_score

from evenkeel.models import evaluation, train
from evenkeel.models.config import AveragingConfig
from evenkeel.models.distribute import strategy
from evenkeel.models.evaluation import Evaluation, evaluate_run
from evenkeel.models.telemetry.scores import precision, recall
from evenkeel.models.training import build_model
from evenkeel.pipeline import build, dataset
from evenkeel.pipeline.errors import UsageError
from evenkeel.pipeline.index.shuffle import ReplicaShard
from evenkeel.pipeline.reading.reader import evaluation_steps
from tests.models.optim.test_losses import crossentropy
from tests.models.telemetry.test_scores import expected_error
from tests.models.test_train import STEPS, TINY, finished
from tests.models.training.test_stable_model import one, two


@pytest.mark.parametrize("replicas", [1, 2])
def test_loss_and_accuracy_are_means_over_all_examples(replicas: int) -> None:
    devices = two() if replicas == 2 else one()
    data = dataset.load_dataset(TINY.data)
    build_model.set_up(TINY)
    model = build_model.create_model(TINY, data, devices, STEPS)
    share = strategy.share(devices, TINY.data.batch_size)
    steps = evaluation_steps(data.validation, share)
    assert steps * 16 == 64 > len(data.validation) == 60, "the last batch is filled up"
    _, batches = train.batches(TINY, data, devices, share, start_step=0)
    for _ in range(2):  # the second time over the same batches from their start
        result = build_model.evaluate(model, batches, steps)
    whole = dataclasses.replace(TINY.data, batch_size=60)
    images, labels, weights = next(iter(build.evaluation_batches(data.validation, whole, ReplicaShard(60))))
    assert weights.numpy().all()
    logits, labels = model(images, training=False).numpy().astype(np.float64), labels.numpy()
    assert result["loss"] == pytest.approx(crossentropy(logits, labels).mean(), rel=1e-5)
    assert result["accuracy"] == pytest.approx((logits.argmax(axis=1) == labels).mean(), rel=1e-6)
    np.testing.assert_array_equal(model.confusion_matrix, confusion_matrix(labels, logits.argmax(axis=1)))
    assert model.confusion_matrix.sum() == 60
    predicted = logits.argmax(axis=1)
    assert model.scores["macro_f1"] == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert model.scores["kappa"] == pytest.approx(cohen_kappa_score(labels, predicted))
    assert model.scores["matthews"] == pytest.approx(matthews_corrcoef(labels, predicted))
    assert model.scores["top_5"] == pytest.approx(top_k_accuracy_score(labels, logits, k=5))
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert model.scores["calibration_error"] == pytest.approx(expected_error(shares, labels), rel=1e-3)


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
    lines = evaluation.text(found).splitlines()
    assert lines[0] == "200 images, step-1"
    assert lines[1] == f"accuracy {found.accuracy:.4f}  loss 1.2500"
    assert lines[2] == "macro_f1 0.5000  kappa 0.2500"
    of_class = zip(precision(found.matrix), recall(found.matrix), strict=True)
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


def test_evaluation_leaves_the_statistics_alone() -> None:
    data = dataset.load_dataset(TINY.data)
    build_model.set_up(TINY)
    model = build_model.create_model(TINY, data, one(), STEPS)
    share = strategy.share(one(), TINY.data.batch_size)
    _, batches = train.batches(TINY, data, one(), share, start_step=0)
    before = [variable.numpy() for layer in model.layers for variable in layer.weights]
    build_model.evaluate(model, batches, 2)
    after = [variable.numpy() for layer in model.layers for variable in layer.weights]
    assert len(before) == 9
    for value, old in zip(after, before, strict=True):
        np.testing.assert_array_equal(value, old)
    assert model.step == int(tf.convert_to_tensor(model.optimizer.iterations)) == 0
