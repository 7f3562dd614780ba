"""Are the predicted probabilities right? Predicted against observed, and the metrics of
calibration, before and after recalibration.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from concordant.analysis.candidates import Candidate, merged
from concordant.analysis.decision import shown_models
from concordant.core.errors import MetricError
from concordant.core.survival import Predictions, SurvivalTarget
from concordant.evaluation import (
    RESULT_SCHEMA,
    CensoringSource,
    evaluate,
    incidence_remark,
    survival_at,
)
from concordant.metrics import CalibrationGroups, kaplan_meier_calibration

CALIBRATION_METRICS = (
    "calibration_in_the_large",
    "calibration_slope",
    "integrated_calibration_index",
    "brier_score",
)
"""Metrics at horizons that speak of the probabilities."""

MOST_GROUPS, LEAST_IN_GROUP = 10, 10

_NAMES: dict[str, type[pl.DataType]] = {
    "cohort": pl.String,
    "ct_encoder": pl.String,
    "ehr_encoder": pl.String,
    "fusion": pl.String,
    "recalibrated": pl.Boolean,
}

GROUP_SCHEMA: dict[str, type[pl.DataType]] = {
    **_NAMES,
    "horizon_days": pl.Float64,
    "group": pl.Int64,
    "predicted": pl.Float64,
    "observed": pl.Float64,
    "ci_low": pl.Float64,
    "ci_high": pl.Float64,
    "n": pl.Int64,
    "n_events": pl.Int64,
    "note": pl.String,
}


def calibration_groups(
    candidates: Sequence[Candidate],
    *,
    horizons_days: Sequence[float],
    recalibrated: bool = False,
    cause: int | None = None,
) -> pl.DataFrame:
    """Compare predicted and observed probability in groups of the prediction.

    The best fusion, its unimodal models, models of others.

    Ten groups, fewer where a group would hold fewer than ten samples. Under cross-validation a
    sample counts once, with its prediction averaged over repeats.

    Args:
        candidates: All models, every seed; those of others with curves of survival.
        horizons_days: Times by which the event counts.
        recalibrated: What the column of this name says.
        cause: Code of the event of interest, with which every other code above 0 competes; None =
            event 1, every other code censored.

    Returns:
        The columns of `GROUP_SCHEMA`, a row per group, lowest prediction first: the mean
        prediction, and the observed probability of the event by the horizon (1 - Kaplan-Meier, with
        a cause Aalen-Johansen) with its 95 % interval. Where that cannot be computed, one row whose
        `note` says why.
    """
    models = merged(candidates)
    cohorts = dict.fromkeys(cohort for model in models for cohort in model.predictions)
    rows = [
        row
        for cohort in cohorts
        for model in shown_models(models, cohort)
        for horizon in horizons_days
        for row in _group_rows(
            _names(model, cohort, recalibrated), model.predictions[cohort], float(horizon), cause
        )
    ]
    return pl.DataFrame(rows, schema=GROUP_SCHEMA).fill_nan(None)


def calibration_table(
    candidates: Sequence[Candidate],
    *,
    horizons_days: Sequence[float],
    censoring: CensoringSource = "cohort",
    train: SurvivalTarget | None = None,
    recalibrated: bool = False,
    cause: int | None = None,
) -> pl.DataFrame:
    """Compute the metrics of calibration of every model at every horizon, seeds averaged.

    Args:
        candidates: All models, every seed.
        horizons_days: Times by which the event counts.
        censoring: Whose censoring curve the Brier score uses.
        train: Outcomes of train, for `censoring` "train" and "pooled".
        recalibrated: What the column of this name says.
        cause: As in `evaluate`.

    Returns:
        `cohort`, `ct_encoder`, `ehr_encoder`, `fusion`, `recalibrated` and the columns of
        `evaluate`.
    """
    empty = pl.DataFrame(schema={**_NAMES, **RESULT_SCHEMA})
    if not horizons_days:
        return empty
    options: dict[str, Any] = {
        "horizons_days": horizons_days,
        "censoring": censoring,
        "train": train,
        "cause": cause,
    }
    tables = [
        evaluate(predictions, metrics=CALIBRATION_METRICS, **options).select(
            *(
                pl.lit(value, _NAMES[name]).alias(name)
                for name, value in _names(model, cohort, recalibrated).items()
            ),
            pl.all(),
        )
        for model in merged(candidates)
        for cohort, predictions in model.predictions.items()
    ]
    return pl.concat([empty, *tables])


def _names(model: Candidate, cohort: str, recalibrated: bool) -> dict[str, Any]:
    return {
        "cohort": cohort,
        "ct_encoder": model.ct_encoder,
        "ehr_encoder": model.ehr_encoder,
        "fusion": model.fusion,
        "recalibrated": recalibrated,
    }


def _group_rows(
    names: Mapping[str, Any], predictions: Predictions, horizon: float, cause: int | None
) -> Iterator[dict[str, Any]]:
    named = {**names, "horizon_days": horizon}
    try:
        found = _groups(predictions, horizon, cause)
    except MetricError as error:
        yield {**named, "note": str(error)}
        return
    band = found.interval()
    for group in range(len(found.n)):
        yield {
            **named,
            "group": group,
            "predicted": float(found.predicted[group]),
            "observed": float(found.estimate[group]),
            "ci_low": float(band.low[group]),
            "ci_high": float(band.high[group]),
            "n": int(found.n[group]),
            "n_events": int(found.n_events[group]),
            "note": incidence_remark(predictions, cause) or None,
        }


def _groups(predictions: Predictions, horizon: float, cause: int | None) -> CalibrationGroups:
    samples = (
        predictions.table.with_columns(probability=pl.Series(1 - survival_at(predictions, horizon)))
        .group_by("sample_id", maintain_order=True)
        .agg(pl.col("subject_id", "time_days", "event").first(), pl.col("probability").mean())
    )
    time, event = samples["time_days"].to_numpy(), samples["event"].cast(pl.Int64).to_numpy()
    predicted, cluster = samples["probability"].to_numpy(), samples["subject_id"].to_numpy()
    most = int(np.clip(samples.height // LEAST_IN_GROUP, 1, MOST_GROUPS))
    for groups in range(
        most, 0, -1
    ):  # a group whose follow-up ends before the horizon is joined with others
        try:
            return kaplan_meier_calibration(
                time, event, predicted, horizon, groups=groups, cluster=cluster, cause=cause
            )
        except MetricError:
            if groups == 1:
                raise
    raise MetricError("the predictions table holds no row")
