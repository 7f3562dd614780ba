"""The bootstrap by weights: a resample is a vector of multiplicities, never a table of gathered rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal, overload

import numpy as np
from jaxtyping import Bool, Float, Int, Real, Shaped
from numba import njit

from concordant.core.errors import MetricError
from concordant.metrics.concordance import concordance_index
from concordant.metrics.inference import Band, Interval, critical_value, wald_band
from concordant.metrics.inputs import Codes, Subjects, checked_risks, checked_subjects, cluster_numbers
from concordant.metrics.pairs import pair_sums

Method = Literal["percentile", "normal"]
Weights = Float[np.ndarray, " subject"]

_LANES = 64  # resamples per sweep: a place of the tree is four cache lines, and one walk through it serves all of them
_INT32_TOTAL = 2**30  # below this sum of weights twice any sum in the tree fits into int32
_ROUNDING = 1e-12  # a total below this share of all pairs is what rounding leaves of none


@dataclass(frozen=True, slots=True, kw_only=True)
class Bootstrap:
    """A number and its values in resamples of the subjects.

    Attributes:
        estimate: The number on the subjects themselves.
        replicates: Its values in the resamples where it could be computed.
        failed: Resamples where it could not.
    """

    estimate: float
    replicates: Float[np.ndarray, " replicate"]
    failed: int = 0

    @property
    def standard_error(self) -> float:
        """Standard deviation of the replicates."""
        return float(_deviation(self.replicates[:, None])[0])

    @property
    def p_value(self) -> float:
        """Two-sided p-value of "the true value is 0", read off the percentiles as `interval` is; at least 2 / (replicates + 1)."""
        below, above = (self.replicates <= 0).sum(), (self.replicates >= 0).sum()
        return float(min(1.0, 2 * (min(below, above) + 1) / (len(self.replicates) + 1)))

    def interval(self, level: float = 0.95, method: Method = "percentile") -> Interval:
        """Return the interval between two percentiles of the replicates, or estimate -+ normal quantile times standard error."""
        band = _limits(np.array([self.estimate]), self.replicates[:, None], level, method)
        return Interval(float(band.low[0]), float(band.high[0]))


@dataclass(frozen=True, slots=True, kw_only=True)
class JointBootstrap:
    """Several numbers and their values in the same resamples, so that differences between them are paired.

    Attributes:
        estimate: The numbers on the subjects themselves.
        replicates: Their values in the resamples where they could be computed.
        failed: Resamples where they could not.
    """

    estimate: Float[np.ndarray, " statistic"]
    replicates: Float[np.ndarray, "replicate statistic"]
    failed: int = 0

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
        return _limits(self.estimate, self.replicates, level, method)

    def component(self, number: int) -> Bootstrap:
        """Return one of the numbers."""
        return Bootstrap(estimate=float(self.estimate[number]), replicates=self.replicates[:, number], failed=self.failed)

    def difference(self, first: int, second: int) -> Bootstrap:
        """Return the paired difference of two of the numbers, first minus second."""
        return Bootstrap(
            estimate=float(self.estimate[first] - self.estimate[second]),
            replicates=self.replicates[:, first] - self.replicates[:, second],
            failed=self.failed,
        )


def resamples(
    n: int, *, replicates: int = 1000, cluster: Shaped[np.ndarray, " subject"] | None = None, seed: int = 0
) -> Iterator[Int[np.ndarray, " subject"]]:
    """Yield how often each row is in each resample; the first resamples of a seed do not depend on how many are asked for.

    Args:
        n: Rows; so many are drawn with replacement, each with the same probability.
        replicates: Number of resamples.
        cluster: Rows with one label are drawn together, as many clusters as there are; None = every row its own.
        seed: Seed of the draws.

    Raises:
        MetricError: No row, fewer than two replicates, or not one cluster label per row.
    """
    numbers = None if cluster is None else cluster_numbers(cluster, n)
    _check_size(n, replicates)
    return (counts if numbers is None else counts[numbers] for counts in _drawn(_units(numbers, n), replicates, seed))


@overload
def bootstrap(
    statistic: Callable[[Weights], float],
    n: int,
    *,
    replicates: int = ...,
    cluster: Shaped[np.ndarray, " subject"] | None = ...,
    seed: int = ...,
    max_failed: float = ...,
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
) -> JointBootstrap: ...
def bootstrap(
    statistic: Callable[[Weights], float] | Callable[[Weights], Float[np.ndarray, " statistic"]],
    n: int,
    *,
    replicates: int = 1000,
    cluster: Shaped[np.ndarray, " subject"] | None = None,
    seed: int = 0,
    max_failed: float = 0.05,
) -> Bootstrap | JointBootstrap:
    """Bootstrap anything that takes weights, such as `lambda w: concordance_index_ipcw(..., weights=w).estimate`.

    Everything the statistic estimates (the censoring curve, say) is estimated anew under each resample's weights. Several models
    are compared by a statistic that returns one number per model: all of them then see the same resamples.

    Args:
        statistic: From one weight per row (its multiplicity, 0 = left out) to a number, or to a vector of one length.
            It raises MetricError where a resample does not allow it. It needs the same `cluster` where pairs of rows are compared.
        n: Rows.
        replicates: Number of resamples.
        cluster: Rows with one label are resampled together; None = every row its own.
        seed: Seed of the resamples; the same seed gives the same resamples to every statistic.
        max_failed: Share of resamples that may fail; they are left out and counted.

    Raises:
        MetricError: The statistic fails on the rows themselves, or in more than `max_failed` of the resamples, or is not finite.

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
    return _result(estimate, values, failed)


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
) -> JointBootstrap:
    """Bootstrap Harrell's concordance of one or more models on the same subjects, all in the same resamples.

    Each replicate is exactly `concordance_index` with the resample's multiplicities as weights: copies of one subject, or of
    rows of one cluster, are not compared with each other. The rows are sorted once; O(n log n) per resample.

    Args:
        time: Follow-up, > 0.
        event: 1 = observed, anything else = censored.
        risks: One column per model, higher = earlier event. Equal risks count one half.
        replicates: Number of resamples.
        cluster: Rows with one label are one subject and are resampled together; pairs among them do not count.
        weights: One weight per row, multiplied by its multiplicity; rows are drawn with the same probability whatever they weigh.
        seed: Seed of the resamples, those of `resamples` and `bootstrap` with the same seed.
        max_failed: Share of resamples that may be without a comparable pair; they are left out and counted.

    Raises:
        MetricError: As `concordance_index`; risks without a model; fewer than two replicates; or too many failed ones.
    """
    subjects = checked_subjects(time, event, weights=weights, cluster=cluster)
    columns = checked_risks(risks, len(subjects))
    _check_size(len(subjects), replicates)
    estimate = [concordance_index(time, event, risk, weights=weights, cluster=cluster).estimate for risk in columns]
    sweep = _prepared(subjects, columns)
    draws = _drawn(_units(subjects.cluster, len(subjects)), replicates, seed)
    values = np.concatenate([_replicated(sweep, block) for block in _blocks(draws)])[:replicates]
    counted = np.isfinite(values).all(axis=1)
    failed = int(replicates - counted.sum())
    _check_failed(failed, replicates, max_failed, "there was no comparable pair")
    return JointBootstrap(estimate=np.array(estimate), replicates=values[counted], failed=failed)


def _check_size(n: int, replicates: int) -> None:
    if n < 1 or replicates < 2:
        raise MetricError(f"n is {n}, replicates {replicates}; expected at least one row and two replicates")


def _drawn(units: int, replicates: int, seed: int) -> Iterator[Int[np.ndarray, " unit"]]:
    generator = np.random.default_rng(seed)
    for _ in range(replicates):
        yield np.bincount(generator.integers(0, units, units), minlength=units)


def _units(numbers: Int[np.ndarray, " subject"] | None, n: int) -> int:
    return n if numbers is None else int(numbers.max(initial=-1)) + 1


def _check_failed(failed: int, replicates: int, allowed: float, reason: str) -> None:
    if failed > allowed * replicates or replicates - failed < 2:
        raise MetricError(
            f"{failed} of {replicates} resamples failed, more than the share of {allowed:g} that may (max_failed); the last: {reason}"
        )


def _result(
    estimate: Float[np.ndarray, "*statistic"], values: Sequence[Float[np.ndarray, "*statistic"]], failed: int
) -> Bootstrap | JointBootstrap:
    if estimate.ndim > 1 or any(value.shape != estimate.shape for value in values):
        raise MetricError("the statistic must return a number, or a vector that has one length in all resamples")
    replicates = np.stack(values)
    if not (np.isfinite(estimate).all() and np.isfinite(replicates).all()):
        raise MetricError("the statistic returned NaN or infinity; where it cannot be computed it should raise MetricError")
    if estimate.ndim == 0:
        return Bootstrap(estimate=float(estimate), replicates=replicates, failed=failed)
    return JointBootstrap(estimate=estimate, replicates=replicates, failed=failed)


def _deviation(replicates: Float[np.ndarray, "replicate statistic"]) -> Float[np.ndarray, " statistic"]:
    # The deviation of equal numbers may round to something above 0.
    return np.asarray(np.where(np.ptp(replicates, axis=0) == 0, 0.0, replicates.std(axis=0, ddof=1)))


def _limits(
    estimate: Float[np.ndarray, " statistic"], replicates: Float[np.ndarray, "replicate statistic"], level: float, method: Method
) -> Band:
    critical_value(level)  # refuses a level that is none
    if method == "percentile":
        return Band(*np.quantile(replicates, [(1 - level) / 2, (1 + level) / 2], axis=0))
    if method == "normal":
        return wald_band(estimate, _deviation(replicates), level=level)
    raise MetricError(f"method is {method!r}; expected 'percentile' or 'normal'")


@dataclass(frozen=True, slots=True)
class _Sweep:
    """What all resamples share. Rows are in the order in which a sweep back in time meets them.

    Attributes:
        unit: What is drawn with the row: its cluster, or itself.
        weights: Weight of the row; integers where none were given.
        steps: The row to add to the tree, or its complement: the case to compare with what is in the tree.
        ranks: Per model the rank of the row's risk, from 1.
        tied: Per model whether another row has the same risk.
        within: Per model the credit and the total of the pairs inside each unit, which do not count; None without clusters.
    """

    unit: Int[np.ndarray, " subject"]
    weights: Real[np.ndarray, " subject"]
    steps: Int[np.ndarray, " step"]
    ranks: Int[np.ndarray, "model subject"]
    tied: Bool[np.ndarray, "model subject"]
    within: tuple[Float[np.ndarray, "sum unit"] | None, ...]


def _prepared(subjects: Subjects, risks: Sequence[Float[np.ndarray, " subject"]]) -> _Sweep:
    cases = np.flatnonzero(subjects.observed)
    row = np.concatenate([np.arange(len(subjects)), cases])
    asks = np.arange(row.size) >= len(subjects)
    # At one time: the censored enter, then the cases ask, then the cases enter.
    stage = np.where(asks, 1, np.where(subjects.observed[row], 2, 0))
    order = np.lexsort((stage, -subjects.time[row]))
    row, asks = row[order], asks[order]
    met = row[~asks]
    place = np.empty_like(met)
    place[met] = np.arange(met.size)
    ranked = [np.unique(risk[met], return_inverse=True, return_counts=True) for risk in risks]
    return _Sweep(
        unit=met if subjects.cluster is None else subjects.cluster[met],
        weights=subjects.weights[met],
        steps=np.where(asks, ~place[row], place[row]),
        ranks=np.stack([number + 1 for _, number, _ in ranked]),
        tied=np.stack([count[number] > 1 for _, number, count in ranked]),
        within=tuple(_within(subjects, risk) for risk in risks),
    )


def _within(subjects: Subjects, risk: Float[np.ndarray, " subject"]) -> Float[np.ndarray, "sum cluster"] | None:
    """Sum credit and total over the pairs inside each cluster: all pairs less those of different clusters."""
    if subjects.cluster is None:
        return None
    case_weight = subjects.observed * subjects.weights
    every, counting = pair_sums(replace(subjects, cluster=None), risk, case_weight), pair_sums(subjects, risk, case_weight)
    sums = (every.case_credit - counting.case_credit, every.case_total - counting.case_total)
    return np.stack([np.bincount(subjects.cluster, weights=case_weight * one) for one in sums])


def _blocks(draws: Iterator[Int[np.ndarray, " unit"]]) -> Iterator[Int[np.ndarray, "unit lane"]]:
    """Yield the draws, as many at a time as a sweep takes; the last block is filled up with zeros."""
    while block := list(islice(draws, _LANES)):
        multiplicity = np.zeros((block[0].size, _LANES), np.int32)
        multiplicity[:, : len(block)] = np.stack(block).T
        yield multiplicity


def _replicated(sweep: _Sweep, multiplicity: Int[np.ndarray, "unit lane"]) -> Float[np.ndarray, "lane model"]:
    """Return each model's concordance in some resamples, NaN where there is no comparable pair."""
    weight = _lane_weights(sweep, multiplicity)
    values = np.full((_LANES, len(sweep.ranks)), np.nan)
    for model, (rank, tied, within) in enumerate(zip(sweep.ranks, sweep.tied, sweep.within, strict=True)):
        sums = np.zeros((2, _LANES), np.int64 if weight.dtype == np.int32 else np.float64)
        _sweep_back(sweep.steps, rank, tied, weight, sums)
        found = sums * np.array([[0.5], [1.0]])
        credit, total = found if within is None else found - within @ np.square(multiplicity, dtype=np.float64)
        np.divide(credit, total, out=values[:, model], where=total > _ROUNDING * found[1])
    return values


def _lane_weights(sweep: _Sweep, multiplicity: Int[np.ndarray, "unit lane"]) -> Real[np.ndarray, "subject lane"]:
    """Return multiplicity times weight of every row, int32 where no weights were given and the sums allow it."""
    rows = np.take(multiplicity, sweep.unit, axis=0)
    if np.issubdtype(sweep.weights.dtype, np.integer) and rows.sum(axis=0, dtype=np.int64).max() < _INT32_TOTAL:
        return rows
    return np.asarray(rows * sweep.weights[:, None].astype(np.float64))


@njit(cache=True)
def _sweep_back(steps: Any, rank: Any, tied: Any, weight: Any, sums: Any) -> None:
    """Go back in time over a Fenwick tree of ranks, all resamples at once; add twice the credit, and the total, of every case."""
    tree = np.zeros((weight.shape[0] + 1, _LANES), weight.dtype)
    inside = np.zeros(_LANES, weight.dtype)
    below = np.zeros(_LANES, weight.dtype)
    for step in steps:
        if step >= 0:
            _enter(tree, inside, rank[step], weight[step])
        else:
            case = ~step
            below[:] = 0
            _count(tree, rank[case] - 1, below)
            if tied[case]:
                _count(tree, rank[case], below)
            else:  # nobody else has this rank: the same sum again
                for lane in range(_LANES):
                    below[lane] *= 2
            for lane in range(_LANES):
                sums[0, lane] += weight[case, lane] * below[lane]
                sums[1, lane] += weight[case, lane] * inside[lane]


@njit(cache=True)
def _enter(tree: Any, inside: Any, rank: Any, weight: Any) -> None:
    """Add a row's weights at its rank."""
    for lane in range(_LANES):
        inside[lane] += weight[lane]
    while rank < tree.shape[0]:
        for lane in range(_LANES):
            tree[rank, lane] += weight[lane]
        rank += rank & -rank


@njit(cache=True)
def _count(tree: Any, rank: Any, found: Any) -> None:
    """Add up the weights at this rank and below."""
    while rank > 0:
        for lane in range(_LANES):
            found[lane] += tree[rank, lane]
        rank &= rank - 1
