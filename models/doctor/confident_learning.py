"""Labels that a trained network does not believe: confident learning.

names = wrong_labels(bench, run)
"""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf

from evenkeel.models.doctor.replay import EVALUATED, Bench, Run
from evenkeel.pipeline import build
from evenkeel.pipeline.config import AugmentConfig
from evenkeel.pipeline.index.index import Index
from evenkeel.pipeline.index.shuffle import ReplicaShard


def wrong_labels(bench: Bench, run: Run, index: Index) -> list[str]:
    """Names of the images of `index` whose given label is not the one that `run`'s network is confident of."""
    model = bench.model(run)
    config = dataclasses.replace(run.config.data, augment=AugmentConfig(), service="")
    predict = tf.function(lambda images: tf.nn.softmax(model(images, training=False)))
    found = [
        predict(images).numpy()[weights > 0]
        for images, _, weights in build.evaluation_batches(index, config, ReplicaShard(EVALUATED)).as_numpy_iterator()
    ]
    wrong = confidently_other(np.concatenate(found), index.columns["label"])
    names = index.names
    return [names[row] for row in np.flatnonzero(wrong)]


def confidently_other(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """bool [n] from `probabilities` [n, classes]: another class than `labels` (int [n]) is the confident one.

    A class is confident where its probability reaches the mean of what images labelled so get (Northcutt et al. 2021,
    "Confident Learning", equation 1); of several, the most probable one counts.
    """
    classes = probabilities.shape[1]
    present = np.bincount(labels, minlength=classes)
    own = probabilities[np.arange(len(labels)), labels]
    sums = np.bincount(labels, own, classes)
    thresholds = np.where(present > 0, sums / np.maximum(present, 1), np.inf)
    sure = np.where(probabilities >= thresholds, probabilities, -1.0)
    return (sure.max(axis=1) > 0) & (sure.argmax(axis=1) != labels)
