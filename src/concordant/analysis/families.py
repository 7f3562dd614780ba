"""Families of paired tests.

Each difference with its tests, and what correcting for their number makes of them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import polars as pl

from concordant.core.errors import ConfigError, MetricError, did_you_mean
from concordant.core.survival import Predictions, SurvivalTarget
from concordant.evaluation import (
    CensoringSource,
    Measure,
    MetricEstimate,
    averaged,
    higher_is_better,
    is_concordance,
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

Multiplicity = Literal["holm", "benjamini_hochberg", "max_t"]
"""How the p-values of a family are adjusted: `holm` and `max_t` bound the chance of any false
finding in the family, `max_t` by the joint distribution of its tests (sharper, and with
simultaneous intervals); `benjamini_hochberg` bounds the share of false findings."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Judging:
    """How differences are computed and tested.

    Attributes:
        censoring: Whose censoring curve the weighted metrics use.
        train: Outcomes of train, for `censoring` "train" and "pooled".
        tau: Days up to which the truncated metrics run; None = all that is supported.
        cause: Code of the event of interest, with which every other code above 0 competes; None =
            event 1, every other code censored.
        multiplicity: How p-values are adjusted within a family.
        margin: The smallest difference that would matter, for tests of non-inferiority and
            equivalence; None = none are made.
        margin_for_all: Whether the margin is in the units of every metric; else only the
            concordance indices are tested against it.
        test_train_ratio: Rows of a fold's test part over those of its train part, for the
            Nadeau-Bengio test; None = it is not made.
    """

    censoring: CensoringSource = "cohort"
    train: SurvivalTarget | None = None
    tau: float | None = None
    cause: int | None = None
    multiplicity: Multiplicity = "holm"
    margin: float | None = None
    margin_for_all: bool = False
    test_train_ratio: float | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be done.

        Raises:
            ConfigError: An unknown adjustment, or a margin that is not finite and > 0.
        """
        if self.multiplicity not in get_args(Multiplicity):
            known = get_args(Multiplicity)
            raise ConfigError(
                "unknown multiplicity "
                f"{self.multiplicity!r}.{did_you_mean(self.multiplicity, known)}"
            )
        if self.margin is not None and not (math.isfinite(self.margin) and self.margin > 0):
            raise ConfigError(
                f"margin is {self.margin}; expected a number > 0, the smallest difference that "
                "would matter, such as 0.02"
            )

    def difference(
        self, predictions: Predictions, reference: Predictions, measure: Measure
    ) -> MetricEstimate:
        """Compute a paired difference, `predictions` minus `reference`.

        Raises:
            MetricError: It cannot be computed.
        """
        return averaged(
            predictions,
            measure.metric,
            horizon_days=measure.horizon_days,
            censoring=self.censoring,
            train=self.train,
            tau=self.tau,
            cause=self.cause,
            reference=reference,
        )


class PairedTest(NamedTuple):
    """A paired difference: its columns, the family it is in (None.

    In none), and the estimate (None: it cannot be computed).
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
    judging: Judging,
) -> PairedTest:
    """Test one difference by itself.

    Where it cannot be computed only its name and the reason are there, and it counts in its family.
    """
    row = {
        **names,
        "metric": measure.metric,
        "horizon_days": measure.horizon_days,
        "multiplicity": judging.multiplicity if family else None,
    }
    try:
        paired = judging.difference(predictions, reference, measure)
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
        "p_nadeau_bengio": _over_folds(paired, judging.test_train_ratio),
        "tau_days": paired.tau_days,
        "note": paired.note or None,
    }
    return PairedTest(row | _against_margin(paired, measure.metric, judging), family, paired)


def known(value: float) -> float | None:
    """Return a number, or None for NaN, as tables hold it."""
    return None if math.isnan(value) else value


def _over_folds(paired: MetricEstimate, test_train_ratio: float | None) -> float | None:
    """Return the p-value of the corrected resampled t test over folds.

    None without folds or with a single one.
    """
    if test_train_ratio is None or len(paired.by_fold) < 2:
        return None
    return known(nadeau_bengio(paired.by_fold[None, :], test_train_ratio).p_value)


def _against_margin(
    paired: MetricEstimate, metric: str, judging: Judging
) -> dict[str, float | None]:
    if judging.margin is None or not (judging.margin_for_all or is_concordance(metric)):
        return {}
    better = higher_is_better(metric)
    worse = (
        None
        if better is None
        else known(non_inferiority(paired, judging.margin, higher_is_better=better).p_value)
    )
    return {
        "margin": judging.margin,
        "p_non_inferiority": worse,
        "p_equivalence": known(equivalence(paired, judging.margin).p_value),
    }


def adjusted(tests: Sequence[PairedTest], judging: Judging) -> list[dict[str, Any]]:
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
        if judging.multiplicity == "max_t":
            _adjust_jointly(own, [tests[number].paired for number in numbers])
        else:
            adjust(own, "p_value", "p_adjusted", judging.multiplicity)
        for name in ("p_non_inferiority", "p_equivalence"):
            adjust(own, name, f"{name}_adjusted", judging.multiplicity)
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
