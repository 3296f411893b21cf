"""Turns an SVG file into an element of a page: unique ids, the page's colours, text for screen readers. Pure."""

from __future__ import annotations

import re

from markupsafe import Markup

from hpcjobs.report.palette import VARIABLES

_HEAD = re.compile(r"^.*?<svg[^>]*?(viewBox=\"[^\"]*\")[^>]*>", re.DOTALL)
_LEFT_OUT = re.compile(r"\s*<metadata>.*?</metadata>|\s*<style type=\"text/css\">.*?</style>", re.DOTALL)
_COLOUR = re.compile(r"#[0-9a-f]{6}\b")
_FAMILY = re.compile(r"font-family: [^;\"]*;? ?")
_FONT = re.compile(r"(font: [^;\"]*?\d+px) [^;\"]*")


def inline(svg: str, name: str, title: str, description: str) -> Markup:
    """The drawing as an element of a page. `name` must be unique on the page: it prefixes all ids.

    Raises ValueError if `svg` is no SVG.
    """
    svg = _LEFT_OUT.sub("", svg)
    head = _HEAD.match(svg)
    if head is None:
        raise ValueError(f"{name}: no SVG")
    body = svg[head.end() :]
    # Only inside tags: text between them is data and may look like anything.
    body = re.sub(r"<[^>]*>", lambda tag: _tag(tag[0], name), body)
    label = Markup('<title id="{0}-title">{1}</title><desc id="{0}-desc">{2}</desc>').format(name, title, description)
    words = Markup('role="img" aria-labelledby="{0}-title" aria-describedby="{0}-desc"').format(name)
    # matplotlib has escaped the texts of the drawing.
    return Markup(f'<svg xmlns="http://www.w3.org/2000/svg" {head[1]} {words}>{label}{body}')


def _tag(tag: str, name: str) -> str:
    tag = re.sub(r'\bid="', f'id="{name}-', tag)
    tag = re.sub(r'(?:xlink:)?href="#', f'href="#{name}-', tag)
    tag = tag.replace("url(#", f"url(#{name}-")
    tag = _FONT.sub(r"\1 inherit", _FAMILY.sub("", tag))
    return _COLOUR.sub(lambda colour: f"var(--{VARIABLES[colour[0]]})" if colour[0] in VARIABLES else colour[0], tag)
