"""A drawing surface measured in CSS pixels, and figures: a picture for a desk and a phone, and its numbers.

Matplotlib is imported on first use; pyplot and its global state never are.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qsim.report.numbers import Numbers
from qsim.report.svg import ALARM, HEAT, INK, LIGHT, MUTED, PALETTE, RULE, SERIES, inline, standalone

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "ALARM",
    "HEAT",
    "INK",
    "MUTED",
    "NARROW",
    "RULE",
    "SERIES",
    "WIDE",
    "End",
    "Figure",
    "Sheet",
    "Style",
    "draw",
    "key_height",
    "key_places",
    "label_room",
    "series",
    "spread",
]

WIDE, NARROW = 940, 360  # CSS pixels: a desk, a phone
Style = dict[str, Any]  # color and linestyle of a line
End = tuple[str, Style, float, float]  # a line's name, its style, and its last point

_LETTER = 6.7  # CSS pixels that a letter of 12 px text takes at most, on average
_SETTINGS: dict[str, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 12,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
}


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One picture, drawn for a desk and for a phone as inline SVG and for a file, and the numbers it shows."""

    name: str  # one that no other figure of the page has
    label: str
    wide: str
    narrow: str
    file: str
    numbers: Numbers
    png: bytes = b""  # the file as pixels, where asked for


class Sheet:
    """A figure whose coordinates are CSS pixels from the top left corner."""

    def __init__(self, width: float, height: float) -> None:
        from matplotlib.figure import Figure

        self.width, self.height = width, height
        self.figure = Figure(figsize=(width / 72, height / 72), dpi=72)

    def axes(self, x: float, y: float, width: float, height: float, **options: Any) -> Axes:
        box = (x / self.width, 1 - (y + height) / self.height, width / self.width, height / self.height)
        axes = self.figure.add_axes(box, **options)
        axes.patch.set_visible(False)
        axes.grid(axis="y", color=RULE, linewidth=0.7)
        axes.set_axisbelow(True)
        return axes

    def text(self, x: float, y: float, words: str, **options: Any) -> None:
        """Words whose middle (or the line that ``va`` names) lies at y."""
        options = {"va": "center", "ha": "left", **options}
        self.figure.text(x / self.width, 1 - y / self.height, words, **options)

    def line(self, xs: Sequence[float], ys: Sequence[float], **options: Any) -> None:
        from matplotlib.lines import Line2D

        across = [x / self.width for x in xs]
        down = [1 - y / self.height for y in ys]
        self.figure.add_artist(Line2D(across, down, **options))

    def box(self, x: float, y: float, width: float, height: float, **options: Any) -> None:
        from matplotlib.patches import Rectangle

        corner = (x / self.width, 1 - (y + height) / self.height)
        size = (width / self.width, height / self.height)
        self.figure.add_artist(Rectangle(corner, *size, transform=self.figure.transFigure, **options))

    def key(self, x: float, y: float, entries: Sequence[tuple[str, Style]], *, room: float) -> None:
        """Names in their colours, wrapped to the room."""
        for (name, style), (across, row) in zip(entries, key_places([n for n, _ in entries], room), strict=True):
            self.line([x + across, x + across + 16], [y + 18 * row] * 2, linewidth=2.2, **style)
            self.text(x + across + 21, y + 18 * row, name, color=style["color"])

    def point(self, axes: Axes, x: float, y: float) -> tuple[float, float]:
        """Where a data point of these axes lies on the sheet."""
        across, up = axes.transData.transform((x, y))
        return float(across), self.height - float(up)

    def end_labels(self, axes: Axes, ends: Sequence[End]) -> None:
        """Name each line beside the axes, moved apart where the names would collide."""
        points = [self.point(axes, x, y) for _, _, x, y in ends]
        box = axes.get_position()
        edge, top, bottom = box.x1 * self.width, (1 - box.y1) * self.height, (1 - box.y0) * self.height
        places = spread([y for _, y in points], gap=15, low=top + 4, high=bottom - 4)
        for (name, style, *_), (x, y), place in zip(ends, points, places, strict=True):
            self.line([min(x + 4, edge), edge, edge + 12], [y, y, place], color=style["color"], lw=0.8, ls=":")
            self.text(edge + 15, place, name, color=style["color"])

    def svg(self) -> str:
        """As Matplotlib writes it."""
        target = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing")  # the browser has more fonts than this
            self.figure.savefig(target, format="svg", transparent=True, metadata=nothing)
        return target.getvalue()

    def png(self) -> bytes:
        """In the colours of the light page and on its ground, two pixels to a CSS pixel; the last thing done with
        a sheet, whose colours it replaces."""
        target = io.BytesIO()
        _recolour(self.figure)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing")
            self.figure.savefig(
                target, format="png", dpi=144, facecolor=PALETTE["page"][0], metadata={"Software": None}
            )
        return target.getvalue()


def _recolour(figure: Any) -> None:
    """Sentinel colours of everything on a figure by those of the light page."""
    from matplotlib.colors import to_hex, to_rgba_array

    for artist in figure.findobj():
        for kind in ("color", "edgecolor", "facecolor", "markerfacecolor", "markeredgecolor"):
            if not hasattr(artist, f"get_{kind}") or not hasattr(artist, f"set_{kind}"):
                continue
            found = to_rgba_array(getattr(artist, f"get_{kind}")())
            names = [to_hex(colour) for colour in found]
            if any(name in LIGHT for name in names):
                new = [(*to_rgba_array(LIGHT.get(n, n))[0, :3], c[3]) for n, c in zip(names, found, strict=True)]
                getattr(artist, f"set_{kind}")(new[0] if len(new) == 1 else new)


def draw(name: str, label: str, numbers: Numbers, drawing: Callable[[int], Sheet], *, pixels: bool = False) -> Figure:
    """The picture at both widths; pixels: as PNG, too."""
    import matplotlib

    drawn, sheets, png = [], [], b""
    for width in (WIDE, NARROW):
        settings: Any = _SETTINGS | {"svg.hashsalt": f"{name}-{width}"}
        with matplotlib.rc_context(settings):
            sheets.append(drawing(width))
            drawn.append(sheets[-1].svg())
            if pixels and width == WIDE:
                png = sheets[-1].png()
    return Figure(
        name=name,
        label=label,
        wide=inline(drawn[0], f"{name}-{WIDE}", label),
        narrow=inline(drawn[1], f"{name}-{NARROW}", label),
        file=standalone(drawn[0], label, sheets[0].width, sheets[0].height),
        numbers=numbers,
        png=png,
    )


def series(index: int) -> Style:
    """How the replay of that index is drawn; beyond five the colours return dashed."""
    return {"color": SERIES[index % len(SERIES)], "linestyle": "-" if index < len(SERIES) else "--"}


def label_room(names: Sequence[str]) -> float:
    """CSS pixels that labels beside the axes need."""
    return 24 + _LETTER * max((len(name) for name in names), default=0)


def key_places(names: Sequence[str], room: float) -> list[tuple[float, int]]:
    """Offset and row of every entry of a key that wraps to the room."""
    places, left, row = [], 0.0, 0
    for name in names:
        width = 21 + len(name) * _LETTER
        if left and left + width > room:
            left, row = 0.0, row + 1
        places.append((left, row))
        left += width + 14
    return places


def key_height(names: Sequence[str], room: float) -> float:
    return 18.0 * (1 + max((row for _, row in key_places(names, room)), default=-1))


def spread(wanted: Sequence[float], *, gap: float, low: float, high: float) -> list[float]:
    """Positions near the wanted ones, in the same order, at least a gap apart and inside the limits.

    Where the limits leave no room for all, the lower limit gives way.
    """
    order = sorted(range(len(wanted)), key=wanted.__getitem__)
    placed = [0.0] * len(wanted)
    floor = low
    for i in order:
        placed[i] = max(wanted[i], floor)
        floor = placed[i] + gap
    ceiling = high
    for i in reversed(order):
        placed[i] = min(placed[i], ceiling)
        ceiling = placed[i] - gap
    return placed
