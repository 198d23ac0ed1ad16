"""Comparison of two versions of this project, verdicts on it, and how often these verdicts are right.

Public modules: first_call, power_analysis, versions, worktrees.
"""
