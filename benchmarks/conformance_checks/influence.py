"""Influence functions: every weighted function's standard error comes from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from concordant import metrics
from concordant.metrics.antolini import concordance_index_antolini
from concordant.metrics.auc import auc_at, cumulative_dynamic_auc
from conformance_checks.cohorts import GRID, HORIZON, chance, curves, simulated
from conformance_checks.registry import DERIVATIVE, check, gap

STEP = 1e-5  # of a weight, in a numerical derivative


def _weighted() -> dict[str, Callable[..., Any]]:
    """Return every scalar metric as a function of the weights.

    `result` has an estimate and an influence.
    """
    time, event, signal = simulated(7, 40, ties=True)
    causes = simulated(7, 40, ties=True, causes=2)[1]
    other = simulated(8, 40, ties=True)[:2]
    predicted, survival, times = chance(signal), curves(signal), GRID[:4]
    return {
        "concordance_index": lambda w: metrics.concordance_index(time, event, signal, weights=w),
        "concordance_index_ipcw": lambda w: metrics.concordance_index_ipcw(
            time, event, signal, tau=1.0, weights=w
        ),
        "compare_concordance_ipcw": lambda w: metrics.compare_concordance_ipcw(
            time, causes, signal, signal[::-1], cause=1, weights=w
        ),
        "concordance_index_antolini": lambda w: concordance_index_antolini(
            time, event, survival, GRID, weights=w
        ),
        "auc_at": lambda w: auc_at(time, event, signal, HORIZON, weights=w),
        "cumulative_dynamic_auc": lambda w: (
            cumulative_dynamic_auc(time, event, signal, times, weights=w).mean
        ),
        "brier_score_at": lambda w: metrics.brier_score_at(
            time, event, survival[:, 2], GRID[2], weights=w
        ),
        "integrated_brier_score": lambda w: metrics.integrated_brier_score(
            time, event, survival[:, :4], times, weights=w, censoring=other, pooled=True
        ),
        "log_score": lambda w: metrics.log_score(time, event, survival, GRID, weights=w),
        "calibration_slope": lambda w: metrics.calibration_slope(
            time, event, predicted, HORIZON, weights=w
        ),
        "calibration_in_the_large": lambda w: metrics.calibration_in_the_large(
            time, event, predicted, HORIZON, weights=w
        ),
        "integrated_calibration_index": lambda w: metrics.integrated_calibration_index(
            time, event, predicted, HORIZON, weights=w
        ),
        "event_probability": lambda w: metrics.event_probability(time, event, HORIZON, weights=w),
        "restricted_mean": lambda w: metrics.restricted_mean(time, event, 1.0, weights=w),
    }


def _influence_gaps(name: str) -> Iterator[float]:
    function = _weighted()[name]
    weights = np.random.default_rng(2).uniform(0.5, 2, 40)
    influence = function(weights).influence
    for k in range(40):
        moved = [
            function(weights + sign * STEP * (np.arange(40) == k)).estimate for sign in (1, -1)
        ]
        yield gap(influence[k], weights[k] * (moved[0] - moved[1]) / (2 * STEP))


for _name in _weighted():
    check(_name, against=DERIVATIVE, quantity="influence of every subject", tolerance=1e-7)(
        lambda name=_name: _influence_gaps(name)
    )
