"""Mutated image files through preparing and training: nothing crashes or hangs, and each bad one is named."""

from __future__ import annotations

import csv
import json
import pathlib
import subprocess
import sys

import pytest
import tensorflow as tf

from evenkeel.pipeline.images.header import read_header
from tests import mutations

ROOT = pathlib.Path(__file__).parents[2]
# A process of its own, whose memory is its own: {"rss": MiB before and at most, "skipped": names by training's index}.
CHILD = """
import json, resource, sys
from pipeline.build import training_batches, evaluation_batches
from pipeline.dataset import open_data
from pipeline.config import AugmentConfig, DataConfig, PrepareConfig
from pipeline.index.shuffle import Share
from pipeline.prepare.prepare import prepare
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
source, output, tier = sys.argv[1:]
before = peak()
prepare(PrepareConfig(source=source, tier=tier, max_corrupt_fraction=1.0, threads=2), output)
config = DataConfig(source=source, validation_split="test", max_corrupt_fraction=1.0, image_size=16, batch_size=10,
                    augment=AugmentConfig(random_resized_crop=0.9), threads=2)
data, share = open_data(config), Share(10)
for _ in training_batches(data, config, 0, share).take(len(data.train) // 10 + 1):
    pass
for _ in evaluation_batches(data.validation, config, share):
    pass
skipped = [line.split(": ")[1] for line in data.skipped]
print("\\n" + json.dumps({"rss": [before, peak()], "skipped": skipped}))
"""


def fuzzed(root: pathlib.Path, seeds: range, tier: str, timeout: int) -> tuple[dict[str, bytes], dict[str, str], dict]:
    """The files, {name: reason} of those that preparing left out, and what the child said at its end."""
    files = mutations.folder(root / "source", seeds)
    command = [sys.executable, "-c", CHILD, str(root / "source"), str(root / "out"), tier]
    environment = {"EVENKEEL_CACHE": str(root / "cache"), "PATH": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=timeout)
    assert done.returncode == 0, done.stderr[-2000:]
    with open(root / "out/quarantine.csv", newline="") as file:
        named = {line["file"]: line["reason"] for line in csv.DictReader(file)}
    return files, named, json.loads(done.stdout.splitlines()[-1])


def undecodable(contents: bytes) -> bool:
    header = read_header(contents)
    if header is None or header.refusal or header.pixels > 100_000_000:
        return True
    try:
        tf.io.decode_image(contents, expand_animations=False)
    except tf.errors.InvalidArgumentError:
        return True
    return False


def check(root: pathlib.Path, seeds: range, tier: str, timeout: int) -> None:
    files, named, said = fuzzed(root, seeds, tier, timeout)
    bad = {name for name, contents in files.items() if undecodable(contents)}
    assert set(named) == set(said["skipped"]) == bad
    assert all(named.values())
    assert not [name for name in named if "good" in name]
    before, most = said["rss"]
    # Two threads, each with an image of 100 million pixels at most: its 300 MB, and again as much twice while a
    # progressive JPEG is put together.
    assert most - before < 2 * 900 + 200


@pytest.mark.slow
def test_mutated_files_are_survived_and_each_bad_one_is_named(tmp_path: pathlib.Path) -> None:
    check(tmp_path, range(90), "jpeg:24:90", timeout=300)


@pytest.mark.slow
@pytest.mark.parametrize(("tier", "seeds"), [("jpeg", range(10_000, 11_000)), ("raw:24", range(11_000, 12_000))])
def test_two_thousand_mutated_files(tmp_path: pathlib.Path, tier: str, seeds: range) -> None:
    check(tmp_path, seeds, tier, timeout=1200)
