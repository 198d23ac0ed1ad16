"""Telemetry of a run: per-step rows, layer statistics, histograms, scores, incidents, TensorBoard, progress.

Public modules: histograms, incidents, layer_stats, metrics, progress, scores, step_row, tensorboard.
"""
