import os

# tensorflow-addons builds on `tf.keras`, which is Keras 2 only when this stands before TensorFlow's first import.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
