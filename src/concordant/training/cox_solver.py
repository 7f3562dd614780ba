"""A small convex solver: penalised Cox regression on a dense design, to convergence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import minimize

from concordant.core.errors import ConcordantError
from concordant.core.survival import SurvivalTarget

LARGEST_COEFFICIENT = 10.0
"""Bound of a non-negative coefficient.

A few tuning events in perfect order would otherwise send it to infinity.
"""

_ITERATIONS = 100
_HALVINGS = 30
_TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True)
class _Derivatives:
    value: float
    gradient: Float[np.ndarray, " column"]
    hessian: Float[np.ndarray, "column column"] | None


class PartialLikelihood:
    """The negative log partial likelihood (Efron) per event, with gradient and Hessian in closed
    form.

    With w = exp(design @ coefficient), event k (the l-th of d tied ones, l from 0) sees S0 = sum of
    w at risk - l/d sum of w tied, and S1 likewise with w x. The gradient is the sum over events of
    S1/S0 - x, the Hessian X' diag(a) X - sum (S1/S0)(S1/S0)', where a collects w/S0 over the events
    that have a sample at risk.

    Source:
        Efron, The efficiency of Cox's likelihood function for censored data, JASA 72 (1977).
    """

    def __init__(self, design: Float[np.ndarray, "sample column"], target: SurvivalTarget) -> None:
        """Sort by time, latest first, and number the distinct times."""
        order = np.argsort(-target.time, kind="stable")
        time = np.asarray(target.time)[order]
        self._columns: Float[np.ndarray, "sample column"] = np.ascontiguousarray(
            np.asarray(design, dtype=np.float64)[order]
        )
        self._observed: Bool[np.ndarray, " sample"] = np.asarray(target.event)[order] == 1
        self._group: Int[np.ndarray, " sample"] = np.concatenate(
            [[0], np.cumsum(time[1:] != time[:-1])]
        )
        self._last = np.searchsorted(self._group, np.arange(self._group[-1] + 1), side="right") - 1
        self._events = np.flatnonzero(self._observed)
        tied = np.bincount(self._group, self._observed, minlength=len(self._last))
        before = np.cumsum(self._observed) - self._observed
        first = np.concatenate([[0], np.cumsum(tied)[:-1]])
        event_group = self._group[self._events]
        self._share = (before[self._events] - first[event_group]) / tied[event_group]
        _, self._start_of_tie, self._tie = np.unique(
            event_group, return_index=True, return_inverse=True
        )
        self._last_at_risk = self._last[event_group]
        self._sum_of_events = self._columns[self._events].sum(0)
        self.n_events = max(len(self._events), 1)

    def at(self, coefficient: Float[np.ndarray, " column"], *, hessian: bool) -> _Derivatives:
        """Evaluate at a coefficient vector."""
        hazard = self._columns @ coefficient
        weight = np.exp(hazard - hazard.max(initial=0.0))
        s0 = self._seen(weight[:, None])[:, 0]
        weighted = weight[:, None] * self._columns
        mean = self._seen(weighted) / s0[:, None]
        value = np.log(s0).sum() + len(s0) * hazard.max(initial=0.0) - hazard[self._events].sum()
        gradient = mean.sum(0) - self._sum_of_events
        if not hessian:
            return _Derivatives(float(value) / self.n_events, gradient / self.n_events, None)
        load = self._load(s0)
        curvature = weighted.T @ (load[:, None] * self._columns) - mean.T @ mean
        return _Derivatives(
            float(value) / self.n_events, gradient / self.n_events, curvature / self.n_events
        )

    def _seen(self, values: Float[np.ndarray, "sample k"]) -> Float[np.ndarray, "event k"]:
        """Return per event the sum over those at risk, less its share of the events tied with
        it.
        """
        tied = (
            np.add.reduceat(values[self._events], self._start_of_tie, axis=0)
            if len(self._events)
            else np.zeros((0, values.shape[1]))
        )
        return np.asarray(
            np.cumsum(values, axis=0)[self._last_at_risk] - self._share[:, None] * tied[self._tie]
        )

    def _load(self, s0: Float[np.ndarray, " event"]) -> Float[np.ndarray, " sample"]:
        """Return per sample the sum of 1/S0 over the events that have it at risk, less the tied
        part.
        """
        group, groups = self._group[self._events], len(self._last)
        per_group = np.bincount(group, 1.0 / s0, minlength=groups)
        tied_part = np.bincount(group, self._share / s0, minlength=groups)
        later = np.cumsum(per_group[::-1])[::-1]
        return np.asarray(
            later[self._group] - np.where(self._observed, tied_part[self._group], 0.0)
        )


def solve_cox(
    design: Float[np.ndarray, "sample column"],
    target: SurvivalTarget,
    *,
    penalty: float = 0.0,
    start: Float[np.ndarray, " column"] | None = None,
    nonnegative: bool = False,
) -> Float[np.ndarray, " column"]:
    """Minimise the negative log partial likelihood (Efron) per event plus penalty / 2 times the
    squared coefficients.

    Args:
        design: One row per sample.
        target: Time in days and event (1 = observed).
        penalty: Ridge penalty, >= 0.
        start: Where to start; zero by default.
        nonnegative: Keep every coefficient in [0, 10].

    Returns:
        The coefficients; larger = earlier event.

    Raises:
        ConcordantError: The solver did not converge.
    """
    likelihood = PartialLikelihood(design, target)
    first = np.zeros(design.shape[1]) if start is None else np.asarray(start, dtype=np.float64)
    return (
        _bounded(likelihood, penalty, first) if nonnegative else _newton(likelihood, penalty, first)
    )


def _bounded(
    likelihood: PartialLikelihood, penalty: float, first: Float[np.ndarray, " column"]
) -> Float[np.ndarray, " column"]:
    def objective(
        coefficient: Float[np.ndarray, " column"],
    ) -> tuple[float, Float[np.ndarray, " column"]]:
        found = likelihood.at(coefficient, hessian=False)
        return found.value + penalty / 2 * float(
            coefficient @ coefficient
        ), found.gradient + penalty * coefficient

    bounds = [(0.0, LARGEST_COEFFICIENT)] * len(first)
    found = minimize(
        objective,
        first,
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        options={"ftol": 1e-14, "gtol": 1e-9},
    )
    return np.asarray(found.x)


def _newton(
    likelihood: PartialLikelihood, penalty: float, coefficient: Float[np.ndarray, " column"]
) -> Float[np.ndarray, " column"]:
    """Newton's method with step halving.

    The objective is convex, so that it converges from anywhere.
    """
    ridge = max(penalty, 1e-12) * np.eye(
        len(coefficient)
    )  # without a penalty, a column without spread leaves the Hessian singular
    here = likelihood.at(coefficient, hessian=True)
    value = here.value + penalty / 2 * float(coefficient @ coefficient)
    for _ in range(_ITERATIONS):
        assert here.hessian is not None  # noqa: S101 # it was asked for; for the type checker
        gradient = here.gradient + penalty * coefficient
        step = np.linalg.solve(here.hessian + ridge, gradient)
        decrement = float(gradient @ step)
        if decrement < _TOLERANCE:
            return np.asarray(coefficient - step)
        coefficient, value, here = _halved(likelihood, penalty, coefficient, step, value)
    raise ConcordantError(
        "the Cox model did not converge; its coefficients run off, as they do where a feature "
        "orders the events perfectly. Use a larger penalty, or leave out that feature"
    )


def _halved(
    likelihood: PartialLikelihood,
    penalty: float,
    coefficient: Float[np.ndarray, " column"],
    step: Float[np.ndarray, " column"],
    value: float,
) -> tuple[Float[np.ndarray, " column"], float, _Derivatives]:
    """Take the longest of the steps 1, 1/2, 1/4, ... that does not make the objective larger."""
    for halving in range(_HALVINGS):
        tried = coefficient - step / 2**halving
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            there = likelihood.at(tried, hessian=True)
        objective = there.value + penalty / 2 * float(tried @ tried)
        if np.isfinite(objective) and objective <= value + 1e-12 * abs(value):
            return tried, objective, there
    return coefficient, value, likelihood.at(coefficient, hessian=True)
