"""Tables of metrics with standard errors: of a whole cohort, and of the levels of a column."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Unpack

import numpy as np
import polars as pl

from concordant.core.errors import ConfigError, MetricError, did_you_mean
from concordant.core.survival import Predictions, event_code
from concordant.evaluation.averages import averaged
from concordant.evaluation.protocol import EvaluationProtocol, Measure, ProtocolOptions
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

SUBGROUP_SCHEMA: dict[str, type[pl.DataType]] = {
    "subgroup": pl.String,
    "level": pl.String,
    **RESULT_SCHEMA,
}


def evaluate(
    predictions: Predictions,
    protocol: EvaluationProtocol | None = None,
    **options: Unpack[ProtocolOptions],
) -> pl.DataFrame:
    """Compute metrics with standard errors and 95 % intervals.

    Args:
        predictions: One model's predictions of one cohort, higher risk = earlier event. Rows of one
            `subject_id` are one cluster; a column `weight`, where there is one, weighs the rows.
        protocol: How they are judged.
        options: Attributes of `EvaluationProtocol` (`metrics`, `horizons_days`, `censoring`,
            `train`, `tau`, `cause`), in place of those of `protocol`.

    Returns:
        The columns of `RESULT_SCHEMA`, a row per metric and horizon. Under cross-validation `value`
        is the mean over folds of the within-fold value, then over repeats, and `n` counts distinct
        samples. `tau_days` is the time that a truncated metric runs up to. A metric that cannot be
        computed is null, and `note` says why; it also says which folds were left out of a mean.

    Raises:
        ConfigError: As `EvaluationProtocol`, or weights or a cause for a metric that takes none.
    """
    judged = replace(protocol or EvaluationProtocol(), **options)
    rows = [_result_row(predictions, measure, judged) for measure in judged.measures]
    return pl.DataFrame(rows, schema=RESULT_SCHEMA).fill_nan(None)


def subgroups(
    predictions: Predictions,
    column: str,
    protocol: EvaluationProtocol | None = None,
    **options: Unpack[ProtocolOptions],
) -> pl.DataFrame:
    """Compute the rows of `evaluate` within every level of a column.

    Args:
        predictions: As in `evaluate`.
        column: A column of the table, such as `available` or `site`; rows where it is null belong
            to no level.
        protocol: As in `evaluate`; the censoring curve "cohort" is the subgroup's own, and a level
            that supports less than `tau` says so in its note.
        options: As in `evaluate`.

    Returns:
        `subgroup` (the column's name), `level` (as text, ascending) and the columns of
        `RESULT_SCHEMA`.

    Raises:
        ConfigError: As `evaluate`, or an unknown column.
    """
    judged, known = replace(protocol or EvaluationProtocol(), **options), predictions.table.columns
    if column not in known:
        raise ConfigError(f"unknown subgroup column {column!r}.{did_you_mean(column, known)}")
    levels = predictions.table[column].drop_nulls().unique().sort().to_list()
    tables = [
        evaluate(predictions.filter(pl.col(column) == level), judged).select(
            pl.lit(column).alias("subgroup"), pl.lit(str(level)).alias("level"), pl.all()
        )
        for level in levels
    ]
    return pl.concat([pl.DataFrame(schema=SUBGROUP_SCHEMA), *tables])


def _result_row(
    predictions: Predictions, measure: Measure, protocol: EvaluationProtocol
) -> dict[str, Any]:
    named = {"metric": measure.metric, "horizon_days": measure.horizon_days}
    try:
        result = averaged(
            predictions, measure.metric, horizon_days=measure.horizon_days, protocol=protocol
        )
    except MetricError as error:
        event = predictions.table.unique("sample_id")["event"]
        n_events = int((event.cast(pl.Int64) == event_code(protocol.cause)).sum())
        return {**named, "n": len(event), "n_events": n_events, "note": str(error)}
    low, high = np.clip(result.interval(), *METRICS.get(measure.metric).bounds).tolist()
    notes = (result.note, _UNVARIED if result.standard_error == 0 else "")
    return {
        **named,
        "value": result.estimate,
        "standard_error": result.standard_error,
        "ci_low": low,
        "ci_high": high,
        "n": result.n,
        "n_events": result.n_events,
        "tau_days": result.tau_days,
        "note": "; ".join(filter(None, notes)) or None,
    }
