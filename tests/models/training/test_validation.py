"""Validation: means over all examples whatever the batches, scores as scikit-learn computes them, no side effects."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import cohen_kappa_score, confusion_matrix, f1_score, matthews_corrcoef, top_k_accuracy_score

from evenkeel.models.distribute import strategy
from evenkeel.models.training import build_model
from evenkeel.models.training.batches import distribute_evaluation
from evenkeel.models.training.validation import evaluate
from evenkeel.pipeline import build, dataset
from evenkeel.pipeline.index.replica_shard import ReplicaShard
from evenkeel.pipeline.reading.reader import evaluation_steps
from tests.factories import crossentropy, expected_error, one, two
from tests.runs import STEPS, TINY


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [1, 2])
def test_loss_and_accuracy_are_means_over_all_examples(replicas: int) -> None:
    devices = two() if replicas == 2 else one()
    data = dataset.load_dataset(TINY.data)
    build_model.configure_process(TINY)
    model = build_model.create_model(TINY, data, devices, STEPS)
    replica_shard = strategy.replica_shard(devices, TINY.data.batch_size)
    steps = evaluation_steps(data.validation, replica_shard)
    assert steps * 16 == 64 > len(data.validation) == 60, "the last batch is filled up"
    batches = distribute_evaluation(TINY, data, devices, replica_shard)
    for _ in range(2):  # the second time over the same batches from their start
        result = evaluate(model, batches, steps)
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


def test_evaluation_changes_no_variable_of_the_model() -> None:
    data = dataset.load_dataset(TINY.data)
    build_model.configure_process(TINY)
    model = build_model.create_model(TINY, data, one(), STEPS)
    replica_shard = strategy.replica_shard(one(), TINY.data.batch_size)
    batches = distribute_evaluation(TINY, data, one(), replica_shard)
    before = [variable.numpy() for layer in model.layers for variable in layer.weights]
    evaluate(model, batches, 2)
    after = [variable.numpy() for layer in model.layers for variable in layer.weights]
    assert len(before) == 9
    for value, old in zip(after, before, strict=True):
        np.testing.assert_array_equal(value, old)
    assert model.step == int(tf.convert_to_tensor(model.optimizer.iterations)) == 0
