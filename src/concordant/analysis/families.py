"""Families of paired tests: each difference, and what their number makes of the p-values."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from concordant.analysis.candidates import Candidate
from concordant.core.errors import MetricError
from concordant.core.survival import Predictions
from concordant.evaluation import (
    METRICS,
    EvaluationProtocol,
    Measure,
    MetricEstimate,
    Multiplicity,
    averaged,
    on_shared_samples,
)
from concordant.metrics import (
    Simultaneous,
    benjamini_hochberg,
    equivalence,
    holm,
    nadeau_bengio,
    non_inferiority,
    simultaneous_differences,
)
from concordant.metrics.inference import wald_p_value

DIFFERENCE_SCHEMA: dict[str, type[pl.DataType]] = {
    "metric": pl.String,
    "horizon_days": pl.Float64,
    "difference": pl.Float64,
    "standard_error": pl.Float64,
    "ci_low": pl.Float64,
    "ci_high": pl.Float64,
    "p_value": pl.Float64,
    "p_adjusted": pl.Float64,
}

FURTHER_SCHEMA: dict[str, type[pl.DataType]] = {
    "multiplicity": pl.String,
    "ci_low_simultaneous": pl.Float64,
    "ci_high_simultaneous": pl.Float64,
    "p_nadeau_bengio": pl.Float64,
    "margin": pl.Float64,
    "p_non_inferiority": pl.Float64,
    "p_non_inferiority_adjusted": pl.Float64,
    "p_equivalence": pl.Float64,
    "p_equivalence_adjusted": pl.Float64,
    "tau_days": pl.Float64,
    "note": pl.String,
}


CONCORDANCE_ALONE = EvaluationProtocol(metrics=("concordance_index",))
"""How models are compared where nothing else is said."""


class PairedTest(NamedTuple):
    """A paired difference: its columns, the family it is in (None: in none), and the estimate
    (None: it cannot be computed).
    """

    row: dict[str, Any]
    family: str | None
    paired: MetricEstimate | None


def paired_test(
    names: Mapping[str, Any],
    predictions: Predictions,
    reference: Predictions,
    measure: Measure,
    family: str | None,
    protocol: EvaluationProtocol,
) -> PairedTest:
    """Test one difference by itself.

    Where it cannot be computed only its name and the reason are there, and it counts in its family.
    """
    row = {
        **names,
        "metric": measure.metric,
        "horizon_days": measure.horizon_days,
        "multiplicity": protocol.multiplicity if family else None,
    }
    try:
        paired = averaged(
            predictions,
            measure.metric,
            horizon_days=measure.horizon_days,
            reference=reference,
            protocol=protocol,
        )
    except MetricError as error:
        return PairedTest({**row, "note": str(error)}, family, None)
    low, high = paired.interval()
    row |= {
        "difference": paired.estimate,
        "standard_error": paired.standard_error,
        "ci_low": low,
        "ci_high": high,
        "p_value": known(
            wald_p_value(paired.estimate, paired.standard_error, degrees=paired.degrees)
        ),
        "p_nadeau_bengio": _over_folds(paired, protocol.test_train_ratio),
        "tau_days": paired.tau_days,
        "note": paired.note or None,
    }
    return PairedTest(row | _against_margin(paired, measure.metric, protocol), family, paired)


def family_of(cohort: str, fusion: Candidate, measure: Measure) -> str:
    """Name the family of tests that a fusion's test belongs to."""
    return f"{cohort} | {fusion.ehr_encoder or 'no record encoder'} | {measure.metric}"


def known(value: float) -> float | None:
    """Return a number, or None for NaN, as tables hold it."""
    return None if math.isnan(value) else value


def _over_folds(paired: MetricEstimate, test_train_ratio: float | None) -> float | None:
    """Return the p-value of the corrected resampled t test, None for fewer than two folds."""
    if test_train_ratio is None or len(paired.by_fold) < 2:
        return None
    return known(nadeau_bengio(paired.by_fold[None, :], test_train_ratio).p_value)


def _against_margin(
    paired: MetricEstimate, metric: str, protocol: EvaluationProtocol
) -> dict[str, float | None]:
    kind = METRICS.get(metric)
    if protocol.margin is None or not (protocol.margin_for_all or kind.is_concordance):
        return {}
    better = kind.higher_is_better
    worse = (
        None
        if better is None
        else known(non_inferiority(paired, protocol.margin, higher_is_better=better).p_value)
    )
    return {
        "margin": protocol.margin,
        "p_non_inferiority": worse,
        "p_equivalence": known(equivalence(paired, protocol.margin).p_value),
    }


def adjusted(tests: Sequence[PairedTest], protocol: EvaluationProtocol) -> list[dict[str, Any]]:
    """Return the rows of tests with their adjusted p-values; a test that is in no family has none.

    Tests against a margin are a claim of their own, and adjusted among themselves: by Holm where
    the family is by max-T.
    """
    rows = [dict(test.row) for test in tests]
    families: dict[str, list[int]] = defaultdict(list)
    for number, test in enumerate(tests):
        if test.family is not None:
            families[test.family].append(number)
    for numbers in families.values():
        own = [rows[number] for number in numbers]
        if protocol.multiplicity == "max_t":
            _adjust_jointly(own, [tests[number].paired for number in numbers])
        else:
            adjust(own, "p_value", "p_adjusted", protocol.multiplicity)
        for name in ("p_non_inferiority", "p_equivalence"):
            adjust(own, name, f"{name}_adjusted", protocol.multiplicity)
    return rows


def adjust(rows: Sequence[dict[str, Any]], name: str, to: str, multiplicity: Multiplicity) -> None:
    """Add a column of adjusted p-values to the rows of one family.

    A test without a p-value has none, and counts.

    `max_t` adjusts by Holm here: it needs the joint distribution of two-sided tests.
    """
    given = np.array([row.get(name) for row in rows], dtype=np.float64)  # None becomes NaN
    changed = benjamini_hochberg(given) if multiplicity == "benjamini_hochberg" else holm(given)
    for row, value in zip(rows, changed, strict=True):
        row[to] = known(float(value))


def _adjust_jointly(
    rows: Sequence[dict[str, Any]], paired: Sequence[MetricEstimate | None]
) -> None:
    """Add p-values and intervals by the distribution of the largest |t| in the family.

    A test that could not be made has no distribution; the others are adjusted among themselves.
    """
    made = [number for number, one in enumerate(paired) if one is not None]
    joint = _joint([one for one in paired if one is not None])
    if joint is None:
        return
    band = joint.interval()
    for place, number in enumerate(made):
        if joint.standard_error[place] > 0:
            rows[number] |= {
                "ci_low_simultaneous": float(band.low[place]),
                "ci_high_simultaneous": float(band.high[place]),
            }
        rows[number]["p_adjusted"] = known(float(joint.p_value[place]))


def _joint(paired: Sequence[MetricEstimate]) -> Simultaneous | None:
    try:
        return simultaneous_differences(on_shared_samples(paired)) if paired else None
    except MetricError:  # a single cluster: there is no distribution
        return None
