"""One case of `first_start`: imports a library, then opens a folder of images and reads a batch.

    python -m benchmarks.speed.first_start_case keras /data/pets 32

The last line of the output is a JSON object: CPU and wall time after the imports, and the largest memory.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable

BATCH = 128


def open_with_evenkeel(root: str, size: int, cache: str = "none") -> Callable[[], object]:
    import tensorflow_datasets  # noqa: F401

    from evenkeel.pipeline.build import training_batches
    from evenkeel.pipeline.config import DataConfig
    from evenkeel.pipeline.dataset import load_dataset
    from evenkeel.pipeline.index.replica_shard import ReplicaShard

    config = DataConfig(source=root, image_size=size, batch_size=BATCH, cache=cache)
    return lambda: next(iter(training_batches(load_dataset(config), config, 0, ReplicaShard(BATCH))))


def open_with_evenkeel_and_cache(root: str, size: int) -> Callable[[], object]:
    return open_with_evenkeel(root, size, "auto")


def open_with_keras(root: str, size: int) -> Callable[[], object]:
    import tf_keras as keras

    read = keras.utils.image_dataset_from_directory
    return lambda: next(iter(read(f"{root}/train", image_size=(size, size), batch_size=BATCH)))


def open_with_tfds(root: str, size: int) -> Callable[[], object]:
    import tensorflow as tf
    import tensorflow_datasets as tfds

    def resize(image: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.image.resize(image, [size, size]), label

    def read() -> object:
        ds = tfds.folder_dataset.ImageFolder(root).as_dataset("train", as_supervised=True, shuffle_files=True)
        return next(iter(ds.map(resize, num_parallel_calls=tf.data.AUTOTUNE).batch(BATCH)))

    return read


def open_with_torchvision(root: str, size: int) -> Callable[[], object]:
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    def read() -> object:
        transform = transforms.Compose([transforms.Resize((size, size)), transforms.ToTensor()])
        return next(iter(DataLoader(datasets.ImageFolder(f"{root}/train", transform), BATCH, shuffle=True)))

    return read


CASES: dict[str, Callable[[str, int], Callable[[], object]]] = {
    "evenkeel": open_with_evenkeel,
    "evenkeel_cached": open_with_evenkeel_and_cache,
    "keras": open_with_keras,
    "tfds": open_with_tfds,
    "torchvision": open_with_torchvision,
}


def cpu_seconds() -> float:
    """CPU time of this process and of its children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def main(case: str, root: str, size: int) -> None:
    read = CASES[case](root, size)
    cpu, wall = cpu_seconds(), time.monotonic()
    read()
    measured = {"cpu_seconds": cpu_seconds() - cpu, "wall_seconds": time.monotonic() - wall}
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(measured | {"peak_mb": memory}), flush=True)
    os._exit(0)  # threads that prefetch would be waited for


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
