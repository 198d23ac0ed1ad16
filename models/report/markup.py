"""Creates the markup of HTML pages, from Jinja2 templates and single elements; both escape all text.

    element("text", "a < b", x=8, class_="y")  # <text x="8" class="y">a &lt; b</text>
    render_page("report.html", TEMPLATES, source="runs/pets", ...)

The pages are self-contained: `page.html` includes the style sheet, pictures are data URLs, and there are no scripts.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Iterable

import jinja2
from markupsafe import Markup, escape

TEMPLATES = pathlib.Path(__file__).parent / "templates"


@functools.cache
def environment(directory: pathlib.Path = TEMPLATES) -> jinja2.Environment:
    """The Jinja2 environment for the templates in `directory`, which may extend and import the ones in `TEMPLATES`."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader([directory, TEMPLATES]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )


def render_page(template: str, directory: pathlib.Path = TEMPLATES, **values: object) -> str:
    """Renders `template` with `values` as an HTML document, ready to be written as UTF-8.

    A file name that is not UTF-8 reaches Python as lone surrogates, which cannot be encoded: each becomes a "?".
    """
    page = environment(directory).get_template(template).render(**values)
    return page.encode("utf-8", "replace").decode() + "\n"


def element(tag: str, *children: str, **attributes: object) -> Markup:
    """Creates an SVG or HTML element. Children and attribute values are escaped, except if they are Markup.

    In attribute names, a trailing underscore is dropped (`class_`) and any other becomes a hyphen (`stop_color`).
    An element without children is self-closing, which HTML allows for SVG elements only: give others the child "".
    """
    written = "".join(f' {name.rstrip("_").replace("_", "-")}="{escape(value)}"' for name, value in attributes.items())
    if not children:
        return Markup(f"<{tag}{written}/>")
    return Markup(f"<{tag}{written}>{join(children)}</{tag}>")


def join(parts: Iterable[str]) -> Markup:
    """Joins the parts; parts that are not Markup are escaped."""
    return Markup("").join(parts)
