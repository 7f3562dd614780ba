"""Kaplan-Meier curves by third of predicted risk, read from the predictions of the singled-out
model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Float

from concordant.core.artifacts import RunFolder
from concordant.core.errors import ConcordantError, MetricError, PredictionsError
from concordant.core.survival import AS_IS, Predictions, read_predictions
from concordant.evaluation import average_seeds
from concordant.metrics.censoring import SurvivalCurve
from concordant.metrics.risk_groups import RiskGroups, risk_groups
from concordant.report.axes import DAYS_OF, Axis, TimeAxis, axis_between_ticks, time_axis
from concordant.report.rows import Model, RunTables
from concordant.report.squares import in_square
from concordant.report.wording import count, days, interval, number, p_equation

STRATA = (
    ("low", "Low", "Lowest third of risk"),
    ("middle", "Mid", "Middle third"),
    ("high", "High", "Highest third of risk"),
)
"""Name in the style sheet, name beside the numbers at risk, and title, from low to high risk."""

STILL_FOLLOWED = 0.1
"""A curve ends where a smaller share of its cohort is still under observation.

Beyond it, it rests on a few people.
"""

_STEPS = 400


@dataclass(frozen=True, slots=True)
class Stratum:
    """One third of a cohort.

    Attributes:
        name: `low`, `middle` or `high`.
        short: Name beside the numbers at risk.
        title: Name in the legend.
        size: Samples and events in print.
        curve: SVG path in a 1000 x 1000 square.
        band: SVG path of the 95% band, closed.
        at_risk: Samples under observation at each tick of the time axis, in print.
        description: The curve in words.
    """

    name: str
    short: str
    title: str
    size: str
    curve: str
    band: str
    at_risk: tuple[str, ...]
    description: str


@dataclass(frozen=True, slots=True)
class SurvivalPanel:
    """One cohort.

    Attributes:
        cohort: Label of the cohort.
        internal: True for (part of) the development cohort.
        horizontal: Time.
        unit: What its labels count.
        vertical: Share without the event.
        strata: The thirds, from low to high risk.
        log_rank: The log-rank test in print.
        gap: How much time the highest third loses beside the lowest, in words.
    """

    cohort: str
    internal: bool
    horizontal: Axis
    unit: str
    vertical: Axis
    strata: tuple[Stratum, ...]
    log_rank: str
    gap: str


@dataclass(frozen=True, slots=True)
class SurvivalFigure:
    """The figure.

    Attributes:
        panels: One per cohort whose risks can be split.
        note: What a reader has to know beside it, or why there is none.
    """

    panels: tuple[SurvivalPanel, ...]
    note: str


def survival_figure(tables: RunTables, model: Model | None) -> SurvivalFigure:
    """Return the curves of a model on every cohort.

    Raises:
        ConcordantError: A predictions table of the model is missing or damaged.
    """
    if model is None:
        return SurvivalFigure((), "There are no curves, since no strategy is singled out.")
    split = [
        (cohort, _split(risks))
        for cohort in tables.cohorts
        if (risks := _risks(tables, model, cohort)) is not None
    ]
    panels = tuple(_panel(tables, cohort, groups) for cohort, groups in split if groups is not None)
    refused = [cohort for cohort, groups in split if groups is None]
    notes = (
        [f"Curves end where fewer than {STILL_FOLLOWED:.0%} of the cohort are still followed."]
        if panels
        else []
    )
    if panels and any(one.n_competing for one in tables.study.cohorts):
        notes.append(
            "Another event counts as censored here: the curves are of the hazard of this event "
            "alone."
        )
    if tables.study.cross_validation is not None:
        notes.append(
            "Under cross-validation the thirds are formed by the rank inside each fold, averaged "
            "over repeats."
        )
    if any(panel.vertical.low > 0 for panel in panels):
        notes.append("Mind the vertical axis: it does not start at 0%.")
    if refused:
        notes.append(
            f"Left out, too few patients, events or different risks: {', '.join(refused)}."
        )
    return SurvivalFigure(
        panels,
        " ".join(notes)
        or "The run holds no predictions of the singled-out model on these cohorts.",
    )


def _risks(tables: RunTables, model: Model, cohort: str) -> pl.DataFrame | None:
    """Read one risk per sample, averaged over seeds (and ranked inside each fold, then averaged
    over repeats); None if there is no file.
    """
    if tables.estimate(cohort, model) is None:
        return None
    key = (model.fusion, model.ct_encoder, model.ehr_encoder)
    members = [
        one.folder
        for one in tables.study.members
        if (one.fusion, one.ct_encoder, one.ehr_encoder) == key and one.status == "done"
    ]
    if not members:
        return None
    risks = average_seeds([_read(tables.run, folder, cohort) for folder in members]).table
    if risks["fold"].null_count() < risks.height:
        risks = risks.with_columns((pl.col("risk").rank() / pl.len()).over("repeat", "fold"))
    outcome = [pl.col("subject_id", "time_days", "event").first()]
    return risks.group_by("sample_id", maintain_order=True).agg(*outcome, pl.col("risk").mean())


def _read(run: RunFolder, member: str, cohort: str) -> Predictions:
    path = run.member(member).predictions(cohort)
    try:
        return read_predictions(path).of_variant(AS_IS)
    except PredictionsError as error:
        raise ConcordantError(
            f"{error}; run `concordant run` on the study file to write it again"
        ) from error
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ConcordantError(
            f"{path} is damaged; run `concordant run` on the study file to write it again"
        ) from error


def _split(risks: pl.DataFrame) -> RiskGroups | None:
    """Split into thirds, their areas taken as far as the curves are drawn.

    None where that cannot be done or a third is empty.
    """
    outcome = (
        risks["time_days"].to_numpy(),
        risks["event"].cast(pl.Int64).to_numpy(),
        risks["risk"].to_numpy(),
    )
    cluster = risks["subject_id"].to_numpy()
    try:
        groups = risk_groups(*outcome, cluster=cluster)
        curves = [curve for curve in groups.curves if curve is not None]
        return (
            risk_groups(*outcome, cluster=cluster, tau=min(groups.tau, _last_day(curves)))
            if len(curves) == len(STRATA)
            else None
        )
    except MetricError:
        return None


def _panel(tables: RunTables, cohort: str, groups: RiskGroups) -> SurvivalPanel:
    curves = [curve for curve in groups.curves if curve is not None]
    time = time_axis(_last_day(curves))
    shown = [_shown(curve, time.axis.high) for curve in curves]
    vertical = axis_between_ticks([100.0, *(100.0 * float(one.low.min()) for one in shown)])
    strata = tuple(
        _stratum(number, curve, one, time, vertical)
        for number, (curve, one) in enumerate(zip(curves, shown, strict=True))
    )
    internal, log_rank = tables.internal(cohort), p_equation(groups.log_rank.p_value)
    gap = _gap(groups, DAYS_OF[time.unit], time.unit)
    return SurvivalPanel(
        cohort, internal, time.axis, time.unit.capitalize(), vertical, strata, log_rank, gap
    )


def _gap(groups: RiskGroups, length: float, unit: str) -> str:
    """Say what the areas under the curves until the last supported time differ by.

    The restricted mean survival time.
    """
    lost = groups.restricted_mean_difference
    low, high = lost.interval()
    limits = interval(-high / length, -low / length, 1)
    return (
        f"Within the first {days(groups.tau)} the highest third loses "
        f"{number(-lost.difference / length, 1)} {limits} {unit} without the event beside the "
        "lowest third."
    )


def _last_day(curves: Sequence[SurvivalCurve]) -> float:
    """Return the time at which `STILL_FOLLOWED` of all are still under observation."""
    leaving = np.concatenate(
        [np.repeat(curve.times, -np.diff(curve.at_risk, append=0)) for curve in curves]
    )
    return float(np.quantile(leaving, 1 - STILL_FOLLOWED))


@dataclass(frozen=True, slots=True)
class _Steps:
    """A curve and its band as far as they are drawn.

    Values hold from their time on, the last time only ends the last step.
    """

    days: Float[np.ndarray, " step_plus_one"]
    survival: Float[np.ndarray, " step"]
    low: Float[np.ndarray, " step"]
    high: Float[np.ndarray, " step"]


def _shown(curve: SurvivalCurve, last_day: float) -> _Steps:
    """Keep the steps up to `last_day`, and of steps that lie within one `_STEPS`-th of the axis
    the last one.
    """
    band = curve.interval()
    steps = np.flatnonzero((curve.n_events > 0) & (curve.times < last_day))
    bins = np.floor(curve.times[steps] / last_day * _STEPS)
    steps = steps[np.append(np.diff(bins) > 0, True)] if len(steps) else steps
    days = np.concatenate([[0.0], curve.times[steps], [min(last_day, float(curve.times[-1]))]])
    values = (
        np.concatenate([[1.0], np.nan_to_num(each[steps])])
        for each in (curve.survival, band.low, band.high)
    )
    return _Steps(days, *values)


def _stratum(
    number: int, curve: SurvivalCurve, shown: _Steps, time: TimeAxis, vertical: Axis
) -> Stratum:
    name, short, title = STRATA[number]
    n, n_events = int(curve.at_risk[0]), int(curve.n_events.sum())
    size = f"n = {count(n)}, {count(n_events)} events"
    across = [in_square(time.axis.place(day)) for day in shown.days]
    heights = [
        [in_square(100 - vertical.place(100 * value)) for value in each]
        for each in (shown.survival, shown.low, shown.high)
    ]
    at_risk = tuple(count(_at_risk(curve, tick.value)) for tick in time.axis.ticks)
    ends = (
        f"{100 * float(shown.survival[-1]):.0f}% without the event at {days(float(shown.days[-1]))}"
    )
    return Stratum(
        name,
        short,
        title,
        size,
        _step_path(across, heights[0]),
        _band_path(across, *heights[1:]),
        at_risk,
        f"{title}: {size}, {ends}.",
    )


def _at_risk(curve: SurvivalCurve, day: float) -> int:
    place = int(np.searchsorted(curve.times, day, side="left"))
    return int(curve.at_risk[place]) if place < len(curve.times) else 0


def _step_path(across: Sequence[str], heights: Sequence[str]) -> str:
    return f"M{across[0]} {heights[0]}" + "".join(_steps(across, heights))


def _band_path(across: Sequence[str], low: Sequence[str], high: Sequence[str]) -> str:
    """Go along the upper limit and come back along the lower one."""
    back = (
        f"V{height}H{left}"
        for left, height in zip(reversed(across[:-1]), reversed(low), strict=True)
    )
    return f"M{across[0]} {high[0]}{''.join(_steps(across, high))}{''.join(back)}Z"


def _steps(across: Sequence[str], heights: Sequence[str]) -> Iterator[str]:
    return (f"V{height}H{right}" for right, height in zip(across[1:], heights, strict=True))
