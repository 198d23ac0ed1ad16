"""Resolves `data.source`: a name, a TFDS directory or a folder of images becomes a TFDS builder, prepared.

builder = resolve(DataConfig(source="/data/pets"))
builder.info.splits
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
import tensorflow_datasets as tfds
from google.protobuf.json_format import ParseError

from evenkeel.pipeline.config import DataConfig
from evenkeel.pipeline.errors import UsageError
from evenkeel.pipeline.sources.cache_dir import cache_dir
from evenkeel.pipeline.sources.fingerprint import fingerprint_files
from evenkeel.pipeline.sources.image_folder import folder_fingerprint, list_folder, open_folder
from evenkeel.pipeline.sources.prepare_once import prepare_once


def resolve(config: DataConfig) -> Any:
    """The TFDS builder of `config.source`, downloaded or prepared if necessary.

    Raises:
      UsageError: the source does not exist, cannot be prepared, or contains no images.
    """
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    source = config.source
    if source == "shapes":
        from evenkeel.pipeline.sources import shapes

        return tfds.builder_from_directory(shapes.prepare(config.shapes, cache_dir()))
    if source.startswith("tfds:"):
        return _open_catalogue(source.removeprefix("tfds:"), config.data_dir)
    if not tf.io.gfile.isdir(source):
        raise UsageError(
            f"data.source ({source}) is neither shapes, nor tfds:NAME, nor an existing directory: check the spelling."
        )
    with convert_errors(source):
        if tf.io.gfile.exists(os.path.join(source, "dataset_info.json")):
            return tfds.builder_from_directory(source)
        return open_folder(source, config.max_pixels)


def source_fingerprint(config: DataConfig) -> str:
    """16 hex digits for the contents of `config.source`, which change when a file is added, removed or changed."""
    files = list_folder(config.source)
    if files:
        return folder_fingerprint(config.source, files)
    splits = resolve(config).info.splits.values()
    return fingerprint_files(config.source, [str(path) for info in splits for path in info.filepaths])


@contextlib.contextmanager
def convert_errors(source: str) -> Iterator[None]:
    """Converts errors about the files of `source`, raised inside the block, into a one-line `UsageError`."""
    try:
        yield
    except UsageError:
        raise
    except (OSError, ValueError, ParseError, tf.errors.OpError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(
            f"data.source ({source}) cannot be used: {reason[:300]}; repair or remove the file named above."
        ) from error


def _open_catalogue(name: str, data_dir: str) -> Any:
    """The builder of a data set in the TFDS catalogue, downloaded and prepared."""
    try:
        builder = tfds.builder(name, data_dir=data_dir or None)
        prepare_once(builder)
        return tfds.builder_from_directory(str(builder.data_dir))
    except (tfds.core.registered.DatasetNotFoundError, ValueError, AssertionError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(
            f"data.source (tfds:{name}) cannot be opened: {reason[:300]}; check the name, or prepare the data set"
            " again."
        ) from error
    except (OSError, tfds.download.DownloadError, tf.errors.OpError) as error:
        raise UsageError(
            f"data.source (tfds:{name}) could not be downloaded and prepared ({type(error).__name__}: {error}):"
            " check the network, or prepare the data set elsewhere and give its directory."
        ) from error
