"""Markdown tables of made-up results: cells, ratios, and missing rows."""

from __future__ import annotations

import pytest

from evenkeel.benchmarks.report import tables
from evenkeel.benchmarks.results import Result


def milliseconds(peer: str, task: str, *samples: float) -> Result:
    return Result("peers", f"{peer}/{task}", "cpu_ms_per_image", "ms", "lower", samples)


PEER_RESULTS = [
    milliseconds("ffcv", "small32", 0.008, 0.015, 0.010),
    milliseconds("evenkeel", "small32", 0.002, 0.003, 0.005),
    milliseconds("evenkeel", "jpeg224", 1.0, 1.0, 1.0),
    milliseconds("torch", "jpeg224", 2.0, 2.5, 3.0),
    milliseconds("torch", "step32", 2.0),
]


def test_ratios_are_medians_over_rounds() -> None:
    """8 / 2, 15 / 3, 10 / 5 have the median 4; the ratio of the medians, 10 / 3, would be 3.3."""
    rows = tables.compare_peers(tables.index_suite(PEER_RESULTS, "peers"), "small32")
    assert [(name, ratio) for name, _, ratio in rows] == [("evenkeel", 1.0), ("ffcv", pytest.approx(4.0))]


def test_the_headline_has_rows_only_for_measured_tasks() -> None:
    rows = tables.headline_table(PEER_RESULTS).splitlines()[2:]
    assert [row.split("|")[2].strip() for row in rows] == ["1 ms", "3 µs"]
    assert "PyTorch 2.5 ms (2.5x)" in rows[0]
    assert "FFCV 10 µs (4x)" in rows[1]
    assert "step" not in "".join(rows), "evenkeel has no result for this task"


def test_the_headline_has_rows_for_the_other_suites() -> None:
    def result(suite: str, case: str, metric: str, value: float) -> Result:
        return Result(suite, case, metric, "1", "lower", (value,))

    text = tables.headline_table(
        [
            result("train", "small32", "input_wait", 0.005),
            result("observe", "observed", "added_cpu_fraction", 0.008),
            result("startup", "first_step", "wall_over_bare", 1.4),
            result("startup", "first_step", "wall_seconds", 14.0),
            result("startup", "bare", "wall_seconds", 10.0),
            result("startup", "help", "wall_seconds", 0.1),
        ]
    )
    for cell in (
        "0.5% at 32 pixels",
        "+0.8% (+0.8% to +0.8%)",
        "14.0 s | a script with these steps alone 10.0 s (1.40x)",
    ):
        assert cell in text
    assert "224 pixels" not in text


def test_missing_results_of_a_loader_are_dashes() -> None:
    rows = tables.loading_table(PEER_RESULTS).splitlines()
    assert rows[0] == "| loader | `jpeg224` | `bounded224` | `prepared224` | `raw224` | `small32` |"
    assert rows[2].startswith("| evenkeel | 1 (1 to 1) | - | - | - | 0.0030")
    assert any(row.startswith("| PyTorch | 2.5 (2 to 3) [2.50] | - | - | - | -") for row in rows)
