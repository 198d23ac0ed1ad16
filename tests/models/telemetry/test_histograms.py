"""Histograms: counts against numpy, and the histograms of a run read back from its event files."""

from __future__ import annotations

import pathlib
from typing import Any

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from evenkeel.models.telemetry.histograms import (
    BINS,
    bin_counts,
    bin_counts_of_all,
    bin_table,
)
from evenkeel.models.telemetry.tensorboard import TensorBoard
from tests.factories import BATCH, IMAGES, LABELS, by_hand, compiled, fit, network_of, one, plain, two, weights


def count(values: np.ndarray, xla: bool = False) -> tuple[np.ndarray, np.ndarray]:
    edges, counts = tf.function(bin_counts, jit_compile=xla)(tf.constant(values))
    return edges.numpy(), counts.numpy()


def exact_values(shape: tuple[int, ...] = (10, 20, 5)) -> np.ndarray:
    """Multiples of 2^-6 from -15/8 to 15/8, so that every edge and quotient is exact in float32."""
    values: np.ndarray = np.random.default_rng(0).integers(-120, 121, shape).astype(np.float32) / 64
    values.flat[:2] = -120 / 64, 120 / 64
    return values


@pytest.mark.parametrize("xla", [False, True], ids=["plain", "xla"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, tf.bfloat16.as_numpy_dtype])
def test_counts_match_numpy(dtype: type, xla: bool) -> None:
    values: Any = exact_values().astype(dtype)
    edges, counts = count(values, xla)
    expected, bounds = np.histogram(values.astype(np.float64), BINS)
    assert counts.tolist() == [*expected, 0]
    np.testing.assert_array_equal(bin_table(edges, counts), np.stack([bounds[:-1], bounds[1:], expected], axis=1))


def test_counts_of_normal_values_match_numpy_up_to_rounding_at_edges() -> None:
    values = np.random.default_rng(0).normal(size=100_000).astype(np.float32)
    edges, counts = count(values)
    expected, _ = np.histogram(values.astype(np.float64), BINS)
    assert edges.tolist() == [values.min(), values.max()]
    assert np.abs(counts[:BINS] - expected).sum() <= 20


def test_a_constant_fills_one_bin_of_a_range_of_one() -> None:
    edges, counts = count(np.full([7], 3.0, np.float32))
    assert edges.tolist() == [2.5, 3.5]
    assert counts[BINS // 2] == counts.sum() == 7


def test_nonfinite_values_are_counted_separately() -> None:
    values = np.concatenate([exact_values().ravel(), np.array([np.nan, np.inf, -np.inf, np.nan], np.float32)])
    edges, counts = count(values)
    expected, _ = np.histogram(exact_values(), BINS)
    assert edges.tolist() == [-1.875, 1.875]
    assert counts.tolist() == [*expected, 4]


@pytest.mark.parametrize("values", [[np.nan, np.inf, -np.inf], []], ids=["all nonfinite", "empty"])
def test_without_finite_values_all_bins_are_empty(values: list[float]) -> None:
    edges, counts = count(np.array(values, np.float32))
    assert edges.tolist() == [-0.5, 0.5]
    assert counts.tolist() == [0] * BINS + [len(values)]


@pytest.mark.slow
@settings(max_examples=50)
@given(arrays.arrays(np.float32, st.integers(1, 50), elements=st.floats(width=32, allow_subnormal=False)))
def test_every_element_is_counted_once(values: np.ndarray) -> None:
    edges, counts = count(values)
    assert (counts >= 0).all()
    assert counts.sum() == values.size
    assert counts[-1] == (~np.isfinite(values)).sum()
    assert np.isfinite(edges).all()


def test_the_counts_of_several_tensors_are_stacked() -> None:
    tensors = [tf.constant(exact_values()), tf.ones([3])]
    edges, counts = bin_counts_of_all(tensors)
    for number, tensor in enumerate(tensors):
        own_edges, own_counts = bin_counts(tensor)
        np.testing.assert_array_equal(edges[number], own_edges)
        np.testing.assert_array_equal(counts[number], own_counts)


class Recorder(keras.callbacks.Callback):
    """Records the weights before every step."""

    def __init__(self) -> None:
        super().__init__()
        self.before: list[list[np.ndarray]] = []

    def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self.before.append(weights(self.model))


def assert_histogram(found: np.ndarray, values: np.ndarray, rounding: float) -> None:
    """Asserts that `found` [BINS, 3] is the histogram of `values` up to relative differences of `rounding`."""
    values = values.astype(np.float64)
    assert found.shape == (BINS, 3)
    assert found[:, 2].sum() == values.size
    expected, edges = np.histogram(values, BINS)
    np.testing.assert_allclose(found[:, 0], edges[:-1], rtol=0, atol=rounding * np.abs(edges).max())
    np.testing.assert_allclose(found[:, 1], edges[1:], rtol=0, atol=rounding * np.abs(edges).max())
    # A value that rounding moves over an edge changes the counts of two bins.
    assert np.abs(found[:, 2] - expected).sum() <= 6 + 10 * rounding * values.size


@pytest.mark.parametrize(
    ("replicas", "policy", "xla", "rounding"),
    [
        (2, "float32", False, 1e-5),
        (1, "mixed_float16", False, 0.005),
        pytest.param(2, "mixed_bfloat16", True, 0.03, marks=pytest.mark.slow),
    ],
)
def test_event_files_hold_histograms_of_weights_and_gradients(
    replicas: int, policy: str, xla: bool, rounding: float, tmp_path: pathlib.Path
) -> None:
    board, recorder = TensorBoard(str(tmp_path), BATCH, []), Recorder()
    devices = two() if replicas == 2 else one()
    options: dict[str, Any] = {"policy": policy, "xla": xla, "per_call": 1, "histograms_every": 4}
    fit(devices, plain, steps=10, callbacks=[recorder, board], **options)
    board.close()
    events = EventAccumulator(str(tmp_path / "train"), {"tensors": 0})
    events.Reload()
    reference = compiled(one(), plain)  # float32
    names = [variable.name.split(":")[0] for variable in reference.trainable_variables]
    tags = {f"{kind}/{name}" for kind in ("weights", "gradients") for name in names}
    assert tags <= set(events.Tags()["tensors"])
    for tag in tags:
        assert [event.step for event in events.Tensors(tag)] == [0, 4, 8]
    for index, step in enumerate((0, 4, 8)):
        for variable, value in zip(reference.trainable_variables, recorder.before[step], strict=True):
            variable.assign(value)
        batch = slice(step * BATCH, (step + 1) * BATCH)
        gradients = by_hand(reference, IMAGES[batch], LABELS[batch])
        for name, weight, gradient in zip(names, recorder.before[step], gradients, strict=True):
            assert_histogram(make_ndarray(events.Tensors(f"weights/{name}")[index].tensor_proto), weight, 1e-6)
            assert_histogram(make_ndarray(events.Tensors(f"gradients/{name}")[index].tensor_proto), gradient, rounding)


def test_nonfinite_gradients_are_a_scalar_beside_their_histogram(tmp_path: pathlib.Path) -> None:
    board = TensorBoard(str(tmp_path), BATCH, [])

    def infinite(input_shape: tuple[int, int, int], classes: int) -> keras.Model:
        inputs = keras.Input(input_shape)
        x = keras.layers.Rescaling(np.inf)(keras.layers.Flatten()(inputs))
        return keras.Model(inputs, keras.layers.Dense(classes, name="logits")(x), name="infinite")

    model, _ = fit(one(), infinite, steps=2, per_call=2, histograms_every=2, callbacks=[board])
    board.close()
    events = EventAccumulator(str(tmp_path / "train"), {"tensors": 0})
    events.Reload()
    (event,) = events.Tensors("nonfinite/gradients/logits/kernel")
    assert (event.step, make_ndarray(event.tensor_proto)) == (
        0,
        network_of(model).trainable_variables[0].shape.num_elements(),
    )
    assert "nonfinite/weights/logits/kernel" not in events.Tags()["tensors"]


@pytest.mark.slow
def test_a_call_of_many_steps_reports_the_histograms_of_its_due_step() -> None:
    single, several = (fit(one(), plain, steps=12, per_call=n, histograms_every=5)[0] for n in (1, 4))
    assert single.histogram_step == several.histogram_step == 10
    assert single.histograms.keys() == several.histograms.keys()
    for tag, (edges, counts) in single.histograms.items():
        np.testing.assert_allclose(several.histograms[tag][0], edges, rtol=1e-5, atol=1e-9)
        assert np.abs(several.histograms[tag][1] - counts).sum() <= 4
