"""One process of a cluster: trains the configuration in argv[1] into argv[2], saves weights and rows seen as argv[3].

TF_CONFIG says which one it is.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import tensorflow as tf

from evenkeel.models import callbacks, train
from evenkeel.models.config import TrainConfig, from_dict
from evenkeel.models.run import checkpoints
from evenkeel.pipeline.index import shuffle

if __name__ == "__main__":
    config = from_dict(TrainConfig, json.loads(sys.argv[1]))
    kept, seen = {}, []

    class Keeping(checkpoints.Checkpointer):
        """Keeps the trained model; everything else is as it is."""

        def on_train_end(self, logs=None):
            kept["weights"] = [weight.numpy() for weight in self.model.trainable_variables]

    rows_at = shuffle.shuffled_rows

    def recording(positions, size, seed):
        rows = rows_at(positions, size, seed)
        tf.py_function(lambda p, r: seen.append((p.numpy(), r.numpy())), [positions, rows], [])
        return rows

    shuffle.shuffled_rows = recording
    callbacks.Checkpointer = Keeping
    summary = train.train(config, sys.argv[2])
    positions, rows = (np.concatenate(column) for column in zip(*seen, strict=True))
    np.savez(sys.argv[3], *kept["weights"], positions=positions, rows=rows, steps=summary["steps"])
