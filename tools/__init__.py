"""Command lines: parse flags, build a configuration, make one call. The only absl flags beside those of benchmarks.

Public modules: cli, tensorflow_import.
"""
