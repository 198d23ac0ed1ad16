"""Benchmarks of endurance: a run that is killed and resumed many times, and the memory of a long one.

Public modules: chaos, long_run.
"""
