"""The bootstrap by weights: a resample is a vector of multiplicities, no gathered rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, overload

import numpy as np
from jaxtyping import Float, Int, Real, Shaped
from scipy.special import ndtr, ndtri

from concordant.core.errors import MetricError
from concordant.metrics.concordance import concordance_index
from concordant.metrics.inference import (
    ROUNDING,
    Band,
    Interval,
    critical_value,
    summed_by_cluster,
    wald_band,
)
from concordant.metrics.inputs import (
    Codes,
    checked_outcomes,
    checked_risks,
    cluster_numbers,
    followed_for_ever,
)
from concordant.metrics.resampled_pairs import resampled_concordance

Method = Literal["percentile", "bca", "normal"]
"""How an interval is read off replicates.

Percentiles, percentiles corrected for bias and acceleration, or a normal quantile.
"""

Weights = Float[np.ndarray, " subject"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bootstrap:
    """A number and its values in resamples of the subjects.

    Attributes:
        estimate: The number on the subjects themselves.
        replicates: Its values in the resamples where it could be computed.
        failed: Resamples where it could not.
        influence: Influence of everything that is drawn (row or cluster) on it, times any constant;
            None = not known: no "bca".
    """

    estimate: float
    replicates: Float[np.ndarray, " replicate"]
    failed: int = 0
    influence: Float[np.ndarray, " unit"] | None = None

    @property
    def standard_error(self) -> float:
        """Standard deviation of the replicates."""
        return float(_deviation(self.replicates[:, None])[0])

    @property
    def p_value(self) -> float:
        """Two-sided p-value of "the true value is 0", read off the percentiles as `interval` is.

        At least 2 / (replicates + 1).
        """
        below, above = (self.replicates <= 0).sum(), (self.replicates >= 0).sum()
        return float(min(1.0, 2 * (min(below, above) + 1) / (len(self.replicates) + 1)))

    def interval(self, level: float = 0.95, method: Method = "percentile") -> Interval:
        """Return a confidence interval.

        Args:
            level: Confidence level.
            method: "percentile": between two percentiles of the replicates. "bca": percentiles
                corrected for the bias of the replicates and for the acceleration; more precise
                where the replicates are skewed, and as indifferent to a monotone map of the number.
                "normal": estimate -+ normal quantile times standard error.

        Raises:
            MetricError: A level outside (0, 1), an unknown method, or "bca" without influences.

        Source: "bca": Efron, Journal of the American Statistical Association 82 (1987), 171-185.
        """
        influence = None if self.influence is None else self.influence[:, None]
        band = _limits(
            np.array([self.estimate]), self.replicates[:, None], influence, level, method
        )
        return Interval(float(band.low[0]), float(band.high[0]))


@dataclass(frozen=True, slots=True, kw_only=True)
class JointBootstrap:
    """Several numbers and their values in the same resamples: differences are paired.

    Attributes:
        estimate: The numbers on the subjects themselves.
        replicates: Their values in the resamples where they could be computed.
        failed: Resamples where they could not.
        influence: Influence of everything that is drawn (row or cluster) on each, times any
            constant; None = not known: no "bca".
    """

    estimate: Float[np.ndarray, " statistic"]
    replicates: Float[np.ndarray, "replicate statistic"]
    failed: int = 0
    influence: Float[np.ndarray, "unit statistic"] | None = None

    @property
    def standard_error(self) -> Float[np.ndarray, " statistic"]:
        """Standard deviation of the replicates."""
        return _deviation(self.replicates)

    @property
    def covariance(self) -> Float[np.ndarray, "statistic statistic"]:
        """Covariance matrix of the replicates."""
        centred = self.replicates - self.replicates.mean(axis=0)
        return np.asarray(centred.T @ centred / (len(centred) - 1))

    def interval(self, level: float = 0.95, method: Method = "percentile") -> Band:
        """Return an interval for each number by itself; see `Bootstrap.interval`."""
        return _limits(self.estimate, self.replicates, self.influence, level, method)

    def component(self, number: int) -> Bootstrap:
        """Return one of the numbers."""
        return Bootstrap(
            estimate=float(self.estimate[number]),
            replicates=self.replicates[:, number],
            failed=self.failed,
            influence=None if self.influence is None else self.influence[:, number],
        )

    def difference(self, first: int, second: int) -> Bootstrap:
        """Return the paired difference of two of the numbers, first minus second."""
        return Bootstrap(
            estimate=float(_less(self.estimate[first], self.estimate[second])),
            replicates=_less(self.replicates[:, first], self.replicates[:, second]),
            failed=self.failed,
            influence=None
            if self.influence is None
            else self.influence[:, first] - self.influence[:, second],
        )


def resamples(
    n: int,
    *,
    replicates: int = 1000,
    cluster: Shaped[np.ndarray, " subject"] | None = None,
    seed: int = 0,
) -> Iterator[Int[np.ndarray, " subject"]]:
    """Yield how often each row is in each resample.

    The first resamples of a seed do not depend on how many are asked for.

    Args:
        n: Rows; so many are drawn with replacement, each with the same probability.
        replicates: Number of resamples.
        cluster: Rows with one label are drawn together, as many clusters as there are; None = every
            row its own.
        seed: Seed of the draws.

    Raises:
        MetricError: No row, fewer than two replicates, or not one cluster label per row.
    """
    numbers = None if cluster is None else cluster_numbers(cluster, n)
    _check_size(n, replicates)
    return (
        counts if numbers is None else counts[numbers]
        for counts in _drawn(_units(numbers, n), replicates, seed)
    )


@overload
def bootstrap(
    statistic: Callable[[Weights], float],
    n: int,
    *,
    replicates: int = ...,
    cluster: Shaped[np.ndarray, " subject"] | None = ...,
    seed: int = ...,
    max_failed: float = ...,
    jackknife: bool = ...,
) -> Bootstrap: ...
@overload
def bootstrap(
    statistic: Callable[[Weights], Float[np.ndarray, " statistic"]],
    n: int,
    *,
    replicates: int = ...,
    cluster: Shaped[np.ndarray, " subject"] | None = ...,
    seed: int = ...,
    max_failed: float = ...,
    jackknife: bool = ...,
) -> JointBootstrap: ...
def bootstrap(
    statistic: Callable[[Weights], float] | Callable[[Weights], Float[np.ndarray, " statistic"]],
    n: int,
    *,
    replicates: int = 1000,
    cluster: Shaped[np.ndarray, " subject"] | None = None,
    seed: int = 0,
    max_failed: float = 0.05,
    jackknife: bool = False,
) -> Bootstrap | JointBootstrap:
    """Bootstrap anything that takes weights, such as `lambda w.

    Concordance_index_ipcw(..., weights=w).estimate`.

    Everything the statistic estimates (the censoring curve, say) is estimated anew under each
    resample's weights. Several models are compared by a statistic that returns one number per
    model: all of them then see the same resamples.

    Args:
        statistic: From one weight per row (its multiplicity, 0 = left out) to a number, or to a
            vector of one length. It raises MetricError where a resample does not allow it. It needs
            the same `cluster` where pairs of rows are compared.
        n: Rows.
        replicates: Number of resamples.
        cluster: Rows with one label are resampled together; None = every row its own.
        seed: Seed of the resamples; the same seed gives the same resamples to every statistic.
        max_failed: Share of resamples that may fail; they are left out and counted.
        jackknife: Also compute the statistic without every row (cluster) in turn, which "bca"
            intervals need.

    Raises:
        MetricError: The statistic fails on the rows themselves, without one of them for the
            jackknife, or in more than `max_failed` of the resamples; or it is not finite.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993).
    """
    draws = resamples(n, replicates=replicates, cluster=cluster, seed=seed)
    estimate = np.asarray(statistic(np.ones(n)), dtype=np.float64)
    values, reason = [], ""
    for multiplicity in draws:
        try:
            values.append(np.asarray(statistic(multiplicity.astype(np.float64)), dtype=np.float64))
        except MetricError as error:
            reason = str(error)
    failed = replicates - len(values)
    _check_failed(failed, replicates, max_failed, reason)
    return _result(
        estimate, values, failed, _left_out(statistic, n, cluster) if jackknife else None
    )


def _left_out(
    statistic: Callable[[Weights], float | Float[np.ndarray, " statistic"]],
    n: int,
    cluster: Shaped[np.ndarray, " subject"] | None,
) -> Float[np.ndarray, "unit ..."]:
    """Return the influence of each row (cluster), but for a constant, by leaving it out."""
    numbers = np.arange(n) if cluster is None else cluster_numbers(cluster, n)
    without = [
        np.asarray(statistic((numbers != unit).astype(np.float64)), dtype=np.float64)
        for unit in range(_units(numbers, n))
    ]
    return np.asarray(np.mean(without, axis=0) - np.stack(without))


def bootstrap_concordance(
    time: Real[np.ndarray, " subject"],
    event: Codes,
    risks: Real[np.ndarray, "subject model"],
    *,
    replicates: int = 1000,
    cluster: Shaped[np.ndarray, " subject"] | None = None,
    weights: Real[np.ndarray, " subject"] | None = None,
    seed: int = 0,
    max_failed: float = 0.05,
    cause: int | None = None,
) -> JointBootstrap:
    """Bootstrap Harrell's concordance of models on the same subjects, in the same resamples.

    Each replicate is exactly `concordance_index` with the resample's multiplicities as weights:
    copies of one subject, or of rows of one cluster, are not compared with each other. The rows are
    sorted once; O(n log n) per resample.

    Args:
        time: Follow-up, > 0.
        event: 1 = observed, anything else = censored.
        risks: One column per model, higher = earlier event. Equal risks count one half.
        replicates: Number of resamples.
        cluster: Rows with one label are one subject and are resampled together; pairs among them do
            not count.
        weights: One weight per row, multiplied by its multiplicity; rows are drawn with the same
            probability whatever they weigh.
        seed: Seed of the resamples, those of `resamples` and `bootstrap` with the same seed.
        max_failed: Share of resamples that may be without a comparable pair; they are left out and
            counted.
        cause: As in `concordance_index`.

    Raises:
        MetricError: As `concordance_index`; risks without a model; fewer than two replicates; or
            too many failed ones.
    """
    subjects = followed_for_ever(
        checked_outcomes(time, event, weights=weights, cluster=cluster, cause=cause)
    )
    columns = checked_risks(risks, len(subjects))
    _check_size(len(subjects), replicates)
    models = [
        concordance_index(time, event, risk, weights=weights, cluster=cluster, cause=cause)
        for risk in columns
    ]
    draws = _drawn(_units(subjects.cluster, len(subjects)), replicates, seed)
    values = np.concatenate(list(resampled_concordance(subjects, columns, draws)))[:replicates]
    counted = np.isfinite(values).all(axis=1)
    failed = int(replicates - counted.sum())
    _check_failed(failed, replicates, max_failed, "there was no comparable pair")
    return JointBootstrap(
        estimate=np.array([model.estimate for model in models]),
        replicates=values[counted],
        failed=failed,
        influence=np.column_stack(
            [summed_by_cluster(model.influence, model.cluster) for model in models]
        ),
    )


def _check_size(n: int, replicates: int) -> None:
    if n < 1 or replicates < 2:
        raise MetricError(
            f"n is {n}, replicates {replicates}; expected at least one row and two replicates"
        )


def _drawn(units: int, replicates: int, seed: int) -> Iterator[Int[np.ndarray, " unit"]]:
    generator = np.random.default_rng(seed)
    for _ in range(replicates):
        yield np.bincount(generator.integers(0, units, units), minlength=units)


def _units(numbers: Int[np.ndarray, " subject"] | None, n: int) -> int:
    return n if numbers is None else int(numbers.max(initial=-1)) + 1


def _check_failed(failed: int, replicates: int, allowed: float, reason: str) -> None:
    if failed > allowed * replicates or replicates - failed < 2:
        raise MetricError(
            f"{failed} of {replicates} resamples failed, more than the share of {allowed:g} that "
            f"may (max_failed); the last: {reason}"
        )


def _result(
    estimate: Float[np.ndarray, "*statistic"],
    values: Sequence[Float[np.ndarray, "*statistic"]],
    failed: int,
    influence: Float[np.ndarray, "unit ..."] | None,
) -> Bootstrap | JointBootstrap:
    if estimate.ndim > 1 or any(value.shape != estimate.shape for value in values):
        raise MetricError(
            "the statistic must return a number, or a vector that has one length in all resamples"
        )
    replicates = np.stack(values)
    if not (np.isfinite(estimate).all() and np.isfinite(replicates).all()):
        raise MetricError(
            "the statistic returned NaN or infinity; where it cannot be computed it should raise "
            "MetricError"
        )
    if estimate.ndim == 0:
        return Bootstrap(
            estimate=float(estimate), replicates=replicates, failed=failed, influence=influence
        )
    return JointBootstrap(
        estimate=estimate, replicates=replicates, failed=failed, influence=influence
    )


def _less(first: Any, second: Any) -> Any:
    """Return first minus second, 0 where they are the same but for rounding."""
    difference = first - second
    return np.where(
        np.abs(difference) <= ROUNDING * np.maximum(np.abs(first), np.abs(second)), 0.0, difference
    )


def _deviation(
    replicates: Float[np.ndarray, "replicate statistic"],
) -> Float[np.ndarray, " statistic"]:
    # The deviation of equal numbers may round to something above 0.
    return np.asarray(
        np.where(np.ptp(replicates, axis=0) == 0, 0.0, replicates.std(axis=0, ddof=1))
    )


def _limits(
    estimate: Float[np.ndarray, " statistic"],
    replicates: Float[np.ndarray, "replicate statistic"],
    influence: Float[np.ndarray, "unit statistic"] | None,
    level: float,
    method: Method,
) -> Band:
    quantile = critical_value(level)  # refuses a level that is none
    if method == "percentile":
        return Band(*np.quantile(replicates, [(1 - level) / 2, (1 + level) / 2], axis=0))
    if method == "bca":
        if influence is None:
            raise MetricError(
                '"bca" needs influences: use bootstrap_concordance, or bootstrap(..., '
                "jackknife=True)"
            )
        bias, acceleration = _bias(estimate, replicates), _acceleration(influence)
        return Band(
            *(_corrected(replicates, bias, acceleration, end) for end in (-quantile, quantile))
        )
    if method == "normal":
        return wald_band(estimate, _deviation(replicates), level=level)
    raise MetricError(f"method is {method!r}; expected 'percentile', 'bca' or 'normal'")


def _bias(
    estimate: Float[np.ndarray, " statistic"], replicates: Float[np.ndarray, "replicate statistic"]
) -> Float[np.ndarray, " statistic"]:
    """Return the normal quantile of the share of replicates below the estimate, never 0 or 1."""
    below = (replicates < estimate).sum(axis=0) + 0.5 * (replicates == estimate).sum(axis=0)
    return np.asarray(ndtri(np.clip(below, 0.5, len(replicates) - 0.5) / len(replicates)))


def _acceleration(
    influence: Float[np.ndarray, "unit statistic"],
) -> Float[np.ndarray, " statistic"]:
    """Return a sixth of the skewness of the summed influences, 0 where there is no influence."""
    square = np.square(influence).sum(axis=0)
    return np.asarray(
        np.divide(
            (influence**3).sum(axis=0), 6 * square**1.5, out=np.zeros(len(square)), where=square > 0
        )
    )


def _corrected(
    replicates: Float[np.ndarray, "replicate statistic"],
    bias: Float[np.ndarray, " statistic"],
    acceleration: Float[np.ndarray, " statistic"],
    end: float,
) -> Float[np.ndarray, " statistic"]:
    """Return the replicates' quantile that takes the place of the normal one `end`."""
    stretch = 1 - acceleration * (bias + end)
    # Where the stretch is not above 0 the corrected quantile lies beyond all replicates.
    moved = np.divide(
        bias + end, stretch, out=np.full(len(bias), np.inf * np.sign(end)), where=stretch > 0
    )
    shares = ndtr(bias + moved)
    return np.array(
        [np.quantile(column, share) for column, share in zip(replicates.T, shares, strict=True)]
    )
