"""Checks before training: of the configuration, the data, the images and a fresh network.

Public modules: data_checks, lr_range_test, preflight.
"""
