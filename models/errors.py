"""Errors of training."""

from __future__ import annotations


class TrainingFailed(Exception):
    """Training cannot continue; the message is one line with the evidence and what to do."""
