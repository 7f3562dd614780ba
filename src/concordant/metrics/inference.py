"""From influence functions to standard errors, intervals, paired tests and margin tests."""

from __future__ import annotations

from collections.abc import Sequence
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


ROUNDING = 1e-12
"""What is below this share of the estimates is what rounding leaves of 0."""


def _nothing() -> Float[np.ndarray, " other"]:
    return np.zeros(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A number and how much every subject moves it.

    The metrics' results add fields to it, never behaviour.

    Attributes:
        estimate: The number.
        influence: Influence function per row, scaled so that the variance is the sum of its
            squares; sums to 0.
        n: Rows.
        n_events: Rows with the event of interest.
        cluster: Cluster number per row, or None where every row is its own.
        censoring_influence: The same for the rows of another cohort that only gave the censoring
            curve; empty where none did.
        note: What a reader has to know beside the number (the range of times, say); empty where
            there is nothing.
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
        """Infinitesimal-jackknife standard error; NaN where clusters are too few to show any."""
        return standard_error(self.influence, self.cluster, self.censoring_influence)

    @property
    def degrees(self) -> int:
        """Degrees of freedom of its t quantile; see `degrees_of_freedom`."""
        return degrees_of_freedom(len(self.influence), self.cluster)

    def interval(self, level: float = 0.95) -> Interval:
        """Return the t interval, which may reach beyond a metric's range."""
        return wald_interval(self.estimate, self.standard_error, level=level, degrees=self.degrees)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference(Estimate):
    """A paired difference between two estimates on the same subjects: first minus second.

    Its influence is the difference of theirs, so that their correlation is in the standard error.
    """

    @property
    def difference(self) -> float:
        """First minus second."""
        return self.estimate

    @property
    def p_value(self) -> float:
        """Two-sided p-value of "no difference" by the t distribution."""
        return wald_p_value(self.estimate, self.standard_error, degrees=self.degrees)


def subtract(first: Estimate, second: Estimate) -> Difference:
    """Return first minus second, paired: their influences are subtracted subject by subject.

    Two models that earn the same everywhere differ by 0 with standard error 0, whatever their sums
    round to.

    Raises:
        MetricError: The two do not have the same number of rows in the same clusters.
    """
    return contrast([first, second], np.array([1.0, -1.0]))


def contrast(results: Sequence[Estimate], coefficients: Float[np.ndarray, " result"]) -> Difference:
    """Return a linear combination of paired estimates, 0 where only rounding is left.

    Raises:
        MetricError: See `check_paired`.
    """
    check_paired(results)
    numbers = np.array([result.estimate for result in results])
    scale = ROUNDING * float(np.abs(coefficients) @ np.abs(numbers))
    own = _combined(coefficients, [result.influence for result in results])
    other = _combined(coefficients, [result.censoring_influence for result in results])
    by_rounding = np.square(own).sum() + np.square(other).sum() <= scale**2
    difference = float(coefficients @ numbers)
    first = results[0]
    return Difference(
        estimate=0.0 if abs(difference) <= scale else difference,
        influence=np.zeros_like(own) if by_rounding else own,
        n=first.n,
        n_events=first.n_events,
        cluster=first.cluster,
        censoring_influence=np.zeros_like(other) if by_rounding else other,
    )


def _combined(
    coefficients: Float[np.ndarray, " result"], influences: Sequence[Float[np.ndarray, " row"]]
) -> Float[np.ndarray, " row"]:
    return np.asarray(
        sum(factor * influence for factor, influence in zip(coefficients, influences, strict=True))
    )


def check_paired(results: Sequence[Estimate]) -> None:
    """Refuse results whose influences cannot be taken together row by row.

    Raises:
        MetricError: No result, or not all have the same number of rows in the same clusters.
    """
    if not results:
        raise MetricError("no result was given; expected at least one")
    first = results[0]
    for other in results[1:]:
        if (
            first.influence.shape != other.influence.shape
            or first.censoring_influence.shape != other.censoring_influence.shape
        ):
            raise MetricError(
                f"paired results need the same subjects in each; given {first.n} and {other.n} rows"
            )
        if not _same_clusters(first.cluster, other.cluster):
            raise MetricError(
                "paired results need the same clusters in each; compute all of them with one "
                "`cluster`"
            )


def _same_clusters(
    first: Int[np.ndarray, " subject"] | None, second: Int[np.ndarray, " subject"] | None
) -> bool:
    if first is None or second is None:
        return first is second
    return first is second or np.array_equal(first, second)


def degrees_of_freedom(rows: int, cluster: Int[np.ndarray, " subject"] | None) -> int:
    """Return the number of clusters, or of rows where every row is its own, less one.

    The variance of an estimate is itself estimated from so many independent influences that sum to
    0; rows of weight 0 are among them: leave them out where they are many. For a mean the t
    distribution is Student's; for a sum over clusters it is the usual one (Cameron and Miller,
    Journal of Human Resources 50 (2015), 317-372, section VI). Another cohort that only gave the
    censoring curve is not counted.
    """
    return (rows if cluster is None else len(np.unique(cluster))) - 1


def joint_covariance(results: Sequence[Estimate]) -> Float[np.ndarray, "result result"]:
    """Return the covariance matrix of results on the same subjects.

    Raises:
        MetricError: See `check_paired`.
    """
    check_paired(results)
    summed = np.stack([summed_by_cluster(result.influence, result.cluster) for result in results])
    through_censoring = np.stack([result.censoring_influence for result in results])
    return np.asarray(summed @ summed.T + through_censoring @ through_censoring.T)


def summed_by_cluster(
    influence: Float[np.ndarray, " subject"], cluster: Int[np.ndarray, " subject"] | None
) -> Float[np.ndarray, " cluster"]:
    """Return the sum of the influences within each cluster; without clusters, the influences."""
    return influence if cluster is None else np.bincount(cluster, weights=influence)


def standard_error(
    influence: Float[np.ndarray, " subject"],
    cluster: Int[np.ndarray, " subject"] | None = None,
    censoring_influence: Float[np.ndarray, " other"] | None = None,
) -> float:
    """Return the square root of the sum over clusters of the squared sum of influences.

    NaN where the clusters are too few to show any variance: a single one, or two of which rows are
    only compared across, so that the influences cancel within each. Nobody with any influence (a
    constant risk): 0.

    Args:
        influence: Influence function per row.
        cluster: Numbers from 0, or None where every row is its own cluster.
        censoring_influence: Influences of an independent cohort that gave the censoring curve; its
            variance is added.
    """
    summed = summed_by_cluster(influence, cluster)
    own, extra = (
        np.square(summed).sum(),
        0.0 if censoring_influence is None else np.square(censoring_influence).sum(),
    )
    mirrored = (
        len(summed) == 2 and cluster is not None and own < ROUNDING**2 * np.square(influence).sum()
    )
    return float("nan") if len(summed) < 2 or mirrored else float(np.sqrt(own + extra))


def critical_value(level: float, degrees: float | None = None) -> float:
    """Return the two-sided quantile of the normal distribution, or of t where `degrees` is given.

    Raises:
        MetricError: A level outside (0, 1).
    """
    if not 0 < level < 1:
        raise MetricError(
            f"level is {level}; expected a confidence level between 0 and 1, such as 0.95"
        )
    upper = (1 + level) / 2
    return float(ndtri(upper) if degrees is None else stdtrit(degrees, upper))


def wald_interval(
    estimate: float, error: float, *, level: float = 0.95, degrees: float | None = None
) -> Interval:
    """Return estimate -+ quantile times standard error (normal, or t where `degrees` is given)."""
    half = critical_value(level, degrees) * error
    return Interval(estimate - half, estimate + half)


def wald_band(
    estimates: Float[np.ndarray, " time"],
    errors: Float[np.ndarray, " time"],
    *,
    level: float = 0.95,
    degrees: float | None = None,
) -> Band:
    """Return the interval of each estimate by itself (normal, or t where `degrees` is given)."""
    half = critical_value(level, degrees) * errors
    return Band(estimates - half, estimates + half)


def wald_p_value(estimate: float, error: float, *, degrees: float | None = None) -> float:
    """Return the two-sided p-value of "the true value is 0" (normal, or t with `degrees`).

    With a standard error of 0 there is nothing to test with: 1 for an estimate of 0, else NaN.
    """
    if error == 0:
        return 1.0 if estimate == 0 else float("nan")
    statistic = -abs(estimate / error)
    return float(2 * (ndtr(statistic) if degrees is None else stdtr(degrees, statistic)))


def one_sided_p_value(estimate: float, error: float, *, degrees: float | None = None) -> float:
    """Return the one-sided p-value of "the true value is at most 0", small for large estimates.

    Normal, or t where `degrees` is given.

    With a standard error of 0 there is nothing to test with: 1 for an estimate of 0, else NaN.
    """
    if error == 0:
        return 1.0 if estimate == 0 else float("nan")
    return float(ndtr(-estimate / error) if degrees is None else stdtr(degrees, -estimate / error))


@dataclass(frozen=True, slots=True, kw_only=True)
class Equivalence:
    """Two one-sided tests of "the true difference is as large as the margin", one per direction.

    Attributes:
        difference: The difference tested.
        standard_error: Its standard error.
        margin: The smallest difference that would matter, > 0.
        p_below: One-sided p-value of "the true difference is -margin or less".
        p_above: One-sided p-value of "the true difference is margin or more".
        degrees: Degrees of freedom of the t distribution.
    """

    difference: float
    standard_error: float
    margin: float
    p_below: float
    p_above: float
    degrees: int

    @property
    def p_value(self) -> float:
        """The larger of the two; small: within the margin. NaN without a standard error."""
        return float(np.maximum(self.p_below, self.p_above))

    def interval(self, level: float = 0.9) -> Interval:
        """Return the interval: P < alpha where that of level 1 - 2 alpha is within the margin."""
        return wald_interval(
            self.difference, self.standard_error, level=level, degrees=self.degrees
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class NonInferiority:
    """A one-sided test of "worse than the reference by the margin or more".

    Attributes:
        difference: The difference tested, turned so that positive is better than the reference.
        standard_error: Its standard error.
        margin: The smallest loss that would matter, > 0.
        p_value: One-sided; small: the loss, if there is one, is less than the margin. NaN where
            there is no standard error.
        degrees: Degrees of freedom of the t distribution.
    """

    difference: float
    standard_error: float
    margin: float
    p_value: float
    degrees: int

    def interval(self, level: float = 0.9) -> Interval:
        """Return the interval: P < alpha where that of level 1 - 2 alpha is above -margin."""
        return wald_interval(
            self.difference, self.standard_error, level=level, degrees=self.degrees
        )


def equivalence(difference: Estimate, margin: float) -> Equivalence:
    """Test whether a difference is smaller than a margin in both directions (two one-sided tests).

    Args:
        difference: A paired difference, or an estimate that is one (a mean over seeds, a contrast).
        margin: The smallest difference that would matter, > 0, in the units of the metric; declare
            it before looking.

    Raises:
        MetricError: A margin that is not finite and > 0.

    Source: Schuirmann, Journal of Pharmacokinetics and Biopharmaceutics 15 (1987), 657-680.
    """
    _check_margin(margin)
    estimate, error, degrees = difference.estimate, difference.standard_error, difference.degrees
    return Equivalence(
        difference=estimate,
        standard_error=error,
        margin=margin,
        p_below=one_sided_p_value(margin + estimate, error, degrees=degrees),
        p_above=one_sided_p_value(margin - estimate, error, degrees=degrees),
        degrees=degrees,
    )


def non_inferiority(
    difference: Estimate, margin: float, *, higher_is_better: bool = True
) -> NonInferiority:
    """Test whether a model is not worse than its reference by a margin.

    Args:
        difference: Model minus reference, or an estimate that is such a difference.
        margin: The smallest loss that would matter, > 0, in the units of the metric; declare it
            before looking.
        higher_is_better: False for an error such as the Brier score: the difference is turned
            round.

    Raises:
        MetricError: A margin that is not finite and > 0.

    Source: Piaggio et al., Journal of the American Medical Association 308 (2012), 2594-2604.
    """
    _check_margin(margin)
    gain, error, degrees = (
        (difference.estimate if higher_is_better else -difference.estimate),
        difference.standard_error,
        difference.degrees,
    )
    p_value = one_sided_p_value(margin + gain, error, degrees=degrees)
    return NonInferiority(
        difference=gain, standard_error=error, margin=margin, p_value=p_value, degrees=degrees
    )


def _check_margin(margin: float) -> None:
    if not (np.isfinite(margin) and margin > 0):
        raise MetricError(
            f"margin is {margin}; expected a finite number > 0, the smallest difference that would "
            "matter"
        )
