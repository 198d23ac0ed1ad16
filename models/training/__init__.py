"""Training of a model: the StableModel and its steps, its batches, snapshots and validation.

Public modules: batches, build_model, snapshots, stable_model, step_options, validation.
"""
