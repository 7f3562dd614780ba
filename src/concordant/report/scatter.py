"""Gain of every fusion against the gap between the two modalities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from concordant.report.axes import Axis, axis_between_ticks, axis_over
from concordant.report.rows import Gain, Kind, Model, RunTables
from concordant.report.wording import number, signed


@dataclass(frozen=True, slots=True)
class Point:
    """One fusion on one cohort.

    Attributes:
        x: Percent of the horizontal axis.
        y: Percent of the vertical axis, from the top.
        shape: Number of the series, which has its own shape and colour.
        filled: True where the gain was shown.
        description: The point in words.
    """

    x: float
    y: float
    shape: int
    filled: bool
    description: str


@dataclass(frozen=True, slots=True)
class Series:
    """The points of one cohort and pair of encoders; they share one gap.

    Attributes:
        label: Cohort and encoders in words.
        shape: Number of its shape and colour.
    """

    label: str
    shape: int


@dataclass(frozen=True, slots=True)
class Scatter:
    """The figure.

    Attributes:
        horizontal: |C of CT alone - C of the record alone|.
        vertical: Gain over the reference.
        zero: Percent from the top at which the gain is zero.
        points: The points.
        series: The legend.
    """

    horizontal: Axis
    vertical: Axis
    zero: float
    points: tuple[Point, ...]
    series: tuple[Series, ...]


N_SHAPES = 6
"""How many shapes the template draws; the series after the last one share the first one's again."""


def gain_scatter(tables: RunTables) -> Scatter | None:
    """Return the figure, or None where no cohort has both unimodal models and a gain."""
    placed = [
        (gain, gap)
        for gain in tables.gains
        if gain.metric == tables.concordance
        and gain.difference is not None
        and (gap := unimodal_gap(tables, gain)) is not None
    ]
    if not placed:
        return None
    horizontal = axis_between_ticks([0.0, *(gap for _, gap in placed)])
    vertical = axis_over(
        [0.0, *(gain.difference for gain, _ in placed if gain.difference is not None)], signed=True
    )
    labels = list(dict.fromkeys(_label(gain, placed) for gain, _ in placed))
    points = (
        _point(gain, gap, horizontal, vertical, labels.index(_label(gain, placed)) % N_SHAPES)
        for gain, gap in placed
    )
    series = (Series(label, number % N_SHAPES) for number, label in enumerate(labels))
    return Scatter(horizontal, vertical, _from_top(vertical, 0.0), tuple(points), tuple(series))


def unimodal_gap(tables: RunTables, gain: Gain) -> float | None:
    """Return |C of CT alone - C of the record alone| for the cohort and encoders of a gain."""
    values = [_alone(tables, gain, kind) for kind in (Kind.CT, Kind.EHR)]
    return None if values[0] is None or values[1] is None else abs(values[0] - values[1])


def _alone(tables: RunTables, gain: Gain, kind: Kind) -> float | None:
    encoder = gain.model.ct_encoder if kind is Kind.CT else gain.model.ehr_encoder
    candidates: list[Model] = [
        model for model in tables.of_kind(kind) if encoder in (model.ct_encoder, model.ehr_encoder)
    ]
    candidates.sort(key=lambda model: not model.fusion.startswith("unimodal"))
    found = tables.estimate(gain.cohort, candidates[0]) if candidates else None
    return None if found is None else found.value


def _label(gain: Gain, placed: Sequence[tuple[Gain, float]]) -> str:
    encoders = {(other.model.ct_encoder, other.model.ehr_encoder) for other, _ in placed}
    return gain.cohort if len(encoders) == 1 else f"{gain.cohort}: {gain.model.encoders}"


def _point(gain: Gain, gap: float, horizontal: Axis, vertical: Axis, shape: int) -> Point:
    difference = gain.difference or 0.0
    text = (
        f"{gain.model.title} on {gain.cohort}: gain {signed(difference)} at a gap of {number(gap)}"
    )
    return Point(horizontal.place(gap), _from_top(vertical, difference), shape, gain.shown, text)


def _from_top(axis: Axis, value: float) -> float:
    return round(100.0 - axis.place(value), 3)
