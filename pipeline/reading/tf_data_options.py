"""tf.data options of every data set of the pipeline."""

from __future__ import annotations

import tensorflow as tf

from evenkeel.pipeline.config import DataConfig
from evenkeel.pipeline.system.cpu import cores


def tf_data_options(config: DataConfig) -> tf.data.Options:
    """Options for deterministic order, a memory budget and a private pool of `config.threads` threads."""
    options = tf.data.Options()
    options.deterministic = True
    # Graph rewrites copy every tensor that the graph holds, all mapped shards included, into each iterator.
    options.experimental_optimization.apply_default_optimizations = False
    options.autotune.ram_budget = config.ram_budget_mb << 20
    options.threading.max_intra_op_parallelism = 1
    # 0 means the default of the process that runs the data set: a service worker uses its own number of cores.
    options.threading.private_threadpool_size = config.threads or (0 if config.service else cores())
    return options
