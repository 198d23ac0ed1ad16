"""Runs training steps on one core, with batches from the input pipeline or memory: a task file of `peers/worker.py`.

`fed` is "pipeline" for batches from the input pipeline on the other cores, or "memory" for one repeated batch. `folder`
is a folder that `peers.sources` wrote.
"""

from __future__ import annotations

import loading
import numpy as np
import tensorflow as tf
import tf_keras as keras

from evenkeel.models.networks.blocks import ConvNormAct
from evenkeel.models.networks.cnn import cnn
from evenkeel.models.networks.resnet import resnet9
from evenkeel.models.optim.losses import Crossentropy
from evenkeel.models.telemetry import step_row
from evenkeel.models.training.stable_model import StableModel
from evenkeel.pipeline.build import training_batches
from evenkeel.pipeline.config import AugmentConfig, DataConfig
from evenkeel.pipeline.dataset import load_dataset
from evenkeel.pipeline.index.replica_shard import ReplicaShard

STEPS_PER_CALL = 10


def prepare(threads: int, folder: str, fed: str):
    # The number of inter-op threads is not set: with one thread, the op that reads the clock after a batch would wait.
    tf.config.threading.set_intra_op_parallelism_threads(1)
    work = loading.read_work(folder)
    if work.small:
        augment = AugmentConfig(pad_crop=loading.PAD, flip=0.5, cutout=loading.CUTOUT / work.size)
        batch, network = 128, resnet9((work.size, work.size, 3), 10, 16)
    else:
        augment = AugmentConfig(random_resized_crop=1 - loading.AREA[0], flip=0.5)
        batch = work.batch
        network = cnn((work.size, work.size, 3), 10, 8, 0.0, ConvNormAct(), depths=(1, 1, 1), multiples=(1, 2, 4))
    config = DataConfig(
        str(work.folder / "files"), image_size=work.size, batch_size=batch, threads=max(1, threads - 1), augment=augment
    )
    data = load_dataset(config)
    batches = training_batches(data, config, seed=0, replica_shard=ReplicaShard(batch)).map(
        lambda images, labels: (images, labels % 10)
    )
    if fed == "memory":
        batches = tf.data.Dataset.from_tensors(next(iter(batches))).repeat()
    iterator = iter(batches)
    model = StableModel.wrap(network, data.mean, data.std)
    optimizer = keras.optimizers.SGD(0.01, momentum=0.9, jit_compile=False)
    model.compile(optimizer, Crossentropy(), steps_per_execution=STEPS_PER_CALL)
    steps = model.make_train_function()

    def run(count: int) -> dict[str, float]:
        """Runs `count` steps and returns the seconds that they waited for batches."""
        waited = 0.0
        while count:
            call_steps = min(count, STEPS_PER_CALL)
            model._steps_per_execution.assign(call_steps)
            steps(iterator)
            waited += float(np.sum(step_row.column(model.rows, "input_wait")))
            count -= call_steps
        return {"waited": waited}

    run(2)
    return {
        "same": {"images a step": batch, "parameters": model.count_params()},
        "images_per_step": batch,
        "about": f"tensorflow {tf.__version__}, fed by {fed}, one core for the steps",
        "works_ahead": fed == "pipeline",
    }, run
