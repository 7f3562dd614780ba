"""Repeated experiments: differences over repeated folds, means over training seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from concordant.core.errors import MetricError
from concordant.metrics.inference import (
    Estimate,
    Interval,
    check_paired,
    wald_interval,
    wald_p_value,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldDifference:
    """A mean difference over folds, by a t test for overlapping training parts.

    Attributes:
        estimate: Mean over all folds of all repeats.
        standard_error: Corrected standard error.
        degrees: Degrees of freedom, folds of all repeats - 1.
    """

    estimate: float
    standard_error: float
    degrees: int

    @property
    def p_value(self) -> float:
        """Two-sided p-value of "no difference"; NaN for equal folds that differ from 0."""
        return wald_p_value(self.estimate, self.standard_error, degrees=self.degrees)

    def interval(self, level: float = 0.95) -> Interval:
        """Return the t interval."""
        return wald_interval(self.estimate, self.standard_error, level=level, degrees=self.degrees)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedAverage(Estimate):
    """The mean over models that differ in their training seed only.

    Its standard error speaks of other subjects, for these very models: seeds are not subjects and
    do not make it smaller. What other seeds would give is said apart.

    Attributes:
        between_seeds: Standard deviation of the estimates over seeds; None for a single seed, which
            cannot tell.
        n_seeds: Number of seeds.
    """

    between_seeds: float | None
    n_seeds: int

    @property
    def p_value(self) -> float:
        """Two-sided p-value of "the true mean is 0"; for a mean of differences."""
        return wald_p_value(self.estimate, self.standard_error, degrees=self.degrees)


def nadeau_bengio(
    differences: Float[np.ndarray, "repeat fold"], test_train_ratio: float
) -> FoldDifference:
    """Test a mean difference over repeated folds with the corrected resampled t test.

    A plain t test takes the folds as independent and rejects far too often: any two of them share
    most of their training rows. The correction adds the ratio of test to training rows to 1 /
    (number of folds).

    Args:
        differences: First minus second model, one per fold of every repeat.
        test_train_ratio: Rows of the test part over rows of the training part: 1 / (folds - 1),
            more where a tuning part is kept.

    Raises:
        MetricError: Fewer than two differences, one that is not finite, or a ratio that is not
            finite and > 0.

    Source: Nadeau and Bengio, Machine Learning 52 (2003), 239-281; over repeated folds: Bouckaert
    and Frank, Advances in Knowledge Discovery and Data Mining (2004), 3-12.
    """
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim != 2 or values.size < 2:
        raise MetricError(
            f"differences have shape {values.shape}; expected (repeat, fold), at least two of them"
        )
    if not np.isfinite(values).all():
        raise MetricError(
            f"{int((~np.isfinite(values)).sum())} difference(s) are NaN or infinite; expected one "
            "number per fold"
        )
    if not (np.isfinite(test_train_ratio) and test_train_ratio > 0):
        raise MetricError(
            f"test_train_ratio is {test_train_ratio}; expected test rows over training rows, 0.25 "
            "for five folds"
        )
    # the variance of equal numbers may round to above 0
    spread = 0.0 if np.ptp(values) == 0 else float(values.var(ddof=1))
    variance = spread * (1 / values.size + test_train_ratio)
    return FoldDifference(
        estimate=float(values.mean()),
        standard_error=float(np.sqrt(variance)),
        degrees=values.size - 1,
    )


def average_over_seeds(estimates: Sequence[Estimate]) -> SeedAverage:
    """Average a metric, or a paired difference, over training seeds.

    The influences are averaged subject by subject, so that the standard error is that of the mean
    on these subjects.

    Args:
        estimates: One result per seed, on the same rows in the same order.

    Raises:
        MetricError: No result, or results of different rows or clusters.
    """
    check_paired(estimates)
    first = estimates[0]
    values = np.array([one.estimate for one in estimates])
    return SeedAverage(
        estimate=float(values.mean()),
        influence=np.mean([one.influence for one in estimates], axis=0),
        n=first.n,
        n_events=first.n_events,
        cluster=first.cluster,
        censoring_influence=np.mean([one.censoring_influence for one in estimates], axis=0),
        between_seeds=float(values.std(ddof=1)) if len(values) > 1 else None,
        n_seeds=len(values),
    )
