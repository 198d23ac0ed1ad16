"""TensorFlow's import without its start-up notices, which no log level turns off, and without collecting garbage."""

from __future__ import annotations

import gc
import os
import sys
import tempfile


def import_tensorflow() -> None:
    """Imports TensorFlow and looks for GPUs; what it prints meanwhile is shown only if that fails.

    Collecting garbage takes 0.4 of its 3.0 s of CPU time (medians, n = 6): again and again it goes through 300,000
    objects that all stay. Later collections leave these alone.
    """
    gc.disable()
    try:
        _import()
    finally:
        gc.freeze()
        gc.enable()


def _import() -> None:
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as notices:
        os.dup2(notices.fileno(), 2)
        failed = True
        try:
            import tensorflow as tf

            tf.config.list_physical_devices("GPU")
            failed = False
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            if failed:
                notices.seek(0)
                sys.stderr.buffer.write(notices.read())
