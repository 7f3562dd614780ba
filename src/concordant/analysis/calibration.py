"""Are the predicted probabilities right? Metrics and groups, before and after recalibration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Unpack

import numpy as np
import polars as pl

from concordant.analysis.base import ANALYSES, Analysis, Judged
from concordant.analysis.candidates import NAMES, Candidate, merged
from concordant.analysis.decision import shown_models
from concordant.core.errors import MetricError
from concordant.core.survival import AS_IS, RECALIBRATED, Predictions
from concordant.evaluation import (
    RESULT_SCHEMA,
    EvaluationProtocol,
    ProtocolOptions,
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

CALIBRATION_SCHEMA: dict[str, type[pl.DataType]] = {
    **NAMES,
    "recalibrated": pl.Boolean,
    **RESULT_SCHEMA,
}

GROUP_SCHEMA: dict[str, type[pl.DataType]] = {
    **NAMES,
    "recalibrated": pl.Boolean,
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
    protocol: EvaluationProtocol | None = None,
    *,
    recalibrated: bool = False,
    **options: Unpack[ProtocolOptions],
) -> pl.DataFrame:
    """Compare predicted and observed probability in groups of the prediction.

    The best fusion, its unimodal models, models of others that give survival.

    Ten groups, fewer where a group would hold fewer than ten samples. Under cross-validation a
    sample counts once, with its prediction averaged over repeats.

    Args:
        candidates: All models, every seed.
        protocol: How they are judged: its horizons and its cause count here.
        recalibrated: What the column of this name says.
        options: Attributes of `EvaluationProtocol`, in place of those of `protocol`.

    Returns:
        The columns of `GROUP_SCHEMA`, a row per group, lowest prediction first: the mean
        prediction, and the observed probability of the event by the horizon (1 - Kaplan-Meier, with
        a cause Aalen-Johansen) with its 95 % interval. Where that cannot be computed, one row whose
        `note` says why.
    """
    judged, models = replace(protocol or EvaluationProtocol(), **options), merged(candidates)
    rows = [
        row
        for cohort in dict.fromkeys(cohort for model in models for cohort in model.predictions)
        for model in shown_models(models, cohort)
        for horizon in judged.horizons_days
        for row in _group_rows(
            {**model.names(cohort), "recalibrated": recalibrated, "horizon_days": float(horizon)},
            model.predictions[cohort],
            judged.cause,
        )
    ]
    return pl.DataFrame(rows, schema=GROUP_SCHEMA).fill_nan(None)


def calibration_table(
    candidates: Sequence[Candidate],
    protocol: EvaluationProtocol | None = None,
    *,
    recalibrated: bool = False,
    **options: Unpack[ProtocolOptions],
) -> pl.DataFrame:
    """Compute the metrics of calibration of every model at every horizon, seeds averaged.

    Args:
        candidates: All models, every seed; those of others count where they give survival.
        protocol: How they are judged, its metrics apart.
        recalibrated: What the column of this name says.
        options: Attributes of `EvaluationProtocol`, in place of those of `protocol`.

    Returns:
        The columns of `CALIBRATION_SCHEMA`.
    """
    judged = replace(protocol or EvaluationProtocol(), **options)
    if judged.horizons_days:
        judged = replace(judged, metrics=CALIBRATION_METRICS)
    rows = [
        {**model.names(cohort), "recalibrated": recalibrated, **row}
        for model in merged(candidates)
        for cohort, predictions in model.predictions.items()
        if judged.horizons_days and (predictions.has_curves or not model.is_foreign)
        for row in evaluate(predictions, judged).iter_rows(named=True)
    ]
    return pl.DataFrame(rows, schema=CALIBRATION_SCHEMA)


@ANALYSES.register("calibration")
class Calibration(Analysis):
    """Metrics of calibration at the horizons, before and after recalibration."""

    variants = (AS_IS, RECALIBRATED)
    schema = CALIBRATION_SCHEMA

    def compute(self, judged: Judged) -> pl.DataFrame:
        """Compute the metrics of every variant that was made."""
        return pl.concat(
            calibration_table(
                judged.models(variant), judged.protocol, recalibrated=variant == RECALIBRATED
            )
            for variant in self.variants
        )


@ANALYSES.register("calibration_groups")
class CalibrationInGroups(Analysis):
    """Predicted and observed probability by group, before and after recalibration."""

    variants = (AS_IS, RECALIBRATED)
    schema = GROUP_SCHEMA

    def compute(self, judged: Judged) -> pl.DataFrame:
        """Compute the groups of every variant that was made."""
        return pl.concat(
            calibration_groups(
                judged.models(variant), judged.protocol, recalibrated=variant == RECALIBRATED
            )
            for variant in self.variants
        )


def _group_rows(
    named: Mapping[str, Any], predictions: Predictions, cause: int | None
) -> Iterator[dict[str, Any]]:
    try:
        found = _groups(predictions, named["horizon_days"], cause)
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
    # a group whose follow-up ends before the horizon is joined with others
    for groups in range(most, 0, -1):
        try:
            return kaplan_meier_calibration(
                time, event, predicted, horizon, groups=groups, cluster=cluster, cause=cause
            )
        except MetricError:
            if groups == 1:
                raise
    raise MetricError("the predictions table holds no row")
