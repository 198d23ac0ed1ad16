"""Augmentations: functions of batches of uint8 images and of random numbers, with no state.

Public modules: chain, geometry.
"""
