"""The Cox model: penalised and weighted, Efron or Breslow ties, with the influence of every row on
coefficients and baseline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Real
from scipy.linalg import cho_factor, cho_solve

from concordant.core.errors import MetricError
from concordant.core.survival import Outcomes
from concordant.metrics.partial_likelihood import (
    LikelihoodPoint,
    PartialLikelihood,
    RiskSets,
    Ties,
    risk_sets,
    running,
)

Coefficients = Float[np.ndarray, " column"]

LARGEST_COEFFICIENT = 10.0
"""Bound of a non-negative coefficient.

A few tuning events in perfect order would otherwise send it to infinity.
"""

_ITERATIONS = 500
_HALVINGS = 30
_CLOSE = 1e-14  # Newton decrement per event after which one more step is exact to rounding
_FLOOR = 1e-12  # keeps the Hessian of columns without spread, or that repeat others, invertible
_SINGLE_FLOOR = 1e-4  # the same in single precision
_REMEMBERED = 20  # steps from which the curvature is learned between two exact Hessians
_COLUMNS_PER_STEP = 16  # an exact Hessian of so many columns costs as much as one more step
_SAME_RIDGE = 4.0  # a factorisation serves ridges that differ by no more than this factor
# information per event, for covariates of unit variance, below which a coefficient is running off
_FLAT = 1e-6
_NO_SPREAD = 1e-9
_FREE, _NONNEGATIVE = (-np.inf, np.inf), (0.0, LARGEST_COEFFICIENT)


def solve_cox(
    design: Float[np.ndarray, "sample column"],
    target: Outcomes,
    *,
    penalty: float | Coefficients = 0.0,
    start: Coefficients | None = None,
    nonnegative: bool = False,
    ties: Ties = "efron",
) -> Coefficients:
    """Minimise the negative log partial likelihood per event plus half the penalised squares.

    Args:
        design: One row per sample.
        target: Time in days, event (1 = observed), and weights or none.
        penalty: Ridge penalty, >= 0, of all columns or of each; 0 leaves a column free.
        start: Where to start; zero by default.
        nonnegative: Keep every coefficient in [0, 10].
        ties: Treatment of tied event times.

    Returns:
        The coefficients; larger = earlier event. Without an event, zeros.

    Raises:
        MetricError: The solver did not converge.
    """
    likelihood = PartialLikelihood.of(design, target, penalty=penalty, ties=ties)
    first = np.zeros(len(likelihood.ridge)) if start is None else np.asarray(start, np.float64)
    if not likelihood.sets.total:
        return np.zeros(len(first))
    return _bounded(likelihood, first) if nonnegative else _descend(likelihood, first, _Curvature())


def cox_path(
    design: Float[np.ndarray, "sample column"],
    target: Outcomes,
    penalties: Sequence[float],
    *,
    ties: Ties = "efron",
) -> Float[np.ndarray, "penalty column"]:
    """Return the coefficients of `solve_cox` at each of several penalties (> 0).

    Cheapest in steady order: each solution starts at the one before, and the curvature learned on
    the way is kept. Of more columns than samples only the rows' span is searched, where every
    ridge solution lies (representer theorem).

    Raises:
        MetricError: The solver did not converge.
    """
    values = np.asarray(design, dtype=np.float64)
    if values.shape[1] > values.shape[0]:
        basis, triangle = np.linalg.qr(values.T)
        return np.asarray(cox_path(triangle.T, target, penalties, ties=ties) @ basis.T)
    likelihood, curvature = PartialLikelihood.of(values, target, ties=ties), _Curvature()
    path = np.zeros((len(penalties), values.shape[1]))
    start = np.zeros(values.shape[1])
    for place, penalty in enumerate(penalties if likelihood.sets.total else ()):
        one = replace(likelihood, ridge=np.full(len(start), penalty))
        start = path[place] = _descend(one, start, curvature)
    return path


@dataclass(frozen=True, slots=True)
class CoxFit:
    """A fitted Cox model: the hazard at t of covariates x is `relative_hazard(x)` times the
    baseline's.

    Attributes:
        coefficient: Log hazard ratio per unit of each covariate.
        influence: Influence of every row on the coefficients (the derivative by its weight, times
            the weight).
        centre: Covariates' means; the baseline is that of a subject at the centre, up to `shift`.
        shift: Subtracted from the log relative hazard, so that the largest of the sample is 1 and
            nothing overflows.
        times: Distinct event times, ascending.
        cumulative_hazard: Baseline cumulative hazard right after each of them.
    """

    coefficient: Coefficients
    influence: Float[np.ndarray, "subject column"]
    centre: Coefficients
    shift: float
    times: Float[np.ndarray, " event_time"]
    cumulative_hazard: Float[np.ndarray, " event_time"]
    _sets: RiskSets
    _point: LikelihoodPoint
    _raw_mean: Float[np.ndarray, "event_time column"]

    def relative_hazard(
        self,
        design: Float[np.ndarray, "row column"],
        offset: Float[np.ndarray, " row"] | float = 0.0,
    ) -> Float[np.ndarray, " row"]:
        """Return the hazard of each row relative to the baseline's."""
        return np.asarray(np.exp((design - self.centre) @ self.coefficient + offset - self.shift))

    def baseline(self, time: float) -> float:
        """Return the baseline cumulative hazard at a time."""
        passed = int(np.searchsorted(self.times, time, side="right"))
        return float(self.cumulative_hazard[passed - 1]) if passed else 0.0

    def baseline_influence(self, time: float) -> Float[np.ndarray, " subject"]:
        """Return the influence of every row on the baseline cumulative hazard at a time,
        `centre` and `shift` held fixed.
        """
        sets, point = self._sets, self._point
        passed = int(np.searchsorted(self.times, time, side="right"))
        event = np.where(
            sets.observed & (sets.passed <= passed), 1 / point.s0[sets.event_index], 0.0
        )
        squared = running(sets.events / point.s0**2)[np.minimum(sets.passed, passed)]
        rows = np.zeros(len(self.influence))
        rows[sets.rows] = sets.weights * (event - point.relative * squared)
        through_coefficient = (sets.events / point.s0)[:passed] @ self._raw_mean[:passed]
        return np.asarray(rows - self.influence @ through_coefficient)


def fit_cox(
    subjects: Outcomes,
    design: Float[np.ndarray, "subject column"],
    *,
    offset: Float[np.ndarray, " subject"] | None = None,
) -> CoxFit:
    """Maximise the weighted partial likelihood with Breslow's treatment of ties.

    Estimate Breslow's baseline.

    Args:
        subjects: Outcomes and weights; a row of weight 0 has no part in the fit. Clusters do not
            enter the fit.
        design: Covariates, one row per subject; no column = the baseline alone.
        offset: Added to each subject's log hazard, its coefficient fixed at 1.

    Raises:
        MetricError: No event, a covariate without spread or a combination of the others, or
            coefficients that run off (a covariate that orders the events perfectly).

    Source: Breslow, discussion of Cox, JRSS B 34 (1972), 216-217. Influences: implicit
    differentiation of the score equation by the weights; for the coefficients these are Lin and
    Wei's dfbeta residuals, JASA 84 (1989), 1074-1078.
    """
    sets = risk_sets(subjects.time, subjects.observed, subjects.weights, "breslow")
    if not sets.total:
        raise MetricError(
            f"none of the {len(sets.rows)} rows (of weight above 0) has the event in time: a Cox "
            "model needs an event"
        )
    kept = np.asarray(design, dtype=np.float64)[sets.rows]
    centre = sets.weights @ kept / sets.weights.sum()
    unit = _unit_transform(kept - centre, sets.weights, centre)
    own = 0.0 if offset is None else np.asarray(offset, dtype=np.float64)[sets.rows]
    none = np.zeros(kept.shape[1])
    likelihood = PartialLikelihood(sets, (kept - centre) @ unit, none, own)
    point = likelihood.at(_descend(likelihood, none, _Curvature()))
    hessian, mean = likelihood.hessian(point), likelihood.mean(point)
    if float(np.linalg.eigvalsh(hessian).min(initial=np.inf)) < _FLAT:
        raise _no_maximum(sets)
    residuals = sets.weights[:, None] * _score_residuals(likelihood, point, mean)
    influence = np.zeros(np.shape(design))
    influence[sets.rows] = np.linalg.solve(hessian * sets.total, residuals.T).T @ unit.T
    return CoxFit(
        coefficient=unit @ point.coefficient,
        influence=influence,
        centre=centre,
        shift=point.shift,
        times=sets.times,
        cumulative_hazard=np.cumsum(sets.events / point.s0),
        _sets=sets,
        _point=point,
        _raw_mean=np.linalg.solve(unit.T, mean.T).T,
    )


def _score_residuals(
    likelihood: PartialLikelihood, point: LikelihoodPoint, mean: Float[np.ndarray, "time column"]
) -> Float[np.ndarray, "kept column"]:
    """Return the derivative of the score by every row's weight."""
    sets, columns = likelihood.sets, likelihood.columns
    hazard = sets.events / point.s0
    expected = (
        columns * running(hazard)[sets.passed][:, None]
        - running(hazard[:, None] * mean)[sets.passed]
    )
    event = np.where(sets.observed[:, None], columns - mean[sets.event_index], 0.0)
    return np.asarray(event - point.relative[:, None] * expected)


def has_spread(
    values: Float[np.ndarray, " subject"], weights: Real[np.ndarray, " subject"]
) -> bool:
    """Return whether a covariate differs between rows (of weight above 0) by more than rounding."""
    centre = np.average(values, weights=weights)
    return bool(_spreads(np.sqrt(np.average((values - centre) ** 2, weights=weights)), centre))


def _spreads(deviation: Any, centre: Any) -> Any:
    return deviation > _NO_SPREAD * np.maximum(1.0, np.abs(centre))


def _unit_transform(
    centred: Float[np.ndarray, "kept column"],
    weights: Float[np.ndarray, " kept"],
    centre: Coefficients,
) -> Float[np.ndarray, "column column"]:
    """Return the matrix that makes the covariates uncorrelated and of unit variance.

    Newton's steps are then well scaled.
    """
    spread = np.sqrt(weights @ centred**2 / weights.sum())
    if not bool(_spreads(spread, centre).all()):
        raise MetricError(
            "a covariate of the Cox model has no spread: it is the same for every row, so that it "
            "has no coefficient"
        )
    scaled = centred / spread
    correlation = (weights[:, None] * scaled).T @ scaled / weights.sum()
    values, vectors = np.linalg.eigh(correlation)
    if bool((values < _NO_SPREAD).any()):
        raise MetricError(
            "the covariates of the Cox model determine each other (a linear combination of them is "
            "constant)"
        )
    return np.asarray(vectors / np.sqrt(values) / spread[:, None])


@dataclass(slots=True)
class _Curvature:
    """An exact Hessian, its factorisation with a ridge, and what the steps since have taught."""

    hessian: Float[np.ndarray, "column column"] | None = None
    factor: Any = None
    ridge: Any = 1.0  # that the factorisation is of
    # each with the likelihood's change of gradient
    steps: list[tuple[Any, Any]] = field(default_factory=list)
    age: int = 0  # steps since the Hessian was computed

    def prepare(self, likelihood: PartialLikelihood, point: LikelihoodPoint) -> None:
        """Compute the Hessian afresh where it is old, and factorise where the ridge is another.

        In single precision where quasi-Newton steps make up for what it lacks.
        """
        limit = max(1, len(likelihood.ridge) // _COLUMNS_PER_STEP)
        kind, floor = (np.float64, _FLOOR) if limit == 1 else (np.float32, _SINGLE_FLOOR)
        if self.hessian is None or self.age >= limit:
            self.hessian = likelihood.hessian(point, kind)
            self.factor, self.age, self.steps = None, 0, []
        ridge = np.maximum(likelihood.ridge, floor * (1.0 + np.diagonal(self.hessian)))
        ratio = np.maximum(ridge / self.ridge, self.ridge / ridge).max(initial=1.0)
        if self.factor is None or ratio > _SAME_RIDGE:
            shifted = self.hessian + np.diag(ridge.astype(kind))
            self.ridge, self.factor = ridge, cho_factor(shifted, check_finite=False)

    def direction(self, gradient: Coefficients, ridge: Coefficients) -> Coefficients:
        """Return the inverse Hessian times a gradient.

        Limited-memory BFGS (Nocedal, Math. Comp. 35 (1980), 773-782) from the factorised Hessian;
        a step's change of gradient is kept without the ridge, so that it serves every ridge.
        """
        found, along = gradient, []
        pairs = [(step, change + ridge * step) for step, change in self.steps]
        for step, change in reversed(pairs):
            along.append(float(step @ found) / float(step @ change))
            found = found - along[-1] * change
        kind = self.factor[0].dtype
        found = cho_solve(self.factor, found.astype(kind), check_finite=False).astype(np.float64)
        for (step, change), share in zip(pairs, reversed(along), strict=True):
            found = found + (share - float(change @ found) / float(step @ change)) * step
        return np.asarray(found)

    def learn(self, step: Coefficients, change: Coefficients, ridge: Coefficients) -> None:
        """Remember a step and its change of gradient, unless rounding has turned that."""
        if float(step @ change) > 0:
            self.steps = [*self.steps, (step, change - ridge * step)][-_REMEMBERED:]
        self.age += 1


def _descend(
    likelihood: PartialLikelihood, start: Coefficients, curvature: _Curvature
) -> Coefficients:
    """Newton's method with step halving; of many columns quasi-Newton steps between exact Hessians.

    The objective is convex, so that it converges from anywhere to where there is a minimum.
    """
    here = likelihood.at(start)
    for _ in range(_ITERATIONS):
        try:
            curvature.prepare(likelihood, here)
        except np.linalg.LinAlgError:  # flat to rounding
            break
        step = -curvature.direction(here.gradient, likelihood.ridge)
        if -float(here.gradient @ step) < _CLOSE:
            return np.asarray(here.coefficient + step)
        before, here = here, _moved(likelihood, here, step, _FREE)
        change = here.gradient - before.gradient
        curvature.learn(here.coefficient - before.coefficient, change, likelihood.ridge)
    raise _no_maximum(likelihood.sets)


def _no_maximum(sets: RiskSets) -> MetricError:
    return MetricError(
        "the Cox model did not converge: its coefficients run off, as they do where a covariate "
        f"orders the events perfectly ({int(sets.observed.sum())} event(s) in {len(sets.rows)} "
        "rows). Use more subjects, a later horizon or a larger penalty, or leave that covariate out"
    )


def _moved(
    likelihood: PartialLikelihood,
    here: LikelihoodPoint,
    step: Coefficients,
    bounds: tuple[float, float],
) -> LikelihoodPoint:
    """Take the longest of the steps 1, 1/2, 1/4, ..., cut at the bounds, that does not make the
    objective larger.
    """
    for halving in range(_HALVINGS):
        there = likelihood.at(np.clip(here.coefficient + 0.5**halving * step, *bounds))
        if -np.inf < there.value <= here.value + 1e-12 * abs(here.value):
            break
    return there


def _bounded(likelihood: PartialLikelihood, start: Coefficients) -> Coefficients:
    """Newton's method on the columns that no bound holds, projected onto the bounds.

    Source: Bertsekas, SIAM J. Control Optim. 20 (1982), 221-246.
    """
    here = likelihood.at(np.clip(start, *_NONNEGATIVE))
    for _ in range(_ITERATIONS):
        held = np.where(here.gradient > 0, *_NONNEGATIVE) == here.coefficient
        hessian = likelihood.hessian(here) + np.diag(np.maximum(likelihood.ridge, _FLOOR))
        step = np.zeros(len(held))
        step[~held] = -np.linalg.solve(hessian[np.ix_(~held, ~held)], here.gradient[~held])
        if -float(here.gradient @ step) < _CLOSE:
            return here.coefficient
        here = _moved(likelihood, here, step, _NONNEGATIVE)
    raise _no_maximum(likelihood.sets)
