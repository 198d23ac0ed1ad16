"""Configuration of the input pipeline, without importing TensorFlow.

    config = DataConfig(source="/data/pets", image_size=64, augment=AugmentConfig(flip=0.5))

Every dataclass is frozen and checks itself: a bad value raises `UsageError` with one line of value, rule and remedy.
"""

from __future__ import annotations

import dataclasses
import re
from typing import NamedTuple

from evenkeel.pipeline.errors import UsageError, one_of, require
from evenkeel.pipeline.options import option


@dataclasses.dataclass(frozen=True)
class ShapesConfig:
    """The built-in data set `shapes`: rendered, labelled JPEGs; its training split can be corrupted on purpose.

    Example:

        config = evenkeel.DataConfig(source="shapes", shapes=evenkeel.ShapesConfig(count=1000, label_noise=0.1))
    """

    size: int = option(32, "side of a rendered image in pixels")
    count: int = option(6000, "rendered training images; the validation split has a fifth as many")
    quality: int = option(90, "JPEG quality, 1 to 100")
    seed: int = option(0, "seed of the rendered images")
    outliers: float = option(0.0, "share of training images replaced by all-black, all-white or noise")
    label_noise: float = option(0.0, "share of training images with a wrong label, all wrong classes equally likely")
    unnormalised: float = option(0.0, "share of training images stored on a scale 16 times too dark")
    imbalance: float = option(1.0, "ratio of the most common to the rarest class; class sizes are a geometric series")
    corrupt: float = option(0.0, "share of training files that are truncated and do not decode")

    def __post_init__(self) -> None:
        require(self.size >= 8, f"data.shapes.size ({self.size}) must be at least 8 pixels.")
        require(self.count >= 20, f"data.shapes.count ({self.count}) must be at least 20, two images a class.")
        require(1 <= self.quality <= 100, f"data.shapes.quality ({self.quality}) must be from 1 to 100.")
        require(self.seed >= 0, f"data.shapes.seed ({self.seed}) must not be negative.")
        require(self.imbalance >= 1, f"data.shapes.imbalance ({self.imbalance}) must be at least 1 (1 is balanced).")
        for name in ("outliers", "label_noise", "unnormalised", "corrupt"):
            value = getattr(self, name)
            require(0 <= value < 1, f"data.shapes.{name} ({value}) is a share: it must lie in [0, 1).")


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """Strengths of the training augmentations; 0 turns an augmentation off.

    Example:

        config = evenkeel.DataConfig(augment=evenkeel.AugmentConfig(flip=0.5, pad_crop=4))
    """

    pad_crop: int = option(0, "pixels of a reflected border, from which a random crop of the image size is taken")
    random_resized_crop: float = option(
        0.0,
        "crop a random area, at least 1 - this of the image, aspect ratio 3:4 to 4:3, and resize it (usual for"
        " ImageNet: 0.92)",
    )
    flip: float = option(0.0, "probability of a left-right flip")
    rotation: float = option(0.0, "largest angle of rotation, in degrees; borders are reflected")
    translation: float = option(0.0, "largest shift, as a fraction of the side")
    shear: float = option(0.0, "largest shear along either axis, as shift per distance")
    zoom: float = option(0.0, "largest zoom: scale factors are 1 / (1 + this) to 1 + this")
    brightness: float = option(0.0, "largest change of brightness, as a fraction of the full range")
    contrast: float = option(0.0, "largest relative change of contrast around the image's own mean")
    saturation: float = option(0.0, "largest relative change of saturation")
    hue: float = option(0.0, "largest rotation of the hue, in turns: 0.5 reaches every hue")
    sharpness: float = option(
        0.0, "largest change of sharpness: blends with a smoothed image (blurs) or away from it (sharpens)"
    )
    equalize: float = option(0.0, "probability of equalizing each channel's histogram")
    posterize: int = option(0, "largest number of low bits that are cleared in every value")
    noise: float = option(0.0, "standard deviation of Gaussian noise on every value, in levels of 0 to 255")
    cutout: float = option(0.0, "side of a gray square, as a fraction of the shorter side of the image")
    randaugment_ops: int = option(0, "RandAugment: operations drawn for each image (usual for ImageNet: 2)")
    randaugment_magnitude: float = option(9.0, "RandAugment: strength of its operations, 0 to 10")

    def __post_init__(self) -> None:
        require(self.pad_crop >= 0, f"data.augment.pad_crop ({self.pad_crop}) must not be negative; 0 turns it off.")
        require(
            0 <= self.random_resized_crop < 1,
            f"data.augment.random_resized_crop ({self.random_resized_crop}) must lie in [0, 1); 0 turns it off.",
        )
        require(
            self.randaugment_ops >= 0,
            f"data.augment.randaugment_ops ({self.randaugment_ops}) must not be negative; 0 turns it off.",
        )
        require(
            0 <= self.randaugment_magnitude <= 10,
            f"data.augment.randaugment_magnitude ({self.randaugment_magnitude}) must lie in [0, 10].",
        )
        upper_limits = {"rotation": 180, "hue": 0.5, "posterize": 7, "noise": 255}
        for field in dataclasses.fields(self):
            if field.name in ("pad_crop", "random_resized_crop", "randaugment_ops", "randaugment_magnitude"):
                continue
            value, largest = getattr(self, field.name), upper_limits.get(field.name, 1)
            require(
                0 <= value <= largest,
                f"data.augment.{field.name} ({value}) must lie in [0, {largest}]; 0 turns it off.",
            )


VIEWS = ("center", "stretch", "pad")
READERS = ("auto", "mapped", "streaming")
SHARDINGS = ("dynamic", "static", "off")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The source of the images, and how they become batches.

        config = evenkeel.DataConfig(source="photos", image_size=96, batch_size=64)

    The defaults suit images of 32 pixels.
    """

    source: str = option("shapes", "shapes | tfds:NAME[/CONFIG][:VERSION] | a TFDS directory | a folder of images")
    data_dir: str = option("", "directory in which tfds:NAME is prepared; default ~/tensorflow_datasets")
    train_split: str = option("train", "training split, in TFDS syntax: train[:90%]")
    validation_split: str = option(
        "", "validation split; default: the split named validation, val, valid, dev or eval, else test, else a holdout"
    )
    holdout: float = option(
        0.1, "share of each class that is held out for validation if there is no split for it; at least one image each"
    )
    fold: str = option("", "K/N: validate on part K of N equal parts of the training split, for cross-validation")
    group: str = option(
        "",
        "regular expression for image names, such as '(patient[0-9]+)_': images in which it finds the same text are"
        " never divided between training and validation",
    )
    image_size: int | str = option(
        32, "size of the images that the model sees, in pixels: the side of a square, or HEIGHTxWIDTH such as 224x160"
    )
    view: str = option(
        "center",
        "what evaluation, and training without random resized crops, show of an image whose proportions differ from"
        " image_size: center (cut the rest off) | stretch | pad (with data.background)",
    )
    background: str = option("white", "colour behind transparent pixels: white, black, gray or R,G,B")
    channels: int = option(3, "3 for colour, 1 for grayscale; images are converted")
    batch_size: int = option(128, "global batch size, over all replicas")
    balance: str = option(
        "none", "sampling of training images: none (each once per epoch) | classes (every class equally often)"
    )
    drop: str = option(
        "",
        "training images to drop: outliers, duplicates (copies of each other or of validation or test images, also"
        " scaled, re-encoded or mirrored ones), a file of image names, or several of them, comma-separated",
    )
    eval_crop: float = option(1.0, "evaluation crops this fraction of both sides of the view, around its center")
    normalize: bool = option(True, "subtract the training split's channel mean, divide by its standard deviation")
    standardize: bool = option(
        False,
        "normalize each image by its own mean and standard deviation instead: for images whose brightness and contrast"
        " carry no information",
    )
    max_corrupt_fraction: float = option(0.01, "stop if a larger share of a split cannot be decoded")
    max_pixels: int = option(100_000_000, "images with more pixels than this are never decoded; they count as corrupt")
    cache: str = option(
        "auto",
        "none | memory: cache decoded images | auto: cache small images if they fit | raw:SIDE or jpeg:SIDE:QUALITY:"
        " prepare that storage tier on disk, once",
    )
    cache_budget_mb: int = option(0, "largest memory for cached images, in MiB; 0 is half of the free memory")
    reader: str = option(
        "auto",
        "mapped: memory-mapped shards, exact shuffle | streaming: shuffle buffer | auto: mapped if shards are local",
    )
    shuffle_buffer: int = option(8192, "encoded images in the shuffle buffer of the streaming reader")
    entries: bool = option(
        False,
        "build an index of positions inside the JPEGs, once, so that only the part under a crop is decoded: worth it"
        " from about 30 epochs on",
    )
    service: str = option(
        "", "grpc://HOST:PORT of a tf.data service dispatcher (evenkeel data-service), whose workers make the batches"
    )
    service_sharding: str = option(
        "dynamic",
        "how the workers of the service divide the training batches: dynamic: each batch once, lost if its worker dies"
        " | static: a fixed part for each worker in the dispatcher's list, repeated if that worker restarts | off: each"
        " worker gives all images, in its own order",
    )
    service_timeout: float = option(60.0, "seconds to wait for the dispatcher of the service and its first worker")
    threads: int = option(0, "threads in the private pool of the pipeline; 0 is one per core")
    ram_budget_mb: int = option(512, "largest memory that tf.data's autotuning may use for buffers, in MiB")
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
    shapes: ShapesConfig = dataclasses.field(default_factory=ShapesConfig)

    def __post_init__(self) -> None:
        require(bool(self.source), "data.source is empty: give shapes, tfds:NAME or a directory.")
        require(0 < self.holdout < 1, f"data.holdout ({self.holdout}) is a share: it must lie in (0, 1), such as 0.1.")
        _check_fold(self.fold)
        _check_group(self.group)
        object.__setattr__(self, "image_size", _parse_image_size(self.image_size))
        one_of("data.view", self.view, VIEWS)
        parse_color("data.background", self.background)
        require(self.channels in (1, 3), f"data.channels ({self.channels}) must be 1 (grayscale) or 3 (colour).")
        require(self.batch_size >= 1, f"data.batch_size ({self.batch_size}) must be at least 1.")
        one_of("data.balance", self.balance, ("none", "classes"))
        require(0 < self.eval_crop <= 1, f"data.eval_crop ({self.eval_crop}) must lie in (0, 1].")
        require(
            0 <= self.max_corrupt_fraction <= 1,
            f"data.max_corrupt_fraction ({self.max_corrupt_fraction}) is a share: it must lie in [0, 1].",
        )
        require(self.max_pixels >= 1, f"data.max_pixels ({self.max_pixels}) must be at least 1.")
        one_of("data.reader", self.reader, READERS)
        require(
            not (self.entries and (self.service or self.reader == "streaming")),
            "data.entries needs memory-mapped shards, but data.service or data.reader=streaming streams them: use"
            " --data.entries=false.",
        )
        if ":" in self.cache:
            parse_tier(self.cache)
        else:
            one_of("data.cache", self.cache, ("none", "memory", "auto", "jpeg:SIDE:QUALITY", "raw:SIDE"))
        require(self.cache_budget_mb >= 0, f"data.cache_budget_mb ({self.cache_budget_mb}) must not be negative.")
        require(self.shuffle_buffer >= 1, f"data.shuffle_buffer ({self.shuffle_buffer}) must be at least 1.")
        one_of("data.service_sharding", self.service_sharding, SHARDINGS)
        require(self.service_timeout > 0, f"data.service_timeout ({self.service_timeout}) must be positive.")
        if self.service:
            require(
                re.fullmatch(r"grpc://[^/:]+:[0-9]+", self.service) is not None,
                f"data.service ({self.service}) must be written grpc://HOST:PORT, as the dispatcher prints it.",
            )
            require(
                self.reader != "mapped",
                "data.reader=mapped cannot be combined with data.service: mapped memory cannot be sent to workers; use"
                " data.reader=auto.",
            )
            require(
                self.cache != "memory",
                "data.cache=memory cannot be combined with data.service: the workers of the service do not share a"
                " cache; use data.cache=none.",
            )
        require(self.threads >= 0, f"data.threads ({self.threads}) must not be negative; 0 is one per core.")
        require(self.ram_budget_mb >= 16, f"data.ram_budget_mb ({self.ram_budget_mb}) must be at least 16.")
        require(
            self.augment.pad_crop < min(self.image_shape),
            f"data.augment.pad_crop ({self.augment.pad_crop}) must be smaller than data.image_size"
            f" ({self.image_size}): a reflected border cannot be wider than the image.",
        )
        for name in ("saturation", "hue"):
            value = getattr(self.augment, name)
            require(
                value == 0 or self.channels == 3,
                f"data.augment.{name} ({value}) needs colour, but data.channels is {self.channels}: set"
                f" data.augment.{name} to 0, or data.channels to 3.",
            )

    @property
    def image_shape(self) -> tuple[int, int]:
        """(height, width) of the images that the model sees, in pixels."""
        height, _, width = str(self.image_size).partition("x")
        return int(height), int(width or height)


def _parse_image_size(size: int | str) -> int | str:
    """The side of a square as a number, other sizes as HEIGHTxWIDTH."""
    match = re.fullmatch(r"0*([1-9][0-9]*)(?:x0*([1-9][0-9]*))?", str(size))
    require(
        match is not None,
        f"data.image_size ({size}) must be the side of a square in pixels, such as 224, or HEIGHTxWIDTH,"
        " such as 224x160.",
    )
    assert match is not None
    height, width = match[1], match[2] or match[1]
    return int(height) if height == width else f"{height}x{width}"


COLORS = {"white": (255, 255, 255), "black": (0, 0, 0), "gray": (128, 128, 128)}


def parse_color(name: str, text: str) -> tuple[int, int, int]:
    """Parses the value of the option `name`: a name of `COLORS`, or R,G,B. Raises `UsageError` for any other text."""
    parts = text.split(",")
    numbers = tuple(int(part) for part in parts if part.strip().isdecimal())
    require(
        text in COLORS or (len(parts) == len(numbers) == 3 and max(numbers) <= 255),
        f"{name} ({text}) must be white, black, gray, or red, green and blue from 0 to 255, such as 255,240,200.",
    )
    return COLORS.get(text) or (numbers[0], numbers[1], numbers[2])


def _check_fold(fold: str) -> None:
    if fold:
        match = re.fullmatch(r"([0-9]+)/([0-9]+)", fold)
        ok = match is not None and 1 <= int(match[1]) <= int(match[2]) and int(match[2]) >= 2
        require(ok, f"data.fold ({fold}) must be K/N with K from 1 to N and N at least 2, such as 1/5.")


def _check_group(group: str) -> None:
    try:
        re.compile(group)
    except re.error as error:
        raise UsageError(f"data.group ({group}) is not a regular expression: {error}.") from error


class Tier(NamedTuple):
    """A storage tier: how prepared images are stored.

    Attributes:
      kind: `jpeg` or `raw` (pixels).
      side: limit of the side that `PrepareConfig.bound` names, in pixels; 0 keeps files as they are. No image is
        enlarged.
      quality: JPEG quality, 1 to 100; 0 if images are not re-encoded.
    """

    kind: str
    side: int = 0
    quality: int = 0


def parse_tier(text: str) -> Tier:
    """Parses `jpeg`, `jpeg:SIDE:QUALITY` or `raw:SIDE`. Raises `UsageError` for any other text."""
    kind, *numbers = text.split(":")
    number_counts = {"jpeg": (0, 2), "raw": (1,)}
    require(
        kind in number_counts and len(numbers) in number_counts[kind] and all(number.isdecimal() for number in numbers),
        f"tier ({text!r}) must be jpeg (files as they are), jpeg:SIDE:QUALITY such as jpeg:256:90, or raw:SIDE.",
    )
    tier = Tier(kind, *map(int, numbers))
    require(not numbers or tier.side >= 1, f"tier ({text!r}): the side must be at least 1 pixel.")
    require(len(numbers) != 2 or 1 <= tier.quality <= 100, f"tier ({text!r}): the quality must be from 1 to 100.")
    return tier


@dataclasses.dataclass(frozen=True)
class PrepareConfig:
    """What `evenkeel prepare` reads, how it stores the images, and what it checks."""

    source: str = option("shapes", "shapes | tfds:NAME[/CONFIG][:VERSION] | a TFDS directory | a folder of images")
    data_dir: str = option("", "directory in which tfds:NAME is prepared; default ~/tensorflow_datasets")
    tier: str = option(
        "jpeg",
        "jpeg (files as they are; WebP and GIF as PNG) | jpeg:SIDE:QUALITY (re-encoded) | raw:SIDE (decoded pixels)",
    )
    background: str = option("white", "colour behind transparent pixels: white, black, gray or R,G,B")
    bound: str = option("shorter", "the side that SIDE limits: shorter | longer; images are never enlarged")
    shard_mb: int = option(128, "size of a shard, in MiB; every split has at least one")
    shards: int = option(0, "number of shards of each split instead; 0 derives it from shard_mb")
    seed: int = option(0, "seed of the order in which images are stored")
    max_pixels: int = option(100_000_000, "images with more pixels than this are never decoded; they are left out")
    max_corrupt_fraction: float = option(0.01, "stop if a larger share of the images must be left out")
    outliers: str = option(
        "flag", "keep | flag (list them in outliers.csv and outliers.png) | drop (also leave them out of training)"
    )
    max_outlier_fraction: float = option(
        0.05, "outliers=drop: refuse if a larger share of the training images would be dropped"
    )
    schema: str = option("", "schema.pbtxt to check against; default: inferred from the training split")
    severity: str = option("error", "lowest severity of an anomaly that ends with exit code 4: warning | error")
    previous: str = option("", "directory prepared earlier, for a report on drift")
    threads: int = option(0, "images processed in parallel; 0 is one per core")
    shapes: ShapesConfig = dataclasses.field(default_factory=ShapesConfig)

    def __post_init__(self) -> None:
        require(bool(self.source), "source is empty: give shapes, tfds:NAME or a directory.")
        parse_tier(self.tier)
        parse_color("background", self.background)
        one_of("bound", self.bound, ("shorter", "longer"))
        require(self.shard_mb >= 1, f"shard_mb ({self.shard_mb}) must be at least 1.")
        require(self.shards >= 0, f"shards ({self.shards}) must not be negative; 0 derives it from shard_mb.")
        require(self.seed >= 0, f"seed ({self.seed}) must not be negative.")
        require(self.max_pixels >= 1, f"max_pixels ({self.max_pixels}) must be at least 1.")
        for name in ("max_corrupt_fraction", "max_outlier_fraction"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"{name} ({value}) is a share: it must lie in [0, 1].")
        one_of("outliers", self.outliers, ("keep", "flag", "drop"))
        one_of("severity", self.severity, ("warning", "error"))
        require(self.threads >= 0, f"threads ({self.threads}) must not be negative; 0 is one per core.")
