"""Distribution over devices and workers: the tf.distribute strategy, collective checks, and errors of file systems.

Public modules: collective, io_errors, strategy.
"""
