"""Task files: one for each peer and task. `worker.py` runs each by its path, in the peer's own environment.

They import each other by bare names (`import loading`), because only their folder is on the module search path.
"""
