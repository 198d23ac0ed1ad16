"""A name, a prepared directory or a folder of images -> a TFDS data set whose shards lie ready.

builder = resolve(DataConfig(source="/data/pets"))
builder.info.splits
"""

from __future__ import annotations

import collections
import contextlib
import hashlib
import os
import sys
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
import tensorflow_datasets as tfds
from absl import logging
from google.protobuf.json_format import ParseError

from evenkeel.pipeline.config import DataConfig
from evenkeel.pipeline.errors import UsageError
from evenkeel.pipeline.sources.fingerprint import fingerprint_files
from evenkeel.pipeline.sources.prepare_once import prepare_once

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
VALIDATION_NAMES = ("validation", "test", "valid", "val")
HELD_OUT = 10  # a folder without splits holds out one image in ten, by the hash of its name


def cache_dir() -> str:
    """Where prepared data is kept: $EVENKEEL_CACHE, else `evenkeel` in the user's cache directory."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.environ.get("EVENKEEL_CACHE") or os.path.join(home, "evenkeel")


def resolve(config: DataConfig) -> Any:
    """The TFDS builder of `config.source`, prepared.

    Raises:
      UsageError: there is no such source, it cannot be prepared, or it holds no images.
    """
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    source = config.source
    if source == "shapes":
        from evenkeel.pipeline.sources import shapes

        return tfds.builder_from_directory(shapes.prepare(config.shapes, cache_dir()))
    if source.startswith("tfds:"):
        return _from_catalogue(source.removeprefix("tfds:"), config.data_dir)
    if not tf.io.gfile.isdir(source):
        raise UsageError(
            f"data.source ({source}) is neither shapes, nor tfds:NAME, nor an existing directory: check the spelling."
        )
    with told_in_one_line(source):
        if tf.io.gfile.exists(os.path.join(source, "dataset_info.json")):
            return tfds.builder_from_directory(source)
        return _from_folder(source)


def files_of_folder(source: str) -> dict[str, list[str]] | None:
    """What `scan` finds in a source that is a folder of images; None for any other source."""
    if source == "shapes" or source.startswith("tfds:") or not tf.io.gfile.isdir(source):
        return None
    return None if tf.io.gfile.exists(os.path.join(source, "dataset_info.json")) else scan(source)


@contextlib.contextmanager
def told_in_one_line(source: str) -> Iterator[None]:
    """What goes wrong with a user's files inside becomes a `UsageError`."""
    try:
        yield
    except UsageError:
        raise
    except (OSError, ValueError, ParseError, tf.errors.OpError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"data.source ({source}) cannot be used: {reason[:300]}; mend or remove that.") from error


def _from_catalogue(name: str, data_dir: str) -> Any:
    try:
        builder = tfds.builder(name, data_dir=data_dir or None)
        prepare_once(builder)
        return tfds.builder_from_directory(str(builder.data_dir))
    except (tfds.core.registered.DatasetNotFoundError, ValueError, AssertionError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"data.source (tfds:{name}) cannot be opened: {reason[:300]}") from error
    except (OSError, tfds.download.DownloadError, tf.errors.OpError) as error:
        raise UsageError(
            f"data.source (tfds:{name}) could not be downloaded and prepared ({type(error).__name__}: {error}):"
            " check the network, or prepare it elsewhere and pass its directory."
        ) from error


def validation_split(builder: Any, config: DataConfig) -> str:
    """The split to evaluate on: the flag's, or the data set's own by its usual names.

    Raises:
      UsageError: there is none of these names.
    """
    if config.validation_split:
        return config.validation_split
    for name in VALIDATION_NAMES:
        if name in builder.info.splits:
            return name
    raise UsageError(
        f"{builder.info.full_name} has only the splits {', '.join(builder.info.splits)}: say what to hold out,"
        " for example --data.train_split=train[:90%] --data.validation_split=train[90%:]."
    )


def _from_folder(root: str) -> Any:
    """A folder SPLIT/CLASS/IMAGE or CLASS/IMAGE, written once as a TFDS directory into the cache."""
    files = scan(root)
    builder = ImageFolders(
        root=root, files=files, data_dir=os.path.join(cache_dir(), "folders", _folder_state(root, files))
    )
    prepare_once(builder)
    return tfds.builder_from_directory(str(builder.data_dir))


def state(config: DataConfig) -> str:
    """A name for what `config.source` holds now: another one once a file of it is added, removed or changed."""
    files = files_of_folder(config.source)
    if files:
        return _folder_state(config.source, files)
    splits = resolve(config).info.splits.values()
    return fingerprint_files(config.source, [str(path) for info in splits for path in info.filepaths])


def _folder_state(root: str, files: dict[str, list[str]]) -> str:
    return fingerprint_files(
        repr([root, files]), [os.path.join(root, path) for paths in files.values() for path in paths]
    )


def scan(root: str) -> dict[str, list[str]]:
    """{split: sorted paths of its images, CLASS/NAME or SPLIT/CLASS/NAME, relative to `root`}.

    Raises:
      UsageError: no images, images at both depths, or fewer than two classes.
    """
    by_depth: dict[int, list[str]] = collections.defaultdict(list)
    others: list[str] = []
    empty: list[str] = []
    for directory, within, names in tf.io.gfile.walk(root):
        relative = os.path.relpath(directory, root)
        parts = [] if relative == "." else relative.split(os.sep)
        if parts and not within and not names:
            empty.append(relative)
        for name in names:
            if any(part.startswith(".") for part in [*parts, name]):
                continue
            if name.lower().endswith(ENDINGS) and len(parts) in (1, 2):
                by_depth[len(parts)].append("/".join([*parts, name]))
            else:
                others.append("/".join([*parts, name]))
    if not by_depth:
        raise UsageError(
            f"data.source ({root}) holds no images: it needs SPLIT/CLASS/IMAGE or CLASS/IMAGE with IMAGE ending in"
            f" {', '.join(ENDINGS)}."
        )
    if len(by_depth) == 2:
        raise UsageError(
            f"data.source ({root}) has images both as CLASS/IMAGE ({by_depth[1][0]}) and as SPLIT/CLASS/IMAGE"
            f" ({by_depth[2][0]}): keep one of the two."
        )
    if others:
        logging.warning(
            "%d files of %s are no CLASS/IMAGE by place and ending, the first %s", len(others), root, others[0]
        )
    if empty:
        logging.warning("%d folders of %s are empty, and no class, the first %s", len(empty), root, empty[0])
    depth, paths = next(iter(by_depth.items()))
    files: dict[str, list[str]] = collections.defaultdict(list)
    for path in sorted(paths):
        if depth == 2:
            files[path.split("/")[0]].append(path)
        else:
            held_out = int.from_bytes(
                hashlib.blake2b(path.encode(errors="surrogateescape"), digest_size=8).digest(), "big"
            )
            files["validation" if held_out % HELD_OUT == 0 else "train"].append(path)
    classes = class_names(files)
    if len(classes) < 2:
        raise UsageError(f"data.source ({root}) has one class only ({classes[0]}): classification needs at least two.")
    return dict(files)


def class_names(files: dict[str, list[str]]) -> list[str]:
    return sorted({path.split("/")[-2] for paths in files.values() for path in paths})


class ImageFolders(tfds.core.GeneratorBasedBuilder):
    """Image files as they are, byte for byte, in TFRecord shards."""

    VERSION = tfds.core.Version("1.0.0")
    name = "folder"
    pkg_dir_path = None

    def __init__(self, *, root: str, files: dict[str, list[str]], **kwargs) -> None:
        self._root, self._files = root, files
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(),
            "label": tfds.features.ClassLabel(names=class_names(self._files)),
            "filename": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"Images of {self._root}",
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        return {split: self._generate_examples(split) for split in self._files}

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        for path in self._files[split]:
            with tf.io.gfile.GFile(os.path.join(self._root, path), "rb") as file:
                yield path, {"image": file.read(), "label": path.split("/")[-2], "filename": path}
