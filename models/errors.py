"""Errors of training."""

from __future__ import annotations


class TrainingFailed(Exception):
    """Training cannot go on; one line with the evidence and advice."""
