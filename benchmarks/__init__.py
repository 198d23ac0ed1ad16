"""Benchmarks. All of them write the same result file (`results`); `run` runs them all, `compare` judges two versions.

Public modules: journal, results, statistics, timing, workers.
"""
