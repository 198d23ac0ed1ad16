"""The only import of tensorflow-addons: what core TensorFlow lacks.

    addons = require_addons("model.optimizer=lamb")    # the module, or one line that names the remedy

Its wheels stop at Python 3.11; everything that does not ask for it works without it.
"""

from __future__ import annotations

import functools
import os
import types
import warnings

from evenkeel.pipeline.errors import UsageError


@functools.cache
def require_addons(option: str) -> types.ModuleType:
    """The `tensorflow_addons` module for `option`, the flag and value that need it.

    Raises:
      UsageError: it cannot be imported here, or only on Keras 3.
    """
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    try:
        with warnings.catch_warnings():  # its farewell notice and its list of tested TensorFlow versions
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
            f"{option} needs tensorflow-addons on Keras 2, and TensorFlow was imported before that was chosen:"
            " import `pipeline` before `tensorflow`, or set TF_USE_LEGACY_KERAS=1 in the environment."
        )
    return tensorflow_addons
