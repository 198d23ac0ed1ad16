"""The causes of bad training that the doctor knows: name, family and title of each.

CAUSES["learning_rate_high"].title
"""

from __future__ import annotations

from typing import NamedTuple


class Cause(NamedTuple):
    """A cause of bad training.

    Attributes:
      family: data, hyperparameters, architecture or numerics.
      title: a clause that states the cause.
    """

    family: str
    title: str


CAUSES = {
    "input_scale": Cause("data", "the input is not normalised"),
    "outlier_images": Cause("data", "some images are outliers, or have another value range than the rest"),
    "empty_images": Cause("data", "most images have a single colour: they show nothing"),
    "label_noise": Cause("data", "many labels are wrong"),
    "too_few_images": Cause("data", "there are too few images to learn from"),
    "labels_unrelated": Cause("data", "the labels do not belong to the images"),
    "split_labels": Cause("data", "training and validation label the same classes differently"),
    "class_imbalance": Cause("data", "some classes are much rarer than others"),
    "class_weights": Cause("data", "rare classes count too much: their rarity is corrected twice"),
    "train_validation_skew": Cause("data", "training and validation images differ"),
    "overfitting": Cause(
        "data", "too little augmentation or regularization: the network memorises the training images"
    ),
    "too_much_augmentation": Cause("data", "the augmentation destroys what the network should learn"),
    "learning_rate_high": Cause("hyperparameters", "the learning rate is too high"),
    "learning_rate_low": Cause("hyperparameters", "the learning rate is too low"),
    "no_warmup": Cause("hyperparameters", "the learning rate starts too high: it needs a warm-up"),
    "batch_small": Cause("hyperparameters", "the batch is too small: updates are mostly noise"),
    "batch_large": Cause("hyperparameters", "the batch is too large: there are too few updates"),
    "schedule": Cause("hyperparameters", "the schedule keeps the learning rate far below its peak for most of the run"),
    "clipping": Cause("hyperparameters", "gradients are clipped to a small part of their length"),
    "momentum": Cause("hyperparameters", "the momentum is unsuitable"),
    "epsilon": Cause("hyperparameters", "the optimizer's epsilon is larger than its second moments"),
    "optimizer": Cause("hyperparameters", "the optimizer does not suit the network at this learning rate"),
    "too_few_steps": Cause("hyperparameters", "the run ends before the network has learnt"),
    "dropout": Cause("architecture", "the dropout rate is too high"),
    "penalty": Cause("architecture", "the weight penalty or weight decay is too strong"),
    "no_normalization": Cause("architecture", "the network has no normalization layers"),
    "batch_norm_batch": Cause("architecture", "BatchNorm sees too few images on each replica"),
    "batch_norm_momentum": Cause("architecture", "BatchNorm's moving statistics do not follow its batches"),
    "initialization": Cause("architecture", "the initial weights are too small or too large"),
    "saturating_activation": Cause("architecture", "saturating activations keep gradients from the first layers"),
    "unbounded_activation": Cause("architecture", "an activation grows faster than its input, so outputs explode"),
    "missing_activation": Cause("architecture", "layers without an activation between them act as a single layer"),
    "dying_activation": Cause("architecture", "most units are dead: they output zero for every image"),
    "output_activation": Cause("architecture", "the output does not match the loss: it must be logits"),
    "small_network": Cause("architecture", "the network is too small for the data"),
    "early_pooling": Cause("architecture", "convolutions see maps of a single pixel: the images are shrunk too early"),
    "frozen_layers": Cause("architecture", "some layers are not trained"),
    "precision": Cause("numerics", "numbers overflow or vanish in half precision"),
    "replica_batch": Cause("numerics", "replicas get partial or empty batches"),
}

# A finding proves these causes, and no flag removes them: whatever a replay gains, it does not refute the finding.
PROVEN_BY_FINDING = ("empty_images", "too_few_images", "labels_unrelated", "split_labels")
