"""An exported model says what the trained one says, to who knows TensorFlow only; the gate; what is refused."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from evenkeel.models import train
from evenkeel.models.config import AveragingConfig
from evenkeel.models.evaluation import restored
from evenkeel.models.export import export
from evenkeel.pipeline.errors import UsageError
from tests.models.test_train import PLAIN, finished
from tests.tools.test_cli import refused, tool

# What a server would do: no module of this project is imported.
CLIENT = """
import json, sys
import tensorflow as tf
loaded = tf.saved_model.load(sys.argv[1])
files = sys.argv[2:]
found = loaded.signatures["serving_default"](images=tf.constant([open(file, "rb").read() for file in files]))
print(json.dumps({name: value.numpy().tolist() for name, value in found.items()}, default=bytes.decode))
assert not any(name.split(".")[0] in ("models", "pipeline") for name in sys.modules)
"""


@functools.cache
def pushed(quantize: str = "none") -> str:
    return export.export(finished()[0], tempfile.mkdtemp(dir=os.environ["EVENKEEL_CACHE"]), quantize)


def validation(model_dir: str) -> tuple[np.ndarray, np.ndarray, Any]:
    """(images, labels) of the validation split, and the run."""
    run = restored(model_dir, one_replica=True)
    images, labels = [], []
    for shown, label, weights in run.batches:
        images.append(shown.numpy()[weights.numpy() > 0])
        labels.append(label.numpy()[weights.numpy() > 0])
    return np.concatenate(images), np.concatenate(labels), run


@pytest.mark.slow
@pytest.mark.parametrize(("quantize", "tolerance"), [("none", 1e-6), ("float16", 5e-3)])
def test_it_says_what_the_trained_model_says(quantize: str, tolerance: float) -> None:
    images, labels, run = validation(finished()[0])
    told = tf.saved_model.load(pushed(quantize)).signatures["tensors"](images=tf.constant(images))
    expected = tf.nn.softmax(run.model(images, training=False)).numpy()
    np.testing.assert_allclose(told["probabilities"], expected, atol=tolerance)
    named = [run.data.classes[at] for at in expected.argmax(axis=1)]
    if quantize == "none":
        assert [name.decode() for name in told["class"].numpy()] == named
        np.testing.assert_allclose(told["probability"], expected.max(axis=1), atol=tolerance)
    written = json.loads(pathlib.Path(pushed(quantize), "evaluation.json").read_text())
    accuracy = float(np.mean(told["probabilities"].numpy().argmax(axis=1) == labels))
    assert (written["accuracy"], written["images"], written["quantize"]) == (accuracy, len(labels), quantize)
    if quantize == "none":
        assert written["accuracy"] == written["trained_accuracy"] == run.evaluate().accuracy


def test_images_are_standardized_as_they_were_in_training(tmp_path: pathlib.Path) -> None:
    """One that is half as bright gets the same answer."""
    data = dataclasses.replace(PLAIN.data, standardize=True, normalize=False)
    train.train(dataclasses.replace(PLAIN, data=data, epochs=1), str(tmp_path / "run"))
    images, _, run = validation(str(tmp_path / "run"))
    served = tf.saved_model.load(export.export(str(tmp_path / "run"), str(tmp_path / "served"))).signatures["tensors"]
    told, dark = (served(images=tf.constant(of))["probabilities"].numpy() for of in (images, images // 2))
    np.testing.assert_allclose(told, tf.nn.softmax(run.model(images, training=False)).numpy(), atol=1e-6)
    np.testing.assert_allclose(dark, told, atol=0.02)
    assert np.ptp(told, axis=0).max() > 0.05, "it does not answer the same to all"


def test_half_the_numbers_are_half_the_file() -> None:
    sizes = [pathlib.Path(pushed(quantize), "saved_model.pb").stat().st_size for quantize in ("none", "float16")]
    weights = sum(4 * v.shape.num_elements() for v in validation(finished()[0])[2].model.trainable_variables)
    assert weights > 5_000
    assert sizes[0] - sizes[1] == pytest.approx(weights / 2, rel=0.2)


@pytest.mark.slow
def test_a_process_that_knows_tensorflow_only_reads_files_and_a_bad_one_spoils_none(tmp_path: pathlib.Path) -> None:
    images, _, run = validation(finished()[0])
    files = [tmp_path / name for name in ("first.png", "broken.jpg", "second.png", "empty")]
    for file, image in ((files[0], images[0]), (files[2], images[1])):
        file.write_bytes(tf.io.encode_png(image).numpy())
    files[1].write_bytes(tf.io.encode_jpeg(images[2]).numpy()[:200])
    files[3].write_bytes(b"")
    command = [sys.executable, "-c", CLIENT, pushed(), *map(str, files)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    expected = tf.nn.softmax(run.model(images[:2], training=False)).numpy()
    np.testing.assert_allclose(np.array(told["probabilities"])[[0, 2]], expected, atol=1e-5)
    assert [bool(error) for error in told["error"]] == [False, True, False, True]
    assert [told["class"][at] for at in (1, 3)] == ["", ""]
    assert told["probability"][1] == told["probability"][3] == 0
    assert [told["class"][at] for at in (0, 2)] == [run.data.classes[at] for at in expected.argmax(axis=1)]


def test_what_is_evaluated_is_exported_averages_and_mirror_images(tmp_path: pathlib.Path) -> None:
    config = dataclasses.replace(PLAIN, epochs=1, averaging=AveragingConfig("ema", decay=0.99), evaluate_flipped=True)
    train.train(config, str(tmp_path / "run"))
    version = export.export(str(tmp_path / "run"), str(tmp_path / "out"))
    images, _, run = validation(str(tmp_path / "run"))
    told = tf.saved_model.load(version).signatures["tensors"](images=tf.constant(images))["probabilities"]
    with run.model.averages.applied():
        logits = (run.model(images, training=False) + run.model(images[:, :, ::-1], training=False)) / 2
    np.testing.assert_allclose(told, tf.nn.softmax(logits), atol=1e-6)
    plain = tf.nn.softmax(run.model(images, training=False))
    assert np.abs(told - plain).max() > 1e-3


@pytest.mark.slow
def test_versions_are_numbered_and_gated(tmp_path: pathlib.Path) -> None:
    run, out = finished()[0], tmp_path / "out"
    assert export.export(run, str(out)) == str(out / "1")
    assert sorted(os.listdir(out / "1")) == sorted(
        ["assets", "classes.txt", "evaluation.json", "fingerprint.pb", "saved_model.pb", "variables"]
    )
    assert export.export(run, str(out), baseline=True) == str(out / "2")
    written = out / "2/evaluation.json"
    better = {**json.loads(written.read_text()), "accuracy": 1.0}
    written.write_text(json.dumps(better))
    with pytest.raises(export.Refused, match=r"accuracy 0\.\d+ is below the 1\.0000 of the version there"):
        export.export(run, str(out), baseline=True)
    written.write_text(json.dumps({**better, "images": 7}))
    with pytest.raises(export.Refused, match=r"other images \(images 7, here 60\)"):
        export.export(run, str(out), baseline=True)
    written.write_text("{")
    with pytest.raises(UsageError, match=r"--baseline: .*evaluation\.json cannot be read"):
        export.export(run, str(out), baseline=True)
    with pytest.raises(export.Refused, match=r"is below --min_accuracy=0\.999: nothing was pushed"):
        export.export(run, str(out), min_accuracy=0.999)
    assert sorted(os.listdir(out)) == ["1", "2"]


def test_a_model_that_says_something_else_is_refused() -> None:
    same = np.full((3, 4), 0.25)
    export.check_same(same, same + 1e-6, export.EXACT)
    for other in (same + 1e-4, np.full((3, 4), np.nan)):
        with pytest.raises(export.Refused, match="a probability of the exported model is"):
            export.check_same(other, same, export.EXACT)


@pytest.mark.slow
def test_the_command_pushes_or_says_why_not(tmp_path: pathlib.Path) -> None:
    done = tool("export", f"--model_dir={finished()[0]}", f"--output={tmp_path / 'out'}", "--min_accuracy=1")
    assert done.returncode == 4
    assert done.stderr.splitlines()[-1].startswith("error: accuracy 0.")
    assert not (tmp_path / "out/1").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "--output is missing"),
        (["--output=out", "--quantize=int8"], "quantize ('int8')"),
        (["--output=out", "--checkpoint=newest"], "checkpoint ('newest')"),
    ],
)
def test_bad_flags_are_one_line(flags: list[str], words: str) -> None:
    assert words in refused(tool("export", "--model_dir=run", *flags))
