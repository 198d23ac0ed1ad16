"""Training with one core, fed by the input pipeline with the others, or by one batch over and over: a task of
`peers/worker.py`.

`fed` is "pipeline" or "memory". `folder` is one that `peers.sources` wrote.
"""

from __future__ import annotations

import loading
import numpy as np
import tensorflow as tf
import tf_keras as keras

from evenkeel.models.networks.blocks import Convolutions
from evenkeel.models.networks.cnn import cnn
from evenkeel.models.networks.resnet import resnet9
from evenkeel.models.optim.losses import Crossentropy
from evenkeel.models.telemetry import step_row
from evenkeel.models.training.stable_model import StableModel
from evenkeel.pipeline.build import training_batches
from evenkeel.pipeline.config import AugmentConfig, DataConfig
from evenkeel.pipeline.dataset import load_dataset
from evenkeel.pipeline.index.shuffle import ReplicaShard

PER_CALL = 10


def prepare(threads: int, folder: str, fed: str):
    # Between operations there are as many threads as ever: with one, the clock behind a batch's arrival waits its turn.
    tf.config.threading.set_intra_op_parallelism_threads(1)
    work = loading.read(folder)
    if work.small:
        augment = AugmentConfig(pad_crop=loading.PAD, flip=0.5, cutout=loading.CUTOUT / work.size)
        batch, network = 128, resnet9((work.size, work.size, 3), 10, 16)
    else:
        augment = AugmentConfig(random_resized_crop=1 - loading.AREA[0], flip=0.5)
        batch = work.batch
        network = cnn((work.size, work.size, 3), 10, 8, 0.0, Convolutions(), depths=(1, 1, 1), multiples=(1, 2, 4))
    config = DataConfig(
        str(work.folder / "files"), image_size=work.size, batch_size=batch, threads=max(1, threads - 1), augment=augment
    )
    data = load_dataset(config)
    batches = training_batches(data, config, seed=0, share=ReplicaShard(batch)).map(
        lambda images, labels: (images, labels % 10)
    )
    if fed == "memory":
        batches = tf.data.Dataset.from_tensors(next(iter(batches))).repeat()
    iterator = iter(batches)
    model = StableModel.wrap(network, data.mean, data.std)
    optimizer = keras.optimizers.SGD(0.01, momentum=0.9, jit_compile=False)
    model.compile(optimizer, Crossentropy(), steps_per_execution=PER_CALL)
    steps = model.make_train_function()

    def run(count: int) -> dict[str, float]:
        """Seconds that the steps have waited for their batches."""
        waited = 0.0
        while count:
            at_once = min(count, PER_CALL)
            model._steps_per_execution.assign(at_once)
            steps(iterator)
            waited += float(np.sum(step_row.column(model.rows, "input_wait")))
            count -= at_once
        return {"waited": waited}

    run(2)
    return {
        "same": {"images a step": batch, "parameters": model.count_params()},
        "images_per_step": batch,
        "about": f"tensorflow {tf.__version__}, fed by {fed}, one core for the steps",
        "works_ahead": fed == "pipeline",
    }, run
