"""The page of a result file: its numbers, its bars to scale, and how a browser draws it."""

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
    Result,
    ResultFile,
    Skipped,
)


def made_up_report() -> ResultFile:
    measured = [
        Result("peers", f"{peer}/{task}", "cpu_ms_per_image", "ms", "lower", (0.9 * value, value, 1.2 * value))
        for task, times in {"jpeg224": (0.9, 1.3), "small32": (0.002, 0.08)}.items()
        for peer, value in zip(("evenkeel", "dali & co"), times, strict=True)
    ]
    measured += [
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
    environment = {"cpu": "a <CPU>", "cores": 2, "gpu": None, "os": "Linux", "python": "3.11", "git_commit": "a" * 40}
    return ResultFile(
        {**environment, "versions": {"tensorflow": "2.21.0"}}, measured, [Skipped("gpu", "there is none")]
    )


def test_every_number_is_a_bar_or_in_a_table() -> None:
    html = page.render_page(made_up_report())
    assert "<figcaption>jpeg224</figcaption>" in html
    assert html.index("dali &amp; co") > html.index("evenkeel</span>"), "the fastest first"
    assert "2 µs" in html
    assert "0.9 ms" in html
    assert "+0.8% (+0.4% to +1.2%)" in html
    assert "<td>0.97 (0.92 to 0.99)</td><td>0.47 (0.38 to 0.57)</td><td>EarlyStopping 0.30</td>" in html
    assert "faulty runs detected (n = 108)" in html
    for metric in ("images_per_second", "input_wait", "spike_score", "steps_of_warning", "wall_seconds"):
        assert f"<td>{metric}</td>" in html
    assert "gpu: there is none" in html
    for result in made_up_report().results:
        if result.suite in ("train", "startup", "observe"):
            assert html.count(f"<td>{result.case}</td><td>{result.metric}</td>") == (result.suite != "observe"), result
    assert "a &lt;CPU&gt;" in html
    assert "http" not in html, "self-contained"


def committed_report() -> ResultFile:
    """The result files of speed and stability in the repository."""
    reports = [results.read(ROOT / "benchmarks" / "results" / f"{name}.json") for name in ("speed", "stability")]
    return ResultFile(reports[0].environment, [result for report in reports for result in report.results], [])


def test_stable_learning_rates_have_a_curve_for_each_network_and_data_set() -> None:
    rates = {0.001: 0.7, 0.1: 0.2, 1.0: 1.386}
    measured = [
        Result("stability", f"cnn/{data}/{rate:g}", page.LOSS_AT_RATE, "nats", "lower", (loss,))
        for data in ("shapes", "photos")
        for rate, loss in rates.items()
    ]
    measured.append(Result("stability", "cnn/shapes", "largest_stable_rate", "1", "higher", (0.1,)))
    measured.append(Result("stability", "heldout", "recall", "share", "higher", (0.97,), interval=(0.92, 0.99)))
    html = page.render_page(ResultFile(made_up_report().environment, measured, []))
    (section,) = re.findall(r"Stable learning rates.*?</section>", html, re.S)
    assert re.findall(r"<figcaption>(.*?)</figcaption>", section) == ["cnn on shapes", "cnn on photos"]
    for data in ("shapes", "photos"):
        assert f'aria-label="cnn on {data}: loss from 0.7 to 1.39, minimum 0.2, maximum 1.39' in section
    assert section.count("largest stable rate 0.1, marked") == 1
    assert section.count("no rate is stable") == 1
    assert f"<td>{page.LOSS_AT_RATE}</td>" not in html
    assert "Stable learning rates" not in page.render_page(made_up_report())


def test_committed_results_have_every_section() -> None:
    html = page.render_page(committed_report())
    for title in (
        "Compared with other libraries",
        "CPU time per image, by stage",
        "Input speed during training",
        "Faults detected, explained and fixed",
        "Stable learning rates",
    ):
        assert f"<h2>{title}</h2>" in html
    assert html.count('<path class="curve') == 6


def test_names_are_text_and_never_markup() -> None:
    hostile = "<script>alert('x')</script>\">"
    result = Result("train", hostile, hostile, hostile, "lower", (1.0,))
    peer = Result("peers", f"{hostile.replace('/', '')}/jpeg224", "cpu_ms_per_image", "ms", "lower", (1.0,))
    environment = {"cpu": hostile, "gpu": [hostile], "os": hostile, "versions": {hostile: hostile}}
    html = page.render_page(ResultFile(environment, [result, peer], [Skipped(hostile, hostile)]))
    assert "<script" not in html
    assert html.count("alert(") == 11, "as text, in every place"


def test_bars_are_to_scale() -> None:
    html = page.render_page(made_up_report())
    figure = re.search(r"<figcaption>jpeg224.*?</figure>", html, re.S)
    assert figure
    widths = [float(width) for width in re.findall(r'<i style="width:([\d.]+)%"', figure[0])]
    assert widths == pytest.approx([100 * 0.9 / (1.2 * 1.3), 100 / 1.2], abs=0.01)


def test_each_stage_begins_where_the_one_before_ends() -> None:
    html = page.render_page(made_up_report())
    (waterfall,) = re.findall(r"CPU time per image, by stage.*?</section>", html, re.S)
    places = re.findall(r'<i style="left:([\d.]+)%;width:([\d.]+)%"', waterfall)
    assert [tuple(map(float, place)) for place in places] == [(0, 10), (10, 60), (70, 30), (0, 50)]
    assert "1 ms of CPU time per image in total" in waterfall


def test_the_decoder_alone_is_a_mark_on_the_bars_of_the_same_files() -> None:
    html = page.render_page(made_up_report())
    with_mark, without = (
        re.search(rf"<figcaption>{task}.*?</figure>", html, re.S)[0] for task in ("jpeg224", "small32")
    )
    marks = re.findall(r'<s style="left:([\d.]+)%"', with_mark)
    assert list(map(float, marks)) == pytest.approx([100 * 0.5 / (1.2 * 1.3)] * 2, abs=0.01)
    assert "decoder alone, 0.5 ms" in with_mark
    assert "<s " not in without


@pytest.mark.slow
@pytest.mark.skipif(browser.CHROMIUM_MISSING, reason="no Chromium with its driver is installed")
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_draws_the_page(width: int, tmp_path: pathlib.Path) -> None:
    report = made_up_report()
    results.write(tmp_path / "result.json", report.results, report.environment, report.skipped)
    command = [
        sys.executable,
        "-m",
        "benchmarks.report",
        str(tmp_path / "result.json"),
        f"--output={tmp_path}/page.html",
    ]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    (tmp_path / "committed.html").write_text(page.render_page(committed_report()))
    backgrounds = set()
    for dark in (False, True):
        with browser.open_chromium(width, dark=dark) as driver:
            for name, bars in (("page", 10), ("committed", 40)):
                driver.get(f"file://{tmp_path / name}.html")
                assert driver.execute_script("return window.innerWidth") == width
                assert driver.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
                widths = driver.execute_script(
                    "return [...document.querySelectorAll('.track i')].map(bar => bar.getBoundingClientRect().width)"
                )
                assert len(widths) >= bars
                assert all(length > 0 for length in widths)
                curves = "return [...document.querySelectorAll('path.curve')].map(path => path.getBBox().width)"
                assert all(length > 0 for length in driver.execute_script(curves))
                assert driver.get_log("browser") == []
            backgrounds.add(driver.execute_script("return getComputedStyle(document.body).backgroundColor"))
    assert len(backgrounds) == 2


@pytest.mark.parametrize(
    ("arguments", "message"), [((), "give one result file"), (("none.json",), "result file (none.json) cannot be read")]
)
def test_a_wrong_argument_is_one_line(arguments: tuple[str, ...], message: str) -> None:
    command = [sys.executable, "-m", "benchmarks.report", *arguments]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert process.returncode == 2
    assert message in process.stderr
    assert len(process.stderr.splitlines()) == 1
