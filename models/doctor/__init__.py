"""The doctor: finds the cause of bad training by controlled replays of a run, each under one change.

Public modules: doctor, replay, runner.
"""
