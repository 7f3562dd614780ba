"""Tables of metrics with standard errors: of a whole cohort, and of the levels of a column."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from concordant.core.errors import ConfigError, MetricError, did_you_mean
from concordant.core.survival import Predictions, SurvivalTarget
from concordant.evaluation.averages import averaged
from concordant.evaluation.competing import count_events
from concordant.evaluation.measures import CensoringSource, Measure, measures
from concordant.metrics import METRICS

_UNVARIED = "the subjects show no variation, so there is no interval; it is no certainty"

RESULT_SCHEMA: dict[str, type[pl.DataType]] = {
    "metric": pl.String,
    "horizon_days": pl.Float64,
    "value": pl.Float64,
    "standard_error": pl.Float64,
    "ci_low": pl.Float64,
    "ci_high": pl.Float64,
    "n": pl.Int64,
    "n_events": pl.Int64,
    "tau_days": pl.Float64,
    "note": pl.String,
}


def evaluate(
    predictions: Predictions,
    *,
    metrics: Sequence[str] = ("concordance_index", "integrated_brier_score"),
    horizons_days: Sequence[float] = (),
    censoring: CensoringSource = "cohort",
    train: SurvivalTarget | None = None,
    tau: float | None = None,
    cause: int | None = None,
) -> pl.DataFrame:
    """Compute metrics with standard errors and 95 % intervals.

    Args:
        predictions: One cohort's predictions, higher risk = earlier event. Rows of one `subject_id`
            are one cluster; a column `weight`, where there is one, weighs the rows.
        metrics: Names from `METRICS`.
        horizons_days: Horizons of the metrics that have one value per horizon.
        censoring: Whose censoring curve the weighted metrics use.
        train: Outcomes of train, for `censoring` "train" and "pooled".
        tau: Days up to which Uno's C and the integrated Brier score run; None = all that is
            supported.
        cause: Code of the event of interest, with which every other code above 0 competes; None =
            event 1, every other code censored. 1 - survival is then read as its cumulative
            incidence. Calibration slope and index, which have no such form, are null.

    Returns:
        The columns of `RESULT_SCHEMA`, a row per metric and horizon. Under cross-validation `value`
        is the mean over folds of the within-fold value, then over repeats, and `n` counts distinct
        samples. `tau_days` is the time that a truncated metric runs up to. A metric that cannot be
        computed is null, and `note` says why; it also says which folds were left out of a mean.

    Raises:
        ConfigError: An unknown metric or censoring source, a metric at horizons without any, no
            `train` where it is needed, a tau that is not > 0, a cause below 1, or weights or a
            cause for a metric that takes none.
    """
    options: dict[str, Any] = {"censoring": censoring, "train": train, "tau": tau, "cause": cause}
    rows = [
        _result_row(predictions, measure, options) for measure in measures(metrics, horizons_days)
    ]
    return pl.DataFrame(rows, schema=RESULT_SCHEMA).fill_nan(None)


def subgroups(
    predictions: Predictions,
    column: str,
    *,
    metrics: Sequence[str] = ("concordance_index", "integrated_brier_score"),
    horizons_days: Sequence[float] = (),
    censoring: CensoringSource = "cohort",
    train: SurvivalTarget | None = None,
    tau: float | None = None,
    cause: int | None = None,
) -> pl.DataFrame:
    """Compute the rows of `evaluate` within every level of a column.

    Args:
        predictions: As in `evaluate`.
        column: A column of the table, such as `available` or `site`; rows where it is null belong
            to no level.
        metrics: As in `evaluate`.
        horizons_days: As in `evaluate`.
        censoring: As in `evaluate`; "cohort" is the subgroup's own curve.
        train: As in `evaluate`.
        tau: As in `evaluate`; a level that supports less says so in its note.
        cause: As in `evaluate`.

    Returns:
        `subgroup` (the column's name), `level` (as text, ascending) and the columns of
        `RESULT_SCHEMA`.

    Raises:
        ConfigError: As `evaluate`, or an unknown column.
    """
    if column not in predictions.table.columns:
        raise ConfigError(
            f"unknown subgroup column {column!r}.{did_you_mean(column, predictions.table.columns)}"
        )
    levels = predictions.table[column].drop_nulls().unique().sort().to_list()
    empty = pl.DataFrame(schema={"subgroup": pl.String, "level": pl.String, **RESULT_SCHEMA})
    tables = [empty]
    for level in levels:
        part = predictions.filter(pl.col(column) == level)
        rows = evaluate(
            part,
            metrics=metrics,
            horizons_days=horizons_days,
            censoring=censoring,
            train=train,
            tau=tau,
            cause=cause,
        )
        tables.append(
            rows.select(
                pl.lit(column).alias("subgroup"), pl.lit(str(level)).alias("level"), pl.all()
            )
        )
    return pl.concat(tables)


def _result_row(
    predictions: Predictions, measure: Measure, options: dict[str, Any]
) -> dict[str, Any]:
    named = {"metric": measure.metric, "horizon_days": measure.horizon_days}
    try:
        result = averaged(predictions, measure.metric, horizon_days=measure.horizon_days, **options)
    except MetricError as error:
        samples = predictions.table.unique("sample_id")
        return {
            **named,
            "n": samples.height,
            "n_events": count_events(samples, options["cause"]),
            "note": str(error),
        }
    low, high = np.clip(result.interval(), *METRICS.get(measure.metric).bounds).tolist()
    return {
        **named,
        "value": result.estimate,
        "standard_error": result.standard_error,
        "ci_low": low,
        "ci_high": high,
        "n": result.n,
        "n_events": result.n_events,
        "tau_days": result.tau_days,
        "note": "; ".join(
            filter(None, (result.note, _UNVARIED if result.standard_error == 0 else ""))
        )
        or None,
    }
