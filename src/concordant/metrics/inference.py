"""From influence functions to standard errors, intervals, paired tests and adjusted p-values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.special import ndtr, ndtri, stdtr, stdtrit

from concordant.core.errors import MetricError


class Interval(NamedTuple):
    """Lower and upper limit of a confidence interval."""

    low: float
    high: float


class Band(NamedTuple):
    """Lower and upper limits at every time, each interval by itself (not simultaneous)."""

    low: Float[np.ndarray, " time"]
    high: Float[np.ndarray, " time"]


def _nothing() -> Float[np.ndarray, " other"]:
    return np.zeros(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A number and how much every subject moves it; the metrics' results add fields to it, never behaviour.

    Attributes:
        estimate: The number.
        influence: Influence function per row, scaled so that the variance is the sum of its squares; sums to 0.
        n: Rows.
        n_events: Rows with the event of interest.
        cluster: Cluster number per row, or None where every row is its own.
        censoring_influence: The same for the rows of another cohort that only gave the censoring curve; empty where none did.
        note: What a reader has to know beside the number (the range of times, say); empty where there is nothing.
    """

    estimate: float
    influence: Float[np.ndarray, " subject"]
    n: int
    n_events: int
    cluster: Int[np.ndarray, " subject"] | None = None
    censoring_influence: Float[np.ndarray, " other"] = field(default_factory=_nothing)
    note: str = ""

    @property
    def standard_error(self) -> float:
        """Infinitesimal-jackknife standard error, influences summed within clusters first."""
        return standard_error(self.influence, self.cluster, self.censoring_influence)

    def interval(self, level: float = 0.95) -> Interval:
        """Return the normal confidence interval; near the end of a metric's range it may reach beyond it."""
        return wald_interval(self.estimate, self.standard_error, level=level)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A paired difference between two estimates on the same subjects.

    Attributes:
        difference: First minus second.
        influence: Difference of the influence functions, per row.
        n: Rows.
        n_events: Rows with the event of interest.
        cluster: Cluster number per row, or None.
        censoring_influence: Difference of the influences through another cohort's censoring curve.
    """

    difference: float
    influence: Float[np.ndarray, " subject"]
    n: int
    n_events: int
    cluster: Int[np.ndarray, " subject"] | None = None
    censoring_influence: Float[np.ndarray, " other"] = field(default_factory=_nothing)

    @property
    def standard_error(self) -> float:
        """Standard error of the difference; the correlation of the two estimates is in it."""
        return standard_error(self.influence, self.cluster, self.censoring_influence)

    @property
    def p_value(self) -> float:
        """Two-sided p-value of "no difference"."""
        return wald_p_value(self.difference, self.standard_error)

    def interval(self, level: float = 0.95) -> Interval:
        """Return the normal confidence interval."""
        return wald_interval(self.difference, self.standard_error, level=level)


def subtract(first: Estimate, second: Estimate) -> Difference:
    """Return first minus second, paired: their influences are subtracted subject by subject.

    Raises:
        MetricError: The two were not computed on the same number of rows.
    """
    if first.influence.shape != second.influence.shape or first.censoring_influence.shape != second.censoring_influence.shape:
        raise MetricError(f"a paired difference needs the same subjects twice; given {first.n} and {second.n} rows")
    return Difference(
        difference=first.estimate - second.estimate,
        influence=first.influence - second.influence,
        n=first.n,
        n_events=first.n_events,
        cluster=first.cluster,
        censoring_influence=first.censoring_influence - second.censoring_influence,
    )


def standard_error(
    influence: Float[np.ndarray, " subject"],
    cluster: Int[np.ndarray, " subject"] | None = None,
    censoring_influence: Float[np.ndarray, " other"] | None = None,
) -> float:
    """Return the square root of the sum over clusters of the squared sum of influences.

    Args:
        influence: Influence function per row.
        cluster: Numbers from 0, or None where every row is its own cluster.
        censoring_influence: Influences of an independent cohort that gave the censoring curve; its variance is added.
    """
    summed = influence if cluster is None else np.bincount(cluster, weights=influence)
    extra = 0.0 if censoring_influence is None else np.square(censoring_influence).sum()
    return float(np.sqrt(np.square(summed).sum() + extra))


def critical_value(level: float, degrees: float | None = None) -> float:
    """Return the two-sided quantile of the normal distribution, or of t with so many degrees of freedom.

    Raises:
        MetricError: A level outside (0, 1).
    """
    if not 0 < level < 1:
        raise MetricError(f"level is {level}; expected a confidence level between 0 and 1, such as 0.95")
    upper = (1 + level) / 2
    return float(ndtri(upper) if degrees is None else stdtrit(degrees, upper))


def wald_interval(estimate: float, error: float, *, level: float = 0.95, degrees: float | None = None) -> Interval:
    """Return estimate -+ quantile times standard error (normal, or t where `degrees` is given)."""
    half = critical_value(level, degrees) * error
    return Interval(estimate - half, estimate + half)


def wald_p_value(estimate: float, error: float, *, degrees: float | None = None) -> float:
    """Return the two-sided p-value of "the true value is 0" (normal, or t where `degrees` is given).

    With a standard error of 0 there is nothing to test with: 1 for an estimate of 0, else NaN.
    """
    if error == 0:
        return 1.0 if estimate == 0 else float("nan")
    statistic = -abs(estimate / error)
    return float(2 * (ndtr(statistic) if degrees is None else stdtr(degrees, statistic)))


def holm(p_values: Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    """Adjust a family of p-values so that the family-wise error is controlled, whatever their dependence.

    A NaN (a test that could not be made) stays NaN and still counts as a member of the family.
    Source: Holm, Scandinavian Journal of Statistics 6 (1979), 65-70.
    """
    p = _checked_p_values(p_values)
    order = np.argsort(p)  # NaN last
    factors = np.arange(len(p), 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1.0)
    return adjusted


def benjamini_hochberg(p_values: Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    """Adjust a family of p-values so that the false discovery rate is controlled (independent or positively dependent tests).

    A NaN stays NaN and still counts as a member of the family.
    Source: Benjamini and Hochberg, Journal of the Royal Statistical Society B 57 (1995), 289-300.
    """
    p = _checked_p_values(p_values)
    order = np.argsort(p)[::-1]  # largest first, NaN before all
    scaled = p[order] * (len(p) / np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.where(np.isnan(scaled), np.nan, np.minimum(np.fmin.accumulate(scaled), 1.0))
    return adjusted


def _checked_p_values(p_values: Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or bool(((p < 0) | (p > 1)).any()):
        raise MetricError("p-values must be a vector of numbers between 0 and 1 (NaN = could not be tested)")
    return p
