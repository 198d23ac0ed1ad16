"""The page of a result file: what is in it, and how a browser draws it."""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys

import pytest

from evenkeel.benchmarks import results
from evenkeel.benchmarks.documentation import browser
from evenkeel.benchmarks.report import page
from evenkeel.benchmarks.results import (
    ROOT,
    Report,
    Result,
    Skipped,
)


def report() -> Report:
    made = [
        Result("peers", f"{peer}/{task}", "cpu_ms_per_image", "ms", "lower", (0.9 * value, value, 1.2 * value))
        for task, times in {"jpeg224": (0.9, 1.3), "small32": (0.002, 0.08)}.items()
        for peer, value in zip(("evenkeel", "dali & co"), times, strict=True)
    ]
    made += [
        Result("peers", "evenkeel/jpeg224", "images_per_second", "images/s", "higher", (900.0, 910.0)),
        Result("stages", "jpeg224/read", "cpu_ms_per_image", "ms", "lower", (0.1,)),
        Result("stages", "jpeg224/decode", "cpu_ms_per_image", "ms", "lower", (0.6,)),
        Result("stages", "jpeg224/augment", "cpu_ms_per_image", "ms", "lower", (0.3,)),
        Result("stages", "jpeg224/decoder", "cpu_ms_per_image", "ms", "lower", (0.5,)),
        Result("observe", "observed", "added_cpu_fraction", "1", "lower", (0.004, 0.008, 0.012)),
        Result("observe", "keras_tensorboard", "added_cpu_fraction", "1", "lower", (-0.004, 0.001, 0.002)),
        Result("train", "small32", "input_wait", "share", "lower", (0.001, 0.002)),
        Result("stability", "heldout", "faulty_runs", "runs", "higher", (108.0,)),
        Result("stability", "heldout", "recall", "share", "higher", (0.97,), interval=(0.92, 0.99)),
        Result("stability", "heldout/autotrainer", "recall", "share", "higher", (0.47,), interval=(0.38, 0.57)),
        Result("stability", "heldout/early_stopping", "recall", "share", "higher", (0.3,), interval=(0.2, 0.4)),
        Result("stability", "heldout", "steps_of_warning", "steps", "higher", (3.0, 8.0)),
        Result("stability", "cnn/shapes", "spike_score", "1", "lower", (0.0, 0.0)),
        Result("startup", "help", "wall_seconds", "s", "lower", (0.3, 0.31)),
    ]
    where = {"cpu": "a <CPU>", "cores": 2, "gpu": None, "os": "Linux", "python": "3.11", "git_commit": "a" * 40}
    return Report({**where, "versions": {"tensorflow": "2.21.0"}}, made, [Skipped("gpu", "there is none")])


def test_every_number_is_a_bar_or_in_a_table() -> None:
    html = page.page_of(report())
    assert "<figcaption>jpeg224</figcaption>" in html
    assert html.index("dali &amp; co") > html.index("evenkeel</span>"), "the fastest first"
    assert "2 µs" in html
    assert "0.9 ms" in html
    assert "+0.8% (+0.4% to +1.2%)" in html
    assert "<td>0.97 (0.92 to 0.99)</td><td>0.47 (0.38 to 0.57)</td><td>EarlyStopping 0.30</td>" in html
    assert "faulty runs seen (n = 108)" in html
    for metric in ("images_per_second", "input_wait", "spike_score", "steps_of_warning", "wall_seconds"):
        assert f"<td>{metric}</td>" in html
    assert "gpu: there is none" in html
    for each in report().results:
        if each.suite in ("train", "startup", "observe"):
            assert html.count(f"<td>{each.case}</td><td>{each.metric}</td>") == (each.suite != "observe"), each
    assert "a &lt;CPU&gt;" in html
    assert "http" not in html, "self-contained"


def committed() -> Report:
    """Speed and stability, as they are in the repository."""
    reports = [results.read(ROOT / "benchmarks" / "results" / f"{name}.json") for name in ("speed", "stability")]
    return Report(reports[0].environment, [each for report in reports for each in report.results], [])


def test_where_training_is_stable_is_a_curve_for_each_network() -> None:
    rates = {0.001: 0.7, 0.1: 0.2, 1.0: 1.386}
    made = [
        Result("stability", f"cnn/{data}/{rate:g}", page.AT_RATE, "nats", "lower", (loss,))
        for data in ("shapes", "photos")
        for rate, loss in rates.items()
    ]
    made.append(Result("stability", "cnn/shapes", "largest_stable_rate", "1", "higher", (0.1,)))
    made.append(Result("stability", "heldout", "recall", "share", "higher", (0.97,), interval=(0.92, 0.99)))
    html = page.page_of(Report(report().environment, made, []))
    (section,) = re.findall(r"Where training stays stable.*?</section>", html, re.S)
    assert re.findall(r"<figcaption>(.*?)</figcaption>", section) == ["cnn on shapes", "cnn on photos"]
    for data in ("shapes", "photos"):
        assert f'aria-label="cnn on {data}: loss from 0.7 to 1.39, least 0.2, largest 1.39' in section
    assert section.count("largest stable rate 0.1, marked") == 1
    assert section.count("no rate is stable") == 1
    assert f"<td>{page.AT_RATE}</td>" not in html
    assert "Where training stays stable" not in page.page_of(report())


def test_committed_results_have_every_picture() -> None:
    html = page.page_of(committed())
    for title in ("Beside other libraries", "Where an image&#x27;s time goes", "Whether the input keeps up"):
        assert f"<h2>{title}</h2>" in html
    for title in ("Trouble seen, explained and cured", "Where training stays stable"):
        assert f"<h2>{title}</h2>" in html
    assert html.count('<path class="curve') == 6


def test_bars_are_to_scale() -> None:
    html = page.page_of(report())
    figure = re.search(r"<figcaption>jpeg224.*?</figure>", html, re.S)
    assert figure
    widths = [float(width) for width in re.findall(r'<i style="width:([\d.]+)%"', figure[0])]
    assert widths == pytest.approx([100 * 0.9 / (1.2 * 1.3), 100 / 1.2], abs=0.01)


def test_stages_fall_one_from_the_end_of_the_other() -> None:
    html = page.page_of(report())
    (waterfall,) = re.findall(r"Where an image&#x27;s time goes.*?</section>", html, re.S)
    places = re.findall(r'<i style="left:([\d.]+)%;width:([\d.]+)%"', waterfall)
    assert [tuple(map(float, place)) for place in places] == [(0, 10), (10, 60), (70, 30), (0, 50)]
    assert "1 ms of CPU time an image in all" in waterfall


def test_the_decoder_is_a_mark_beside_the_loaders_of_the_same_files() -> None:
    html = page.page_of(report())
    with_mark, without = (
        re.search(rf"<figcaption>{task}.*?</figure>", html, re.S)[0] for task in ("jpeg224", "small32")
    )
    marks = re.findall(r'<s style="left:([\d.]+)%"', with_mark)
    assert list(map(float, marks)) == pytest.approx([100 * 0.5 / (1.2 * 1.3)] * 2, abs=0.01)
    assert "decoder alone, 0.5 ms" in with_mark
    assert "<s " not in without


@pytest.mark.slow
@pytest.mark.skipif(browser.MISSING, reason="no Chromium with its driver is installed")
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_in_a_browser(width: int, tmp_path: pathlib.Path) -> None:
    made = report()
    results.write(tmp_path / "result.json", made.results, made.environment, made.skipped)
    line = [sys.executable, "-m", "benchmarks.report", str(tmp_path / "result.json"), f"--output={tmp_path}/page.html"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (tmp_path / "committed.html").write_text(page.page_of(committed()))
    papers = set()
    for dark in (False, True):
        with browser.chromium(width, dark=dark) as driver:
            for name, bars in (("page", 10), ("committed", 40)):
                driver.get(f"file://{tmp_path / name}.html")
                assert driver.execute_script("return window.innerWidth") == width
                assert driver.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
                drawn = driver.execute_script(
                    "return [...document.querySelectorAll('.track i')].map(bar => bar.getBoundingClientRect().width)"
                )
                assert len(drawn) >= bars
                assert all(length > 0 for length in drawn)
                curves = "return [...document.querySelectorAll('path.curve')].map(path => path.getBBox().width)"
                assert all(length > 0 for length in driver.execute_script(curves))
                assert driver.get_log("browser") == []
            papers.add(driver.execute_script("return getComputedStyle(document.body).backgroundColor"))
    assert len(papers) == 2


@pytest.mark.parametrize(
    ("arguments", "words"), [((), "give one result file"), (("none.json",), "result file (none.json) cannot be read")]
)
def test_what_cannot_be_drawn(arguments: tuple[str, ...], words: str) -> None:
    line = [sys.executable, "-m", "benchmarks.report", *arguments]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
