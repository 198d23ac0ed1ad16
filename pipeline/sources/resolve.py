"""Resolves `data.source`: a name or a TFDS directory becomes a TFDS builder, prepared. See folder_store for folders.

builder = resolve(DataConfig(source="tfds:cifar10"))
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
from evenkeel.pipeline.sources.cache_dir import cache_dir, cache_errors
from evenkeel.pipeline.sources.cache_entries import use_entry
from evenkeel.pipeline.sources.fingerprint import fingerprint_files
from evenkeel.pipeline.sources.image_folder import folder_fingerprint, list_folder
from evenkeel.pipeline.sources.prepare_once import prepare_once


def resolve(config: DataConfig) -> Any:
    """The TFDS builder of `config.source`, which is no folder of images, downloaded or prepared if necessary.

    Raises:
      UsageError: the source does not exist, cannot be prepared, or contains no images.
    """
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    source = config.source
    if source == "shapes":
        from evenkeel.pipeline.sources import shapes

        with cache_errors():
            directory = shapes.prepare(config.shapes, cache_dir())
            use_entry(os.path.dirname(directory), source)
        return tfds.builder_from_directory(directory)
    if source.startswith("tfds:"):
        return _open_catalogue(source.removeprefix("tfds:"), config.data_dir)
    if not tf.io.gfile.isdir(source):
        raise UsageError(
            f"data.source ({source}) is neither shapes, nor tfds:NAME, nor an existing directory: check the spelling."
        )
    with convert_errors(source):
        return tfds.builder_from_directory(source)


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
