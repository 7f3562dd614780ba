"""The public cohorts with the values that R gave for them, and simulated ones."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import lifelines
import numpy as np
from sksurv.util import Surv

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("CONCORDANT_DATA", ROOT / ".." / "shared" / "data")) / "golden_R"
SETS = ("lung", "veteran", "gbsg", "rotterdam", "pbc", "flchain", "nwtco")
HORIZON = 0.5
GRID = np.linspace(0.1, 1.5, 8)


@cache
def golden() -> Any:
    """Return the values computed by R."""
    return json.loads((DATA / "golden.json").read_text())


@cache
def columns(name: str) -> np.ndarray:
    """Return a table of golden_R, one row per column."""
    return np.genfromtxt(DATA / "data" / f"{name}.csv", delimiter=",", skip_header=1).T


def linear_predictor(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return time, event and the risk of a Cox model."""
    time, status, risk = columns(f"{name}_lp")
    return time, status.astype(int), risk


def predicted_survival(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return time, event and S at the three times of R's scores."""
    time, status, *survival = columns(f"{name}_surv")
    return time, status.astype(int), np.column_stack(survival)


def simulated(
    seed: int, n: int = 300, *, ties: bool = False, causes: int = 1
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return time, event (codes up to `causes`) and the log-hazard."""
    generator = np.random.default_rng(seed)
    signal = generator.normal(size=n)
    time, end = generator.exponential(np.exp(-signal)), generator.exponential(2.0, size=n)
    event, time = (time <= end) * generator.integers(1, causes + 1, n), np.minimum(time, end)
    return (np.ceil(time * 10) / 10, event, signal.round(1)) if ties else (time, event, signal)


def small(*, causes: int = 1) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield cohorts of 60 subjects with and without ties, for the plain loops."""
    for seed in range(6):
        yield simulated(seed, 60, ties=seed % 2 == 0, causes=causes)


def cohorts() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield the seven public cohorts and two simulated ones."""
    yield from (linear_predictor(name) for name in SETS)
    yield from (simulated(0, 400, ties=ties) for ties in (False, True))


def tied_cohorts() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield the same cohorts, each also with times and risks rounded."""
    for time, event, risk in cohorts():
        yield time, event, risk
        yield np.ceil(time / np.quantile(time, 0.05)), event, risk.round(1)


def outcome(time: np.ndarray, event: np.ndarray) -> Any:
    """Return outcomes as scikit-survival takes them."""
    return Surv.from_arrays(event == 1, time)


def curves(signal: np.ndarray, times: np.ndarray = GRID) -> np.ndarray:
    """Return proportional-hazards survival curves."""
    return np.exp(-np.outer(np.exp(signal), times))


def chance(signal: np.ndarray) -> np.ndarray:
    """Return the probability of the event by the horizon."""
    return 1 - curves(signal, np.array([HORIZON]))[:, 0]


def kaplan_meier_fit(time: np.ndarray, event: np.ndarray) -> lifelines.KaplanMeierFitter:
    """Return lifelines' Kaplan-Meier curve."""
    return lifelines.KaplanMeierFitter().fit(time, event)
