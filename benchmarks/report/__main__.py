"""Writes the HTML page of a result file: python -m benchmarks.report result.json --output=report.html"""

from __future__ import annotations

from absl import flags

from evenkeel.benchmarks import command, results
from evenkeel.benchmarks.report import page
from evenkeel.pipeline.errors import require

FLAGS = flags.FLAGS
flags.DEFINE_string("output", "report.html", "the page to write")


def main(argv: list[str]) -> int:
    require(len(argv) == 2, "give one result file: python -m benchmarks.report result.json")
    html = page.render_page(results.read(argv[1]))
    command.write_output("output", FLAGS.output, html)
    print(f"wrote {FLAGS.output}")
    return 0


if __name__ == "__main__":
    command.run(main, positional=True)
