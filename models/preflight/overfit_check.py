"""Checks that a network can overfit one batch.

check_one_batch(FirstBatchPass(config, data, images, labels))
"""

from __future__ import annotations

import math

import tensorflow as tf
import tf_keras as keras

from evenkeel.models.preflight.first_batch import FirstBatchPass
from evenkeel.models.stability.diagnosis import Finding

OVERFIT_IMAGES = 16
# Share of the loss that may be left. All of 40 sound networks reach 0.5. With outputs between 0 and 1 and ten classes,
# the loss cannot fall below ln(e + 9) - 1 = 1.46, which is 0.63 of the loss of guessing.
MAX_LOSS_LEFT = 0.6
STAGES = ((30, 1e-3), (30, 3e-3), (60, 1e-2))  # steps and learning rates of Adam: small networks need larger rates


def check_one_batch(batch_pass: FirstBatchPass) -> Finding:
    """Whether Adam brings the loss of 16 images to 0.6 of its start within 120 steps, at rates of 0.001, 0.003, 0.01.

    The start is the first loss or the loss of guessing, whichever is less. Training stops when the target is reached:
    networks with normalization take 2 to 30 steps, others up to 60. Training changes the weights of
    `batch_pass.network`.
    """
    first_loss = batch_pass.loss if math.isfinite(batch_pass.loss) else math.inf
    target = MAX_LOSS_LEFT * min(first_loss, math.log(batch_pass.classes))
    learning_rate = tf.Variable(0.0, trainable=False)
    optimizer = keras.optimizers.Adam(learning_rate=0.0, jit_compile=False)
    optimizer.build(batch_pass.variables)

    @tf.function
    def step() -> tf.Tensor:
        optimizer.learning_rate.assign(learning_rate)
        return batch_pass.train_step(optimizer, OVERFIT_IMAGES)[0]

    best, steps_done = math.inf, 0
    for steps, rate in STAGES:
        learning_rate.assign(rate)
        for _ in range(steps):
            if best <= target:
                break
            loss = float(step())
            best, steps_done = min(best, loss if math.isfinite(loss) else math.inf), steps_done + 1
    return Finding(
        "one_batch",
        best <= target,
        f"trained on {len(batch_pass.images[:OVERFIT_IMAGES])} images alone, the network brings their loss to"
        f" {best:.3g} in {steps_done} steps",
        f"it must get below {target:.3g}: any sound network can overfit one batch",
        "Follow the findings above; if there are none, check the network's last layers and the order of the labels.",
        {"loss": best, "wanted": target, "steps": steps_done},
        ("frozen_layers", "initialization", "saturating_activation", "output_activation"),
    )
