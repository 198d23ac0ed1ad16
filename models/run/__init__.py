"""A run on disk: its directory, what its data and classes are, checkpoints, preemption, and the summary.

Public modules: checkpoints, preemption, run_data, run_directory, summary.
"""
