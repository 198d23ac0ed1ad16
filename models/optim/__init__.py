"""Optimization: optimizers, learning-rate schedules, losses, gradient clipping, weight averages, mixup and CutMix.

Public modules: averaging, clipping, losses, mixing, optimizers, schedules.
"""
