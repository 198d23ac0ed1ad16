"""Results over commits: a file of lines for each machine, and a page that plots them.

python -m benchmarks.history add result.json --history=history
python -m benchmarks.history show --history=history --output=history.html
"""

from __future__ import annotations

from absl import flags

from evenkeel.benchmarks import command, results
from evenkeel.benchmarks.report import history_store
from evenkeel.pipeline.errors import require

FLAGS = flags.FLAGS
flags.DEFINE_string("history", "history", "directory of the lines")
flags.DEFINE_string("output", "history.html", "show: the page to write")


def main(argv: list[str]) -> int:
    require(len(argv) > 1 and argv[1] in ("add", "show"), "say first what to do: add result.json, or show.")
    if argv[1] == "add":
        require(len(argv) == 3, "give one result file: python -m benchmarks.history add result.json")
        print(f"added to {history_store.add(results.read(argv[2]), FLAGS.history)}")
        return 0
    require(len(argv) == 2, f"show takes no file ({argv[2:3]}): --history names the directory.")
    html = history_store.show(history_store.read(FLAGS.history))
    command.write("output", FLAGS.output, html)
    print(f"wrote {FLAGS.output}")
    return 0


if __name__ == "__main__":
    command.run(main)
