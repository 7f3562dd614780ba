"""The definitions as plain loops: one pair, one subject after the other."""

from __future__ import annotations

import numpy as np


def loop_concordance(
    time: np.ndarray,
    event: np.ndarray,
    risk: np.ndarray,
    *,
    case_weight: np.ndarray | None = None,
    cause: int | None = None,
) -> float:
    """Return the concordance, one pair after the other.

    With a cause a competing event makes a control of every case.
    """
    time = time if cause is None else np.where((event != 0) & (event != cause), np.inf, time)
    case = event == (cause or 1)
    credit = total = 0.0
    for i in np.flatnonzero(case):
        for j in range(len(time)):
            if time[i] < time[j] or (time[i] == time[j] and not case[j]):
                weight = 1.0 if case_weight is None else case_weight[i]
                total += weight
                credit += weight * (
                    1.0 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0.0
                )
    return credit / total


def loop_concordance_ipcw(
    time: np.ndarray, event: np.ndarray, risk: np.ndarray, cause: int, *, tau: float
) -> float:
    """Return Uno's concordance of a cause.

    A control with a competing event before the case weighs 1 / G of its own time.
    """
    inverse = np.array([1 / loop_censoring(time, event == 0, at, inclusive=False) for at in time])
    credit = total = 0.0
    for i in np.flatnonzero((event == cause) & (time < tau)):
        for j in range(len(time)):
            later = time[i] < time[j] or (time[i] == time[j] and event[j] != cause)
            if later or event[j] not in (0, cause):
                weight = inverse[i] * inverse[i if later else j]
                total += weight
                credit += weight * (
                    1.0 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0.0
                )
    return credit / total


def loop_censoring(time: np.ndarray, censored: np.ndarray, at: float, *, inclusive: bool) -> float:
    """Return G(at) or G(at-): events leave before the censorings of their time."""
    value = 1.0
    for s in np.unique(time[censored]):
        if s < at or (inclusive and s == at):
            leaving = ((time == s) & censored).sum()
            value *= 1 - leaving / ((time > s).sum() + leaving)
    return value


def loop_incidence(time: np.ndarray, event: np.ndarray, horizon: float, cause: int = 1) -> float:
    """Return the Aalen-Johansen probability of a cause, every other code but 0 competing."""
    free, incidence = 1.0, 0.0
    for s in np.unique(time[(event != 0) & (time <= horizon)]):
        at_risk = (time >= s).sum()
        incidence += free * ((time == s) & (event == cause)).sum() / at_risk
        free *= 1 - ((time == s) & (event != 0)).sum() / at_risk
    return incidence


def loop_brier(
    time: np.ndarray, event: np.ndarray, survival: np.ndarray, at: float, cause: int | None = None
) -> float:
    """Return the Brier score, one subject after the other."""
    censored = (event != 1) if cause is None else (event == 0)
    total = 0.0
    for own, code, gone, value in zip(time, event, censored, survival, strict=True):
        if own > at:
            total += (1 - value) ** 2 / loop_censoring(time, censored, at, inclusive=True)
        elif not gone:
            total += (float(code == (cause or 1)) - (1 - value)) ** 2 / loop_censoring(
                time, censored, own, inclusive=False
            )
    return total / len(time)


def loop_auc(time: np.ndarray, event: np.ndarray, risk: np.ndarray, at: float) -> float:
    """Return the area under the ROC curve at a time, one pair after the other."""
    credit = total = 0.0
    for i in np.flatnonzero((event == 1) & (time <= at)):
        weight = 1 / loop_censoring(time, event != 1, time[i], inclusive=False)
        for j in np.flatnonzero(time > at):
            total += weight
            credit += weight * (1.0 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0.0)
    return credit / total


def loop_antolini(
    time: np.ndarray,
    event: np.ndarray,
    survival: np.ndarray,
    times: np.ndarray,
    method: str,
    steps: str,
) -> float:
    """Return Antolini's concordance, one ordered pair after the other."""
    equal = 0.0 if method == "antolini" else 0.5
    credit = total = 0.0
    for i in range(len(time)):
        position = (
            np.searchsorted(times, time[i], side="right") - 1
            if steps == "post"
            else np.searchsorted(times, time[i])
        )
        column = min(max(position, 0), len(times) - 1)
        for j in range(len(time)):
            earned = _antolini_credit(i, j, time, event, survival[:, column], method, equal)
            total += earned is not None
            credit += earned or 0.0
    return credit / total


def _antolini_credit(
    i: int,
    j: int,
    time: np.ndarray,
    event: np.ndarray,
    survival: np.ndarray,
    method: str,
    equal: float,
) -> float | None:
    tied, same = time[i] == time[j], survival[i] == survival[j]
    if i != j and event[i] == 1 and (time[i] < time[j] or (tied and event[j] != 1)):
        return 1.0 if survival[i] < survival[j] else equal if same else 0.0
    if i == j or method != "adj_antolini" or not tied or event[j] != 1:
        return None
    if event[i] == 1:
        return 1.0 if same else 0.5
    return 1.0 if survival[i] > survival[j] else equal if same else 0.0


def loop_baseline(
    time: np.ndarray, event: np.ndarray, relative_hazard: np.ndarray, at: float
) -> float:
    """Return Breslow's cumulative baseline hazard."""
    return float(
        sum(
            ((time == s) & (event == 1)).sum() / relative_hazard[time >= s].sum()
            for s in np.unique(time[event == 1])
            if s <= at
        )
    )
