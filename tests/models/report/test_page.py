"""report.html: its content, the escaping of names, and how a browser shows it on a phone and on a desktop."""

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
from evenkeel.models.report.page import MAX_CARDS, render_html
from evenkeel.models.report.text import render_text
from evenkeel.models.report.verdict import recovered_share
from evenkeel.models.stability.diagnosis import Diagnosis, Picture
from evenkeel.models.stability.trace import Alarm
from tests import diagnoses

DIAGNOSES = [diagnoses.diagnosis, diagnoses.empty, diagnoses.sound, diagnoses.long, diagnoses.not_finite]
VOID_TAGS = {"meta", "img", "br", "link"}
HOSTILE_NAME = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>"


class Page(html.parser.HTMLParser):
    """A parsed HTML page that fails on badly nested tags.

    Attributes:
      elements: (tag, attributes, texts inside), in document order
      open: the elements that are not closed at the end
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.open: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        element = (tag, dict(attributes), [])
        self.elements.append(element)
        if tag not in VOID_TAGS:
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
        """The text inside each element with this tag and these attributes."""
        return [
            "".join(texts)
            for name, values, texts in self.elements
            if name == tag and all(values.get(key.rstrip("_")) == value for key, value in attributes.items())
        ]

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of each element with this tag."""
        return [values for name, values, _ in self.elements if name == tag]


def parse_report(diagnosis: Diagnosis) -> Page:
    return Page(render_html(diagnosis))


@pytest.fixture(scope="module")
def page() -> Page:
    return parse_report(diagnoses.diagnosis())


@pytest.mark.parametrize("create_diagnosis", DIAGNOSES)
def test_every_page_is_complete_small_and_self_contained(create_diagnosis: Callable[[], Diagnosis]) -> None:
    text = render_html(create_diagnosis())
    page = Page(text)
    assert not page.open
    assert len(text.encode()) < 1_500_000
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
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    ids = [attributes["id"] for _, attributes, _ in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    order = ["verdict", "causes", "run", "layers", "replays", "preflight", "pictures"]
    assert [name for name in ids if name in order] == order
    assert len(page.texts("h1")) == len(page.texts("title")[:1]) == 1
    assert not re.search(r"\bnan\b|\binf\b", "".join(page.texts("body")))
    assert not re.search(r'="(nan|inf)', text)


def test_the_verdict_and_its_fix_come_first(page: Page) -> None:
    assert page.texts("h1") == ["Most probably, the learning rate is too high (87%)."]
    assert page.texts("pre")[0] == "--optimizer.learning_rate=0.025"
    assert "from 10.0% to 81.2%" in page.texts("header", id="verdict")[0]
    assert parse_report(diagnoses.sound()).texts("h1") == ["Nothing is wrong with this run."]


def test_an_edit_of_the_source_is_shown_verbatim() -> None:
    diagnosis = diagnoses.diagnosis()
    suspect = dataclasses.replace(diagnosis.suspects[1], replay=None)
    page = parse_report(dataclasses.replace(diagnosis, suspects=(suspect,)))
    assert page.texts("pre")[0] == suspect.edit
    assert "change in the source of the model" in page.texts("header", id="verdict")[0]


def test_flags_can_be_copied_as_one_command() -> None:
    diagnosis = diagnoses.diagnosis()
    flags = {"data.source": "/my pets", "guard": "act", "deterministic": True}
    replay = dataclasses.replace(diagnosis.replays[1], flags=flags)
    suspect = dataclasses.replace(diagnosis.suspects[0], replay=replay)
    (command, *_) = parse_report(dataclasses.replace(diagnosis, suspects=(suspect,))).texts("pre")
    assert command == "'--data.source=/my pets' \\\n  --guard=act \\\n  --deterministic"


@pytest.mark.parametrize(("recovered", "helps"), [(0.19, False), (0.2, True)])
def test_a_change_that_recovers_nothing_is_not_called_a_fix(recovered: float, helps: bool) -> None:
    diagnosis = diagnoses.diagnosis()
    suspect = dataclasses.replace(diagnosis.suspects[0], recovered=recovered)
    header = parse_report(dataclasses.replace(diagnosis, suspects=(suspect,))).texts("header", id="verdict")[0]
    assert ("To fix it" in header) == helps
    assert ("does not help" in header) == (not helps)


def test_a_change_that_helps_only_together_with_others_is_reported_as_such() -> None:
    diagnosis = diagnoses.diagnosis()
    suspect = dataclasses.replace(diagnosis.suspects[0], recovered=0.96, together=True)
    diagnosis = dataclasses.replace(diagnosis, suspects=(suspect,))
    (card,) = parse_report(diagnosis).texts("li", class_="cause")
    assert "Without it, 96% of the gain of all changes together is lost; alone, accuracy" in card
    text = " ".join(render_text(diagnosis).split())
    assert "without it, 96% of the gain of all changes together is lost" in text
    assert recovered_share(diagnosis, suspect.replay) != 0.96


def test_causes_are_ranked_and_have_evidence(page: Page) -> None:
    cards = page.texts("li", class_="cause")
    assert [re.search(r"\d+%", card)[0] for card in cards] == ["87%", "9%", "3%"]  # type: ignore[index]
    assert "recovers 100% of the best change's gain; accuracy 81.2% (+71.2 points)" in cards[0]
    assert "Gradient norms rose 60-fold" in cards[0]
    assert "No change could be tried" in cards[2]
    bars = [attributes["style"] for attributes in page.attributes("i") if "style" in attributes]
    assert bars == ["width:87.0%", "width:9.0%", "width:3.0%"]
    (ineffective,) = page.texts("div", class_="ineffective-list")
    assert "normalised input" in ineffective
    assert "full precision" in ineffective
    assert "ReLU" not in ineffective


def test_less_probable_causes_are_folded() -> None:
    page = parse_report(diagnoses.long())
    assert len(page.texts("li", class_="cause")) == MAX_CARDS
    folded = next(text for text in page.texts("details") if "less probable" in text)
    assert "replicas get partial or empty batches" in folded


def test_the_run_shows_curves_alarms_and_steps_that_are_not_finite(page: Page) -> None:
    labels = [str(attributes["aria-label"]) for attributes in page.attributes("svg") if "aria-label" in attributes]
    titles = [label.split(":")[0] for label in labels]
    assert titles[:3] == ["Loss", "Gradient norm", "Learning rate"]
    assert "not finite at 12 of 600 points" in labels[0]
    assert "validation loss from" in labels[0]
    (run,) = page.texts("section", id="run")
    assert {"A", "BCD", "B"} == set(page.texts("text", class_="letter"))
    assert "Loss spike at step 402, 540" in run
    assert "z 24.1" in run
    assert "16 in a row if a loss scale may be the reason" in run, "not the name of the constant"
    assert "`" not in run
    assert "not finite 12 times, 406 to 417" in run
    assert {"loss in nats, log scale", "Euclidean norm, log scale", "learning rate"} <= set(
        page.texts("text", class_="label")
    )


def test_an_alarm_of_an_unknown_kind_is_shown() -> None:
    page = parse_report(diagnoses.diagnosis(alarms=(Alarm("moon_phase", 10, {}),)))
    assert "Moon phase at step 10" in page.texts("dl")[0]


def test_a_spike_in_ten_thousand_steps_is_on_the_page() -> None:
    diagnosis = diagnoses.long()
    loss = np.ones(10_000)
    loss[6789] = 500.0
    trace = dataclasses.replace(diagnosis.trace, loss=loss)
    page = parse_report(dataclasses.replace(diagnosis, trace=trace))
    (path,) = [str(attributes["d"]) for attributes in page.attributes("path") if attributes["class"] == "curve raw"]
    y, x = min((int(y), int(x)) for x, y in re.findall(r"[ML](\d+) (\d+)", path))
    assert x == 679
    assert y < 100
    assert len(re.findall("[ML]", path)) < 1300


def test_layers_have_maps_and_numbers(page: Page) -> None:
    (layers,) = page.texts("section", id="layers")
    for title in ("Gradient against weight", "Update against weight", "Dead channels"):
        assert title in layers
    assert "Saturated" not in layers, "no layer has an activation that saturates"
    assert "stage_1_block_1_conv" in page.texts("td")
    assert "exactly zero" in layers


def test_activations_do_not_get_the_names_of_layers() -> None:
    diagnosis = diagnoses.diagnosis()
    layers = {**diagnosis.trace.layers, "dead": np.full((30, 3), 0.5)}
    trace = dataclasses.replace(diagnosis.trace, layers=layers)
    page = parse_report(dataclasses.replace(diagnosis, trace=trace))
    assert "activation 3" in page.texts("td")
    assert "activation 4" not in page.texts("td")


def test_replays_are_side_by_side_on_the_same_axes(page: Page) -> None:
    figures = [text for text in page.texts("figure") if "points)" in text]
    assert [re.search(r"Accuracy ([\d.]+)%", text)[1] for text in figures] == ["81.2", "62.0", "35.0", "10.4", "10.0"]  # type: ignore[index]
    assert ["control" in text for text in figures] == [False, True, False, False, False]
    assert "--optimizer.clip_norm=1.0" in figures[1]
    charts = re.findall(r'<svg class="plot small".*?</figure>', render_html(diagnoses.diagnosis()), re.DOTALL)
    ticks = [re.findall(r'<text class="[xy]" [^>]*>([^<]+)', chart) for chart in charts]
    assert len(ticks) == 5
    assert {"1", "20", "40"} <= set(ticks[0])
    assert all(labels == ticks[0] for labels in ticks)
    unchanged = [attributes["d"] for attributes in page.attributes("path") if attributes["class"] == "curve base"]
    assert len(unchanged) == 5
    assert len(set(unchanged)) == 1


def test_a_replay_that_explodes_does_not_flatten_the_others() -> None:
    replays = diagnoses.replays()
    exploding = dataclasses.replace(replays[0], loss=np.logspace(0, 30, 60))
    text = render_html(diagnoses.diagnosis(replays=(exploding, *replays[1:])))
    chart = re.findall(r'<svg class="plot small".*?</figure>', text, re.DOTALL)[0]
    assert "unchanged: above the axis" in chart
    heights = [int(y) for y in re.findall(r"[ML]\d+ (\d+)", re.findall('curve main" d="([^"]+)"', chart)[0])]
    assert max(heights) - min(heights) > 200, "of 1000"


def test_failed_checks_come_first_and_passed_ones_are_folded(page: Page) -> None:
    (section,) = page.texts("section", id="preflight")
    assert "1 of 3 checks failed" in section
    assert section.index("14 of 5,000") < section.index("2 checks passed") < section.index("2.31 nats")
    assert "Rule: at most 0.1% should" in section
    assert "--data.outliers=drop" in section
    assert "2.31 nats" in next(text for text in page.texts("details") if "passed" in text)


def test_pictures_have_names_and_reasons(page: Page) -> None:
    assert len(page.texts("section", id="pictures")) == 1
    assert page.attributes("img")[0]["alt"] == "Köter/0000.jpg"
    assert "11 deviations darker" in page.texts("section", id="pictures")[0]
    section = parse_report(diagnoses.long()).texts("section", id="pictures")[0]
    assert "40 pictures, the first 24 shown" in section


@pytest.mark.parametrize("shape", [(8, 8, 1), (8, 8, 3), (8, 8, 4), (1, 700, 3)])
def test_pictures_with_any_number_of_channels_are_shown(shape: tuple[int, ...]) -> None:
    picture = Picture("p", np.zeros(shape, np.uint8), "r")
    assert "data:image/png" in render_html(diagnoses.diagnosis(pictures=(picture,)))


def test_the_footer_has_source_cost_and_versions(page: Page) -> None:
    (footer,) = page.texts("footer")
    assert "runs/pets" in footer
    assert "41.7 CPU seconds" in footer
    assert "tensorflow 2." in footer


def test_the_style_covers_light_dark_and_print() -> None:
    text = render_html(diagnoses.diagnosis())
    assert "@media (prefers-color-scheme: dark)" in text
    assert "color-scheme: light dark" in text
    assert "@media print" in text
    light, dark = re.findall(r":root \{(.*?)\}", text, re.DOTALL)[:2]
    colors = [set(re.findall(r"(--(?!serif|sans|mono)\w+):", rules)) for rules in (light, dark)]
    assert colors[0] == colors[1]
    assert len(colors[0]) >= 8


def hostile_diagnosis() -> Diagnosis:
    """A script in every place that a user, a file or a layer may have named."""
    diagnosis = diagnoses.diagnosis()
    replays = tuple(
        dataclasses.replace(replay, name=HOSTILE_NAME, flags={HOSTILE_NAME: HOSTILE_NAME})
        for replay in diagnosis.replays
    )
    return dataclasses.replace(
        diagnosis,
        source=HOSTILE_NAME,
        places=(HOSTILE_NAME,) * 8,
        alarms=tuple(
            dataclasses.replace(alarm, kind=HOSTILE_NAME, evidence={HOSTILE_NAME: 1.0}) for alarm in diagnosis.alarms
        ),
        findings=tuple(
            dataclasses.replace(
                finding,
                check=HOSTILE_NAME,
                seen=HOSTILE_NAME,
                rule=HOSTILE_NAME,
                remedy=HOSTILE_NAME,
                evidence={HOSTILE_NAME: 1.0},
            )
            for finding in diagnosis.findings
        ),
        replays=replays,
        suspects=tuple(
            dataclasses.replace(
                suspect, title=HOSTILE_NAME, evidence=(HOSTILE_NAME,), replay=replays[1], edit=HOSTILE_NAME
            )
            for suspect in diagnosis.suspects * 3
        ),
        pictures=tuple(
            dataclasses.replace(picture, name=HOSTILE_NAME, reason=HOSTILE_NAME) for picture in diagnosis.pictures
        ),
    )


def test_names_are_text_and_never_markup() -> None:
    text = render_html(hostile_diagnosis())
    page = Page(text)
    assert not page.open
    assert "<script" not in text
    tags = {tag for tag, _, _ in page.elements}
    assert not tags & {"script"}
    pictures = page.attributes("img")
    assert len(pictures) == 5
    assert {attributes["alt"] for attributes in pictures} == {HOSTILE_NAME}
    assert not any(name.startswith("on") for _, attributes, _ in page.elements for name in attributes)
    assert HOSTILE_NAME in page.texts("h1")[0]


def test_the_name_of_a_class_is_shown_as_text() -> None:
    """Classes are named by folders: in the paths of pictures, and in sentences of evidence."""
    diagnosis = diagnoses.diagnosis()
    name = f"{HOSTILE_NAME}/0001.jpg"
    sentence = f"Class {HOSTILE_NAME} has 3 images."
    picture = dataclasses.replace(diagnosis.pictures[0], name=name)
    suspect = dataclasses.replace(diagnosis.suspects[0], evidence=(sentence,))
    page = parse_report(dataclasses.replace(diagnosis, pictures=(picture,), suspects=(suspect,)))
    assert not page.texts("script")
    assert any(name in text for text in page.texts("figcaption"))
    assert sentence in page.texts("li")


def test_a_file_name_that_is_not_unicode_can_be_written(tmp_path: pathlib.Path) -> None:
    diagnosis = diagnoses.diagnosis(source="runs/\udcff")
    path = tmp_path / "report.html"
    path.write_text(render_html(diagnosis), encoding="utf-8")
    assert "Diagnosis of runs/" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("steps", [1, 2, 17, 101])
def test_short_runs_have_a_complete_page(steps: int) -> None:
    diagnosis = diagnoses.diagnosis(trace=diagnoses.trace(steps), replays=diagnoses.replays(steps))
    assert not parse_report(diagnosis).open


@pytest.mark.slow
@pytest.mark.skipif(browser.CHROMIUM_MISSING, reason="no Chromium with its driver is installed")
def test_a_browser_shows_the_page_on_a_phone_and_a_desktop(tmp_path: pathlib.Path) -> None:
    pages = {create.__name__: render_html(create()) for create in (*DIAGNOSES, hostile_diagnosis)}
    unbreakable = dataclasses.replace(diagnoses.findings()[1], seen="f" * 200, remedy="--" + "x" * 200)
    pages["unbreakable"] = render_html(diagnoses.diagnosis(source="/run" * 50, findings=(unbreakable,)))
    with browser.open_chromium() as driver:
        for name, text in pages.items():
            path = tmp_path / f"{name}.html"
            path.write_text(text, encoding="utf-8")
            backgrounds = []
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
                backgrounds.append(driver.execute_script("return getComputedStyle(document.body).backgroundColor"))
                assert driver.get_log("browser") == [], (name, width)
            assert backgrounds[0] == backgrounds[2] != backgrounds[1]
