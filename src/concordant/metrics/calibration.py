"""Whole survival curves against outcomes: D-calibration and the right-censored log score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Bool, Float, Int, Real, Shaped
from scipy.special import chdtrc

from concordant.core.errors import MetricError, did_you_mean
from concordant.core.survival import Outcomes
from concordant.metrics.inference import (
    Band,
    Estimate,
    degrees_of_freedom,
    standard_error,
    wald_band,
)
from concordant.metrics.inputs import Codes, checked_curves, checked_outcomes

DCalibrationTest = Literal["pearson", "robust"]
"""`pearson`: Haider's chi-square of the counts; `robust`.

The same, corrected for censoring, weights and clusters (Rao and Scott).
"""

LOG_SCORE_FLOOR = 1e-8
"""Smallest probability the log score takes the logarithm of: a subject adds at most 18.4."""

_RISE = 1e-6  # a survival curve may rise by this much (single precision) before it is refused
# of all parts together, in units of the chi-square's own variances (calibrated: about their number)
_NO_VARIANCE = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class DCalibration:
    """Share of subjects whose event came in each bin of its own predicted survival probability.

    1 / bins each = calibrated.

    Attributes:
        edges: Limits of the bins, from 0 to 1; a bin holds its lower limit, the last one also 1.
        estimate: Share of the weight per bin, summing to 1; bin 0 = the model had given the event
            time little chance to be reached.
        influence: Influence of every row on each share.
        statistic: Chi-square statistic of "every share is 1 / bins".
        degrees: Its degrees of freedom: bins - 1, or what the correction makes of them.
        p_value: Probability of a statistic as large if the model is calibrated.
        test: Which test it is.
        n: Rows.
        n_events: Rows with the event.
        n_beyond: Rows followed beyond the last time, taken as censored there.
        cluster: Cluster number per row, or None.
    """

    edges: Float[np.ndarray, " edge"]
    estimate: Float[np.ndarray, " bin"]
    influence: Float[np.ndarray, "bin subject"]
    statistic: float
    degrees: float
    p_value: float
    test: DCalibrationTest
    n: int
    n_events: int
    n_beyond: int
    cluster: Int[np.ndarray, " subject"] | None = None

    @property
    def standard_error(self) -> Float[np.ndarray, " bin"]:
        """Standard error per bin; 0 for a bin that nobody can be in."""
        return np.array([standard_error(row, self.cluster) for row in self.influence])

    def interval(self, level: float = 0.95) -> Band:
        """Return each bin's confidence interval by a t quantile; a rare bin's may reach below 0."""
        return wald_band(
            self.estimate,
            self.standard_error,
            level=level,
            degrees=degrees_of_freedom(self.n, self.cluster),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LogScore(Estimate):
    """Mean negative right-censored log-likelihood of survival curves.

    Lower = better, 0 = every outcome foreseen with certainty.

    It depends on the grid of times: compare models on the same grid only.

    Attributes:
        n_floored: Rows whose probability was below the floor.
    """

    n_floored: int


def d_calibration(
    time: Real[np.ndarray, " subject"],
    event: Codes,
    survival: Real[np.ndarray, "subject time"],
    times: Real[np.ndarray, " time"],
    *,
    bins: int = 10,
    weights: Real[np.ndarray, " subject"] | None = None,
    cluster: Shaped[np.ndarray, " subject"] | None = None,
    test: DCalibrationTest | None = None,
    cause: int | None = None,
) -> DCalibration:
    """Count in which bin of predicted survival each event came, and test whether all are as full.

    An event at T counts in the bin of S(T). A subject censored at C has its event somewhere below
    S(C): it counts with (S(C) - lower limit) / S(C) in the bin of S(C) and with 1 / (bins S(C)) in
    every bin below. S is read by linear interpolation between (0, 1) and the times. A subject
    followed beyond the last time is taken as censored there: all that is known is that its event
    came below S(last).

    The Pearson test takes a subject spread over bins as if it were one count: with censoring it
    finds too little (it rejects a calibrated model 0 to 1 % of the time at the 5 % level from 30 %
    censored on). The robust test corrects that (3.5 to 5.5 %).

    Args:
        time: Follow-up, > 0.
        event: 1 = observed, anything else = censored.
        survival: Probability of no event until each of `times`, in [0, 1], not rising.
        times: Ascending, >= 0, the last one > 0. At a time of 0 the given S(0) replaces the 1.
        bins: How many bins of equal width, 2 or more.
        weights: A weight of 2 equals two copies of the subject in one cluster.
        cluster: Rows with one label are one subject: their influences are summed.
        test: "pearson" as published, or "robust"; None = "pearson", with weights or clusters
            "robust".
        cause: None = event 1 is the event and every other code is censored; else the code of the
            event, competing events being refused: D-calibration of one cause is not defined, as the
            bins of its cumulative incidence are not equally full where some never have the event,
            and a subject censored or with another event has no known share in them.

    Raises:
        MetricError: Invalid outcomes or curves, fewer than two bins, no event, "pearson" with
            weights or clusters, or competing events with a `cause`.

    Source: Haider, Hoehn, Davis and Greiner, JMLR 21 (2020), 85, on D-calibration; see `rao_scott`
    for the robust test.
    """
    subjects = checked_outcomes(time, event, weights=weights, cluster=cluster, cause=cause)
    if subjects.competing.any():
        raise MetricError(
            f"{int(subjects.competing.sum())} row(s) have a competing event, for which "
            "D-calibration of one cause is not defined; use integrated_calibration_index(..., "
            "cause=...) at a horizon, or d_calibration of event-free curves with events of any kind"
        )
    curves = checked_survival(survival, times, len(subjects))
    chosen = _checked_test(test, plain=weights is None and cluster is None)
    if int(bins) != bins or bins < 2:
        raise MetricError(f"bins is {bins}; expected a whole number, 2 or more")
    if not bool((subjects.observed & (subjects.weights > 0)).any()):
        raise MetricError(
            f"none of the {len(subjects)} rows has event 1 (or that of `cause`): without an event "
            "D-calibration has nothing to count"
        )
    beyond = subjects.time > curves.times[-1]
    spread = _spread(curves.at(subjects.time), subjects.observed & ~beyond, int(bins))
    share = subjects.weights / subjects.weights.sum()
    estimate = share @ spread
    found = _tested(chosen, estimate - 1 / bins, share[:, None] * (spread - 1 / bins), subjects)
    return DCalibration(
        edges=_edges(int(bins)),
        estimate=estimate,
        influence=(share[:, None] * (spread - estimate)).T,
        statistic=found.statistic,
        degrees=found.degrees,
        p_value=found.p_value,
        test=chosen,
        n=len(subjects),
        n_events=subjects.n_events,
        n_beyond=int(beyond.sum()),
        cluster=subjects.cluster,
    )


def log_score(
    time: Real[np.ndarray, " subject"],
    event: Codes,
    survival: Real[np.ndarray, "subject time"],
    times: Real[np.ndarray, " time"],
    *,
    floor: float = LOG_SCORE_FLOOR,
    weights: Real[np.ndarray, " subject"] | None = None,
    cluster: Shaped[np.ndarray, " subject"] | None = None,
    cause: int | None = None,
    event_free: Real[np.ndarray, "subject time"] | None = None,
) -> LogScore:
    """Compute the mean of -log of the probability that the curve gave to what was seen.

    The times, with 0 before the first, cut the axis into intervals (from, to]; the last one has no
    end. An event adds -log of its interval's probability S(from) - S(to), a censoring at C adds
    -log S(C), read by linear interpolation between (0, 1) and the times, and as S(last) beyond the
    last time.

    Args:
        time: Follow-up, > 0.
        event: 1 = observed, anything else = censored.
        survival: Probability of no event until each of `times`, in [0, 1], not rising.
        times: Ascending, >= 0, the last one > 0.
        floor: Smaller probabilities are raised to it, in (0, 1); the result counts them.
        weights: A weight of 2 equals two copies of the subject in one cluster.
        cluster: Rows with one label are one subject: their influences are summed.
        cause: None = event 1 is the event and every other code is censored; else the code of the
            event, `survival` being one minus its cumulative incidence. Who had another event adds
            -log of that interval's probability of another event, who was censored -log
            `event_free`, as does (its last value) who had any event beyond the last time.
        event_free: Probability of no event of any kind until each of the times; needed where
            competing events were observed, as one cause's incidence alone does not say how probable
            it is that nothing has happened yet. Not above `survival`.

    Raises:
        MetricError: Invalid outcomes or curves, a floor outside (0, 1), competing events without
            `event_free`, `event_free` without a cause, or curves by which the incidence of the
            other causes falls.

    Source: Rindt, Hu, Steinsaltz and Sejdinovic, AISTATS 2022 (the right-censored log-likelihood is
    strictly proper where censoring does not depend on the event time given the predictors).
    """
    subjects = checked_outcomes(time, event, weights=weights, cluster=cluster, cause=cause)
    curves = checked_survival(survival, times, len(subjects))
    if event_free is not None and cause is None:
        raise MetricError(
            "event_free is given without a cause; expected the code of the event whose incidence "
            "is 1 - survival"
        )
    if not 0 < floor < 1:
        raise MetricError(
            f"floor is {floor}; expected a small probability between 0 and 1, such as "
            f"{LOG_SCORE_FLOOR}"
        )
    seen = _probability_of_what_was_seen(subjects, curves, times, event_free)
    floored = int((seen < floor).sum())
    loss = -np.log(np.maximum(seen, floor))
    share = subjects.weights / subjects.weights.sum()
    value = float(share @ loss)
    return LogScore(
        estimate=value,
        influence=share * (loss - value),
        n=len(subjects),
        n_events=subjects.n_events,
        cluster=subjects.cluster,
        note=f"{floored} probability(ies) raised to {floor:g}" if floored else "",
        n_floored=floored,
    )


def _probability_of_what_was_seen(
    subjects: Outcomes,
    curves: SurvivalCurves,
    times: Real[np.ndarray, " time"],
    event_free: Real[np.ndarray, "subject time"] | None,
) -> Float[np.ndarray, " subject"]:
    if event_free is None:
        if subjects.competing.any():
            raise MetricError(
                f"{int(subjects.competing.sum())} row(s) have a competing event; the log score "
                "then needs `event_free`, the probability of no event of any kind until each of "
                "the times"
            )
        return np.where(
            subjects.observed, curves.interval_probability(subjects.time), curves.at(subjects.time)
        )
    free = checked_survival(event_free, times, len(subjects))
    others = checked_survival(_without_other_event(curves, free), free.times, len(subjects))
    seen = np.where(
        subjects.observed,
        curves.interval_probability(subjects.time),
        others.interval_probability(subjects.time),
    )
    beyond = subjects.time > free.times[-1]
    return np.where(subjects.censored | beyond, free.at(subjects.time), seen)


def _without_other_event(
    curves: SurvivalCurves, free: SurvivalCurves
) -> Float[np.ndarray, "subject time"]:
    """Return one minus the incidence of all other causes."""
    if bool((free.survival > curves.survival + _RISE).any()):
        raise MetricError(
            "event_free is above survival in some row(s); expected it to be at most one minus the "
            "incidence of the cause"
        )
    return np.asarray(np.minimum(1 - curves.survival + free.survival, 1.0))


class SurvivalCurves(NamedTuple):
    """Predicted survival curves that start at time 0.

    Attributes:
        times: Ascending from 0.
        survival: S at each of them, not rising.
    """

    times: Float[np.ndarray, " time"]
    survival: Float[np.ndarray, "subject time"]

    def at(self, time: Float[np.ndarray, " subject"]) -> Float[np.ndarray, " subject"]:
        """Read each subject's curve at its time, linear between times, S(last) beyond the last."""
        upper = self._interval(time)
        start, stop = self.times[upper - 1], self.times[upper]
        step = np.minimum((time - start) / (stop - start), 1.0)
        row = np.arange(len(time))
        return np.asarray(
            self.survival[row, upper - 1] * (1 - step) + self.survival[row, upper] * step
        )

    def interval_probability(
        self, time: Float[np.ndarray, " subject"]
    ) -> Float[np.ndarray, " subject"]:
        """Return the probability of an event in each subject's interval (from, to]."""
        upper, row = self._interval(time), np.arange(len(time))
        within = self.survival[row, upper - 1] - self.survival[row, upper]
        return np.asarray(np.where(time > self.times[-1], self.survival[:, -1], within))

    def _interval(self, time: Float[np.ndarray, " subject"]) -> Int[np.ndarray, " subject"]:
        return np.clip(np.searchsorted(self.times, time, side="left"), 1, len(self.times) - 1)


def checked_survival(
    survival: Real[np.ndarray, "subject time"], times: Real[np.ndarray, " time"], count: int
) -> SurvivalCurves:
    """Check survival curves and let them start at (0, 1), unless they have a time of 0 themselves.

    Raises:
        MetricError: Times that do not ascend from 0 or later, a wrong shape, a value outside [0,
            1], or a curve that rises.
    """
    grid, curves = checked_curves(survival, times, count)
    if grid[0] < 0 or grid[-1] <= 0:
        raise MetricError(
            f"times run from {grid[0]:g} to {grid[-1]:g}; expected times >= 0, the last one > 0"
        )
    rising = int((np.diff(curves, axis=1) > _RISE).any(axis=1).sum())
    if rising:
        raise MetricError(
            f"survival rises over time in {rising} row(s); expected curves that never rise"
        )
    if grid[0] > 0:
        grid, curves = np.append(0.0, grid), np.column_stack([np.ones(count), curves])
    return SurvivalCurves(grid, np.minimum.accumulate(curves, axis=1))


def checked_test(
    test: str | None, published: str, known: Sequence[str], *, plain: bool, name: str
) -> str:
    """Return the test asked for; None: the published one, or "robust" where rows are not alike.

    Args:
        test: The one asked for, or None.
        published: The one that takes rows as independent and alike.
        known: All there are.
        plain: Whether they are, as far as the caller said: no weights, no clusters.
        name: The published test by its name in a sentence.

    Raises:
        MetricError: An unknown test, or the published one where it does not hold.
    """
    if test is None:
        return published if plain else "robust"
    if test not in known:
        raise MetricError(f"unknown test {test!r}.{did_you_mean(test, known)}")
    if test == published and not plain:
        raise MetricError(
            f"{name} takes rows as independent and alike; with weights or clusters use "
            'test="robust"'
        )
    return test


def _checked_test(test: str | None, *, plain: bool) -> DCalibrationTest:
    chosen = checked_test(
        test, "pearson", get_args(DCalibrationTest), plain=plain, name='the "pearson" test'
    )
    return "pearson" if chosen == "pearson" else "robust"


def _edges(bins: int) -> Float[np.ndarray, " edge"]:
    return np.arange(bins + 1) / bins


def _spread(
    chance: Float[np.ndarray, " subject"], is_event: Bool[np.ndarray, " subject"], bins: int
) -> Float[np.ndarray, "subject bin"]:
    """Return what each subject counts in each bin; its rows sum to 1."""
    edges = _edges(bins)
    own = np.clip(np.searchsorted(edges, chance, side="right") - 1, 0, bins - 1)
    column = np.arange(bins)
    # S = 0: all of it is in bin 0, set below
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        below = np.where(column < own[:, None], 1 / (bins * chance[:, None]), 0.0)
        rest = (chance - edges[own]) / chance
    rest = np.where(is_event | (chance == 0), 1.0, rest)
    return np.where(column == own[:, None], rest[:, None], np.where(is_event[:, None], 0.0, below))


def _tested(
    test: DCalibrationTest,
    excess: Float[np.ndarray, " bin"],
    contribution: Float[np.ndarray, "subject bin"],
    subjects: Outcomes,
) -> ChiSquare:
    """Test the excess of the shares over 1 / bins, with contributions about 1 / bins too."""
    bins = len(excess)
    # Pearson's: n times it is the expected share
    variance = np.full(bins, 1 / (bins * len(subjects)))
    if test == "pearson":
        return ChiSquare(float((excess**2 / variance).sum()), bins - 1)
    return rao_scott(excess, variance, contribution.T, subjects.cluster)


class ChiSquare(NamedTuple):
    """A statistic and the degrees of the chi-square distribution it is compared with."""

    statistic: float
    degrees: float

    @property
    def p_value(self) -> float:
        """Probability of a statistic as large or larger."""
        return float(chdtrc(self.degrees, self.statistic))


def rao_scott(
    difference: Float[np.ndarray, " part"],
    variance: Float[np.ndarray, " part"],
    influence: Float[np.ndarray, "part subject"],
    cluster: Int[np.ndarray, " subject"] | None,
) -> ChiSquare:
    """Correct the chi-square sum of difference^2 / variance for the differences' real covariance.

    The sum is distributed as a sum of chi-squares of 1 degree, each times an eigenvalue of that
    covariance in units of `variance`; scale and degrees are chosen to give its mean and its
    variance. No matrix is inverted, so that rare parts do no harm.

    Args:
        difference: Observed minus expected per part (bin, group).
        variance: What the chi-square takes for the variance of each.
        influence: Influence of every row on each difference.
        cluster: Cluster number per row, or None.

    Raises:
        MetricError: No row moves any difference (in every group nobody had the event, or
            everybody).

    Source: Rao and Scott, Annals of Statistics 12 (1984), 46-60 (their second-order correction, by
    Satterthwaite).
    """
    rows = (
        influence
        if cluster is None
        else np.stack([np.bincount(cluster, weights=row) for row in influence])
    )
    scaled = rows / np.sqrt(variance)[:, None]
    covariance = scaled @ scaled.T
    mean, square = float(np.trace(covariance)), float(np.square(covariance).sum())
    if mean < _NO_VARIANCE:
        raise MetricError(
            "the differences have no variance: in every part all ended alike, so that the robust "
            "test has no value"
        )
    return ChiSquare(float((difference**2 / variance).sum()) * mean / square, mean**2 / square)
