"""Checks of augmentation and labels on both sides of their limits."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from evenkeel.models.config import TrainConfig
from evenkeel.models.preflight import cheap_model, image_checks, label_checks
from evenkeel.pipeline.config import AugmentConfig, DataConfig, ShapesConfig
from evenkeel.pipeline.dataset import Dataset, load_dataset
from tests.models.preflight.cases import load_shapes, train_config


@pytest.mark.slow
@pytest.mark.parametrize(
    ("augment", "ok"),
    [
        (AugmentConfig(flip=0.5, pad_crop=2, cutout=0.4), True),
        (AugmentConfig(random_resized_crop=0.92, randaugment_ops=2), True),
        (AugmentConfig(rotation=180, brightness=0.4, hue=0.5, noise=25), True),
        (AugmentConfig(noise=250), False),
        (AugmentConfig(brightness=1.0, contrast=1.0, noise=100), False),
    ],
)
def test_augmentation_must_not_destroy_images(augment: AugmentConfig, ok: bool, data: Dataset) -> None:
    config = train_config(augment=augment)
    finding = image_checks.check_augmentation(config, data, image_checks.read_first_batch(config, data)[0])
    assert finding.ok == ok, finding.line


MANY = ShapesConfig(size=16, count=2500)


@pytest.fixture(scope="module")
def many() -> Dataset:
    return load_dataset(train_config(shapes=MANY).data)


leave_one_out_accuracy, accuracies = cheap_model.leave_one_out_accuracy, dict[bytes, float]()


def accuracy_computed_once(images: np.ndarray, labels: np.ndarray, classes: int) -> float:
    """The accuracy of the cheap model; all augmentations are compared with the same plain images."""
    key = images.tobytes() + labels.tobytes()
    if key not in accuracies:
        accuracies[key] = leave_one_out_accuracy(images, labels, classes)
    return accuracies[key]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("augment", "ok"),
    [
        (AugmentConfig(flip=0.5, pad_crop=2), True),
        (AugmentConfig(flip=0.5, randaugment_ops=1), True),
        (AugmentConfig(flip=0.5, noise=130.0), False),
        (AugmentConfig(randaugment_ops=8, randaugment_magnitude=10.0), False),
    ],
)
def test_a_cheap_model_must_learn_from_augmented_images(
    augment: AugmentConfig, ok: bool, many: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cheap_model, "leave_one_out_accuracy", accuracy_computed_once)
    config, data = train_config(augment=augment, shapes=MANY), many
    assert (image_checks._augmented_accuracy_ratio(data, config.data) >= image_checks.MIN_ACCURACY_RATIO) == ok


def test_few_images_are_not_judged_by_a_cheap_model(data: Dataset) -> None:
    assert image_checks._augmented_accuracy_ratio(data, train_config(augment=AugmentConfig(noise=250.0)).data) == 1.0


def test_flat_images_are_destroyed_and_flipped_ones_are_not(data: Dataset) -> None:
    images = image_checks.read_first_batch(train_config(), data, AugmentConfig())[0]
    flat = np.full_like(images, 128)
    assert image_checks.destroyed_mask(images, flat).mean() > 0.95, "all images with contrast"
    assert not image_checks.destroyed_mask(images, images[:, ::-1]).any()
    assert not image_checks.destroyed_mask(flat, flat).any()


@pytest.mark.slow
def test_few_images_do_not_prove_wrong_labels() -> None:
    config, data = load_shapes(label_noise=0.4)
    assert all(finding.ok for finding in label_checks.check_labels(config, data))


@pytest.mark.slow
def test_wrong_labels_of_shapes_are_found() -> None:
    config = TrainConfig(data=DataConfig())
    data = load_dataset(config.data)
    labels = data.train.columns["label"].copy()
    rows = np.random.default_rng(0).permutation(len(labels))[: round(0.4 * len(labels))]
    labels[rows] = (labels[rows] + 1 + np.arange(len(rows)) % 9) % 10  # as shapes.label_noise, without rendering again
    wrong = dataclasses.replace(data.train, columns={**data.train.columns, "label": labels})
    for dataset, ok in ((data, True), (dataclasses.replace(data, train=wrong), False)):
        noise, *others = label_checks.check_labels(config, dataset)
        assert noise.ok == ok, noise.line
        assert all(finding.ok for finding in others)
