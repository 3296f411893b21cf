"""An SVG file becomes part of a page: its own ids, the page's colours, words for a screen reader. Pure."""

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
    """The drawing as an element of a page, in which `name` is the only one of its name."""
    svg = _LEFT_OUT.sub("", svg)
    head = _HEAD.match(svg)
    if head is None:
        raise ValueError(f"{name}: no SVG")
    body = svg[head.end() :]
    # Within tags only: a text may say whatever it likes.
    body = re.sub(r"<[^>]*>", lambda tag: _tag(tag[0], name), body)
    label = Markup('<title id="{0}-title">{1}</title><desc id="{0}-desc">{2}</desc>').format(name, title, description)
    words = Markup('role="img" aria-labelledby="{0}-title" aria-describedby="{0}-desc"').format(name)
    # Drawn by matplotlib, which escapes the texts in it.
    return Markup(f'<svg xmlns="http://www.w3.org/2000/svg" {head[1]} {words}>{label}{body}')


def _tag(tag: str, name: str) -> str:
    tag = re.sub(r'\bid="', f'id="{name}-', tag)
    tag = re.sub(r'(?:xlink:)?href="#', f'href="#{name}-', tag)
    tag = tag.replace("url(#", f"url(#{name}-")
    tag = _FONT.sub(r"\1 inherit", _FAMILY.sub("", tag))
    return _COLOUR.sub(lambda colour: f"var(--{VARIABLES[colour[0]]})" if colour[0] in VARIABLES else colour[0], tag)
