"""The input profiler: CPU time per stage, what bounds training, and which changes would help.

Public modules: chain_timing, profile.
"""
