"""A weighted Cox model of a few covariates (Breslow ties), and how every row moves its
coefficients and its baseline.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Real, Shaped

from concordant.core.errors import MetricError
from concordant.core.survival import Outcomes

_ITERATIONS = 50
_HALVINGS = 30
_CLOSE = 1e-10  # Newton decrement per event after which one more full step is exact to rounding
# information per event, for covariates of unit variance, below which a coefficient is running off
_FLAT = 1e-6
_NO_SPREAD = 1e-9


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

    coefficient: Float[np.ndarray, " column"]
    influence: Float[np.ndarray, "subject column"]
    centre: Float[np.ndarray, " column"]
    shift: float
    times: Float[np.ndarray, " event_time"]
    cumulative_hazard: Float[np.ndarray, " event_time"]
    _sets: _RiskSets
    _state: _State
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
        sets, state = self._sets, self._state
        passed = int(np.searchsorted(self.times, time, side="right"))
        event = np.where(
            sets.observed & (sets.passed <= passed), 1 / state.s0[sets.event_index], 0.0
        )
        squared = _running(sets.events / state.s0**2)[np.minimum(sets.passed, passed)]
        rows = np.zeros(len(self.influence))
        rows[sets.rows] = sets.weights * (event - state.relative * squared)
        through_coefficient = (sets.events / state.s0)[:passed] @ self._raw_mean[:passed]
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
    sets = _risk_sets(subjects)
    kept = np.asarray(design, dtype=np.float64)[sets.rows]
    own = np.zeros(len(kept)) if offset is None else np.asarray(offset, dtype=np.float64)[sets.rows]
    centre = sets.weights @ kept / sets.weights.sum()
    unit = _unit_transform(kept - centre, sets.weights, centre)
    columns = (kept - centre) @ unit
    state = _maximise(sets, columns, own)
    influence = np.zeros(np.shape(design))
    influence[sets.rows] = (
        sets.weights[:, None]
        * np.linalg.solve(state.information, _score_residuals(sets, columns, state).T).T
        @ unit.T
    )
    return CoxFit(
        coefficient=unit @ state.coefficient,
        influence=influence,
        centre=centre,
        shift=state.shift,
        times=sets.times,
        cumulative_hazard=np.cumsum(sets.events / state.s0),
        _sets=sets,
        _state=state,
        _raw_mean=np.linalg.solve(unit.T, state.mean.T).T,
    )


def has_spread(
    values: Float[np.ndarray, " subject"], weights: Real[np.ndarray, " subject"]
) -> bool:
    """Return whether a covariate differs between rows (of weight above 0) by more than rounding."""
    centre = np.average(values, weights=weights)
    return bool(_spreads(np.sqrt(np.average((values - centre) ** 2, weights=weights)), centre))


def _spreads(deviation: Any, centre: Any) -> Any:
    return deviation > _NO_SPREAD * np.maximum(1.0, np.abs(centre))


@dataclass(frozen=True, slots=True)
class _RiskSets:
    rows: Int[np.ndarray, " kept"]  # rows of weight above 0 in ascending time
    weights: Float[np.ndarray, " kept"]
    observed: Shaped[np.ndarray, " kept"]
    times: Float[np.ndarray, " event_time"]
    events: Float[np.ndarray, " event_time"]  # weight of the events at each time
    first: Int[np.ndarray, " event_time"]  # first row at risk
    passed: Int[np.ndarray, " kept"]  # event times up to the row's own
    event_index: Int[np.ndarray, " kept"]  # for an event, its own time; else any


def _risk_sets(subjects: Outcomes) -> _RiskSets:
    order = np.argsort(subjects.time, kind="stable")
    rows = order[subjects.weights[order] > 0]
    time, observed = subjects.time[rows], np.asarray(subjects.observed)[rows]
    weights = np.asarray(subjects.weights, dtype=np.float64)[rows]
    times, index = np.unique(time[observed], return_inverse=True)
    if len(times) == 0:
        raise MetricError(
            f"none of the {len(rows)} rows (of weight above 0) has the event in time: a Cox model "
            "needs an event"
        )
    passed = np.searchsorted(times, time, side="right")
    return _RiskSets(
        rows=rows,
        weights=weights,
        observed=observed,
        times=times,
        events=np.bincount(index, weights=weights[observed], minlength=len(times)),
        first=np.searchsorted(time, times, side="left"),
        passed=passed,
        event_index=np.maximum(passed - 1, 0),
    )


def _unit_transform(
    centred: Float[np.ndarray, "kept column"],
    weights: Float[np.ndarray, " kept"],
    centre: Float[np.ndarray, " column"],
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


@dataclass(frozen=True, slots=True)
class _State:
    coefficient: Float[np.ndarray, " column"]
    likelihood: float
    shift: float
    relative: Float[np.ndarray, " kept"]  # exp(log hazard - shift)
    s0: Float[np.ndarray, " event_time"]  # weighted relative hazard at risk
    mean: Float[np.ndarray, "event_time column"]  # its mean covariates
    score: Float[np.ndarray, " column"]
    information: Float[np.ndarray, "column column"]


def _evaluate(
    sets: _RiskSets,
    columns: Float[np.ndarray, "kept column"],
    offset: Float[np.ndarray, " kept"],
    coefficient: Float[np.ndarray, " column"],
) -> _State:
    log_hazard = columns @ coefficient + offset
    shift = float(log_hazard.max())
    relative = np.exp(log_hazard - shift)
    weighted = sets.weights * relative
    s0 = _at_risk(sets, weighted)
    mean = _at_risk(sets, weighted[:, None] * columns) / s0[:, None]
    own = sets.weights * sets.observed
    load = weighted * _running(sets.events / s0)[sets.passed]
    return _State(
        coefficient=coefficient,
        likelihood=float(own @ log_hazard - sets.events @ (np.log(s0) + shift)),
        shift=shift,
        relative=relative,
        s0=s0,
        mean=mean,
        score=own @ columns - sets.events @ mean,
        information=(load[:, None] * columns).T @ columns - (sets.events[:, None] * mean).T @ mean,
    )


def _maximise(
    sets: _RiskSets, columns: Float[np.ndarray, "kept column"], offset: Float[np.ndarray, " kept"]
) -> _State:
    """Newton's method with step halving.

    The likelihood is concave, so that it converges from 0 wherever there is a maximum.
    """
    state = _evaluate(sets, columns, offset, np.zeros(columns.shape[1]))
    total = sets.events.sum()
    for _ in range(_ITERATIONS if columns.shape[1] else 0):
        if float(np.linalg.eigvalsh(state.information)[0]) < _FLAT * total:
            raise MetricError(
                "the Cox model has no finite maximum: its coefficients run off, as they do where a "
                f"covariate orders the few events perfectly ({int(sets.observed.sum())} event(s) "
                f"in {len(sets.rows)} rows). Evaluate more subjects or a later horizon"
            )
        step = np.linalg.solve(state.information, state.score)
        if float(state.score @ step) < _CLOSE * total:
            return _evaluate(sets, columns, offset, state.coefficient + step)
        state = _halved(sets, columns, offset, state, step)
    if columns.shape[1]:
        raise MetricError(
            f"the Cox model did not converge in {_ITERATIONS} Newton steps; check the predictions "
            "for extreme values"
        )
    return state


def _halved(
    sets: _RiskSets,
    columns: Float[np.ndarray, "kept column"],
    offset: Float[np.ndarray, " kept"],
    state: _State,
    step: Float[np.ndarray, " column"],
) -> _State:
    """Take the longest of the steps 1, 1/2, 1/4, ... that does not lower the likelihood."""
    for halving in range(_HALVINGS):
        with np.errstate(divide="ignore", invalid="ignore"):  # a step too long may empty a risk set
            tried = _evaluate(sets, columns, offset, state.coefficient + step / 2**halving)
        if tried.likelihood >= state.likelihood:  # False for NaN
            return tried
    return state


def _score_residuals(
    sets: _RiskSets, columns: Float[np.ndarray, "kept column"], state: _State
) -> Float[np.ndarray, "kept column"]:
    """Return the derivative of the score by every row's weight."""
    hazard = sets.events / state.s0
    expected = (
        columns * _running(hazard)[sets.passed][:, None]
        - _running(hazard[:, None] * state.mean)[sets.passed]
    )
    event = np.where(sets.observed[:, None], columns - state.mean[sets.event_index], 0.0)
    return np.asarray(event - state.relative[:, None] * expected)


def _at_risk(
    sets: _RiskSets, values: Float[np.ndarray, " kept *column"]
) -> Float[np.ndarray, " event_time *column"]:
    return np.asarray(np.cumsum(values[::-1], axis=0)[::-1][sets.first])


def _running(
    values: Float[np.ndarray, " event_time *column"],
) -> Float[np.ndarray, " place *column"]:
    """Return the sum over the first 0, 1, 2, ... event times."""
    return np.concatenate([np.zeros((1, *values.shape[1:])), np.cumsum(values, axis=0)])
