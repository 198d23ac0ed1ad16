"""A line for each result, a file for each machine, and the page: read back, and drawn by a browser."""

from __future__ import annotations

import json
import pathlib
import re
import subprocess
import sys

import pytest

from evenkeel.benchmarks import results
from evenkeel.benchmarks.documentation import browser
from evenkeel.benchmarks.report import history_store
from evenkeel.benchmarks.results import Result
from evenkeel.pipeline.errors import UsageError

ROOT = pathlib.Path(__file__).parents[2]


def report(value: float, commit: str, cpu: str = "a CPU") -> results.Report:
    made = [
        Result("pipeline", "decode <b>", "cpu_ms_per_image", "ms", "lower", (value, 1.1 * value, 0.9 * value)),
        Result("stability", "heldout", "recall", "share", "higher", (0.95,), interval=(0.9, 0.98)),
    ]
    where = {"cpu": cpu, "cores": 2, "gpu": None, "os": "Linux", "git_commit": commit}
    return results.Report(where, made, [])


def test_machines_have_files_of_their_own_and_lines_stay_as_they_are(tmp_path: pathlib.Path) -> None:
    first = history_store.add(report(1.0, "aaa"), str(tmp_path))
    before = pathlib.Path(first).read_text()
    assert history_store.add(report(1.2, "bbb"), str(tmp_path)) == first
    assert history_store.add(report(9.0, "bbb", "another"), str(tmp_path)) != first
    driven = [{**report(1.0, "ccc").environment, "gpu": ["H100", "H100"], "os": "Linux 5"} for _ in range(2)]
    driven[1].update(gpu=["H100, 570.1", "H100, 570.1"], os="Linux 6")
    assert len({history_store.fingerprint(each) for each in driven}) == 1
    assert history_store.fingerprint(driven[0]) != pathlib.Path(first).stem
    assert pathlib.Path(first).read_text().startswith(before)
    found = history_store.read(str(tmp_path))
    assert sorted(len(lines) for lines in found.values()) == [1, 2]
    lines = found[pathlib.Path(first).stem]
    assert [line["commit"] for line in lines] == ["aaa", "bbb"]
    assert lines[1]["results"][0]["median"] == 1.2
    assert lines[1]["results"][1]["ci95"] == [0.9, 0.98]


def test_a_line_that_was_cut_short_is_left_out(tmp_path: pathlib.Path) -> None:
    path = pathlib.Path(history_store.add(report(1.0, "aaa"), str(tmp_path)))
    path.write_text(path.read_text() + '{"time": "20')
    assert [line["commit"] for line in history_store.read(str(tmp_path))[path.stem]] == ["aaa"]
    history_store.add(report(2.0, "bbb"), str(tmp_path))
    assert [line["commit"] for line in history_store.read(str(tmp_path))[path.stem]] == ["aaa", "bbb"]


def test_what_is_no_history_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UsageError, match=r"holds no lines yet"):
        history_store.read(str(tmp_path / "none"))
    (tmp_path / "x.jsonl").write_text("no json\n")
    with pytest.raises(UsageError, match=r"x.jsonl is no history"):
        history_store.read(str(tmp_path))


def test_the_page_has_a_curve_for_each_metric_of_each_machine(tmp_path: pathlib.Path) -> None:
    for value, commit in ((1.0, "aaa"), (1.3, "bbb"), (0.8, "ccc")):
        history_store.add(report(value, commit), str(tmp_path))
    history_store.add(report(5.0, "aaa", "another <CPU>"), str(tmp_path))
    html = history_store.show(history_store.read(str(tmp_path)))
    assert len(re.findall(r"<figure>", html)) == 4
    assert "another &lt;CPU&gt;" in html
    assert "decode &lt;b&gt;" in html
    assert "<b>" not in html
    assert "median from 1 to 0.8, least 0.8, largest 1.3" in html
    assert "http" not in html.replace("http-equiv", ""), "self-contained"


@pytest.mark.slow
@pytest.mark.skipif(browser.MISSING, reason="no Chromium with its driver is installed")
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_in_a_browser(width: int, tmp_path: pathlib.Path) -> None:
    for value, commit in ((1.0, "aaa"), (1.3, "bbb"), (0.8, "ccc")):
        history_store.add(report(value, commit), str(tmp_path))
    (tmp_path / "page.html").write_text(history_store.show(history_store.read(str(tmp_path))))
    with browser.chromium(width) as driver:
        driver.get(f"file://{tmp_path / 'page.html'}")
        assert driver.execute_script("return window.innerWidth") == width
        assert driver.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
        drawn = driver.execute_script("return [...document.querySelectorAll('path')].map(p => p.getBBox().width)")
        assert len(drawn) == 6
        assert all(width > 0 for width in drawn)
        assert driver.get_log("browser") == []


def test_the_commands(tmp_path: pathlib.Path) -> None:
    made = report(1.0, "aaa")
    results.write(tmp_path / "result.json", made.results, made.environment)

    def run(*arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "benchmarks.history", *arguments, f"--history={tmp_path / 'lines'}"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    done = run("add", str(tmp_path / "result.json"))
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "lines").glob("*.jsonl")
    assert done.stdout == f"added to {path}\n"
    assert json.loads(path.read_text())["commit"] == "aaa"
    done = run("show", f"--output={tmp_path / 'page.html'}")
    assert done.returncode == 0, done.stderr
    assert "<svg" in (tmp_path / "page.html").read_text()
    for arguments, words in (
        ((), "say first what to do"),
        (("add",), "give one result file"),
        (("show", "x"), "no file"),
    ):
        done = run(*arguments)
        assert done.returncode == 2
        assert words in done.stderr
        assert len(done.stderr.splitlines()) == 1
