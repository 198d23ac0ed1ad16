"""Stability of a training run: detectors over its telemetry, a guard that acts on them, the record of a diagnosis.

Public modules: causes, detectors, diagnosis, guard, rolling, trace.
"""
