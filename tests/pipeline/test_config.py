"""Every rule of the data configuration, by its error message: value, rule and remedy in one line."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from evenkeel.pipeline.config import AugmentConfig, DataConfig, ShapesConfig
from evenkeel.pipeline.errors import UsageError, one_of, require

CONFIGS = (DataConfig, AugmentConfig, ShapesConfig)
REFUSED: list[tuple[type, dict[str, Any], str]] = [
    (ShapesConfig, {"size": 7}, "data.shapes.size (7) must be at least 8 pixels."),
    (ShapesConfig, {"count": 19}, "data.shapes.count (19) must be at least 20, two images a class."),
    (ShapesConfig, {"seed": -1}, "data.shapes.seed (-1) must not be negative."),
    (ShapesConfig, {"imbalance": 0.5}, "data.shapes.imbalance (0.5) must be at least 1 (1 is balanced)."),
    (AugmentConfig, {"pad_crop": -1}, "data.augment.pad_crop (-1) must not be negative; 0 turns it off."),
    (DataConfig, {"source": ""}, "data.source is empty: give shapes, tfds:NAME or a directory."),
    (DataConfig, {"view": "whole"}, "data.view ('whole') must be one of center, stretch, pad."),
    (
        DataConfig,
        {"image_size": 0},
        ("data.image_size (0) must be the side of a square in pixels, such as 224, or HEIGHTxWIDTH, such as 224x160."),
    ),
    (DataConfig, {"batch_size": 0}, "data.batch_size (0) must be at least 1."),
    (DataConfig, {"shuffle_buffer": 0}, "data.shuffle_buffer (0) must be at least 1."),
    (DataConfig, {"threads": -1}, "data.threads (-1) must not be negative; 0 is one per core."),
    (DataConfig, {"ram_budget_mb": 15}, "data.ram_budget_mb (15) must be at least 16."),
]
RANGES: list[tuple[type, str, str, tuple[float, ...], str]] = [
    (ShapesConfig, "data.shapes", "quality", (0, 101), "must be from 1 to 100."),
    (ShapesConfig, "data.shapes", "outliers", (-0.1, 1.0), "is a share: it must lie in [0, 1)."),
    (ShapesConfig, "data.shapes", "label_noise", (-0.1, 1.0), "is a share: it must lie in [0, 1)."),
    (ShapesConfig, "data.shapes", "unnormalised", (-0.1, 1.0), "is a share: it must lie in [0, 1)."),
    (ShapesConfig, "data.shapes", "corrupt", (-0.1, 1.0), "is a share: it must lie in [0, 1)."),
    (AugmentConfig, "data.augment", "random_resized_crop", (-0.1, 1.0), "must lie in [0, 1); 0 turns it off."),
    (AugmentConfig, "data.augment", "flip", (-0.1, 1.1), "must lie in [0, 1]; 0 turns it off."),
    (AugmentConfig, "data.augment", "brightness", (-0.1, 1.1), "must lie in [0, 1]; 0 turns it off."),
    (AugmentConfig, "data.augment", "contrast", (-0.1, 1.1), "must lie in [0, 1]; 0 turns it off."),
    (AugmentConfig, "data.augment", "rotation", (-1.0, 180.5), "must lie in [0, 180]; 0 turns it off."),
    (AugmentConfig, "data.augment", "translation", (-0.1, 1.1), "must lie in [0, 1]; 0 turns it off."),
    (AugmentConfig, "data.augment", "shear", (-0.1, 1.1), "must lie in [0, 1]; 0 turns it off."),
    (AugmentConfig, "data.augment", "zoom", (-0.1, 1.1), "must lie in [0, 1]; 0 turns it off."),
    (AugmentConfig, "data.augment", "saturation", (-0.1, 1.1), "must lie in [0, 1]; 0 turns it off."),
    (AugmentConfig, "data.augment", "hue", (-0.1, 0.6), "must lie in [0, 0.5]; 0 turns it off."),
    (AugmentConfig, "data.augment", "sharpness", (-0.1, 1.1), "must lie in [0, 1]; 0 turns it off."),
    (AugmentConfig, "data.augment", "equalize", (-0.1, 1.1), "must lie in [0, 1]; 0 turns it off."),
    (AugmentConfig, "data.augment", "posterize", (-1, 8), "must lie in [0, 7]; 0 turns it off."),
    (AugmentConfig, "data.augment", "noise", (-0.1, 256.0), "must lie in [0, 255]; 0 turns it off."),
    (AugmentConfig, "data.augment", "cutout", (-0.1, 1.1), "must lie in [0, 1]; 0 turns it off."),
    (AugmentConfig, "data.augment", "randaugment_ops", (-1,), "must not be negative; 0 turns it off."),
    (AugmentConfig, "data.augment", "randaugment_magnitude", (-0.1, 10.5), "must lie in [0, 10]."),
    (DataConfig, "data", "channels", (0, 2, 4), "must be 1 (grayscale) or 3 (colour)."),
    (DataConfig, "data", "eval_crop", (0.0, 1.1), "must lie in (0, 1]."),
    (DataConfig, "data", "max_corrupt_fraction", (-0.1, 1.1), "is a share: it must lie in [0, 1]."),
]
REFUSED += [
    (config, {name: value}, f"{prefix}.{name} ({value}) {rule}")
    for config, prefix, name, values, rule in RANGES
    for value in values
]


@pytest.mark.parametrize(("config", "values", "message"), REFUSED, ids=[message for _, _, message in REFUSED])
def test_a_bad_value_raises_one_line(config: type, values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        config(**values)
    assert str(raised.value) == message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("config", "values"),
    [
        (ShapesConfig, {"size": 8, "count": 20, "quality": 1, "seed": 0, "imbalance": 1.0}),
        (ShapesConfig, {"quality": 100, "outliers": 0.999, "label_noise": 0.0, "corrupt": 0.5}),
        (AugmentConfig, {"pad_crop": 0, "random_resized_crop": 0.999, "flip": 1.0, "brightness": 1.0, "contrast": 1.0}),
        (AugmentConfig, {"rotation": 180.0, "hue": 0.5, "posterize": 7, "noise": 255.0, "cutout": 1.0, "zoom": 1.0}),
        (AugmentConfig, {"randaugment_ops": 3, "randaugment_magnitude": 10.0}),
        (DataConfig, {"image_size": 1, "channels": 1, "batch_size": 1, "eval_crop": 1.0, "max_corrupt_fraction": 0.0}),
        (DataConfig, {"max_corrupt_fraction": 1.0, "eval_crop": 0.01, "shuffle_buffer": 1, "ram_budget_mb": 16}),
        (DataConfig, {"image_size": 9, "augment": AugmentConfig(pad_crop=8), "reader": "streaming"}),
    ],
)
def test_values_at_the_limits_are_accepted(config: type, values: dict[str, Any]) -> None:
    instance = config(**values)
    assert {name: getattr(instance, name) for name in values} == values


@pytest.mark.parametrize(
    ("config", "name"),
    [(config, field.name) for config in CONFIGS for field in dataclasses.fields(config) if field.type == "float"],
)
def test_nan_is_refused(config: type, name: str) -> None:
    with pytest.raises(UsageError, match=rf"{name} \(nan\) "):
        config(**{name: math.nan})


@pytest.mark.parametrize("config", CONFIGS)
def test_a_config_is_frozen_and_can_be_replaced(config: type) -> None:
    instance = config()
    for field in dataclasses.fields(config):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(instance, field.name, getattr(instance, field.name))
    assert dataclasses.replace(instance) == instance
    assert hash(dataclasses.replace(instance)) == hash(instance)


def test_an_unknown_reader_is_refused_with_a_suggestion() -> None:
    message = r"^data\.reader \('maped'\) must be one of auto, mapped, streaming\. Did you mean 'mapped'\?$"
    with pytest.raises(UsageError, match=message):
        DataConfig(reader="maped")


def test_a_border_as_wide_as_the_image_is_refused() -> None:
    with pytest.raises(UsageError) as raised:
        DataConfig(image_size=8, augment=AugmentConfig(pad_crop=8))
    assert str(raised.value) == (
        "data.augment.pad_crop (8) must be smaller than data.image_size (8):"
        " a reflected border cannot be wider than the image."
    )


@pytest.mark.parametrize("name", ["saturation", "hue"])
def test_colour_augmentations_of_gray_images_are_refused(name: str) -> None:
    assert DataConfig(augment=AugmentConfig(**{name: 0.5})).channels == 3
    with pytest.raises(UsageError) as raised:
        DataConfig(channels=1, augment=AugmentConfig(**{name: 0.5}))
    assert str(raised.value) == (
        f"data.augment.{name} (0.5) needs colour, but data.channels is 1: set data.augment.{name} to 0, or"
        " data.channels to 3."
    )


def test_replace_checks_the_new_values() -> None:
    with pytest.raises(UsageError, match=r"data\.batch_size \(0\)"):
        dataclasses.replace(DataConfig(), batch_size=0)


@pytest.mark.parametrize("config", CONFIGS)
def test_every_option_has_a_help_text(config: type) -> None:
    for field in dataclasses.fields(config):
        if not dataclasses.is_dataclass(getattr(config(), field.name)):
            assert field.metadata["help"], field.name


@pytest.mark.parametrize(
    ("given", "kept", "shape"),
    [(96, 96, (96, 96)), ("096", 96, (96, 96)), ("96x96", 96, (96, 96)), ("224x160", "224x160", (224, 160))],
)
def test_an_image_size_is_a_side_or_height_and_width(given: int | str, kept: int | str, shape: tuple[int, int]) -> None:
    config = DataConfig(image_size=given)
    assert config.image_size == kept
    assert config.image_shape == shape


@pytest.mark.parametrize("size", ["0x9", "9x0", "-3", "9x", "x9", "9X9", "9x9x3", "", "1.5"])
def test_other_image_sizes_are_refused(size: str) -> None:
    with pytest.raises(UsageError, match=r"must be the side of a square in pixels, such as 224, or HEIGHTxWIDTH"):
        DataConfig(image_size=size)


def test_a_usage_error_is_a_value_error() -> None:
    assert issubclass(UsageError, ValueError)


def test_require_raises_its_message_unless_the_condition_holds() -> None:
    require(True, "never seen")
    with pytest.raises(UsageError, match="seen"):
        require(False, "seen")


def test_one_of_suggests_the_nearest_value() -> None:
    one_of("fruit", "apple", ("apple", "pear"))
    with pytest.raises(UsageError, match=r"^fruit \('aple'\) must be one of apple, pear\. Did you mean 'apple'\?$"):
        one_of("fruit", "aple", ("apple", "pear"))
    with pytest.raises(UsageError, match=r"^fruit \('xyz'\) must be one of apple, pear\.$"):
        one_of("fruit", "xyz", ("apple", "pear"))
