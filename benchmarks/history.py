"""Keeps results over commits, in one file per machine with one line per result file, and plots them on a page.

python -m benchmarks.history add result.json --history=history
python -m benchmarks.history show --history=history --output=history.html
"""

from __future__ import annotations

from absl import flags

from evenkeel.benchmarks import command, results
from evenkeel.benchmarks.report import history_page, history_store
from evenkeel.pipeline.errors import require

FLAGS = flags.FLAGS
flags.DEFINE_string("history", "history", "directory of the files")
flags.DEFINE_string("output", "history.html", "show: HTML page to write")


def main(argv: list[str]) -> int:
    require(
        len(argv) > 1 and argv[1] in ("add", "show"),
        "the first argument must be add or show: give `add result.json`, or `show`.",
    )
    if argv[1] == "add":
        require(len(argv) == 3, "give one result file: python -m benchmarks.history add result.json")
        print(f"added to {history_store.append_results(results.read(argv[2]), FLAGS.history)}")
        return 0
    require(len(argv) == 2, f"show takes no file ({argv[2:3]}): give the directory with --history.")
    html = history_page.render_history(history_store.read_history(FLAGS.history))
    command.write_output("output", FLAGS.output, html)
    print(f"wrote {FLAGS.output}")
    return 0


if __name__ == "__main__":
    command.run(main, positional=True)
