"""Benchmarks of speed: stages of the input pipeline, augmentations, training, start-up, and the cost of telemetry.

Public modules: observe_cases.
"""
