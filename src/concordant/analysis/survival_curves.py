"""Survival by predicted risk: Kaplan-Meier curves of the thirds of every cohort, model by model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from concordant.analysis.base import ANALYSES, Analysis, Judged
from concordant.analysis.candidates import Candidate
from concordant.core.errors import MetricError
from concordant.core.survival import Predictions
from concordant.metrics.censoring import SurvivalCurve
from concordant.metrics.risk_groups import RiskGroups, risk_groups

GROUPS = ("low", "middle", "high")
"""The thirds, from low to high predicted risk."""

STILL_FOLLOWED = 0.1
"""A curve ends where a smaller share of its cohort is still under observation.

Beyond it, it rests on a few people.
"""

SURVIVAL_CURVES_SCHEMA: dict[str, type[pl.DataType]] = {
    "cohort": pl.String,
    "ct_encoder": pl.String,
    "ehr_encoder": pl.String,
    "fusion": pl.String,
    "group": pl.String,
    "n": pl.Int64,
    "n_events": pl.Int64,
    "time_days": pl.Float64,
    "survival": pl.Float64,
    "ci_low": pl.Float64,
    "ci_high": pl.Float64,
    "n_at_risk": pl.Int64,
    "log_rank_p": pl.Float64,
    "tau_days": pl.Float64,
    "days_lost": pl.Float64,
    "days_lost_ci_low": pl.Float64,
    "days_lost_ci_high": pl.Float64,
    "note": pl.String,
}


def survival_curves(models: Sequence[Candidate]) -> pl.DataFrame:
    """Compute Kaplan-Meier curves of the thirds of each cohort by the risk of each model.

    Risks are averaged over seeds; under cross-validation they are ranked inside each fold and the
    ranks averaged over repeats, so that a sample counts once. Every event but 1 is censored.

    Args:
        models: One candidate per model, seeds averaged; models of others are left out.

    Returns:
        The columns of `SURVIVAL_CURVES_SCHEMA`, a row per cohort, model, group (see `GROUPS`) and
        time: 0, every time at which someone of the group leaves, and the last day shown (days
        since the prediction). `survival` holds from that time on, with its 95 % interval;
        `n_at_risk` is the number under observation just before it, so the number at risk on any
        day is that of the first row not before it; `n` and `n_events` are the whole group's.
        `days_lost` is the time without the event within the first `tau_days` that the highest
        third loses beside the lowest (difference of restricted means). A cohort that cannot be
        split is one row whose `note` says why.
    """
    tables = [
        _curves(predictions).with_columns(
            pl.lit(value, pl.String).alias(name) for name, value in model.names(cohort).items()
        )
        for model in models
        if not model.is_foreign
        for cohort, predictions in model.predictions.items()
    ]
    empty = pl.DataFrame(schema=SURVIVAL_CURVES_SCHEMA)
    return pl.concat([empty, *tables], how="diagonal").fill_nan(None)


@ANALYSES.register("survival_curves")
class SurvivalCurves(Analysis):
    """Kaplan-Meier curves by third of predicted risk."""

    schema = SURVIVAL_CURVES_SCHEMA

    def compute(self, judged: Judged) -> pl.DataFrame:
        """Compute the curves."""
        return survival_curves(judged.models())


def _curves(predictions: Predictions) -> pl.DataFrame:
    try:
        split = _split(_risk_per_sample(predictions))
    except MetricError as error:
        return pl.DataFrame({"note": [str(error)]})
    curves = [curve for curve in split.curves if curve is not None]
    days, lost = _last_day(curves), split.restricted_mean_difference
    low, high = (-limit for limit in reversed(lost.interval()))
    tables = [
        _curve(curve, days).with_columns(group=pl.lit(group))
        for group, curve in zip(GROUPS, curves, strict=True)
    ]
    return pl.concat(tables).with_columns(
        log_rank_p=pl.lit(split.log_rank.p_value),
        tau_days=pl.lit(split.tau),
        days_lost=pl.lit(-lost.difference),
        days_lost_ci_low=pl.lit(low),
        days_lost_ci_high=pl.lit(high),
    )


def _risk_per_sample(predictions: Predictions) -> pl.DataFrame:
    table = predictions.table
    if table["fold"].null_count() < table.height:
        table = table.with_columns((pl.col("risk").rank() / pl.len()).over("repeat", "fold"))
    return table.group_by("sample_id", maintain_order=True).agg(
        pl.col("subject_id", "time_days", "event").first(), pl.col("risk").mean()
    )


def _split(risks: pl.DataFrame) -> RiskGroups:
    """Split into thirds; their restricted means run as far as the curves are shown."""
    outcome = (
        risks["time_days"].to_numpy(),
        risks["event"].cast(pl.Int64).to_numpy(),
        risks["risk"].to_numpy(),
    )
    cluster = risks["subject_id"].to_numpy()
    groups = risk_groups(*outcome, groups=len(GROUPS), cluster=cluster)
    curves = [curve for curve in groups.curves if curve is not None]
    if len(curves) < len(GROUPS):
        raise MetricError(f"{len(GROUPS)} groups need different risks; {len(curves)} have anybody")
    tau = min(groups.tau, _last_day(curves))
    return risk_groups(*outcome, groups=len(GROUPS), cluster=cluster, tau=tau)


def _last_day(curves: Sequence[SurvivalCurve]) -> float:
    """Return the time at which `STILL_FOLLOWED` of all are still under observation."""
    leaving = np.concatenate(
        [np.repeat(curve.times, -np.diff(curve.at_risk, append=0)) for curve in curves]
    )
    return float(np.quantile(leaving, 1 - STILL_FOLLOWED))


def _curve(curve: SurvivalCurve, last_day: float) -> pl.DataFrame:
    """Return the curve from its start to the last day shown, or its own end if that is earlier."""
    end = min(last_day, float(curve.times[-1]))
    days = np.unique([0.0, *curve.times[curve.times <= end], end])
    step, band = np.searchsorted(curve.times, days, side="right"), curve.interval()
    survival, low, high = (
        np.concatenate([[1.0], np.nan_to_num(each)])[step]
        for each in (curve.survival, band.low, band.high)
    )
    at_risk = curve.at_risk[np.searchsorted(curve.times, days, side="left")]
    return pl.DataFrame(
        {
            "n": np.full(len(days), curve.at_risk[0]),
            "n_events": np.full(len(days), curve.n_events.sum()),
            "time_days": days,
            "survival": survival,
            "ci_low": low,
            "ci_high": high,
            "n_at_risk": at_risk,
        }
    ).with_columns(pl.col("n", "n_events", "n_at_risk").cast(pl.Int64))
