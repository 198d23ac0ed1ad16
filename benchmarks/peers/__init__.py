"""Comparison with other libraries on the same work, each in its own process and environment, in alternating turns.

Public modules: environments, interleaved, race, sources.
"""
