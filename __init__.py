"""evenkeel: fast and stable training of image-classification CNNs.

    import evenkeel    # before TensorFlow: it makes TensorFlow use Keras 2

    config = evenkeel.TrainConfig(epochs=3, data=evenkeel.DataConfig(source="photos", image_size=96))
    summary = evenkeel.train(config, "runs/photos")
    diagnosis = evenkeel.diagnose_run(config, model_dir="runs/photos", output="runs/photos", steps=300)

The public names are imported when they are first used; `help(evenkeel.NAME)` shows how to use each:

    DataConfig, AugmentConfig, ShapesConfig    where the images are and how they become batches
    load_dataset, Dataset                      a source, prepared and indexed
    training_batches, evaluation_batches       the input pipeline, for any training loop
    ReplicaShard                               the part of each batch that one process reads
    TrainConfig, ModelConfig, OptimizerConfig  what a run does
    train, evaluate_run, diagnose_run          a whole run, its evaluation, why it does not train well
    doctor                                     why a compiled Keras model does not train well on tf.data sets
    StableModel, StepOptions                   any functional Keras model with evenkeel's training step, its settings
    StabilityGuard, TensorBoard                Keras callbacks: alarms and reactions; histograms and curves
    UsageError                                 the error for bad input: one line with value, rule and remedy
"""

import importlib
import os
import typing

# tensorflow-addons needs Keras 2 behind `tf.keras`. TensorFlow reads this at its first import, so it is set here.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

__version__ = "0.2.0"

if typing.TYPE_CHECKING:
    from evenkeel.models.config import ModelConfig, OptimizerConfig, TrainConfig
    from evenkeel.models.doctor.runner import diagnose_run
    from evenkeel.models.evaluation import evaluate_run
    from evenkeel.models.examine import doctor
    from evenkeel.models.stability.guard import StabilityGuard
    from evenkeel.models.telemetry.tensorboard import TensorBoard
    from evenkeel.models.train import train
    from evenkeel.models.training.stable_model import StableModel
    from evenkeel.models.training.step_options import StepOptions
    from evenkeel.pipeline.build import evaluation_batches, training_batches
    from evenkeel.pipeline.config import AugmentConfig, DataConfig, ShapesConfig
    from evenkeel.pipeline.dataset import Dataset, load_dataset
    from evenkeel.pipeline.errors import UsageError
    from evenkeel.pipeline.index.replica_shard import ReplicaShard

_MODULES = {
    "AugmentConfig": "pipeline.config",
    "DataConfig": "pipeline.config",
    "Dataset": "pipeline.dataset",
    "ModelConfig": "models.config",
    "OptimizerConfig": "models.config",
    "ReplicaShard": "pipeline.index.replica_shard",
    "ShapesConfig": "pipeline.config",
    "StabilityGuard": "models.stability.guard",
    "StableModel": "models.training.stable_model",
    "StepOptions": "models.training.step_options",
    "TensorBoard": "models.telemetry.tensorboard",
    "TrainConfig": "models.config",
    "UsageError": "pipeline.errors",
    "diagnose_run": "models.doctor.runner",
    "doctor": "models.examine",
    "evaluate_run": "models.evaluation",
    "evaluation_batches": "pipeline.build",
    "load_dataset": "pipeline.dataset",
    "train": "models.train",
    "training_batches": "pipeline.build",
}
__all__ = [
    "AugmentConfig",
    "DataConfig",
    "Dataset",
    "ModelConfig",
    "OptimizerConfig",
    "ReplicaShard",
    "ShapesConfig",
    "StabilityGuard",
    "StableModel",
    "StepOptions",
    "TensorBoard",
    "TrainConfig",
    "UsageError",
    "diagnose_run",
    "doctor",
    "evaluate_run",
    "evaluation_batches",
    "load_dataset",
    "train",
    "training_batches",
]


def __getattr__(name: str) -> typing.Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"evenkeel.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
