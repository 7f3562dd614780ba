"""From a predictions table to a table of metrics with standard errors, with or without cross-validation. No torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import polars as pl
from jaxtyping import Int

from concordant.core.errors import ConfigError, MetricError, PredictionsError, did_you_mean
from concordant.core.survival import Predictions, SurvivalTarget
from concordant.metrics import METRICS, Estimate, Metric, Setting, subtract

__all__ = [
    "KEY",
    "METRICS",
    "RESULT_SCHEMA",
    "CensoringSource",
    "Measure",
    "MetricEstimate",
    "align",
    "averaged",
    "evaluate",
    "measures",
    "subgroups",
]

CensoringSource = Literal["cohort", "train", "pooled"]
"""Whose censoring curve a metric weighs by: the evaluated cohort's, train's, or one of both together."""

KEY = ("sample_id", "repeat", "fold")
"""Columns that name a row of a predictions table."""

RESULT_SCHEMA: dict[str, type[pl.DataType]] = {
    "metric": pl.String,
    "horizon_days": pl.Float64,
    "value": pl.Float64,
    "standard_error": pl.Float64,
    "ci_low": pl.Float64,
    "ci_high": pl.Float64,
    "n": pl.Int64,
    "n_events": pl.Int64,
    "note": pl.String,
}


class Measure(NamedTuple):
    """A metric, at a horizon where it has one."""

    metric: str
    horizon_days: float | None


def measures(metrics: Sequence[str], horizons_days: Sequence[float] = ()) -> tuple[Measure, ...]:
    """Return what is to be computed: every metric, those at horizons once per horizon.

    Raises:
        ConfigError: An unknown metric, or a metric at horizons without any.
    """
    listed: list[Measure] = []
    for metric in metrics:
        at_horizons = METRICS.get(metric).at_horizons
        if at_horizons and not horizons_days:
            raise ConfigError(f"{metric} is computed at horizons, but horizons_days is empty; give the days at which to compute it")
        listed += [Measure(metric, float(days)) for days in horizons_days] if at_horizons else [Measure(metric, None)]
    return tuple(listed)


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricEstimate(Estimate):
    """A metric, or a paired difference of one, averaged over folds and repeats; one influence per distinct sample.

    Attributes:
        sample_id: Sample that each influence belongs to.
    """

    sample_id: pl.Series


def evaluate(
    predictions: Predictions,
    *,
    metrics: Sequence[str] = ("concordance_index", "integrated_brier_score"),
    horizons_days: Sequence[float] = (),
    censoring: CensoringSource = "cohort",
    train: SurvivalTarget | None = None,
) -> pl.DataFrame:
    """Compute metrics with standard errors and 95 % intervals.

    Args:
        predictions: One cohort's predictions, higher risk = earlier event. Rows of one `subject_id` are one cluster.
        metrics: Names from `METRICS`.
        horizons_days: Horizons of the metrics that have one value per horizon.
        censoring: Whose censoring curve the weighted metrics use.
        train: Outcomes of train, for `censoring` "train" and "pooled".

    Returns:
        The columns of `RESULT_SCHEMA`, a row per metric and horizon. Under cross-validation `value` is the mean over folds of the
        within-fold value, then over repeats, and `n` counts distinct samples. A metric that cannot be computed is null, and
        `note` says why; it also says which folds were left out of a mean.

    Raises:
        ConfigError: An unknown metric or censoring source, a metric at horizons without any, or no `train` where it is needed.
    """
    rows = [_result_row(predictions, measure, censoring=censoring, train=train) for measure in measures(metrics, horizons_days)]
    return pl.DataFrame(rows, schema=RESULT_SCHEMA)


def subgroups(
    predictions: Predictions,
    column: str,
    *,
    metrics: Sequence[str] = ("concordance_index", "integrated_brier_score"),
    horizons_days: Sequence[float] = (),
    censoring: CensoringSource = "cohort",
    train: SurvivalTarget | None = None,
) -> pl.DataFrame:
    """Compute the rows of `evaluate` within every level of a column.

    Args:
        predictions: As in `evaluate`.
        column: A column of the table, such as `available` or `site`; rows where it is null belong to no level.
        metrics: As in `evaluate`.
        horizons_days: As in `evaluate`.
        censoring: As in `evaluate`; "cohort" is the subgroup's own curve.
        train: As in `evaluate`.

    Returns:
        `subgroup` (the column's name), `level` (as text, ascending) and the columns of `RESULT_SCHEMA`.

    Raises:
        ConfigError: As `evaluate`, or an unknown column.
    """
    if column not in predictions.table.columns:
        raise ConfigError(f"unknown subgroup column {column!r}.{did_you_mean(column, predictions.table.columns)}")
    levels = predictions.table[column].drop_nulls().unique().sort().to_list()
    empty = pl.DataFrame(schema={"subgroup": pl.String, "level": pl.String, **RESULT_SCHEMA})
    tables = [empty]
    for level in levels:
        part = predictions.filter(pl.col(column) == level)
        rows = evaluate(part, metrics=metrics, horizons_days=horizons_days, censoring=censoring, train=train)
        tables.append(rows.select(pl.lit(column).alias("subgroup"), pl.lit(str(level)).alias("level"), pl.all()))
    return pl.concat(tables)


def averaged(
    predictions: Predictions,
    metric: str,
    *,
    horizon_days: float | None = None,
    censoring: CensoringSource = "cohort",
    train: SurvivalTarget | None = None,
    reference: Predictions | None = None,
) -> MetricEstimate:
    """Compute a metric within each fold and average it over folds, then over repeats; without folds, on all rows at once.

    A fold in which it cannot be computed (no event, say) is left out of the average, and the note says so. The influence of a
    sample is the sum of its influences in all repeats, so that the standard error knows they are the same samples.

    Args:
        predictions: One cohort's predictions.
        metric: A name from `METRICS`.
        horizon_days: For a metric at a horizon.
        censoring: Whose censoring curve the weighted metrics use.
        train: Outcomes of train, for `censoring` "train" and "pooled".
        reference: Another model's predictions for the same samples: the result is the paired difference, `predictions` minus
            `reference`, over the folds in which both can be computed.

    Raises:
        ConfigError: As `evaluate`.
        MetricError: It can be computed in no fold.
        PredictionsError: `reference` holds other samples, folds or outcomes.
    """
    chosen = METRICS.create(metric)
    setting = _setting(horizon_days, censoring, train)
    other = None if reference is None else _comparable(chosen, reference, predictions)
    computed: list[_FoldEstimate] = []
    reasons: list[str] = []
    for fold in _folds(predictions.table):
        try:
            computed.append(_FoldEstimate(fold, _on_rows(chosen, setting, fold.rows, predictions, other)))
        except MetricError as error:
            reasons.append(str(error))
    if not computed:
        raise MetricError(reasons[0] if reasons else "the predictions table holds no row")
    return _average(predictions.table, computed, reasons)


def align(predictions: Predictions, to: Predictions) -> Predictions:
    """Return the rows of `predictions` in the order of `to`, matched by sample, repeat and fold.

    Raises:
        PredictionsError: The two do not hold the same samples, repeats and folds, or give them different outcomes.
    """
    key = list(KEY)
    rows = to.table.select(key).join(
        predictions.table.select(key).with_row_index("row"), on=key, how="left", nulls_equal=True, maintain_order="left"
    )
    absent = rows["row"].null_count()
    if absent or rows.height != predictions.table.height:
        raise PredictionsError(
            f"a paired comparison needs the same samples, repeats and folds twice; given {predictions.table.height} and "
            f"{to.table.height} rows, {absent} of which have no partner"
        )
    aligned = _take(predictions, rows["row"].cast(pl.Int64).to_numpy())
    outcomes = ["time_days", "event"]
    different = int((aligned.table.select(outcomes) != to.table.select(outcomes)).sum_horizontal().cast(pl.Boolean).sum())
    if different:
        raise PredictionsError(f"{different} of {to.table.height} rows have another time_days or event in the other predictions table")
    return aligned


@dataclass(frozen=True, slots=True)
class _Fold:
    repeat: int | None
    rows: Int[np.ndarray, " row"]


@dataclass(frozen=True, slots=True)
class _FoldEstimate:
    fold: _Fold
    estimate: Estimate


def _setting(horizon_days: float | None, censoring: str, train: SurvivalTarget | None) -> Setting:
    if censoring not in get_args(CensoringSource):
        raise ConfigError(f"unknown censoring source {censoring!r}.{did_you_mean(censoring, get_args(CensoringSource))}")
    if censoring == "cohort":
        return Setting(horizon_days)
    if train is None:
        raise ConfigError(f"censoring {censoring!r} needs train's outcomes; give `train`, or censoring 'cohort'")
    return Setting(horizon_days, train, censoring == "pooled")


def _folds(table: pl.DataFrame) -> Iterator[_Fold]:
    """Yield the rows of every fold of every repeat; a table without folds is one fold."""
    parts = table.select("repeat", "fold").with_row_index("row").group_by("repeat", "fold", maintain_order=True).agg("row")
    for repeat, _, rows in parts.iter_rows():
        yield _Fold(repeat, np.array(rows, dtype=np.int64))


def _take(predictions: Predictions, rows: Int[np.ndarray, " row"]) -> Predictions:
    return Predictions(predictions.table[rows], predictions.survival_times_days)


def _comparable(metric: Metric, reference: Predictions, predictions: Predictions) -> Predictions:
    """Align the reference, and refuse a metric over times that the two do not share."""
    aligned = align(reference, predictions)
    times = [given for given in (predictions.survival_times_days, reference.survival_times_days) if given is not None]
    if metric.over_curve_times and len(times) == 2 and not np.array_equal(times[0], times[1]):
        raise MetricError("the two tables hold survival curves at different times; their integrals are not comparable")
    return aligned


def _on_rows(
    metric: Metric, setting: Setting, rows: Int[np.ndarray, " row"], predictions: Predictions, reference: Predictions | None
) -> Estimate:
    """Compute a metric, or its paired difference to the reference, on some rows."""
    first = metric.compute(_take(predictions, rows), setting)
    if reference is None:
        return first
    paired = subtract(first, metric.compute(_take(reference, rows), setting))
    return Estimate(
        estimate=paired.difference,
        influence=paired.influence,
        n=paired.n,
        n_events=paired.n_events,
        cluster=paired.cluster,
        censoring_influence=paired.censoring_influence,
        note=first.note,
    )


def _average(table: pl.DataFrame, computed: Sequence[_FoldEstimate], reasons: Sequence[str]) -> MetricEstimate:
    """Average over folds, then over repeats, and sum the influences of each sample."""
    per_repeat = Counter(one.fold.repeat for one in computed)
    shares = [1 / (len(per_repeat) * per_repeat[one.fold.repeat]) for one in computed]
    rows = np.concatenate([one.fold.rows for one in computed])
    influence = np.concatenate([share * one.estimate.influence for share, one in zip(shares, computed, strict=True)])
    samples = (
        table[rows]
        .select("sample_id", "subject_id", "event", influence=pl.Series(influence))
        .group_by("sample_id", maintain_order=True)
        .agg(pl.col("subject_id", "event").first(), pl.col("influence").sum())
    )
    return MetricEstimate(
        estimate=float(sum(share * one.estimate.estimate for share, one in zip(shares, computed, strict=True))),
        influence=samples["influence"].to_numpy(),
        n=samples.height,
        n_events=int((samples["event"] == 1).sum()),
        cluster=np.unique(samples["subject_id"].to_numpy(), return_inverse=True)[1],
        censoring_influence=np.sum([share * one.estimate.censoring_influence for share, one in zip(shares, computed, strict=True)], 0),
        note=_note([one.estimate.note for one in computed], reasons),
        sample_id=samples["sample_id"],
    )


def _note(notes: Sequence[str], reasons: Sequence[str]) -> str:
    """Join what all folds' notes agree on with how many folds were left out, and why the first was."""
    agreed = [notes[0]] if len(set(notes)) == 1 and notes[0] else []
    left_out = [f"{len(reasons)} of {len(reasons) + len(notes)} folds left out: {reasons[0]}"] if reasons else []
    return "; ".join(agreed + left_out)


def _result_row(predictions: Predictions, measure: Measure, censoring: CensoringSource, train: SurvivalTarget | None) -> dict[str, Any]:
    named = {"metric": measure.metric, "horizon_days": measure.horizon_days}
    try:
        result = averaged(predictions, measure.metric, horizon_days=measure.horizon_days, censoring=censoring, train=train)
    except MetricError as error:
        samples = predictions.table.unique("sample_id")
        return {**named, "n": samples.height, "n_events": int((samples["event"] == 1).sum()), "note": str(error)}
    low, high = result.interval()
    return {
        **named,
        "value": result.estimate,
        "standard_error": result.standard_error,
        "ci_low": low,
        "ci_high": high,
        "n": result.n,
        "n_events": result.n_events,
        "note": result.note or None,
    }
