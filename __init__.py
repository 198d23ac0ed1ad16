"""evenkeel: fast, stable training of image-classification CNNs. The README shows how to use it."""

import os

# tensorflow-addons needs Keras 2 behind `tf.keras`. TensorFlow reads this at its first import, so it is set here.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

__version__ = "0.2.0"
