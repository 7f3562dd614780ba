"""Gain of every fusion against the gap between the two modalities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from concordant.report.displays.base import HEIGHT, LIGHT, WIDTH, Display, themed
from concordant.report.run_tables import Kind, Row, RunTables
from concordant.report.wording import number, signed

if TYPE_CHECKING:
    import altair as alt

_SERIES = tuple(f"series-{place}" for place in range(6))
_SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross")
"""Colour and shape of the series; the one after the last is drawn as the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GainAgainstGapDisplay(Display):
    """One mark per fusion, cohort and pair of encoders.

    `frame` has the columns `series`, `fusion`, `cohort`, `gap`, `gain` and `shown`.
    """

    def draw(self) -> alt.TopLevelMixin:
        """Return the marks around a line at no gain, filled where the gain was shown."""
        import altair as alt

        series = self.frame["series"].unique(maintain_order=True).to_list()
        colours = [LIGHT[_SERIES[place % len(_SERIES)]] for place in range(len(series))]
        shapes = [_SHAPES[place % len(_SHAPES)] for place in range(len(series))]
        colour = alt.Scale(domain=series, range=colours)
        shape = alt.Scale(domain=series, range=shapes)
        keys = alt.Legend(symbolSize=90, symbolFillColor=LIGHT["ground"])
        own = pl.col("series").replace_strict(series, colours)
        filled = pl.when("shown").then(own).otherwise(pl.lit(LIGHT["ground"]))
        gap = "Difference between the C-indices of the two modalities alone"
        signs = alt.Axis(labelExpr="datum.value ? format(datum.value, '+') : '0'", tickCount=5)
        marks = (
            alt.Chart(self.frame.with_columns(fill=filled))
            .mark_point(size=90, strokeWidth=1.75, opacity=1)
            .encode(
                x=alt.X("gap:Q", title=gap, scale=alt.Scale(nice=5), axis=alt.Axis(tickCount=5)),
                y=alt.Y("gain:Q", title="Gain in C-index", axis=signs),
                stroke=alt.Stroke("series:N", title=None, scale=colour, legend=keys),
                shape=alt.Shape("series:N", title=None, scale=shape, legend=keys),
                fill=alt.Fill("fill:N", scale=None),
            )
        )
        zero = alt.Chart(pl.DataFrame({"gain": [0.0]})).mark_rule(
            strokeDash=[4, 3], color=LIGHT["alone"], strokeWidth=1.25
        )
        layers = alt.layer(zero.encode(y="gain:Q"), marks)
        return themed(layers.properties(width=WIDTH, height=HEIGHT))


def gain_scatter(tables: RunTables) -> GainAgainstGapDisplay | None:
    """Return the figure, or None where no cohort has both unimodal models and a gain."""
    placed = [
        (row, gap)
        for row in tables.concordance_gains()
        if row["difference"] is not None and (gap := unimodal_gap(tables, row)) is not None
    ]
    if not placed:
        return None
    several = len({row["model"].encoders for row, _ in placed}) > 1
    frame = pl.DataFrame(
        {
            "series": f"{row['cohort']}: {row['model'].encoders}" if several else row["cohort"],
            "fusion": row["model"].title,
            "cohort": row["cohort"],
            "gap": gap,
            "gain": row["difference"],
            "shown": row["shown"],
        }
        for row, gap in placed
    )
    said = (
        f"{fusion} on {cohort}: gain {signed(gain)} at a gap of {number(gap)}"
        for fusion, cohort, gap, gain in frame.select("fusion", "cohort", "gap", "gain").rows()
    )
    return GainAgainstGapDisplay(
        frame=frame,
        name="gain-against-gap",
        title="Gain from fusing against the gap between the modalities",
        description=f"{frame.height} points: {'; '.join(said)}.",
        sentence="Filled: difference shown; hollow: not shown.",
    )


def unimodal_gap(tables: RunTables, gain: Row) -> float | None:
    """Return |C of CT alone - C of the record alone| for the cohort and encoders of a gain."""
    values = [_alone(tables, gain, kind) for kind in (Kind.CT, Kind.EHR)]
    return None if values[0] is None or values[1] is None else abs(values[0] - values[1])


def _alone(tables: RunTables, gain: Row, kind: Kind) -> float | None:
    fused = gain["model"]
    encoder = fused.ct_encoder if kind is Kind.CT else fused.ehr_encoder
    alone = [
        model for model in tables.of_kind(kind) if encoder in (model.ct_encoder, model.ehr_encoder)
    ]
    alone.sort(key=lambda model: not model.fusion.startswith("unimodal"))
    found = tables.estimate(gain["cohort"], alone[0]) if alone else None
    return None if found is None else found["value"]
