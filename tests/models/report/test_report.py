"""report.html: what is on the page, that names stay names, and that a browser shows it on a phone."""

from __future__ import annotations

import dataclasses
import html.parser
import pathlib
import re
from collections.abc import Callable

import numpy as np
import pytest
from selenium.webdriver.common.by import By

from evenkeel.benchmarks.documentation import browser
from evenkeel.models.report import report
from evenkeel.models.report import text as report_text
from evenkeel.models.stability.detectors import Alarm
from evenkeel.models.stability.diagnosis import Diagnosis, Picture
from tests import diagnoses

ALL = [diagnoses.diagnosis, diagnoses.empty, diagnoses.sound, diagnoses.long, diagnoses.not_finite]
VOID = {"meta", "img", "br", "link"}
EVIL = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>"


class Page(html.parser.HTMLParser):
    """Elements in their order: (tag, attributes, text inside); what is left open at the end is in `open`."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.open: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        element = (tag, dict(attributes), [])
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes), []))

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1][0] == tag, f"</{tag}> closes <{self.open[-1][0]}>"
        self.open.pop()

    def handle_data(self, text: str) -> None:
        for _, _, texts in self.open:
            texts.append(text)

    def texts(self, tag: str, **attributes: str) -> list[str]:
        return [
            "".join(texts)
            for of, has, texts in self.elements
            if of == tag and all(has.get(name.rstrip("_")) == value for name, value in attributes.items())
        ]


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(report.html(diagnoses.diagnosis()))


@pytest.mark.parametrize("made", ALL)
def test_every_page_is_whole_small_and_needs_nothing_else(made: Callable[[], Diagnosis]) -> None:
    written = report.html(made())
    page = Page(written)
    assert not page.open
    assert len(written.encode()) < 1_500_000
    tags = {tag for tag, _, _ in page.elements}
    assert not tags & {"script", "link", "iframe", "object", "embed"}
    for tag, attributes, _ in page.elements:
        for name, value in attributes.items():
            assert not name.startswith("on"), f"<{tag} {name}>"
            if name in ("src", "href"):
                assert value
                assert value.startswith("data:image/png;base64,")
            else:
                assert "http" not in (value or "")
    assert "@import" not in written
    assert not re.search(r"url\((?!#)", written)
    ids = [attributes["id"] for _, attributes, _ in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    order = ["verdict", "causes", "run", "layers", "replays", "preflight", "pictures"]
    assert [each for each in ids if each in order] == order
    assert len(page.texts("h1")) == len(page.texts("title")[:1]) == 1
    assert not re.search(r"\bnan\b|\binf\b", "".join(page.texts("body")))
    assert not re.search(r'="(nan|inf)', written)


def test_the_verdict_and_its_fix_come_first(page: Page) -> None:
    assert page.texts("h1") == ["Most probably, the learning rate is too high (87%)."]
    assert page.texts("pre")[0] == "--optimizer.learning_rate=0.025"
    assert "from 10.0% to 81.2%" in page.texts("header", id="verdict")[0]
    assert Page(report.html(diagnoses.sound())).texts("h1") == ["Nothing is wrong with this run."]


def test_a_fix_in_the_source_is_shown_as_it_is() -> None:
    whole = diagnoses.diagnosis()
    edited = dataclasses.replace(whole.suspects[1], replay=None)
    page = Page(report.html(dataclasses.replace(whole, suspects=(edited,))))
    assert page.texts("pre")[0] == edited.edit
    assert "change in the source of the model" in page.texts("header", id="verdict")[0]


def test_flags_are_copied_as_one_command() -> None:
    whole = diagnoses.diagnosis()
    replay = dataclasses.replace(
        whole.replays[1], flags={"data.source": "/my pets", "guard": "act", "deterministic": True}
    )
    first = dataclasses.replace(whole.suspects[0], replay=replay)
    (fix, *_) = Page(report.html(dataclasses.replace(whole, suspects=(first,)))).texts("pre")
    assert fix == "'--data.source=/my pets' \\\n  --guard=act \\\n  --deterministic"


@pytest.mark.parametrize(("recovered", "said"), [(0.19, False), (0.2, True)])
def test_what_recovers_nothing_is_not_called_a_fix(recovered: float, said: bool) -> None:
    whole = diagnoses.diagnosis()
    first = dataclasses.replace(whole.suspects[0], recovered=recovered)
    head = Page(report.html(dataclasses.replace(whole, suspects=(first,)))).texts("header", id="verdict")[0]
    assert ("To fix it" in head) == said
    assert ("does not help" in head) == (not said)


def test_what_helps_only_with_others_is_said_so() -> None:
    whole = diagnoses.diagnosis()
    first = dataclasses.replace(whole.suspects[0], recovered=0.96, together=True)
    told = dataclasses.replace(whole, suspects=(first,))
    (card,) = Page(report.html(told)).texts("li", class_="cause")
    assert "Without it, 96% of what all changes gain together is lost; alone, accuracy" in card
    assert "96% of what all gain together is lost without it" in " ".join(report_text.text(told).split())
    assert report_text.share(told, first.replay) != 0.96


def test_causes_are_ranked_with_their_proof(page: Page) -> None:
    cards = page.texts("li", class_="cause")
    assert [re.search(r"\d+%", card)[0] for card in cards] == ["87%", "9%", "3%"]  # type: ignore[index]
    assert "recovers 100% of what the best change does; accuracy 81.2% (+71.2 points)" in cards[0]
    assert "Gradient norms rose 60-fold" in cards[0]
    assert "No change could be tried" in cards[2]
    bars = [has["style"] for tag, has, _ in page.elements if tag == "i" and "style" in has]
    assert bars == ["width:87.0%", "width:9.0%", "width:3.0%"]
    (vain,) = page.texts("div", class_="vain-list")
    assert "normalised input" in vain
    assert "full precision" in vain
    assert "ReLU" not in vain


def test_less_probable_causes_are_folded() -> None:
    page = Page(report.html(diagnoses.long()))
    assert len(page.texts("li", class_="cause")) == report.CARDS
    folded = next(text for text in page.texts("details") if "less probable" in text)
    assert "replicas get partial or empty batches" in folded


def test_the_run_has_its_curves_alarms_and_what_was_not_finite(page: Page) -> None:
    labels = [str(has["aria-label"]) for tag, has, _ in page.elements if tag == "svg" and "aria-label" in has]
    starts = [label.split(":")[0] for label in labels]
    assert starts[:3] == ["Loss", "Gradient norm", "Learning rate"]
    assert "not finite at 12 of 600 points" in labels[0]
    assert "validation loss from" in labels[0]
    (run,) = page.texts("section", id="run")
    assert {"A", "BCD", "B"} == set(page.texts("text", class_="letter"))
    assert "Loss spike at step 402, 540" in run
    assert "z 24.1" in run
    assert "or 16 where a loss scale may be the reason" in run, "a constant's name is no help"
    assert "`" not in run
    assert "not finite 12 times, 406 to 417" in run
    assert {"loss in nats, log scale", "Euclidean norm, log scale", "learning rate"} <= set(
        page.texts("text", class_="label")
    )


def test_an_alarm_of_an_unknown_kind_is_shown() -> None:
    page = Page(report.html(diagnoses.diagnosis(alarms=(Alarm("moon_phase", 10, {}),))))
    assert "Moon phase at step 10" in page.texts("dl")[0]


def test_a_spike_in_ten_thousand_steps_is_on_the_page() -> None:
    whole = diagnoses.long()
    loss = np.ones(10_000)
    loss[6789] = 500.0
    page = Page(report.html(dataclasses.replace(whole, trace=dataclasses.replace(whole.trace, loss=loss))))
    (raw,) = [str(has["d"]) for tag, has, _ in page.elements if tag == "path" and has["class"] == "curve raw"]
    highest = min((int(y), int(x)) for x, y in re.findall(r"[ML](\d+) (\d+)", raw))
    assert highest[1] == 679
    assert highest[0] < 100
    assert len(re.findall("[ML]", raw)) < 1300


def test_a_median_has_a_gap_only_where_the_loss_has() -> None:
    values = np.ones(300)
    values[100:110] = np.inf
    raw, middle = report._smoothed("loss", np.arange(300), values)
    np.testing.assert_array_equal(np.isfinite(middle.y), np.isfinite(raw.y))
    spiked = np.ones(300)
    spiked[200] = 50
    assert set(report._smoothed("loss", np.arange(300), spiked)[1].y) == {1.0}
    assert len(report._smoothed("loss", np.arange(99), np.ones(99))) == 1


def test_layers_have_their_maps_and_numbers(page: Page) -> None:
    (layers,) = page.texts("section", id="layers")
    for title in ("Gradient against weight", "Update against weight", "Dead channels"):
        assert title in layers
    assert "Saturated" not in layers, "no layer could be"
    assert "stage_1_block_1_conv" in page.texts("td")
    assert "exactly zero" in layers


def test_activations_are_not_given_the_names_of_layers() -> None:
    whole = diagnoses.diagnosis()
    layers = {**whole.trace.layers, "dead": np.full((30, 3), 0.5)}
    page = Page(report.html(dataclasses.replace(whole, trace=dataclasses.replace(whole.trace, layers=layers))))
    assert "activation 3" in page.texts("td")
    assert "activation 4" not in page.texts("td")


def test_replays_stand_side_by_side_on_the_same_axes(page: Page) -> None:
    figures = [text for text in page.texts("figure") if "points)" in text]
    assert [re.search(r"Accuracy ([\d.]+)%", text)[1] for text in figures] == ["81.2", "62.0", "35.0", "10.4", "10.0"]  # type: ignore[index]
    assert ["control" in text for text in figures] == [False, True, False, False, False]
    assert "--optimizer.clip_norm=1.0" in figures[1]
    charts = re.findall(r'<svg class="plot small".*?</figure>', report.html(diagnoses.diagnosis()), re.DOTALL)
    ticks = [re.findall(r'<text class="[xy]" [^>]*>([^<]+)', chart) for chart in charts]
    assert len(ticks) == 5
    assert {"1", "20", "40"} <= set(ticks[0])
    assert all(each == ticks[0] for each in ticks)
    base = [has["d"] for tag, has, _ in page.elements if tag == "path" and has["class"] == "curve base"]
    assert len(base) == 5
    assert len(set(base)) == 1


def test_a_replay_that_explodes_does_not_flatten_the_others() -> None:
    replays = diagnoses.replays()
    exploding = dataclasses.replace(replays[0], loss=np.logspace(0, 30, 60))
    written = report.html(diagnoses.diagnosis(replays=(exploding, *replays[1:])))
    chart = re.findall(r'<svg class="plot small".*?</figure>', written, re.DOTALL)[0]
    assert "unchanged: above the axis" in chart
    heights = [int(y) for y in re.findall(r"[ML]\d+ (\d+)", re.findall('curve main" d="([^"]+)"', chart)[0])]
    assert max(heights) - min(heights) > 200, "of 1000"


def test_failed_checks_come_first_and_passed_ones_are_folded(page: Page) -> None:
    (part,) = page.texts("section", id="preflight")
    assert "1 of 3 checks failed" in part
    assert part.index("14 of 5,000") < part.index("2 checks passed") < part.index("2.31 nats")
    assert "Rule: at most 0.1% should" in part
    assert "--data.outliers=drop" in part
    assert "2.31 nats" in next(text for text in page.texts("details") if "passed" in text)


def test_pictures_have_names_and_reasons(page: Page) -> None:
    assert len(page.texts("section", id="pictures")) == 1
    assert next(has["alt"] for tag, has, _ in page.elements if tag == "img") == "Köter/0000.jpg"
    assert "11 deviations darker" in page.texts("section", id="pictures")[0]
    left = Page(report.html(diagnoses.long())).texts("section", id="pictures")[0]
    assert "40 pictures, the first 24 shown" in left


@pytest.mark.parametrize("shape", [(8, 8, 1), (8, 8, 3), (8, 8, 4), (1, 700, 3)])
def test_pictures_of_all_channels(shape: tuple[int, ...]) -> None:
    picture = Picture("p", np.zeros(shape, np.uint8), "r")
    assert "data:image/png" in report.html(diagnoses.diagnosis(pictures=(picture,)))


def test_the_small_print(page: Page) -> None:
    (small,) = page.texts("footer")
    assert "runs/pets" in small
    assert "41.7 CPU seconds" in small
    assert "tensorflow 2." in small


def test_both_schemes_and_paper_are_provided_for() -> None:
    written = report.html(diagnoses.diagnosis())
    assert "@media (prefers-color-scheme: dark)" in written
    assert "color-scheme: light dark" in written
    assert "@media print" in written
    light, dark = re.findall(r":root \{(.*?)\}", written, re.DOTALL)[:2]
    names = [set(re.findall(r"(--(?!serif|sans|mono)\w+):", each)) for each in (light, dark)]
    assert names[0] == names[1]
    assert len(names[0]) >= 8


def evil() -> Diagnosis:
    """A script in every place that a user, a file or a layer may have named."""
    whole = diagnoses.diagnosis()
    replays = tuple(dataclasses.replace(each, name=EVIL, flags={EVIL: EVIL}) for each in whole.replays)
    return dataclasses.replace(
        whole,
        source=EVIL,
        places=(EVIL,) * 8,
        alarms=tuple(dataclasses.replace(each, kind=EVIL, evidence={EVIL: 1.0}) for each in whole.alarms),
        findings=tuple(
            dataclasses.replace(each, check=EVIL, seen=EVIL, rule=EVIL, remedy=EVIL, evidence={EVIL: 1.0})
            for each in whole.findings
        ),
        replays=replays,
        suspects=tuple(
            dataclasses.replace(each, title=EVIL, evidence=(EVIL,), replay=replays[1], edit=EVIL)
            for each in whole.suspects * 3
        ),
        pictures=tuple(dataclasses.replace(each, name=EVIL, reason=EVIL) for each in whole.pictures),
    )


def test_names_are_names_and_no_markup() -> None:
    written = report.html(evil())
    page = Page(written)
    assert not page.open
    assert "<script" not in written
    tags = {tag for tag, _, _ in page.elements}
    assert not tags & {"script"}
    pictures = [has for tag, has, _ in page.elements if tag == "img"]
    assert len(pictures) == 5
    assert {has["alt"] for has in pictures} == {EVIL}
    assert not any(name.startswith("on") for _, has, _ in page.elements for name in has)
    assert EVIL in page.texts("h1")[0]


def test_a_file_name_that_is_not_unicode_can_be_written(tmp_path: pathlib.Path) -> None:
    whole = diagnoses.diagnosis(source="runs/\udcff")
    path = tmp_path / "report.html"
    path.write_text(report.html(whole), encoding="utf-8")
    assert "Diagnosis of runs/" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("steps", [1, 2, 17, 101])
def test_short_runs(steps: int) -> None:
    whole = diagnoses.diagnosis(trace=diagnoses.trace(steps), replays=diagnoses.replays(steps))
    assert not Page(report.html(whole)).open


@pytest.mark.slow
@pytest.mark.skipif(browser.MISSING, reason="no Chromium with its driver is installed")
def test_a_browser_shows_it_on_a_phone_and_a_desktop(tmp_path: pathlib.Path) -> None:
    pages = {made.__name__: report.html(made()) for made in (*ALL, evil)}
    endless = dataclasses.replace(diagnoses.findings()[1], seen="f" * 200, remedy="--" + "x" * 200)
    pages["endless"] = report.html(diagnoses.diagnosis(source="/run" * 50, findings=(endless,)))
    with browser.chromium() as driver:
        for name, written in pages.items():
            path = tmp_path / f"{name}.html"
            path.write_text(written, encoding="utf-8")
            papers = []
            for width, scheme in ((360, "light"), (360, "dark"), (1280, "light")):
                metrics = {"width": width, "height": 740, "deviceScaleFactor": 1, "mobile": width == 360}
                driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
                feature = {"name": "prefers-color-scheme", "value": scheme}
                driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
                driver.get(path.as_uri())
                for details in driver.find_elements(By.TAG_NAME, "details"):
                    driver.execute_script("arguments[0].open = true", details)
                assert driver.execute_script("return document.scrollingElement.scrollWidth") <= width, (name, width)
                verdict = driver.find_element(By.TAG_NAME, "h1")
                assert verdict.is_displayed()
                assert verdict.rect["y"] + verdict.rect["height"] < 740
                papers.append(driver.execute_script("return getComputedStyle(document.body).backgroundColor"))
                assert driver.get_log("browser") == [], (name, width)
            assert papers[0] == papers[2] != papers[1]
