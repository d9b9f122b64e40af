"""Matplotlib's SVG made fit for its place: inline in a page that colours it, or a file that stands alone.

Colours are drawn as sentinels; inline they leave as CSS variables, so that one picture serves light and dark pages,
and in a file as the colours of the light page.
"""

from __future__ import annotations

import re
from html import escape

__all__ = ["ALARM", "HEAT", "INK", "LIGHT", "MUTED", "PALETTE", "RULE", "SERIES", "inline", "standalone"]

INK, MUTED, RULE, HEAT, ALARM = "#000010", "#000020", "#000030", "#000040", "#000050"
SERIES = ("#0000a1", "#0000a2", "#0000a3", "#0000a4", "#0000a5")
PALETTE = {  # names of CSS variables: light, dark
    "page": ("#fdfdfc", "#15181c"),
    "ink": ("#1c1f24", "#e6e8eb"),
    "muted": ("#5a626e", "#9da6b3"),
    "rule": ("#d8dce2", "#3a414b"),
    "panel": ("#f3f4f6", "#1e2228"),
    "series-1": ("#0067a8", "#5eb0ec"),
    "series-2": ("#c04a00", "#f5924f"),
    "series-3": ("#00795a", "#42c79b"),
    "series-4": ("#9a3d86", "#e294cf"),
    "series-5": ("#9a7400", "#dfc04a"),
    "heat": ("#d95f02", "#b4480a"),
    "alarm": ("#c02717", "#ff7f6b"),
}
_NAMES = {
    INK: "ink",
    MUTED: "muted",
    RULE: "rule",
    HEAT: "heat",
    ALARM: "alarm",
    **{colour: f"series-{i}" for i, colour in enumerate(SERIES, start=1)},
}
LIGHT = {sentinel: PALETTE[name][0] for sentinel, name in _NAMES.items()}  # colours of the light page
_FONTS = "system-ui, -apple-system, Segoe UI, Roboto, Helvetica Neue, Liberation Sans, Arial, sans-serif"


def inline(svg: str, name: str, label: str) -> str:
    """As an element of a page: no prologue, fonts or colours of its own; every id starts with the name."""
    opening = f'<svg role="img" aria-label="{escape(label)}" {_view_box(svg)}>'
    body = opening + _body(svg)
    body = body.replace("xlink:href", "href").replace('href="#', f'href="#{name}-')
    body = body.replace("url(#", f"url(#{name}-").replace(' id="', f' id="{name}-')
    for colour, variable in _NAMES.items():
        body = body.replace(colour, "currentColor" if variable == "ink" else f"var(--{variable})")
    return re.sub(r"\s*\n\s*", "\n", body)


def standalone(svg: str, label: str, width: float, height: float) -> str:
    """As a file: real colours, those of the light page and its ground, and text as text."""
    head = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" role="img" '
        f'aria-label="{escape(label)}" width="{width:g}" height="{height:g}" {_view_box(svg)} '
        f'font-family="{_FONTS}">\n<title>{escape(label)}</title>\n'
        f'<rect width="100%" height="100%" fill="{PALETTE["page"][0]}"/>'
    )
    body = head + _body(svg)
    for sentinel, colour in LIGHT.items():
        body = body.replace(sentinel, colour)
    return re.sub(r"\s*\n\s*", "\n", body)


def _view_box(svg: str) -> str:
    found = re.search(r'viewBox="[^"]*"', svg)
    return found.group() if found else ""


def _body(svg: str) -> str:
    """What follows the opening tag, without metadata, style sheets and fonts."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<defs>\s*</defs>", "", body, flags=re.S)
    body = re.sub(r'\bd="[^"]*"', _shortened, body)
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)
    return body[body.index(">") + 1 :]


def _shortened(path: re.Match[str]) -> str:
    """Coordinates of a path to a hundredth of a pixel."""
    return re.sub(r"(\.\d\d)\d+", r"\1", path.group())
