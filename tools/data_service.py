"""python -m tools.data_service dispatcher|worker: the processes of a tf.data service cluster."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys

from absl import flags as absl_flags

from evenkeel.pipeline.errors import require
from evenkeel.tools import flags, quiet

FLAGS = absl_flags.FLAGS
USAGE = """
Runs a process of a tf.data service cluster, which makes a training's batches on other cores or machines.

  python -m tools.data_service dispatcher --port=5050 --work_dir=/data/dispatcher
  python -m tools.data_service worker --dispatcher=grpc://trainer:5050       # as many as you like, at any time
  python -m tools.train --data.source=/data/pets --data.service=grpc://trainer:5050

Workers open the shards by the same paths as the trainer. It runs until SIGTERM or Ctrl-C. There is no encryption and
no authentication: keep the ports within a network you trust.

  --data.service_sharding   workers alive            one dies                          one joins or restarts
  dynamic (default)         each batch exactly once  batches it had begun are lost:    takes its share from then on
                                                     at most once
  static                    each batch exactly once  its part of them stays out        at its old address only; begins
                                                                                       its part again: at least once
  off                       each worker deals out    no other worker's are lost        deals out every image once a
                            every image once a pass                                    pass, in an order of its own
"""
EXIT_OF_SIGNAL = {signal.SIGTERM: 0, signal.SIGINT: 130}
OWN = ("port", "work_dir", "workers", "dispatcher", "host", "timeout")

absl_flags.DEFINE_integer("port", 0, "port to listen on; 0 is any free one, and the first line printed says which")
absl_flags.DEFINE_string("work_dir", "", "dispatcher: its journal; started again with it, it goes on where it stopped")
absl_flags.DEFINE_list("workers", [], "dispatcher: HOST:PORT of all workers, for --data.service_sharding=static")
absl_flags.DEFINE_string("dispatcher", "", "worker: grpc://HOST:PORT of its dispatcher")
absl_flags.DEFINE_string("host", "", "worker: the name that trainers reach it by; default: this machine's")
absl_flags.DEFINE_float("timeout", 60.0, "worker: seconds to wait for the dispatcher")


def main(argv: list[str]) -> int:
    require(0 <= FLAGS.port < 65536, f"--port ({FLAGS.port}) must lie in 0 to 65535; 0 is any free one.")
    require(FLAGS.timeout > 0, f"--timeout ({FLAGS.timeout}) must be positive.")
    if argv[1] == "worker":
        flags.need("dispatcher", "the address that the dispatcher printed, grpc://HOST:PORT")
        require(
            re.fullmatch(r"grpc://[^/:]+:[0-9]+", FLAGS.dispatcher) is not None,
            f"--dispatcher ({FLAGS.dispatcher}) must be written grpc://HOST:PORT, as the dispatcher prints it.",
        )
    # Blocked before any thread exists, so that they wait for sigwait below and run no handler anywhere.
    signal.pthread_sigmask(signal.SIG_BLOCK, EXIT_OF_SIGNAL)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # a GPU here belongs to a trainer
    quiet.import_tensorflow()
    from evenkeel.pipeline import service

    name = FLAGS.host or socket.gethostname()
    if argv[1] == "dispatcher":
        server = service.start_dispatcher(FLAGS.port, FLAGS.work_dir, tuple(FLAGS.workers))
        port = server.target.rpartition(":")[2]
        print(f"dispatcher ready: grpc://{name}:{port}", flush=True)
        if not FLAGS.work_dir:
            print("without --work_dir it cannot go on after a restart", file=sys.stderr)
    else:
        server = service.start_worker(FLAGS.dispatcher, name, FLAGS.port, FLAGS.timeout)
        print(f"worker ready: {name}, of {FLAGS.dispatcher}", flush=True)
    number = signal.sigwait(EXIT_OF_SIGNAL)
    server.stop()
    return EXIT_OF_SIGNAL[signal.Signals(number)]


if __name__ == "__main__":
    flags.run(main, USAGE, own=OWN, roles=("dispatcher", "worker"))
