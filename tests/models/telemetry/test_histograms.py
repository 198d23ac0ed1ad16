"""Histograms: counts against numpy, and those of a run read back from its event files."""

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
    bucketed,
    bucketed_all,
    buckets,
)
from evenkeel.models.telemetry.tensorboard import TensorBoard
from tests.models.networks.test_factory import plain
from tests.models.training.test_stable_model import (
    BATCH,
    IMAGES,
    LABELS,
    by_hand,
    compiled,
    fit,
    network_of,
    one,
    two,
    weights,
)


def counted(values: np.ndarray, xla: bool = False) -> tuple[np.ndarray, np.ndarray]:
    edges, counts = tf.function(bucketed, jit_compile=xla)(tf.constant(values))
    return edges.numpy(), counts.numpy()


def exact(shape: tuple[int, ...] = (10, 20, 5)) -> np.ndarray:
    """Multiples of 2^-6 over a range of 30 eighths, ends included: every edge and quotient is exact in float32."""
    values: np.ndarray = np.random.default_rng(0).integers(-120, 121, shape).astype(np.float32) / 64
    values.flat[:2] = -120 / 64, 120 / 64
    return values


@pytest.mark.parametrize("xla", [False, True], ids=["plain", "xla"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, tf.bfloat16.as_numpy_dtype])
def test_counts_are_numpys(dtype: type, xla: bool) -> None:
    values: Any = exact().astype(dtype)
    edges, counts = counted(values, xla)
    expected, at = np.histogram(values.astype(np.float64), BINS)
    assert counts.tolist() == [*expected, 0]
    np.testing.assert_array_equal(buckets(edges, counts), np.stack([at[:-1], at[1:], expected], axis=1))


def test_counts_of_any_weights_are_numpys_but_for_rounding_at_an_edge() -> None:
    values = np.random.default_rng(0).normal(size=100_000).astype(np.float32)
    edges, counts = counted(values)
    expected, _ = np.histogram(values.astype(np.float64), BINS)
    assert edges.tolist() == [values.min(), values.max()]
    assert np.abs(counts[:BINS] - expected).sum() <= 20


def test_a_constant_fills_one_bucket_of_a_unit_range() -> None:
    edges, counts = counted(np.full([7], 3.0, np.float32))
    assert edges.tolist() == [2.5, 3.5]
    assert counts[BINS // 2] == counts.sum() == 7


def test_nonfinite_values_are_counted_apart() -> None:
    values = np.concatenate([exact().ravel(), np.array([np.nan, np.inf, -np.inf, np.nan], np.float32)])
    edges, counts = counted(values)
    expected, _ = np.histogram(exact(), BINS)
    assert edges.tolist() == [-1.875, 1.875]
    assert counts.tolist() == [*expected, 4]


@pytest.mark.parametrize("values", [[np.nan, np.inf, -np.inf], []], ids=["all nonfinite", "empty"])
def test_nothing_finite_gives_empty_buckets(values: list[float]) -> None:
    edges, counts = counted(np.array(values, np.float32))
    assert edges.tolist() == [-0.5, 0.5]
    assert counts.tolist() == [0] * BINS + [len(values)]


@settings(deadline=None, max_examples=50)
@given(arrays.arrays(np.float32, st.integers(1, 50), elements=st.floats(width=32, allow_subnormal=False)))
def test_every_element_is_counted_once(values: np.ndarray) -> None:
    edges, counts = counted(values)
    assert (counts >= 0).all()
    assert counts.sum() == values.size
    assert counts[-1] == (~np.isfinite(values)).sum()
    assert np.isfinite(edges).all()


def test_all_of_a_model_are_stacked() -> None:
    tensors = [tf.constant(exact()), tf.ones([3])]
    edges, counts = bucketed_all(tensors)
    for number, tensor in enumerate(tensors):
        own_edges, own_counts = bucketed(tensor)
        np.testing.assert_array_equal(edges[number], own_edges)
        np.testing.assert_array_equal(counts[number], own_counts)


class Recorder(keras.callbacks.Callback):
    """The weights before every step."""

    def __init__(self) -> None:
        super().__init__()
        self.before: list[list[np.ndarray]] = []

    def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self.before.append(weights(self.model))


def assert_histogram(found: np.ndarray, values: np.ndarray, rounding: float) -> None:
    """`found` [BINS, 3], read back, is the histogram of `values` but for differences of `rounding`."""
    values = values.astype(np.float64)
    assert found.shape == (BINS, 3)
    assert found[:, 2].sum() == values.size
    expected, edges = np.histogram(values, BINS)
    np.testing.assert_allclose(found[:, 0], edges[:-1], rtol=0, atol=rounding * np.abs(edges).max())
    np.testing.assert_allclose(found[:, 1], edges[1:], rtol=0, atol=rounding * np.abs(edges).max())
    # A value that rounding moves over an edge counts in both buckets.
    assert np.abs(found[:, 2] - expected).sum() <= 6 + 10 * rounding * values.size


@pytest.mark.parametrize(
    ("replicas", "policy", "xla", "rounding"),
    [
        (2, "float32", False, 1e-5),
        (1, "mixed_float16", False, 0.005),
        pytest.param(2, "mixed_bfloat16", True, 0.03, marks=pytest.mark.slow),
    ],
)
def test_histograms_of_weights_and_gradients_are_read_back(
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
    for place, step in enumerate((0, 4, 8)):
        for variable, value in zip(reference.trainable_variables, recorder.before[step], strict=True):
            variable.assign(value)
        batch = slice(step * BATCH, (step + 1) * BATCH)
        gradients = by_hand(reference, IMAGES[batch], LABELS[batch])
        for name, weight, gradient in zip(names, recorder.before[step], gradients, strict=True):
            assert_histogram(make_ndarray(events.Tensors(f"weights/{name}")[place].tensor_proto), weight, 1e-6)
            assert_histogram(make_ndarray(events.Tensors(f"gradients/{name}")[place].tensor_proto), gradient, rounding)


def test_nonfinite_gradients_stand_beside_their_histogram(tmp_path: pathlib.Path) -> None:
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


def test_histograms_of_a_longer_call_are_those_of_its_due_step() -> None:
    alone, many = (fit(one(), plain, steps=12, per_call=n, histograms_every=5)[0] for n in (1, 4))
    assert alone.histogram_step == many.histogram_step == 10
    assert alone.histograms.keys() == many.histograms.keys()
    for tag, (edges, counts) in alone.histograms.items():
        np.testing.assert_allclose(many.histograms[tag][0], edges, rtol=1e-5, atol=1e-9)
        assert np.abs(many.histograms[tag][1] - counts).sum() <= 4
