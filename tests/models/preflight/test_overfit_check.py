"""Networks that cannot overfit one batch; test_network_checks.py has those that can."""

from __future__ import annotations

import pytest

from evenkeel.models.preflight import overfit_check
from evenkeel.pipeline.dataset import Dataset
from tests.models.preflight.cases import run_network


@pytest.mark.slow
@pytest.mark.parametrize("network", ["probabilities", "squashed", "dead"])
def test_faulty_networks_cannot_overfit_one_batch(network: str, data: Dataset) -> None:
    finding = overfit_check.check_one_batch(run_network(data, network))
    assert not finding.ok, finding.line
    assert finding.evidence["steps"] == 120
