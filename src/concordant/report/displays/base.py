"""What every figure is, and how it becomes a part of the page or a file for a paper."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl
from markupsafe import Markup, escape

from concordant.core.artifacts import slug
from concordant.core.files import atomic_folder

if TYPE_CHECKING:
    import altair as alt

_PALETTE = {
    "ink": ("#1a1f25", "#e4e8ec"),
    "muted": ("#59636e", "#9fa9b4"),
    "line": ("#d5dbe1", "#39424b"),
    "faint": ("#e9edf0", "#262d34"),
    "ground": ("#ffffff", "#14181c"),
    "panel": ("#f5f7f9", "#1b2126"),
    "accent": ("#0b5cab", "#6fb4f7"),
    "alone": ("#5c6670", "#a7b1bb"),
    "other": ("#8a5a00", "#dba640"),
    "oracle": ("#8a3a7a", "#d892c8"),
    "series-0": ("#0072b2", "#5fb3ea"),
    "series-1": ("#c14e00", "#f0925a"),
    "series-2": ("#00805c", "#4cc9a0"),
    "series-3": ("#a8437f", "#e490c0"),
    "series-4": ("#7a6a00", "#d6c455"),
    "series-5": ("#4a5ac7", "#a0acff"),
    "low": ("#2f7fbf", "#66b2ee"),
    "middle": ("#767f88", "#a7b1bb"),
    "high": ("#b84300", "#f2905a"),
}
LIGHT: Mapping[str, str] = {name: light for name, (light, _) in _PALETTE.items()}
"""Colours of the page and of figures in a file, by name; no two are the same."""
DARK: Mapping[str, str] = {name: dark for name, (_, dark) in _PALETTE.items()}
"""The same colours where the reader's screen is dark."""

WIDTH, HEIGHT = 440, 260
"""Pixels of the area between the axes."""

_LETTERS = 12
_PIXELS_PER_POINT = 2
"""Of a picture in PNG: sharp in print at the width of a column."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Display(ABC):
    """A figure: a tidy frame and how it is drawn.

    * `draw` reads nothing but the display's own attributes.
    * Every colour is one of `LIGHT`, which is how a page finds it again for a dark screen.
    * Shapes or dashes tell apart what colours tell apart.

    Attributes:
        frame: The numbers, a row per mark.
        name: File name without its ending; unique in a page.
        title: What it shows.
        description: What is seen in it, in words, for a reader who does not see it.
        cohort: Label of the cohort it is about, or empty.
        tag: `internal` or `external`, or empty.
        caption: Further words above it, or empty.
        sentence: What it says, below it, or empty.
    """

    frame: pl.DataFrame
    name: str
    title: str
    description: str
    cohort: str = ""
    tag: str = ""
    caption: str = ""
    sentence: str = ""

    @abstractmethod
    def draw(self) -> alt.TopLevelMixin:
        """Return the chart, on a light ground; a notebook shows it as it is."""


def themed(chart: Any) -> alt.TopLevelMixin:
    """Return a chart in the project's letters, colours and axes.

    The marks carry no labels of their own for screen readers: the figure is one picture, with one
    title and one description.
    """
    quiet = {"labelColor": LIGHT["muted"], "titleColor": LIGHT["muted"]}
    letters = {"labelFontSize": _LETTERS, "titleFontSize": _LETTERS, "titleFontWeight": "normal"}
    dressed: alt.TopLevelMixin = (
        chart.configure(aria=False, font="sans-serif", background=LIGHT["ground"], padding=4)
        .configure_view(stroke=None)
        .configure_axis(
            **quiet,
            **letters,
            gridColor=LIGHT["faint"],
            domainColor=LIGHT["line"],
            ticks=False,
            labelFlush=False,
            labelPadding=6,
            titlePadding=8,
        )
        .configure_legend(
            labelColor=LIGHT["ink"],
            labelFontSize=_LETTERS,
            labelLimit=0,
            symbolSize=200,
            symbolStrokeWidth=2,
            orient="bottom",
            direction="vertical",
            offset=8,
        )
        .configure_text(fontSize=_LETTERS, color=LIGHT["muted"])
        .configure_title(fontSize=13, color=LIGHT["ink"], anchor="start", fontWeight=600)
    )
    return dressed


def percent_axis(**options: Any) -> alt.Axis:
    """Return an axis whose values are shares and whose labels are percent."""
    import altair as alt

    return alt.Axis(format="%", tickCount=5, domain=False, **options)


def inline_svg(display: Display) -> Markup:
    """Return a figure as a part of a page: no size of its own, colours by name.

    The page's style sheet has to define a variable per colour of `LIGHT`.
    """
    drawing = _drawing(display)
    inside = drawing.inside
    for name, colour in LIGHT.items():
        inside = inside.replace(f'"{colour}"', f'"var(--{name})"')
    widest = f"max-width: {1.15 * drawing.width:.0f}px"
    start = f'<svg class="drawing" style="{widest}" {drawing.attributes}>'
    return Markup(start + inside)  # noqa: S704 # the texts are escaped, here and by the library


def write_figures(displays: Iterable[Display], folder: Path) -> None:
    """Write every figure as SVG, PDF and PNG into a folder, in the place of what was there."""
    import vl_convert

    with atomic_folder(folder) as temporary:
        for display in displays:
            drawing, path = _drawing(display), temporary / slug(display.name)
            size = f'width="{drawing.width:g}" height="{drawing.height:g}"'
            start = f'<svg xmlns="http://www.w3.org/2000/svg" {size} {drawing.attributes}>'
            svg = start + drawing.inside
            path.with_name(f"{path.name}.svg").write_text(svg, encoding="utf-8")
            path.with_name(f"{path.name}.pdf").write_bytes(vl_convert.svg_to_pdf(svg))
            picture = vl_convert.svg_to_png(svg, scale=_PIXELS_PER_POINT)
            path.with_name(f"{path.name}.png").write_bytes(picture)


class _Drawing(NamedTuple):
    """A drawn figure: one picture with one name for a screen reader."""

    width: float
    height: float
    attributes: str
    inside: str


def _drawing(display: Display) -> _Drawing:
    """Draw a figure, once for the page and the files."""
    return _drawn(_Identity(display))


class _Identity:
    """A figure as a key: a frame has no hash, and equal figures need not be found equal."""

    def __init__(self, display: Display) -> None:
        self.display = display

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and self.display is other.display

    def __hash__(self) -> int:
        return id(self.display)


@lru_cache(maxsize=32)
def _drawn(identity: _Identity) -> _Drawing:
    display = identity.display
    start, _, body = _svg(_spec(display)).partition(">")
    body = re.sub(r' (role|aria-\w+)="[^"]*"', "", body)  # parts of one picture have no roles
    width, height = map(float, re.findall(r'(?:width|height)="([\d.]+)"', start))
    key = slug(display.name)
    named = f'role="img" aria-labelledby="{key}-title {key}-desc"'
    title = f'<title id="{key}-title">{escape(display.title)}</title>'
    told = f'<desc id="{key}-desc">{escape(display.description)}</desc>'
    attributes = f'viewBox="0 0 {width:g} {height:g}" {named}'
    return _Drawing(width, height, attributes, title + told + body)


def _spec(display: Display) -> str:
    import altair as alt
    from altair.utils.schemapi import debug_mode

    # the library refuses 5,001 rows, and checks every part against its schema, as tests do
    with alt.data_transformers.enable("default", max_rows=None), debug_mode(False):
        return json.dumps(display.draw().to_dict(validate=False))


def _svg(spec: str) -> str:
    import vl_convert

    return vl_convert.vegalite_to_svg(spec, allowed_base_urls=[])
