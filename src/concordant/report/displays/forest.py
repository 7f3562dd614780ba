"""Forest plots: one row per model, its estimate and interval, on an axis that all cohorts share.

In the page they are a list with a small drawing in each row, which a screen reader reads as such
and which stretches with the page; `ForestDisplay` is the same for a paper.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl

from concordant.report.displays.base import LIGHT, Display, themed
from concordant.report.inference import verdict
from concordant.report.run_tables import Kind, Model, Row, RunTables
from concordant.report.table import Cell, difference_cell, estimate_cell
from concordant.report.wording import MINUS, count, inside_sentence, p_equation, strategy_name

if TYPE_CHECKING:
    import altair as alt

_AIR = 0.04
_INTERVALS = 5
_ROUND_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
_TRACK, _ROW = 190, 24
Pair = tuple[str | None, str | None]
"""Encoders of scan and record."""


class Mark(StrEnum):
    """The shape that tells what a row is; never the colour alone."""

    UNIMODAL = "unimodal"
    FUSION = "fusion"
    FEATURED = "featured"
    FOREIGN = "foreign"
    ORACLE = "oracle"


_MARKS = {Kind.FUSION: Mark.FUSION, Kind.FOREIGN: Mark.FOREIGN, Kind.ORACLE: Mark.ORACLE}
_DRAWN = {
    Mark.UNIMODAL: ("square", "alone", "one modality alone"),
    Mark.FUSION: ("circle", "ink", "fusion"),
    Mark.FEATURED: ("cross", "accent", "chosen on tuning"),
    Mark.FOREIGN: ("triangle-up", "other", "predictions made elsewhere"),
    Mark.ORACLE: ("diamond", "oracle", "oracle: knows the true factors"),
}
"""Shape, colour and meaning of each mark in a file."""


class Tick(NamedTuple):
    """A place on an axis, in percent, and what stands there."""

    place: float
    label: str


class Axis(NamedTuple):
    """A linear axis from a low to a high value; places on it are percent, so that it stretches."""

    low: float
    high: float
    ticks: tuple[Tick, ...]

    def place(self, value: float) -> float:
        """Return the percent of the axis at which a value lies, kept inside the axis."""
        return _percent(value, self.low, self.high)


@dataclass(frozen=True, slots=True)
class ForestRow:
    """One row: a model in words, its number and interval as drawn, and `cell`, both in print.

    Attributes:
        detail: Its encoders, where the group does not tell them.
        note: The verdict in print, or empty.
        filled: False draws the point hollow.
    """

    label: str
    mark: Mark
    estimate: float | None
    ci_low: float | None
    ci_high: float | None
    cell: Cell
    detail: str = ""
    note: str = ""
    filled: bool = True


@dataclass(frozen=True, slots=True)
class ForestGroup:
    """Rows that `title` joins; a reference line stands at the value `line`, if any."""

    title: str
    rows: tuple[ForestRow, ...]
    line: float | None


@dataclass(frozen=True, slots=True)
class ForestPanel:
    """One cohort's rows on the figure's axis; `size` is what they rest on, in print."""

    cohort: str
    tag: str
    axis: Axis
    groups: tuple[ForestGroup, ...]
    size: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ForestDisplay(Display):
    """All cohorts side by side behind one column of labels.

    `frame` has the columns `cohort`, `size`, `label`, `mark`, `estimate`, `ci_low`,
    `ci_high`, `text`.
    """

    def draw(self) -> alt.TopLevelMixin:
        """Return a column per cohort: marks, intervals and numbers."""
        import altair as alt

        cohorts = self.frame["cohort"].unique(maintain_order=True).to_list()
        columns = [self._column(cohort, first=cohort == cohorts[0]) for cohort in cohorts]
        return themed(alt.hconcat(*columns, spacing=12))

    def _column(self, cohort: str, *, first: bool) -> alt.HConcatChart:
        import altair as alt

        labels = self.frame["label"].unique(maintain_order=True).to_list()
        seen = [mark for mark in Mark if mark in self.frame["mark"]]
        shapes, colours, meanings = zip(*(_DRAWN[mark] for mark in seen), strict=True)
        rows = self.frame.filter(pl.col("cohort") == cohort).with_columns(
            kind=pl.col("mark").replace_strict(dict(zip(seen, meanings, strict=True)))
        )
        words = alt.Axis(labelColor=LIGHT["ink"], labelLimit=0, domain=False, grid=False)
        scale = alt.Scale(domain=labels)
        down = alt.Y("label:N", title=None, sort=labels, scale=scale, axis=words if first else None)
        low = pl.min_horizontal("ci_low", "estimate").min()
        limits = self.frame.select(low, pl.max_horizontal("ci_high", "estimate").max()).row(0)
        across = alt.X(
            "estimate:Q",
            title=None,
            scale=alt.Scale(domain=list(limits), nice=True, zero=False),
            axis=alt.Axis(tickCount=4, domain=False),
        )
        looks: dict[str, Any] = {"title": None, "legend": alt.Legend(symbolSize=70)}
        colour = alt.Scale(domain=meanings, range=[LIGHT[name] for name in colours])
        shape = alt.Scale(domain=meanings, range=list(shapes))
        base = alt.Chart(rows).encode(y=down, color=alt.Color("kind:N", scale=colour, **looks))
        whiskers = base.mark_rule(strokeWidth=1.75).encode(
            x=alt.X("ci_low:Q", title=None), x2="ci_high:Q"
        )
        marks = base.mark_point(filled=True, size=70, opacity=1).encode(
            x=across, shape=alt.Shape("kind:N", scale=shape, **looks)
        )
        title = alt.TitleParams(cohort, subtitle=rows["size"][0], subtitleColor=LIGHT["muted"])
        size = {"height": alt.Step(_ROW)}
        numbers = base.mark_text(align="left").encode(
            x=alt.value(0),
            y=alt.Y("label:N", sort=labels, scale=scale, axis=None),
            text="text:N",
            color=alt.value(LIGHT["muted"]),
        )
        drawn = alt.layer(whiskers, marks).properties(width=_TRACK, title=title, **size)
        return alt.hconcat(drawn, numbers.properties(width=130, **size), spacing=8)


def concordance_display(panels: Sequence[ForestPanel], name: str) -> ForestDisplay:
    """Return the panels of the concordance as a figure for a paper."""
    frame = pl.DataFrame(
        {
            "cohort": panel.cohort,
            "size": f"{panel.tag}, {panel.size}",
            "label": f"{row.label}, {row.detail}" if row.detail else _unique(row, group, panel),
            "mark": row.mark,
            "estimate": row.estimate,
            "ci_low": row.ci_low,
            "ci_high": row.ci_high,
            "text": f"{row.cell.text} {row.cell.detail}",
        }
        for panel in panels
        for group in panel.groups
        for row in group.rows
    )
    said = (f"{one['label']}, {one['cohort']}: {one['text']}" for one in frame.to_dicts())
    return ForestDisplay(
        frame=frame, name=name, title="Concordance by strategy", description=f"{'; '.join(said)}."
    )


def _unique(row: ForestRow, group: ForestGroup, panel: ForestPanel) -> str:
    """Name a row with its group's encoders where another group has the same model."""
    same = [one for other in panel.groups for one in other.rows if one.label == row.label]
    return row.label if len(same) == 1 else f"{row.label}, {group.title.removeprefix('Fused: ')}"


def concordance_panels(tables: RunTables, featured: Model | None) -> tuple[ForestPanel, ...]:
    """Return a panel per cohort: one modality alone, pairs of encoders, foreign predictions."""
    estimates = [row for cohort in tables.cohorts for row in _concordances(tables, cohort)]
    axis = axis_over(_limits(estimates, "value"))
    groups = {cohort: _concordance_groups(tables, cohort, featured) for cohort in tables.cohorts}
    return _panels(tables, axis, groups)


def gain_panels(tables: RunTables, featured: Model | None) -> tuple[ForestPanel, ...]:
    """Return a panel per cohort of the differences to the reference; none without a contrast."""
    axis = axis_over([0.0, *_limits(tables.concordance_gains(), "difference")], signed=True)
    own = {cohort: tables.concordance_gains(cohort) for cohort in tables.cohorts}
    groups = {cohort: _gain_groups(gains, featured) for cohort, gains in own.items() if gains}
    return _panels(tables, axis, groups)


def _panels(
    tables: RunTables, axis: Axis, groups: Mapping[str, Iterable[ForestGroup]]
) -> tuple[ForestPanel, ...]:
    return tuple(
        ForestPanel(cohort, tables.tag(cohort), axis, tuple(own), _size(tables, cohort))
        for cohort, own in groups.items()
    )


def reference_value(tables: RunTables, gain: Row) -> float | None:
    """Return the C a gain is held against: a model's, or, by fold, the fusion's less the gain."""
    reference = tables.reference(gain)
    found = tables.estimate(gain["cohort"], reference or gain["model"])
    value: float | None = None if found is None else found["value"]
    if reference is not None:
        return value
    difference: float | None = gain["difference"]
    return None if value is None or difference is None else value - difference


def axis_over(values: Iterable[float], *, signed: bool = False) -> Axis:
    """Return an axis that holds all values with a little air around them, and a few round ticks."""
    known = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(known), max(max(known), min(known) + 1e-3)
    air, step = _AIR * (high - low), _round_step((high - low) / _INTERVALS)
    low, high = low - air, high + air
    numbers = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    ticks = (
        Tick(_percent(one * step, low, high), _tick_label(one * step, step, signed))
        for one in numbers
    )
    return Axis(low, high, tuple(ticks))


def _tick_label(value: float, step: float, signed: bool) -> str:
    power = math.floor(math.log10(step) + 1e-9)
    # a step of .025 needs a digit more than one of .02
    digits = max(0, -power + math.isclose(step / 10.0**power, 2.5))
    if abs(value) <= step / 2:
        return "0"
    return f"{value:{'+' if signed else ''}.{digits}f}".replace("-", MINUS)


def _percent(value: float, low: float, high: float) -> float:
    return round(100 * min(max((value - low) / (high - low), 0.0), 1.0), 3)


def _round_step(step: float) -> float:
    scale = 10.0 ** math.floor(math.log10(step) + 1e-9)
    return next(factor * scale for factor in _ROUND_STEPS if factor * scale >= step * (1 - 1e-9))


def _limits(rows: Iterable[Row], name: str) -> list[float]:
    columns = ("ci_low", name, "ci_high")
    return [row[column] for row in rows for column in columns if row[column] is not None]


def _concordances(tables: RunTables, cohort: str) -> list[Row]:
    return [row for model in tables.models if (row := tables.estimate(cohort, model)) is not None]


def _size(tables: RunTables, cohort: str) -> str:
    rows = [row for row in _concordances(tables, cohort) if row["n"] is not None]
    if not rows:
        return ""
    largest = max(rows, key=lambda row: row["n"])
    events = largest["n_events"]
    return f"n = {count(largest['n'])}" + ("" if events is None else f", {count(events)} events")


def _concordance_groups(
    tables: RunTables, cohort: str, featured: Model | None
) -> Iterable[ForestGroup]:
    fused = tables.of_kind(Kind.FUSION)
    several = len(_pairs(fused)) > 1 or len(tables.of_kind(Kind.CT, Kind.EHR)) > 2
    lines = {pair: _line(tables, cohort, _of_pair(fused, pair)) for pair in _pairs(fused)}
    common = next(iter(lines.values())) if len(set(lines.values())) == 1 else None
    pairs = ((_pair_title(one, len(lines)), _of_pair(fused, one), lines[one]) for one in lines)
    for title, models, line in (
        ("One modality alone", tables.of_kind(Kind.CT, Kind.EHR), common),
        *pairs,
        ("For comparison", tables.of_kind(Kind.FOREIGN, Kind.ORACLE), common),
    ):
        rows = tuple(
            _concordance_row(row, featured, several)
            for model in models
            if (row := tables.estimate(cohort, model)) is not None
        )
        if rows:
            yield ForestGroup(title, rows, line)


def _concordance_row(row: Row, featured: Model | None, several: bool) -> ForestRow:
    model, mark = row["model"], _mark(row["model"], featured)
    numbers = (row["value"], row["ci_low"], row["ci_high"], estimate_cell(row))
    detail = model.encoders if several and model.unimodal else ""
    filled = mark not in (Mark.UNIMODAL, Mark.ORACLE)
    return ForestRow(model.title, mark, *numbers, detail, filled=filled)


def _gain_groups(gains: Sequence[Row], featured: Model | None) -> Iterable[ForestGroup]:
    pairs = _pairs([row["model"] for row in gains])
    for pair in pairs:
        own = [row for row in gains if _pair(row["model"]) == pair]
        references = dict.fromkeys(inside_sentence(strategy_name(row["reference"])) for row in own)
        title = f"{_pair_title(pair, len(pairs))}, against {' / '.join(references)}"
        yield ForestGroup(title, tuple(_gain_row(row, featured) for row in own), 0.0)


def _gain_row(row: Row, featured: Model | None) -> ForestRow:
    model, note = row["model"], f"{verdict(row)}, {p_equation(row['p_adjusted'])}"
    numbers = (row["difference"], row["ci_low"], row["ci_high"], difference_cell(row))
    return ForestRow(model.title, _mark(model, featured), *numbers, note=note, filled=row["shown"])


def _mark(model: Model, featured: Model | None) -> Mark:
    return Mark.FEATURED if model == featured else _MARKS.get(model.kind, Mark.UNIMODAL)


def _pair(model: Model) -> Pair:
    return model.ct_encoder, model.ehr_encoder


def _pairs(models: Sequence[Model]) -> tuple[Pair, ...]:
    return tuple(dict.fromkeys(map(_pair, models)))


def _of_pair(models: Sequence[Model], pair: Pair) -> tuple[Model, ...]:
    return tuple(model for model in models if _pair(model) == pair)


def _pair_title(pair: Pair, n_pairs: int) -> str:
    return "Both modalities, fused" if n_pairs == 1 else f"Fused: {pair[0]} + {pair[1]}"


def _line(tables: RunTables, cohort: str, models: Sequence[Model]) -> float | None:
    gain = next((row for model in models if (row := tables.gain(cohort, model))), None)
    return None if gain is None else reference_value(tables, gain)
