"""The lines of the workflow run, in their order: with commands that check their flags and write their files."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
WORKFLOW = (ROOT / ".github" / "workflows" / "benchmarks.yml").read_text()
JOBS = dict(re.findall(r"^  (\w+):\n((?:    .*\n|\n)+)", WORKFLOW.partition("\njobs:\n")[2], re.M))
RUN = re.compile(r"^ +(?:- )?run: (?:\|\n((?: {10}.*\n)+)|(.+)\n)", re.M)
# In the place of Python: flags are checked by the command itself, and what it would write is written, empty.
PYTHON = """#!/bin/sh -e
for argument; do
  case $argument in
    --output=*|--markdown=*) path=${{argument#*=}}; [ -d "$(dirname "$path")" ]; : > "$path";;
  esac
done
cd {root}
exec {python} "$@" --only_check_args
"""


def script(job: str) -> str:
    """What its steps run one after the other, in the shell's words."""
    lines = ["".join(line.strip() + "\n" for line in (many or one).splitlines()) for many, one in RUN.findall(job)]
    return "".join(lines)


def test_there_are_jobs() -> None:
    assert list(JOBS) == ["quick", "gate"]
    assert "-m benchmarks.run --suite=quick" in script(JOBS["quick"])
    assert "-m benchmarks.compare --base=HEAD^1" in script(JOBS["gate"])
    # The merge and its parents: what is compared is what the branch would change.
    assert re.search(r"fetch-depth: [2-9]", JOBS["gate"])


@pytest.mark.parametrize("name", JOBS)
def test_its_lines_run(name: str, tmp_path: pathlib.Path) -> None:
    python, make = tmp_path / ".venv/bin/python", tmp_path / "bin/make"
    for path, text in ((python, PYTHON.format(root=ROOT, python=sys.executable)), (make, "#!/bin/sh\n")):
        path.parent.mkdir(parents=True)
        path.write_text(text)
        path.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{make.parent}:{os.environ['PATH']}",
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"),
    }
    line = ["bash", "-e", "-c", script(JOBS[name])]
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    written = {path.name for path in (tmp_path / "results").iterdir()}
    expected = {"quick": {"result.json", "benchmarks", "bencher.json"}, "gate": {"compare.json", "compare.md"}}
    assert written == expected[name]
