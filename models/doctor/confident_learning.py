"""Finds wrong labels by confident learning: labels that contradict a trained network.

names = find_wrong_labels(engine, run, index)
"""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf

from evenkeel.models.doctor.replay import EVALUATION_BATCH, ReplayEngine, Run
from evenkeel.pipeline import build
from evenkeel.pipeline.config import AugmentConfig
from evenkeel.pipeline.index.index import Index
from evenkeel.pipeline.index.replica_shard import ReplicaShard


def find_wrong_labels(engine: ReplayEngine, run: Run, index: Index) -> list[str]:
    """Returns names of images in `index` for which `run`'s network is confident of another class than the label."""
    model = engine.load_model(run)
    config = dataclasses.replace(run.config.data, augment=AugmentConfig(), service="")
    predict = tf.function(lambda images: tf.nn.softmax(model(images, training=False)))
    batches = build.evaluation_batches(index, config, ReplicaShard(EVALUATION_BATCH))
    probabilities = [predict(images).numpy()[weights > 0] for images, _, weights in batches.as_numpy_iterator()]
    wrong = contradicts_label(np.concatenate(probabilities), index.columns["label"])
    names = index.names
    return [names[row] for row in np.flatnonzero(wrong)]


def contradicts_label(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Whether the network is confident of another class than the label of each image, bool [n].

    The network is confident of a class if its probability in `probabilities` [n, classes] reaches the mean probability
    of this class over the images with this class in `labels`, int [n] (Northcutt et al. 2021, "Confident Learning",
    equation 1). If the network is confident of several classes, the most probable one counts.
    """
    classes = probabilities.shape[1]
    counts = np.bincount(labels, minlength=classes)
    label_probabilities = probabilities[np.arange(len(labels)), labels]
    sums = np.bincount(labels, label_probabilities, classes)
    thresholds = np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)
    confident = np.where(probabilities >= thresholds, probabilities, -1.0)
    return (confident.max(axis=1) > 0) & (confident.argmax(axis=1) != labels)
