"""Mutated image files are prepared and trained on: nothing crashes or hangs, and each bad file is named."""

from __future__ import annotations

import csv
import json
import pathlib
import resource

import pytest

from evenkeel.pipeline.build import evaluation_batches, training_batches
from evenkeel.pipeline.config import AugmentConfig, DataConfig, PrepareConfig
from evenkeel.pipeline.dataset import load_dataset
from evenkeel.pipeline.index.replica_shard import ReplicaShard
from evenkeel.pipeline.prepare.prepare import prepare
from tests import forked, mutations
from tests.mutations import unstorable


def read_everything(source: str, output: str, tier: str, max_pixels: str) -> None:
    """Prepares the folder, trains on it and evaluates.

    Runs in a separate process, whose memory is measured. Prints {"rss": [MiB before, peak MiB], "skipped": [names]}:
    what the index of the training data skips.
    """
    before, most = peak_mib(), int(max_pixels)
    prepare(PrepareConfig(source=source, tier=tier, max_corrupt_fraction=1.0, max_pixels=most, threads=2), output)
    config = DataConfig(
        source=source,
        validation_split="test",
        max_corrupt_fraction=1.0,
        max_pixels=most,
        image_size=16,
        batch_size=10,
        augment=AugmentConfig(random_resized_crop=0.9),
        threads=2,
    )
    data, replica_shard = load_dataset(config), ReplicaShard(10)
    for _ in training_batches(data, config, 0, replica_shard).take(len(data.train) // 10 + 1):
        pass
    for _ in evaluation_batches(data.validation, config, replica_shard):
        pass
    skipped = [line.split(": ")[1] for line in data.skipped]
    print("\n" + json.dumps({"rss": [before, peak_mib()], "skipped": skipped}), flush=True)


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def prepare_and_train(
    root: pathlib.Path, seeds: range, tier: str, max_pixels: int
) -> tuple[dict[str, bytes], dict[str, str], dict]:
    """Returns the files, {name: reason} of the files that `prepare` quarantined, and the report of the process."""
    files = mutations.folder(root / "source", seeds)
    arguments = [str(root / "source"), str(root / "out"), tier, str(max_pixels)]
    result = forked.run(read_everything, *arguments, EVENKEEL_CACHE=str(root / "cache"))
    assert result.returncode == 0, result.stderr[-2000:]
    with open(root / "out/quarantine.csv", newline="") as file:
        quarantined = {line["file"]: line["reason"] for line in csv.DictReader(file)}
    return files, quarantined, json.loads(result.stdout.splitlines()[-1])


def check(root: pathlib.Path, seeds: range, tier: str, max_pixels: int) -> None:
    files, quarantined, report = prepare_and_train(root, seeds, tier, max_pixels)
    bad = {name for name, contents in files.items() if unstorable(contents, max_pixels)}
    assert set(quarantined) == set(report["skipped"]) == bad
    assert all(quarantined.values())
    assert not [name for name in quarantined if "good" in name]
    before, peak = report["rss"]
    # Two threads, each with an image of up to 100 million pixels: 300 MB, and twice as much again while a progressive
    # JPEG is assembled.
    assert peak - before < 2 * 900 + 200


@pytest.mark.slow
def test_mutated_files_do_no_harm_and_each_bad_file_is_named(tmp_path: pathlib.Path) -> None:
    check(tmp_path, range(54), "jpeg:24:90", DataConfig.max_pixels)


@pytest.mark.slow
@pytest.mark.parametrize(("tier", "seeds"), [("jpeg", range(10_000, 11_000)), ("raw:24", range(11_000, 12_000))])
def test_two_thousand_mutated_files(tmp_path: pathlib.Path, tier: str, seeds: range) -> None:
    """With a lower limit of pixels, because decoding images just below the default one took most of the time."""
    check(tmp_path, seeds, tier, max_pixels=4_000_000)
