"""Training of a model: the StableModel and its steps, checkpoints and snapshots, the run's directory and summary.

Public modules: batches, build_model, checkpoints, preemption, run_directory, snapshots, stable_model, step_options, summary, validation.
"""  # noqa: E501
