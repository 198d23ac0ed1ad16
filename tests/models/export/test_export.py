"""An exported model gives the trained model's probabilities without this project, and worse models are refused."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from evenkeel.models import train
from evenkeel.models.config import AveragingConfig
from evenkeel.models.evaluation import restore_run
from evenkeel.models.export import export
from evenkeel.pipeline.errors import UsageError
from tests import forked
from tests.command_line import refused
from tests.runs import PLAIN, finished

# What a server does: it imports no module of this project.
CLIENT = """
import json, sys
import tensorflow as tf
loaded = tf.saved_model.load(sys.argv[1])
files = sys.argv[2:]
outputs = loaded.signatures["serving_default"](images=tf.constant([open(file, "rb").read() for file in files]))
print(json.dumps({name: value.numpy().tolist() for name, value in outputs.items()}, default=bytes.decode))
assert not any(name.split(".")[0] in ("evenkeel", "models", "pipeline") for name in sys.modules)
"""


@functools.cache
def validation() -> tuple[np.ndarray, np.ndarray, Any]:
    """The same as `load_validation` of the finished run; shared, to be read only."""
    return load_validation(finished()[0])


@functools.cache
def exported(quantize: str = "none") -> str:
    """The directory of an exported version."""
    return export.export(finished()[0], tempfile.mkdtemp(dir=os.environ["EVENKEEL_CACHE"]), quantize)


def load_validation(model_dir: str) -> tuple[np.ndarray, np.ndarray, Any]:
    """(images, labels, run): the validation split of a run, and the restored run."""
    run = restore_run(model_dir, one_replica=True)
    images, labels = [], []
    for batch_images, batch_labels, weights in run.batches:
        images.append(batch_images.numpy()[weights.numpy() > 0])
        labels.append(batch_labels.numpy()[weights.numpy() > 0])
    return np.concatenate(images), np.concatenate(labels), run


@pytest.mark.slow
@pytest.mark.parametrize(("quantize", "tolerance"), [("none", 1e-6), ("float16", 5e-3)])
def test_probabilities_are_those_of_the_trained_model(quantize: str, tolerance: float) -> None:
    images, labels, run = validation()
    outputs = tf.saved_model.load(exported(quantize)).signatures["tensors"](images=tf.constant(images))
    expected = tf.nn.softmax(run.model(images, training=False)).numpy()
    np.testing.assert_allclose(outputs["probabilities"], expected, atol=tolerance)
    names = [run.data.classes[index] for index in expected.argmax(axis=1)]
    if quantize == "none":
        assert [name.decode() for name in outputs["class"].numpy()] == names
        np.testing.assert_allclose(outputs["probability"], expected.max(axis=1), atol=tolerance)
    evaluation = json.loads(pathlib.Path(exported(quantize), "evaluation.json").read_text())
    accuracy = float(np.mean(outputs["probabilities"].numpy().argmax(axis=1) == labels))
    assert (evaluation["accuracy"], evaluation["images"], evaluation["quantize"]) == (accuracy, len(labels), quantize)
    if quantize == "none":
        assert evaluation["accuracy"] == evaluation["trained_accuracy"] == run.evaluate().accuracy


@pytest.mark.slow
def test_images_are_standardized_as_in_training_mirrored_images_averaged_and_averaged_weights_exported(
    tmp_path: pathlib.Path,
) -> None:
    data = dataclasses.replace(PLAIN.data, standardize=True, normalize=False)
    averaging = AveragingConfig("ema", decay=0.99)
    config = dataclasses.replace(PLAIN, data=data, epochs=1, averaging=averaging, evaluate_flipped=True)
    train.train(config, str(tmp_path / "run"))
    images, _, run = load_validation(str(tmp_path / "run"))
    served = tf.saved_model.load(export.export(str(tmp_path / "run"), str(tmp_path / "served"))).signatures["tensors"]
    bright, dark = (served(images=tf.constant(batch))["probabilities"].numpy() for batch in (images, images // 2))
    with run.model.averages.swap_in():
        logits = (run.model(images, training=False) + run.model(images[:, :, ::-1], training=False)) / 2
    np.testing.assert_allclose(bright, tf.nn.softmax(logits), atol=1e-6)
    plain = tf.nn.softmax(run.model(images, training=False))
    assert np.abs(bright - plain).max() > 1e-3
    # An image that is half as bright gets the same probabilities.
    np.testing.assert_allclose(dark, bright, atol=0.02)
    assert np.ptp(bright, axis=0).max() > 0.05, "images get different probabilities"


def test_float16_halves_the_weights_in_the_file() -> None:
    sizes = [pathlib.Path(exported(quantize), "saved_model.pb").stat().st_size for quantize in ("none", "float16")]
    weights = sum(4 * v.shape.num_elements() for v in validation()[2].model.trainable_variables)
    assert weights > 5_000
    assert sizes[0] - sizes[1] == pytest.approx(weights / 2, rel=0.2)


@pytest.mark.slow
def test_a_process_with_only_tensorflow_classifies_files_and_reports_broken_ones(tmp_path: pathlib.Path) -> None:
    images, _, run = validation()
    files = [tmp_path / name for name in ("first.png", "broken.jpg", "second.png", "empty")]
    for file, image in ((files[0], images[0]), (files[2], images[1])):
        file.write_bytes(tf.io.encode_png(image).numpy())
    files[1].write_bytes(tf.io.encode_jpeg(images[2]).numpy()[:200])
    files[3].write_bytes(b"")
    command = [sys.executable, "-c", CLIENT, exported(), *map(str, files)]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    outputs = json.loads(process.stdout)
    expected = tf.nn.softmax(run.model(images[:2], training=False)).numpy()
    np.testing.assert_allclose(np.array(outputs["probabilities"])[[0, 2]], expected, atol=1e-5)
    assert [bool(error) for error in outputs["error"]] == [False, True, False, True]
    assert [outputs["class"][i] for i in (1, 3)] == ["", ""]
    assert outputs["probability"][1] == outputs["probability"][3] == 0
    assert [outputs["class"][i] for i in (0, 2)] == [run.data.classes[index] for index in expected.argmax(axis=1)]


@pytest.mark.slow
def test_versions_are_numbered_and_worse_ones_are_refused(tmp_path: pathlib.Path) -> None:
    run, out = finished()[0], tmp_path / "out"
    assert os.path.basename(exported()) == "1"
    shutil.copytree(os.path.dirname(exported()), out)
    assert sorted(os.listdir(out / "1")) == sorted(
        ["assets", "classes.txt", "evaluation.json", "fingerprint.pb", "saved_model.pb", "variables"]
    )
    assert export.export(run, str(out), baseline=True) == str(out / "2")
    evaluation = out / "2/evaluation.json"
    better = {**json.loads(evaluation.read_text()), "accuracy": 1.0}
    evaluation.write_text(json.dumps(better))
    with pytest.raises(export.ExportRefused, match=r"accuracy 0\.\d+ is below the 1\.0000 of the previous version"):
        export.export(run, str(out), baseline=True)
    evaluation.write_text(json.dumps({**better, "images": 7}))
    with pytest.raises(export.ExportRefused, match=r"other images \(images 7, now 60\)"):
        export.export(run, str(out), baseline=True)
    evaluation.write_text("{")
    with pytest.raises(UsageError, match=r"--baseline: .*evaluation\.json cannot be read"):
        export.export(run, str(out), baseline=True)
    with pytest.raises(export.ExportRefused, match=r"is below --min_accuracy=0\.999: nothing was exported"):
        export.export(run, str(out), min_accuracy=0.999)
    assert sorted(os.listdir(out)) == ["1", "2"]


def test_a_model_with_other_probabilities_is_refused() -> None:
    same = np.full((3, 4), 0.25)
    export.check_probabilities(same, same + 1e-6, export.FLOAT32_TOLERANCE)
    for other in (same + 1e-4, np.full((3, 4), np.nan)):
        with pytest.raises(export.ExportRefused, match="a probability of the exported model differs"):
            export.check_probabilities(other, same, export.FLOAT32_TOLERANCE)


@pytest.mark.slow
def test_the_command_reports_a_refusal(tmp_path: pathlib.Path) -> None:
    flags = (f"--model_dir={finished()[0]}", f"--output={tmp_path / 'out'}", "--min_accuracy=1")
    process = forked.run("tools.export", *flags)
    assert process.returncode == 4
    assert process.stderr.splitlines()[-1].startswith("error: accuracy 0.")
    assert not (tmp_path / "out/1").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--output is missing"),
        (["--output=out", "--quantize=int8"], "quantize ('int8')"),
        (["--output=out", "--checkpoint=newest"], "checkpoint ('newest')"),
    ],
)
def test_a_wrong_flag_is_one_line(flags: list[str], message: str) -> None:
    assert message in refused(forked.run("tools.export", "--model_dir=run", *flags))
