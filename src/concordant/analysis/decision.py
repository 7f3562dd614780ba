"""Decision curves: what acting on a model is worth, beside one modality, everybody, nobody."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Unpack

import numpy as np
import polars as pl
from jaxtyping import Float

from concordant.analysis.base import ANALYSES, Analysis, Judged
from concordant.analysis.candidates import (
    NAMES,
    Candidate,
    Reference,
    best_fusion,
    merged,
    references,
    unimodal_parts,
)
from concordant.core.errors import MetricError
from concordant.core.survival import Predictions
from concordant.evaluation import (
    EvaluationProtocol,
    ProtocolOptions,
    align,
    incidence_remark,
    survival_at,
)
from concordant.metrics import (
    DecisionCurve,
    Estimate,
    SeedAverage,
    average_over_seeds,
    net_benefit,
    subtract,
)

TREAT_ALL, TREAT_NONE = "treat_all", "treat_none"
"""What stands in the column `fusion` for the two strategies that need no model."""

THRESHOLDS: Float[np.ndarray, " threshold"] = np.round(np.arange(0.01, 0.995, 0.01), 2)
"""Probabilities at and above which one acts."""

DECISION_SCHEMA: dict[str, type[pl.DataType]] = {
    **NAMES,
    "horizon_days": pl.Float64,
    "threshold": pl.Float64,
    "net_benefit": pl.Float64,
    "standard_error": pl.Float64,
    "ci_low": pl.Float64,
    "ci_high": pl.Float64,
    "reference": pl.String,
    "difference": pl.Float64,
    "difference_ci_low": pl.Float64,
    "difference_ci_high": pl.Float64,
    "note": pl.String,
}


def shown_models(models: Sequence[Candidate], cohort: str) -> list[Candidate]:
    """Return the fusion that is best on tuning and its unimodal models (without a fusion, the
    unimodal models), then models of others that give survival.

    Args:
        models: One candidate per model, see `merged`.
        cohort: Label of a cohort.
    """
    here = [model for model in models if cohort in model.predictions]
    best = best_fusion(here)
    alone = [model for model in here if model.modality is not None and model.is_reference]
    ours = alone if best is None else [best, *unimodal_parts(best, cohort, models)]
    theirs = [model for model in here if model.is_foreign and model.predictions[cohort].has_curves]
    return [*ours, *theirs]


def decision_curves(
    candidates: Sequence[Candidate],
    protocol: EvaluationProtocol | None = None,
    *,
    thresholds: Float[np.ndarray, " threshold"] = THRESHOLDS,
    **options: Unpack[ProtocolOptions],
) -> pl.DataFrame:
    """Compute the net benefit of the best fusion, unimodal models, models of others, all and none.

    The best fusion is the one with the best tuning concordance. Under cross-validation the folds of
    a repeat are taken together, since a probability means the same in all of them, and the curves
    are averaged over repeats, subject by subject.

    Args:
        candidates: All models, every seed; curves are averaged over seeds.
        protocol: How they are judged: its horizons and its cause count here (with a cause the event
            probability is Aalen-Johansen's).
        thresholds: Probabilities at and above which one acts, ascending, in (0, 1).
        options: Attributes of `EvaluationProtocol`, in place of those of `protocol`.

    Returns:
        The columns of `DECISION_SCHEMA`: per cohort, model, horizon and threshold the net benefit
        (true positives per subject, after the false ones are charged at the odds of the threshold)
        with its 95 % interval; for the fusion also the paired difference to the unimodal model that
        is better on tuning. A threshold above which follow-up ends before the horizon is null, and
        `note` says so; a horizon that cannot be read is one row without a threshold.
    """
    judged, models = replace(protocol or EvaluationProtocol(), **options), merged(candidates)
    cohorts = dict.fromkeys(cohort for model in models for cohort in model.predictions)
    rows = [
        row
        for cohort in cohorts
        for horizon in judged.horizons_days
        for row in _cohort_rows(models, cohort, float(horizon), _Acting(thresholds, judged.cause))
    ]
    return pl.DataFrame(rows, schema=DECISION_SCHEMA).fill_nan(None)


@ANALYSES.register("decision_curves")
class DecisionCurves(Analysis):
    """Net benefit at the horizons."""

    schema = DECISION_SCHEMA

    def compute(self, judged: Judged) -> pl.DataFrame:
        """Compute the curves."""
        return decision_curves(judged.models(), judged.protocol)


class _Acting(NamedTuple):
    """From which predicted probability one acts, and against which event."""

    thresholds: Float[np.ndarray, " threshold"]
    cause: int | None


def _cohort_rows(
    models: Sequence[Candidate], cohort: str, horizon: float, acting: _Acting
) -> Iterator[dict[str, Any]]:
    named = {"cohort": cohort, "horizon_days": horizon}
    shown = shown_models(models, cohort)
    for model in shown:
        against = references(model, cohort, models) if model.modality is None else []
        yield from _model_rows({**named, **model.names(cohort)}, model, against[:1], acting)
    if shown:
        everybody = shown[0].predictions[cohort]
        yield from _rows({**named, "fusion": TREAT_ALL}, everybody, acting, certain=1.0)
        yield from _rows({**named, "fusion": TREAT_NONE}, everybody, acting, certain=0.0)


def _model_rows(
    names: Mapping[str, Any], model: Candidate, against: Sequence[Reference], acting: _Acting
) -> Iterator[dict[str, Any]]:
    own = model.predictions[names["cohort"]]
    if not against:
        yield from _rows(names, own, acting)
    for reference in against:
        other = align(reference.predictions, own)
        yield from _rows({**names, "reference": reference.label}, own, acting, reference=other)


def _rows(
    names: Mapping[str, Any],
    predictions: Predictions,
    acting: _Acting,
    *,
    certain: float | None = None,
    reference: Predictions | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield a row per threshold, with the probability `certain` for those predicted, if given."""
    horizon = names["horizon_days"]
    try:
        points = _points(predictions, horizon, acting, certain)
    except MetricError as error:
        yield {**names, "note": str(error)}
        return
    try:
        others = {} if reference is None else _points(reference, horizon, acting, None)
    except MetricError:  # the reference has no curve there: the fusion's own stays
        others = {}
    assumed = incidence_remark(predictions, acting.cause) if certain is None else ""
    for threshold in acting.thresholds.tolist():
        named = {**names, "threshold": threshold}
        if threshold in points:
            yield {
                **named,
                **_numbers(points[threshold]),
                **_against(points[threshold], others.get(threshold)),
                "note": assumed or None,
            }
        else:
            yield {
                **named,
                "note": "follow-up of those above the threshold ends before the horizon",
            }


def _points(
    predictions: Predictions, horizon: float, acting: _Acting, certain: float | None
) -> dict[float, SeedAverage]:
    """Return the net benefit at every threshold that all repeats support, averaged over repeats."""
    table = predictions.table
    probability = (
        1 - survival_at(predictions, horizon) if certain is None else np.full(table.height, certain)
    )
    sorted_rows = table.with_columns(probability=pl.Series(probability)).sort("sample_id")
    curves = [
        _curve(part, horizon, acting)
        for part in sorted_rows.partition_by("repeat", maintain_order=True)
    ]
    by_threshold: list[dict[float, Estimate]] = [
        dict(zip(one.thresholds.tolist(), one.points, strict=True)) for one in curves
    ]
    shared = [
        threshold for threshold in by_threshold[0] if all(threshold in one for one in by_threshold)
    ]
    return {
        threshold: average_over_seeds([one[threshold] for one in by_threshold])
        for threshold in shared
    }


def _curve(part: pl.DataFrame, horizon: float, acting: _Acting) -> DecisionCurve:
    time, event = part["time_days"].to_numpy(), part["event"].cast(pl.Int64).to_numpy()
    predicted, cluster = part["probability"].to_numpy(), part["subject_id"].to_numpy()
    return net_benefit(
        time, event, predicted, horizon, acting.thresholds, cluster=cluster, cause=acting.cause
    )


def _numbers(point: Estimate) -> dict[str, float]:
    low, high = point.interval()
    return {
        "net_benefit": point.estimate,
        "standard_error": point.standard_error,
        "ci_low": low,
        "ci_high": high,
    }


def _against(point: Estimate, other: Estimate | None) -> dict[str, float]:
    if other is None:
        return {}
    paired = subtract(point, other)
    low, high = paired.interval()
    return {"difference": paired.difference, "difference_ci_low": low, "difference_ci_high": high}
