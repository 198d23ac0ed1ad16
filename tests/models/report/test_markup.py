"""Elements and templates escape every text that is not markup."""

from __future__ import annotations

import pathlib

import jinja2
import pytest

from evenkeel.models.report.markup import element, environment, render_page

HOSTILE_NAME = "<script>alert('x')</script>\">"


def test_an_element_escapes_texts_and_attributes_but_not_elements() -> None:
    assert element("text", "a < b", class_="x", stop_color="red") == '<text class="x" stop-color="red">a &lt; b</text>'
    assert element("g", element("rect", x=0)) == '<g><rect x="0"/></g>'
    hostile = element("text", HOSTILE_NAME, title=HOSTILE_NAME)
    assert "<script" not in hostile
    assert hostile.count('"') == 2
    assert element("i", "") == "<i></i>"


def test_a_page_escapes_its_values_and_includes_the_style(tmp_path: pathlib.Path) -> None:
    (tmp_path / "one.html").write_text(
        '{% extends "page.html" %}{% block title %}{{ name }}{% endblock %}{% block body %}{{ name }}{% endblock %}'
    )
    page = render_page("one.html", tmp_path, name=f"{HOSTILE_NAME}\udcff")
    assert page.count("&lt;script&gt;") == 2
    assert "<script" not in page
    assert ":root {" in page
    page.encode()


def test_a_value_that_is_missing_is_an_error() -> None:
    with pytest.raises(jinja2.UndefinedError):
        environment().from_string("{{ missing }}").render()
