"""The page of the history: a chart for each metric of each machine, also in a browser."""

from __future__ import annotations

import pathlib
import re

import pytest

from evenkeel.benchmarks.documentation import browser
from evenkeel.benchmarks.report import history_page, history_store
from tests.command_line import result_file


def render(directory: pathlib.Path) -> str:
    return history_page.render_history(history_store.read_history(str(directory)))


def append_three_results(directory: pathlib.Path) -> None:
    for value, commit in ((1.0, "aaa"), (1.3, "bbb"), (0.8, "ccc")):
        history_store.append_results(result_file(value, commit), str(directory))


def test_each_metric_of_each_machine_has_a_chart(tmp_path: pathlib.Path) -> None:
    append_three_results(tmp_path)
    history_store.append_results(result_file(5.0, "aaa", "another <CPU>"), str(tmp_path))
    html = render(tmp_path)
    assert len(re.findall(r"<figure>", html)) == 4
    assert "another &lt;CPU&gt;" in html
    assert "decode &lt;b&gt;" in html
    assert "<b>" not in html
    assert "median from 1 to 0.8, minimum 0.8, maximum 1.3" in html
    assert "http" not in html.replace("http-equiv", ""), "self-contained"


@pytest.mark.slow
@pytest.mark.skipif(browser.CHROMIUM_MISSING, reason="no Chromium with its driver is installed")
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_draws_the_page(width: int, tmp_path: pathlib.Path) -> None:
    append_three_results(tmp_path)
    (tmp_path / "page.html").write_text(render(tmp_path))
    with browser.open_chromium(width) as driver:
        driver.get(f"file://{tmp_path / 'page.html'}")
        assert driver.execute_script("return window.innerWidth") == width
        assert driver.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
        widths = driver.execute_script("return [...document.querySelectorAll('path')].map(p => p.getBBox().width)")
        assert len(widths) == 6
        assert all(width > 0 for width in widths)
        assert driver.get_log("browser") == []
