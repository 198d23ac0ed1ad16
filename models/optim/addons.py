"""Imports tensorflow-addons, which has optimizers and losses that core TensorFlow lacks.

    addons = require_addons("optimizer.name=lamb")    # the module, or a UsageError that names the remedy

No other module imports it. Its last wheels are for Python 3.11. All other options work without tensorflow-addons.
"""

from __future__ import annotations

import functools
import os
import types
import warnings

from evenkeel.pipeline.errors import UsageError


@functools.cache
def require_addons(option: str) -> types.ModuleType:
    """Returns the module `tensorflow_addons`; `option` is the flag and value that need it, for the error message.

    Raises:
      UsageError: the module cannot be imported here, or TensorFlow runs on Keras 3.
    """
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    try:
        with warnings.catch_warnings():  # ignores warnings about its end of life and supported TensorFlow versions
            warnings.simplefilter("ignore")
            import tensorflow_addons
    except ImportError as error:
        raise UsageError(
            f"{option} needs tensorflow-addons, which cannot be imported here ({error}):"
            " use Python 3.10 or 3.11, where `make setup` installs it, or another option."
        ) from error
    import tf_keras as keras

    if not issubclass(tensorflow_addons.optimizers.LAMB, keras.optimizers.legacy.Optimizer):
        raise UsageError(
            f"{option} needs tensorflow-addons on Keras 2, but TensorFlow was imported before Keras 2 was chosen:"
            " import `evenkeel` before `tensorflow`, or set TF_USE_LEGACY_KERAS=1 in the environment."
        )
    return tensorflow_addons
