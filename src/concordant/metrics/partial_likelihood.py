"""The partial likelihood of a Cox model: value, gradient and Hessian in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int, Real

from concordant.core.survival import Outcomes

Ties = Literal["efron", "breslow"]


@dataclass(frozen=True, slots=True)
class RiskSets:
    """Rows in ascending time, and the terms of the likelihood.

    A term is its mass times the log of the hazard at risk less a share of the hazard tied: one per
    event time (Breslow, share 0) or one per event (Efron).
    """

    rows: Int[np.ndarray, " kept"]  # rows of weight above 0
    weights: Float[np.ndarray, " kept"]
    observed: Bool[np.ndarray, " kept"]
    times: Float[np.ndarray, " event_time"]
    events: Float[np.ndarray, " event_time"]  # weight of the events at each time
    first: Int[np.ndarray, " event_time"]  # first row at risk
    passed: Int[np.ndarray, " kept"]  # event times up to the row's own
    event_index: Int[np.ndarray, " kept"]  # for an event, its own time; else any
    tied: Int[np.ndarray, " event_time"]  # place among the events of the first at each time
    term_time: Int[np.ndarray, " term"]
    share: Float[np.ndarray, " term"]
    mass: Float[np.ndarray, " term"]

    @property
    def total(self) -> float:
        """Weight of all events."""
        return float(self.events.sum())

    def seen(
        self, values: Float[np.ndarray, " kept *column"]
    ) -> Float[np.ndarray, " term *column"]:
        """Return per term the sum over those at risk, less the share of those tied."""
        at_risk = np.cumsum(values[::-1], axis=0)[::-1][self.first][self.term_time]
        if self.share.any():
            tied = np.add.reduceat(values[self.observed], self.tied, axis=0)[self.term_time]
            at_risk -= self.share.reshape(-1, *[1] * (values.ndim - 1)) * tied
        return np.asarray(at_risk)

    def per_time(self, values: Float[np.ndarray, " term"]) -> Float[np.ndarray, " event_time"]:
        """Return the sum over the terms of each event time."""
        return np.bincount(self.term_time, values, minlength=len(self.times))


def risk_sets(
    time: Real[np.ndarray, " row"],
    observed: Bool[np.ndarray, " row"],
    weights: Real[np.ndarray, " row"],
    ties: Ties,
) -> RiskSets:
    """Sort outcomes; rows of weight 0 are left out."""
    order = np.argsort(time, kind="stable")
    rows = order[weights[order] > 0]
    time, observed = time[rows], np.asarray(observed)[rows]
    weights = np.asarray(weights, dtype=np.float64)[rows]
    times, index, count = np.unique(time[observed], return_inverse=True, return_counts=True)
    passed = np.searchsorted(times, time, side="right")
    events = np.bincount(index, weights=weights[observed], minlength=len(times))
    tied = np.cumsum(count) - count
    efron = ties == "efron"
    return RiskSets(
        rows=rows,
        weights=weights,
        observed=observed,
        times=times,
        events=events,
        first=np.searchsorted(time, times, side="left"),
        passed=passed,
        event_index=np.maximum(passed - 1, 0),
        tied=tied,
        term_time=index if efron else np.arange(len(times)),
        share=(np.arange(len(index)) - tied[index]) / count[index] if efron else 0.0 * events,
        mass=(events / count)[index] if efron else events,
    )


@dataclass(frozen=True, slots=True)
class LikelihoodPoint:
    """The penalised negative log partial likelihood, per event, at some coefficients.

    Attributes:
        coefficient: Where it was evaluated.
        shift: Largest log hazard.
        relative: exp(log hazard - shift) of each row.
        s0: Weighted relative hazard that each term sees.
        load: Weighted hazard, over what each event saw, until the row's time.
        value: The negative log partial likelihood per event, and the penalty.
        gradient: Their gradient in the coefficients.
    """

    coefficient: Float[np.ndarray, " column"]
    shift: float
    relative: Float[np.ndarray, " kept"]
    s0: Float[np.ndarray, " term"]
    load: Float[np.ndarray, " kept"]
    value: float
    gradient: Float[np.ndarray, " column"]


@dataclass(frozen=True, slots=True)
class PartialLikelihood:
    """The negative log partial likelihood per event, and half of ridge times squared coefficients.

    A term sees S0 = sum of w r at risk less its share of w r tied, with w the case weights and r
    the relative hazard, and S1 likewise of w r x. The gradient is the sum of mass S1/S0 over the
    terms less the events' w x; the Hessian X' diag(load) X - sum of mass (S1/S0)(S1/S0)'.

    Source: Efron, The efficiency of Cox's likelihood function for censored data, JASA 72 (1977);
    with weights, Therneau and Grambsch, Modeling Survival Data (2000), section 3.3.
    """

    sets: RiskSets
    columns: Float[np.ndarray, "kept column"]
    ridge: Float[np.ndarray, " column"]
    offset: Float[np.ndarray, " kept"] | float = 0.0

    @classmethod
    def of(
        cls,
        design: Float[np.ndarray, "sample column"],
        target: Outcomes,
        *,
        penalty: float | Float[np.ndarray, " column"] = 0.0,
        ties: Ties = "efron",
    ) -> PartialLikelihood:
        """Sort a design by its outcomes."""
        sets = risk_sets(target.time, target.observed, np.asarray(target.weights), ties)
        columns = np.asarray(design, dtype=np.float64)[sets.rows]
        return cls(sets, columns, np.broadcast_to(np.float64(penalty), columns.shape[1:]))

    def at(self, coefficient: Float[np.ndarray, " column"]) -> LikelihoodPoint:
        """Evaluate value and gradient, in two products with the columns."""
        sets, total = self.sets, self.sets.total
        log_hazard = self.columns @ coefficient + self.offset
        shift = float(log_hazard.max())
        relative = np.exp(log_hazard - shift)
        weighted, own = sets.weights * relative, sets.weights * sets.observed
        with np.errstate(divide="ignore", invalid="ignore"):  # a step too long may empty a set
            s0 = sets.seen(weighted)
            value = float(sets.mass @ (np.log(s0) + shift) - own @ log_hazard) / total
            value += float(self.ridge @ coefficient**2) / 2
            rate = sets.mass / s0
            passed = running(sets.per_time(rate))[sets.passed]
            spared = sets.per_time(rate * sets.share)[sets.event_index] * sets.observed
            load = weighted * (passed - spared)
            gradient = self.columns.T @ (load - own) / total + self.ridge * coefficient
        return LikelihoodPoint(coefficient, shift, relative, s0, load, value, gradient)

    def mean(self, point: LikelihoodPoint) -> Float[np.ndarray, "term column"]:
        """Return the mean covariates that each term sees."""
        weighted = (self.sets.weights * point.relative)[:, None] * self.columns
        return np.asarray(self.sets.seen(weighted) / point.s0[:, None])

    def hessian(
        self, point: LikelihoodPoint, kind: Any = np.float64
    ) -> Float[np.ndarray, "column column"]:
        """Return the Hessian without the ridge, in a kind of floating-point numbers."""
        root = np.sqrt(np.maximum(point.load, 0.0) / self.sets.total)
        own = (root[:, None] * self.columns).astype(kind)
        mean = np.sqrt(self.sets.mass / self.sets.total)[:, None] * self.mean(point)
        mean = mean.astype(kind)
        return np.asarray(own.T @ own - mean.T @ mean)


def running(
    values: Float[np.ndarray, " event_time *column"],
) -> Float[np.ndarray, " place *column"]:
    """Return the sum over the first 0, 1, 2, ... event times."""
    return np.concatenate([np.zeros((1, *values.shape[1:])), np.cumsum(values, axis=0)])
