"""Stability benchmark: faults put into training runs, and how many of them are detected, explained and fixed.

Public modules: cases, faults.
"""
