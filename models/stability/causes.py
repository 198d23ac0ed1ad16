"""Why a CNN may train badly: the causes that the doctor knows, by name, family and in words.

CAUSES["learning_rate_high"].title
"""

from __future__ import annotations

from typing import NamedTuple


class Cause(NamedTuple):
    """`family` is data, hyperparameters, architecture or numerics."""

    family: str
    title: str


CAUSES = {
    "input_scale": Cause("data", "the input is not normalised"),
    "outlier_images": Cause("data", "some images are outliers, or on a scale of their own"),
    "label_noise": Cause("data", "many labels are wrong"),
    "class_imbalance": Cause("data", "some classes are much rarer than others"),
    "train_validation_skew": Cause("data", "training and validation images differ"),
    "overfitting": Cause("data", "too little augmentation or regularization: the training images are learnt by heart"),
    "too_much_augmentation": Cause("data", "the augmentation hides what is to be learnt"),
    "learning_rate_high": Cause("hyperparameters", "the learning rate is too high"),
    "learning_rate_low": Cause("hyperparameters", "the learning rate is too low"),
    "no_warmup": Cause("hyperparameters", "the learning rate starts too high: it needs a warm-up"),
    "batch_small": Cause("hyperparameters", "the batch is too small: updates are mostly noise"),
    "batch_large": Cause("hyperparameters", "the batch is too large: there are too few updates"),
    "momentum": Cause("hyperparameters", "the momentum does not suit"),
    "epsilon": Cause("hyperparameters", "the optimizer's epsilon swallows its second moments"),
    "optimizer": Cause("hyperparameters", "the optimizer does not suit the network at this learning rate"),
    "too_few_steps": Cause("hyperparameters", "the run ends before the network has learnt"),
    "dropout": Cause("architecture", "too much dropout"),
    "penalty": Cause("architecture", "the weight penalty or decay is too strong"),
    "no_normalization": Cause("architecture", "a deep network without normalization layers"),
    "batch_norm_batch": Cause("architecture", "BatchNorm sees too few images on each replica"),
    "batch_norm_momentum": Cause("architecture", "BatchNorm's moving statistics do not follow its batches"),
    "initialization": Cause("architecture", "the initial weights are too small or too large"),
    "saturating_activation": Cause("architecture", "activations that saturate keep gradients from the first layers"),
    "dying_activation": Cause("architecture", "most units are dead: they are zero for every image"),
    "output_activation": Cause("architecture", "the output does not match the loss: it must be logits"),
    "frozen_layers": Cause("architecture", "layers do not train"),
    "precision": Cause("numerics", "numbers overflow or vanish in half precision"),
    "replica_batch": Cause("numerics", "replicas get partial or empty batches"),
}
