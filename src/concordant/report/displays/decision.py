"""Decision curves: the net benefit of the chosen fusion, one modality, everybody, nobody."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import polars as pl

from concordant.analysis.decision import TREAT_ALL, TREAT_NONE
from concordant.report.displays.base import HEIGHT, LIGHT, WIDTH, Display, percent_axis, themed
from concordant.report.figure_section import FigureSection
from concordant.report.run_tables import Kind, Row, RunTables, model_of
from concordant.report.wording import (
    days,
    inside_sentence,
    interval,
    listing,
    number,
    signed,
    strategy_name,
)

if TYPE_CHECKING:
    import altair as alt

_PER = 100
_WORTH_DRAWING = 0.01
_LEAST_RANGE = 0.2
_BELOW_ZERO = -0.05
_EVERYBODY, _NOBODY = "Acting on everybody", "Acting on nobody"


@dataclass(frozen=True, slots=True)
class _Style:
    """How the curve of one kind of model is drawn."""

    colour: str
    dash: tuple[int, int]
    width: float


_STYLES = {
    Kind.FUSION: _Style("accent", (1, 0), 2.75),
    Kind.CT: _Style("series-1", (8, 4), 2.25),
    Kind.EHR: _Style("series-2", (3, 3), 2.25),
    Kind.FOREIGN: _Style("other", (1, 0), 1.25),
    Kind.ORACLE: _Style("other", (1, 0), 1.25),
    _EVERYBODY: _Style("alone", (1, 0), 1.25),
    _NOBODY: _Style("ink", (1, 0), 1.25),
}
"""By kind of model, in the order of the legend; the first lies on top."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionDisplay(Display):
    """All curves of one cohort at one horizon.

    `frame` has rows of `DECISION_SCHEMA`, and `kind` (a key of the styles) and `strategy` (in
    words).
    """

    def range_shown(self) -> tuple[float, float]:
        """Return the highest threshold and the highest net benefit (a share) of the picture."""
        models = self.frame.filter(pl.col("kind").is_in(list(Kind)))
        worth = models.filter(pl.col("net_benefit") > _WORTH_DRAWING)["threshold"].to_list()
        threshold = max([*worth, _LEAST_RANGE])
        inside = models.filter(pl.col("threshold") <= threshold)
        benefits = inside.select(pl.concat_list("net_benefit", "ci_high").explode().drop_nulls())
        return threshold, max([*benefits.to_series().to_list(), -_BELOW_ZERO])

    def draw(self) -> alt.TopLevelMixin:
        """Return the curves, the band of the fusion below them."""
        import altair as alt

        threshold, benefit = self.range_shown()
        up = alt.Scale(domain=[_PER * _BELOW_ZERO, _PER * benefit], nice=True)
        across = alt.X(
            "threshold:Q",
            title="Predicted risk from which on one acts",
            scale=alt.Scale(domain=[0, threshold], nice=5),
            axis=percent_axis(),
        )
        drawn = self._drawn(threshold)
        fused = drawn.filter(pl.col("kind") == Kind.FUSION)
        band = (
            alt.Chart(fused)
            .mark_area(opacity=0.13, color=LIGHT["accent"])
            .encode(x=across, y=alt.Y("ci_low:Q", scale=up), y2="ci_high:Q")
        )
        curves = (
            alt.Chart(drawn)
            .mark_line()
            .encode(
                x=across,
                y=alt.Y(
                    "net_benefit:Q",
                    title="Net benefit per 100 patients",
                    scale=up,
                    axis=alt.Axis(tickCount=5, domain=False),
                ),
                **self._looks(),
            )
        )
        layers = alt.layer(band, curves)
        return themed(layers.properties(width=WIDTH, height=HEIGHT))

    def _drawn(self, threshold: float) -> pl.DataFrame:
        """Return the curves per 100 patients, and the line of acting on nobody."""
        inside = pl.col("net_benefit") >= _BELOW_ZERO  # a curve that falls below leaves the picture
        curves = self.frame.filter(pl.col("threshold") <= threshold).select(
            "threshold",
            pl.when(inside).then(pl.col("net_benefit") * _PER),
            pl.col("ci_low", "ci_high").clip(_BELOW_ZERO) * _PER,
            "kind",
            "strategy",
        )
        ends = {"threshold": [0.0, threshold], "net_benefit": 0.0}
        nobody = pl.DataFrame({**ends, "kind": _NOBODY, "strategy": _NOBODY})
        depth = pl.col("kind").replace_strict({str(one): -n for n, one in enumerate(_STYLES)})
        return pl.concat([curves, nobody], how="diagonal").sort(depth, maintain_order=True)

    def _looks(self) -> dict[str, alt.Color | alt.StrokeDash | alt.StrokeWidth]:
        import altair as alt

        named = self.frame.select("strategy", "kind").unique(maintain_order=True).rows()
        order = [*sorted(named, key=lambda row: list(_STYLES).index(row[1])), (_NOBODY, _NOBODY)]
        names, styles = [name for name, _ in order], [_STYLES[kind] for _, kind in order]

        def scale(looks: list[Any]) -> dict[str, Any]:
            return {"title": None, "scale": alt.Scale(domain=names, range=looks)}

        return {
            "color": alt.Color("strategy:N", **scale([LIGHT[one.colour] for one in styles])),
            "strokeDash": alt.StrokeDash("strategy:N", **scale([list(one.dash) for one in styles])),
            "strokeWidth": alt.StrokeWidth("strategy:N", **scale([one.width for one in styles])),
        }


def decision_section(tables: RunTables) -> FigureSection:
    """Return the curves of every cohort and horizon, those of the chief horizon first."""
    table = tables.decision_curves
    known = table.filter(pl.col("net_benefit").is_not_null() & (pl.col("fusion") != TREAT_NONE))
    drawn = (
        known.filter(pl.col("fusion") != TREAT_ALL).select("cohort", "horizon_days").unique().rows()
    )
    if not drawn:
        return FigureSection(sentence=_reason(table))
    named = _with_kinds(known)
    displays = {
        (cohort, horizon): _display(
            tables, named.filter(pl.col("cohort") == cohort, pl.col("horizon_days") == horizon)
        )
        for horizon in sorted({horizon for _, horizon in drawn})
        for cohort in tables.cohorts
        if (cohort, horizon) in drawn
    }
    chief = main_horizon(drawn)
    return FigureSection(
        displays=tuple(one for (_, horizon), one in displays.items() if horizon == chief),
        further=tuple(one for (_, horizon), one in displays.items() if horizon != chief),
    )


def main_horizon(drawn: Sequence[tuple[str, float]]) -> float:
    """Return the longest horizon of those that most cohorts support."""
    horizons = [horizon for _, horizon in drawn]
    return max(set(horizons), key=lambda horizon: (horizons.count(horizon), horizon))


def _reason(table: pl.DataFrame) -> str:
    if table.is_empty():
        return "The study names no horizon, or has no model to act on; give task.horizons_days."
    notes = table["note"].drop_nulls()
    return (
        f"No curve could be computed: {notes[0]}." if len(notes) else "No curve could be computed."
    )


def _with_kinds(rows: pl.DataFrame) -> pl.DataFrame:
    named = [
        (_EVERYBODY, _EVERYBODY) if row["fusion"] == TREAT_ALL else (str(model.kind), model.title)
        for row in rows.to_dicts()
        for model in [model_of(row)]
    ]
    return rows.hstack(pl.DataFrame(named, schema=["kind", "strategy"], orient="row"))


def _display(tables: RunTables, rows: pl.DataFrame) -> DecisionDisplay:
    cohort, horizon_days = rows.select("cohort", "horizon_days").row(0)
    horizon, sentence = days(horizon_days), _sentence(cohort, horizon_days, rows)
    strategies = rows["strategy"].unique(maintain_order=True).to_list()
    return DecisionDisplay(
        frame=rows,
        name=f"decision-{cohort}-{horizon_days:g}",
        title=f"Decision curves, {cohort}, event within {horizon}",
        description=f"{listing(strategies)}. {sentence}",
        cohort=cohort,
        tag=tables.tag(cohort),
        caption=f"event within {horizon}",
        sentence=sentence,
    )


def _sentence(cohort: str, horizon: float, rows: pl.DataFrame) -> str:
    """Read the fusion's curve at the overall risk, where acting on everybody is worth nothing."""
    everybody = rows.filter((pl.col("fusion") == TREAT_ALL) & (pl.col("net_benefit") >= 0))
    if everybody.is_empty():
        return ""
    at = everybody["threshold"].max()
    fused = rows.filter(pl.col("reference").is_not_null() & (pl.col("threshold") == at))
    parts = [_at_threshold(cohort, horizon, row) for row in fused.to_dicts()]
    best = _widest(rows)
    if best is not None:
        parts.append(
            f"By the estimates alone its curve is the highest from {_PER * best[0]:.0f}% to "
            f"{_PER * best[1]:.0f}%."
        )
    return " ".join(parts)


def _at_threshold(cohort: str, horizon: float, row: Row) -> str:
    gain = ""
    if row["difference"] is not None:
        limits = interval(_PER * row["difference_ci_low"], _PER * row["difference_ci_high"], 1)
        gain = (
            f", {signed(_PER * row['difference'], 1)} {limits} beside "
            f"{inside_sentence(strategy_name(row['reference']))}"
        )
    return (
        f"On {cohort}, acting on everyone whose risk of the event within {days(horizon)} is "
        f"{_PER * row['threshold']:.0f}% or more by "
        f"{inside_sentence(strategy_name(row['fusion']))} (about the overall risk) is worth "
        f"{number(_PER * row['net_benefit'], 1)} patients rightly acted on per 100{gain}."
    )


def _widest(rows: pl.DataFrame) -> tuple[float, float] | None:
    """Return the widest range of thresholds where the fusion is above all others and 0."""
    own = pl.col("reference").is_not_null()
    best = (
        rows.group_by("threshold")
        .agg(
            pl.col("net_benefit").filter(own).first().alias("own"),
            pl.col("net_benefit").filter(~own).max().alias("rest"),
        )
        .sort("threshold")
        .with_columns(above=pl.col("own") > pl.max_horizontal("rest", pl.lit(0.0)))
    )
    runs = groupby(best.select("threshold", "above").rows(), key=lambda row: bool(row[1]))
    ranges = [[threshold for threshold, _ in run] for above, run in runs if above]
    widest = max(ranges, key=len, default=[])
    return (widest[0], widest[-1]) if len(widest) > 1 else None
