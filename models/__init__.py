import pipeline  # noqa: F401 (has TensorFlow use Keras 2, where it comes before it)
