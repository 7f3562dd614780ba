"""Is a fusion better than each of its two unimodal models, whichever of them is the better one?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import polars as pl

from concordant.analysis.candidates import Candidate, merged, unimodal_parts
from concordant.analysis.compare import family_of
from concordant.analysis.families import Judging, Multiplicity, adjust, known
from concordant.core.errors import MetricError
from concordant.core.modality import Modality
from concordant.core.survival import SurvivalTarget
from concordant.evaluation import (
    CensoringSource,
    Measure,
    higher_is_better,
    measures,
    on_shared_samples,
)
from concordant.metrics import gain_over_both

GAIN_SCHEMA: dict[str, type[pl.DataType]] = {
    "cohort": pl.String,
    "ct_encoder": pl.String,
    "ehr_encoder": pl.String,
    "fusion": pl.String,
    "metric": pl.String,
    "horizon_days": pl.Float64,
    "gain": pl.Float64,
    "lower_limit": pl.Float64,
    "gain_over_ct": pl.Float64,
    "gain_over_ehr": pl.Float64,
    "p_over_ct": pl.Float64,
    "p_over_ehr": pl.Float64,
    "p_value": pl.Float64,
    "p_adjusted": pl.Float64,
    "family": pl.String,
    "multiplicity": pl.String,
    "note": pl.String,
}


def gains_over_both(
    candidates: Sequence[Candidate],
    *,
    metrics: Sequence[str] = ("concordance_index",),
    horizons_days: Sequence[float] = (),
    censoring: CensoringSource = "cohort",
    train: SurvivalTarget | None = None,
    tau: float | None = None,
    cause: int | None = None,
    multiplicity: Multiplicity = "holm",
) -> pl.DataFrame:
    """Test every fusion for being better than both of its unimodal models at once
    (intersection-union), seeds averaged.

    Nothing is chosen, on tuning or on the test cohort, so nothing can be chosen wrongly: a fusion
    wins where it beats CT alone and the record alone.

    Args:
        candidates: All models, every seed.
        metrics: Names from `METRICS`; those without a direction (a calibration slope) are left out.
        horizons_days: Horizons of the metrics that have one value per horizon.
        censoring: Whose censoring curve the weighted metrics use.
        train: Outcomes of train, for `censoring` "train" and "pooled".
        tau: Days up to which the truncated metrics run; None = all that each cohort supports.
        cause: As in `evaluate`.
        multiplicity: How the p-values of a cohort, record encoder and metric are adjusted for the
            number of fusions; by Holm for "max_t".

    Returns:
        The columns of `GAIN_SCHEMA`, a row per fusion, cohort and measure with both unimodal
        models. Gains are turned so that positive is better; `gain` is the smaller of the two,
        `lower_limit` its one-sided 95 % limit, `p_value` one-sided.

    Raises:
        ConfigError: As `contrasts`.
        PredictionsError: Models of one cohort that do not hold the same samples, folds and
            outcomes.
    """
    judging = Judging(
        censoring=censoring, train=train, tau=tau, cause=cause, multiplicity=multiplicity
    )
    models = merged(candidates)
    asked = [
        measure
        for measure in measures(metrics, horizons_days)
        if higher_is_better(measure.metric) is not None
    ]
    rows = [
        _row(fusion, cohort, parts, measure, judging)
        for fusion in models
        if fusion.modality is None
        for cohort in fusion.predictions
        if len(parts := {part.modality: part for part in unimodal_parts(fusion, cohort, models)})
        == len(Modality)
        for measure in asked
    ]
    _adjust(rows, multiplicity)
    return pl.DataFrame(rows, schema=GAIN_SCHEMA).fill_nan(None)


def _row(
    fusion: Candidate,
    cohort: str,
    parts: dict[str | None, Candidate],
    measure: Measure,
    judging: Judging,
) -> dict[str, Any]:
    named = {
        "cohort": cohort,
        "ct_encoder": fusion.ct_encoder,
        "ehr_encoder": fusion.ehr_encoder,
        "fusion": fusion.fusion,
        "metric": measure.metric,
        "horizon_days": measure.horizon_days,
        "family": family_of(cohort, fusion, measure),
        "multiplicity": "holm" if judging.multiplicity == "max_t" else judging.multiplicity,
    }
    own = fusion.predictions[cohort]
    try:
        differences = [
            judging.difference(own, parts[modality].predictions[cohort], measure)
            for modality in (Modality.CT, Modality.EHR)
        ]
        tested = gain_over_both(
            *on_shared_samples(differences), higher_is_better=bool(higher_is_better(measure.metric))
        )
    except MetricError as error:
        return {**named, "note": str(error)}
    return {
        **named,
        "gain": tested.gain,
        "lower_limit": tested.lower_limit(),
        "gain_over_ct": tested.to_a,
        "gain_over_ehr": tested.to_b,
        "p_over_ct": known(tested.p_to_a),
        "p_over_ehr": known(tested.p_to_b),
        "p_value": known(tested.p_value),
        "note": differences[0].note or None,
    }


def _adjust(rows: Sequence[dict[str, Any]], multiplicity: Multiplicity) -> None:
    families: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        families[row["family"]].append(row)
    for own in families.values():
        adjust(own, "p_value", "p_adjusted", multiplicity)
