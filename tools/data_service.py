"""evenkeel data-service: runs a process of a tf.data service cluster."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys

from absl import flags

from evenkeel.pipeline.errors import require
from evenkeel.tools import cli
from evenkeel.tools.flags import require_flag
from evenkeel.tools.tensorflow_import import import_tensorflow

FLAGS = flags.FLAGS
USAGE = """
Runs a process of a tf.data service cluster, whose workers make the training batches on other cores or
machines.

  evenkeel data-service dispatcher --port=5050 --work_dir=/data/dispatcher
  evenkeel data-service worker --dispatcher=grpc://trainer:5050       # as many as you like, at any time
  evenkeel train --data.source=/data/pets --data.service=grpc://trainer:5050

Workers open the shards by the same paths as the trainer. The process runs until SIGTERM or Ctrl-C. There is no
encryption and no authentication: keep the ports inside a network that you trust.

  --data.service_sharding   all workers alive        a worker dies                     a worker joins or restarts
  dynamic (default)         each batch exactly once  its unfinished batches are lost:  it gets its share from then on
                                                     at most once
  static                    each batch exactly once  its part is missing               only at its old address; begins
                                                                                       its part again: at least once
  off                       each worker yields       the other workers go on           it yields every image once
                            every image once a pass                                    a pass, in its own order
"""
EXIT_CODES = {signal.SIGTERM: 0, signal.SIGINT: 130}
OWN = ("port", "work_dir", "workers", "dispatcher", "host", "timeout")

flags.DEFINE_integer("port", 0, "port to listen on; 0 takes a free one, which the first line of output names")
flags.DEFINE_string("work_dir", "", "dispatcher: directory of its journal, from which it continues after a restart")
flags.DEFINE_list("workers", [], "dispatcher: HOST:PORT of all workers, for --data.service_sharding=static")
flags.DEFINE_string("dispatcher", "", "worker: grpc://HOST:PORT of its dispatcher")
flags.DEFINE_string("host", "", "worker: host name under which trainers reach it; default: this machine's")
flags.DEFINE_float("timeout", 60.0, "worker: seconds to wait for the dispatcher")


def main(argv: list[str]) -> int:
    require(0 <= FLAGS.port < 65536, f"--port ({FLAGS.port}) must be from 0 to 65535; 0 takes a free port.")
    require(FLAGS.timeout > 0, f"--timeout ({FLAGS.timeout}) must be positive.")
    if argv[1] == "worker":
        require_flag("dispatcher", "the address that the dispatcher printed, grpc://HOST:PORT")
        require(
            re.fullmatch(r"grpc://[^/:]+:[0-9]+", FLAGS.dispatcher) is not None,
            f"--dispatcher ({FLAGS.dispatcher}) must be written grpc://HOST:PORT, as the dispatcher prints it.",
        )
    # The signals are blocked before any thread exists, so that they reach sigwait below and no handler.
    signal.pthread_sigmask(signal.SIG_BLOCK, EXIT_CODES)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # GPUs of this machine are for trainers
    import_tensorflow()
    from evenkeel.pipeline import service

    name = FLAGS.host or socket.gethostname()
    if argv[1] == "dispatcher":
        server = service.start_dispatcher(FLAGS.port, FLAGS.work_dir, tuple(FLAGS.workers))
        port = server.target.rpartition(":")[2]
        print(f"dispatcher ready: grpc://{name}:{port}", flush=True)
        if not FLAGS.work_dir:
            print("without --work_dir the dispatcher cannot continue after a restart", file=sys.stderr)
    else:
        server = service.start_worker(FLAGS.dispatcher, name, FLAGS.port, FLAGS.timeout)
        print(f"worker ready: {name}, connected to {FLAGS.dispatcher}", flush=True)
    number = signal.sigwait(EXIT_CODES)
    server.stop()
    return EXIT_CODES[signal.Signals(number)]


COMMAND = cli.Command(main, USAGE, own=OWN, roles=("dispatcher", "worker"))

if __name__ == "__main__":
    cli.run(COMMAND)
