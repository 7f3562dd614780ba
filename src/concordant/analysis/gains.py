"""Is a fusion better than each of its two unimodal models, whichever of them is the better one?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Unpack

import polars as pl

from concordant.analysis.base import ANALYSES, Analysis, Judged
from concordant.analysis.candidates import NAMES, Candidate, merged, unimodal_parts
from concordant.analysis.families import CONCORDANCE_ALONE, adjust, family_of, known
from concordant.core.errors import MetricError
from concordant.core.modality import Modality
from concordant.evaluation import (
    METRICS,
    EvaluationProtocol,
    Measure,
    ProtocolOptions,
    averaged,
    on_shared_samples,
)
from concordant.metrics import gain_over_both

GAIN_SCHEMA: dict[str, type[pl.DataType]] = {
    **NAMES,
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
    protocol: EvaluationProtocol | None = None,
    **options: Unpack[ProtocolOptions],
) -> pl.DataFrame:
    """Test, seeds averaged, whether each fusion beats both unimodal models (intersection-union).

    Nothing is chosen, on tuning or on the test cohort, so nothing can be chosen wrongly: a fusion
    wins where it beats CT alone and the record alone.

    Args:
        candidates: All models, every seed.
        protocol: How they are judged; None = by the concordance index. Metrics without a direction
            (a calibration slope) are left out. The p-values of a cohort, record encoder and metric
            are adjusted for the number of fusions; by Holm for "max_t".
        options: Attributes of `EvaluationProtocol`, in place of those of `protocol`.

    Returns:
        The columns of `GAIN_SCHEMA`, a row per fusion, cohort and measure with both unimodal
        models. Gains are turned so that positive is better; `gain` is the smaller of the two,
        `lower_limit` its one-sided 95 % limit, `p_value` one-sided.

    Raises:
        ConfigError: As `EvaluationProtocol`.
        PredictionsError: Models of one cohort that do not hold the same samples, folds and
            outcomes.
    """
    judged, models = replace(protocol or CONCORDANCE_ALONE, **options), merged(candidates)
    rows = [
        _row(fusion, cohort, parts, measure, judged)
        for fusion in models
        if fusion.modality is None
        for cohort in fusion.predictions
        if len(parts := {part.modality: part for part in unimodal_parts(fusion, cohort, models)})
        == len(Modality)
        for measure in judged.measures
        if METRICS.get(measure.metric).higher_is_better is not None
    ]
    families: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        families[row["family"]].append(row)
    for own in families.values():
        adjust(own, "p_value", "p_adjusted", judged.multiplicity)
    return pl.DataFrame(rows, schema=GAIN_SCHEMA).fill_nan(None)


@ANALYSES.register("gains_over_both")
class GainsOverBoth(Analysis):
    """Every fusion against both of its unimodal models, where the protocol asks for it."""

    schema = GAIN_SCHEMA

    def compute(self, judged: Judged) -> pl.DataFrame:
        """Compute the gains."""
        asked = judged.protocol.gain_over_both
        return gains_over_both(judged.models() if asked else [], judged.protocol)


def _row(
    fusion: Candidate,
    cohort: str,
    parts: Mapping[str | None, Candidate],
    measure: Measure,
    protocol: EvaluationProtocol,
) -> dict[str, Any]:
    named = {
        **fusion.names(cohort),
        "metric": measure.metric,
        "horizon_days": measure.horizon_days,
        "family": family_of(cohort, fusion, measure),
        "multiplicity": "holm" if protocol.multiplicity == "max_t" else protocol.multiplicity,
    }
    own = fusion.predictions[cohort]
    try:
        differences = [
            averaged(
                own,
                measure.metric,
                horizon_days=measure.horizon_days,
                reference=parts[modality].predictions[cohort],
                protocol=protocol,
            )
            for modality in (Modality.CT, Modality.EHR)
        ]
        tested = gain_over_both(
            *on_shared_samples(differences),
            higher_is_better=bool(METRICS.get(measure.metric).higher_is_better),
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
