"""Kaplan-Meier curves by third of predicted risk, with the numbers at risk below them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from concordant.analysis.survival_curves import GROUPS, STILL_FOLLOWED
from concordant.report.displays.base import HEIGHT, LIGHT, WIDTH, Display, percent_axis, themed
from concordant.report.figure_section import FigureSection
from concordant.report.run_tables import Model, RunTables
from concordant.report.wording import (
    DAYS_PER_MONTH,
    DAYS_PER_YEAR,
    count,
    days,
    interval,
    number,
    p_equation,
)

if TYPE_CHECKING:
    import altair as alt

_TITLES = {"low": "Lowest third of risk", "middle": "Middle third", "high": "Highest third of risk"}
_SHORT = {"low": "Low", "middle": "Mid", "high": "High"}
_DASHES = {"low": [7, 4], "middle": [2, 3], "high": [1, 0]}
_TIME_UNITS = (
    (3 * DAYS_PER_YEAR, "years", DAYS_PER_YEAR, (1, 2, 5, 10, 20)),
    (90.0, "months", DAYS_PER_MONTH, (1, 2, 3, 6, 12)),
    (0.0, "days", 1.0, (1, 2, 5, 10, 20)),
)
"""From how many days on a unit is used, its name, its days, and the steps its ticks may have."""

_MOST_TICKS = 5
_MOST_STEPS = 200  # a third; more cannot be told apart


@dataclass(frozen=True, slots=True)
class TimeAxis:
    """An axis of days whose ticks stand at round numbers of a unit.

    Attributes:
        unit: `days`, `months` or `years`: what the ticks count.
        length: Days of one unit.
        ticks: Round numbers of the unit, from 0 to the last day.
    """

    unit: str
    length: float
    ticks: tuple[int, ...]


def time_axis(last_day: float) -> TimeAxis:
    """Return the axis from 0 to a last day, in days, months or years."""
    _, unit, length, steps = next(row for row in _TIME_UNITS if last_day >= row[0])
    fitting = (one for one in steps if last_day / length <= one * (_MOST_TICKS + 0.5))
    step = next(fitting, steps[-1])
    last = math.floor(last_day / length / step + 0.02)
    return TimeAxis(unit, length, tuple(step * one for one in range(last + 1)))


@dataclass(frozen=True, slots=True, kw_only=True)
class SurvivalCurvesDisplay(Display):
    """The curves of one model on one cohort; `frame` has rows of `SURVIVAL_CURVES_SCHEMA`."""

    @property
    def last_day(self) -> float:
        """Where the time axis ends."""
        return float(self.frame["time_days"].to_numpy().max())

    @property
    def lowest(self) -> float:
        """Where the vertical axis starts: a tenth that no band goes below."""
        return math.floor(10 * float(self.frame["ci_low"].to_numpy().min())) / 10

    def at_risk(self) -> pl.DataFrame:
        """Return `group`, `time_days` and `n_at_risk` at every tick of the time axis."""
        axis = time_axis(self.last_day)
        places = pl.DataFrame({"time_days": [tick * axis.length for tick in axis.ticks]})
        wanted = pl.DataFrame({"group": list(GROUPS)}).join(places, how="cross")
        known = self.frame.select("group", "time_days", "n_at_risk").sort("time_days")
        return (
            wanted.sort("time_days")
            .join_asof(
                known, on="time_days", by="group", strategy="forward", check_sortedness=False
            )
            .with_columns(pl.col("n_at_risk").fill_null(0))
        )

    def draw(self) -> alt.TopLevelMixin:
        """Return the curves above the numbers at risk."""
        import altair as alt

        axis = time_axis(self.last_day)
        scale = alt.Scale(domain=[0, self.last_day / axis.length], nice=False)
        ticks = alt.Axis(values=list(axis.ticks), grid=False, format="d")
        title = f"{axis.unit.capitalize()} since the prediction; below: number at risk"
        across = alt.X("time:Q", title=title, scale=scale, axis=ticks)
        colours = self._scale(LIGHT)
        up = alt.Scale(domain=[self.lowest, 1], nice=False)
        base = alt.Chart(self._drawn()).encode(x=across)
        band = base.mark_area(interpolate="step-after", opacity=0.13).encode(
            y=alt.Y("ci_low:Q"), y2="ci_high:Q", fill=alt.Fill("colour:N", scale=None)
        )
        line = base.mark_line(interpolate="step-after", strokeWidth=2.25).encode(
            y=alt.Y("survival:Q", title=None, scale=up, axis=percent_axis()),
            stroke=alt.Stroke("third:N", title=None, scale=colours),
            strokeDash=alt.StrokeDash("third:N", title=None, scale=self._scale(_DASHES)),
        )
        curves = alt.layer(band, line).properties(width=WIDTH, height=HEIGHT)
        return themed(alt.vconcat(curves, self._numbers(scale), spacing=2))

    def _drawn(self) -> pl.DataFrame:
        """Keep of the steps that lie within one `_MOST_STEPS`-th of the axis the last one."""
        axis = time_axis(self.last_day)
        steps = self.frame.with_columns(
            time=pl.col("time_days") / axis.length,
            third=pl.col("group").replace_strict(self._thirds()),
            colour=pl.col("group").replace_strict({group: LIGHT[group] for group in GROUPS}),
            place=(pl.col("time_days") / self.last_day * _MOST_STEPS).floor(),
        )
        last = pl.col("place") != pl.col("place").shift(-1).over("group")
        return steps.filter(last.fill_null(value=True) | (pl.col("time_days") == 0)).select(
            "time", "third", "colour", "survival", "ci_low", "ci_high"
        )

    def _thirds(self) -> dict[str, str]:
        """Return the thirds as the legend names them."""
        sizes = {row["group"]: row for row in self.frame.to_dicts()}
        return {group: f"{_TITLES[group]}, {_size(sizes[group])}" for group in GROUPS}

    def _scale(self, by_group: Any) -> alt.Scale:
        import altair as alt

        return alt.Scale(
            domain=list(self._thirds().values()), range=[by_group[group] for group in GROUPS]
        )

    def _numbers(self, scale: alt.Scale) -> alt.Chart:
        import altair as alt

        rows = self.at_risk().with_columns(
            time=pl.col("time_days") / time_axis(self.last_day).length,
            short=pl.col("group").replace_strict(_SHORT),
        )
        down = alt.Axis(domain=False, grid=False, labelPadding=24)
        numbers: alt.Chart = (
            alt.Chart(rows)
            .mark_text()
            .encode(
                x=alt.X("time:Q", axis=None, scale=scale),
                y=alt.Y("short:N", title=None, sort=list(_SHORT.values()), axis=down),
                text=alt.Text("n_at_risk:Q", format=","),
            )
            .properties(width=WIDTH, height=alt.Step(18))
        )
        return numbers


def survival_section(tables: RunTables, model: Model | None) -> FigureSection:
    """Return the curves of the singled-out model on every cohort."""
    if model is None:
        return FigureSection(sentence="There are no curves, since no strategy is singled out.")
    own = model.rows(tables.survival_curves)
    known = own.filter(pl.col("survival").is_not_null())
    displays = tuple(
        _display(tables, cohort, rows)
        for cohort in tables.cohorts
        if not (rows := known.filter(pl.col("cohort") == cohort)).is_empty()
    )
    refused = own.filter(pl.col("survival").is_null())["cohort"].to_list()
    sentence = " ".join(_notes(tables, refused, displays))
    return FigureSection(
        displays,
        sentence=sentence
        or "The run holds no predictions of the singled-out model on these cohorts.",
    )


def _notes(
    tables: RunTables, refused: list[str], displays: Sequence[SurvivalCurvesDisplay]
) -> list[str]:
    """Return what a reader has to know beside the curves."""
    notes = []
    if displays:
        notes.append(
            f"Curves end where fewer than {STILL_FOLLOWED:.0%} of the cohort are still followed."
        )
    if displays and any(one.n_competing for one in tables.record.cohorts):
        notes.append(
            "Another event counts as censored here: the curves are of the hazard of this event "
            "alone."
        )
    if tables.record.cross_validation is not None:
        notes.append(
            "Under cross-validation the thirds are formed by the rank inside each fold, averaged "
            "over repeats."
        )
    if any(display.lowest > 0 for display in displays):
        notes.append("Mind the vertical axis: it does not start at 0%.")
    if refused:
        notes.append(
            f"Left out, too few patients, events or different risks: {', '.join(refused)}."
        )
    return notes


def _display(tables: RunTables, cohort: str, rows: pl.DataFrame) -> SurvivalCurvesDisplay:
    first = rows.row(0, named=True)
    ends = rows.group_by("group", maintain_order=True).last().to_dicts()
    return SurvivalCurvesDisplay(
        frame=rows,
        name=f"survival-{cohort}",
        title=f"Kaplan-Meier curves by third of predicted risk, {cohort}",
        description=" ".join(_in_words(row) for row in ends),
        cohort=cohort,
        tag=tables.tag(cohort),
        caption=f"log-rank {p_equation(first['log_rank_p'])}",
        sentence=_days_lost(first, time_axis(float(rows["time_days"].to_numpy().max()))),
    )


def _size(row: dict[str, Any]) -> str:
    return f"n = {count(row['n'])}, {count(row['n_events'])} events"


def _in_words(row: dict[str, Any]) -> str:
    return (
        f"{_TITLES[row['group']]}: {_size(row)}, {100 * row['survival']:.0f}% without the event at "
        f"{days(row['time_days'])}."
    )


def _days_lost(row: dict[str, Any], axis: TimeAxis) -> str:
    """Say what the areas under the curves until the last supported time differ by."""
    lost, low, high = (
        row[name] / axis.length for name in ("days_lost", "days_lost_ci_low", "days_lost_ci_high")
    )
    return (
        f"Within the first {days(row['tau_days'])} the highest third loses {number(lost, 1)} "
        f"{interval(low, high, 1)} {axis.unit} without the event beside the lowest third."
    )
