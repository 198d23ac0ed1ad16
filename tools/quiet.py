"""TensorFlow's import without its start-up notices, which no log level turns off."""

from __future__ import annotations

import os
import sys
import tempfile


def import_tensorflow() -> None:
    """Imports TensorFlow and looks for GPUs; what it prints meanwhile is shown only if that fails."""
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
