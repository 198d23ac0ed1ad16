"""Keras CNNs and their training: networks, the training step, stability guard, preflight checks, doctor, reports.

Public modules: callbacks, config, errors, evaluation, presets, train.
"""
