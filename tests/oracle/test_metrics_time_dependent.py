"""Time-dependent discrimination against R (riskRegression, golden_R/make_golden.R),
scikit-survival and pycox.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from sksurv import metrics as sksurv_metrics
from sksurv.util import Surv

from concordant.metrics.antolini import concordance_index_antolini
from concordant.metrics.auc import cumulative_dynamic_auc

DATA = (
    Path(os.environ.get("CONCORDANT_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
    / "golden_R"
)
SETS = ["lung", "veteran", "gbsg", "rotterdam", "pbc", "flchain", "nwtco"]
needs_golden = pytest.mark.skipif(
    not DATA.is_dir(),
    reason=f"no reference data at {DATA}; set CONCORDANT_DATA to the folder that holds golden_R",
)


def columns(name):
    time, status, *rest = np.genfromtxt(
        DATA / "data" / f"{name}.csv", delimiter=",", skip_header=1
    ).T
    return time, status.astype(int), rest


def simulated(seed=0, n=400, *, ties):
    generator = np.random.default_rng(seed)
    signal = generator.normal(size=n)
    time, censored = (
        generator.exponential(500 * np.exp(-signal)),
        generator.exponential(700, size=n),
    )
    event, time = (time <= censored).astype(int), np.minimum(time, censored)
    risk = signal + generator.normal(size=n)
    return (np.ceil(time / 50) * 50, event, risk.round(1)) if ties else (time, event, risk)


def outcomes(name):
    if name.startswith("simulated"):
        return simulated(ties=name.endswith("ties"))
    if not DATA.is_dir():
        pytest.skip(
            f"no reference data at {DATA}; set CONCORDANT_DATA to the folder that holds golden_R"
        )
    time, event, (risk,) = columns(f"{name}_lp")
    return time, event, risk


@needs_golden
@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("moving", [False, True])
def test_auc_and_its_standard_error_as_in_r(name, moving):
    expected = json.loads((DATA / "golden.json").read_text())[name]["score_auc"]
    time, event, risk = outcomes(name)
    if moving:
        risk = 1 - np.column_stack(columns(f"{name}_surv")[2])
    result = cumulative_dynamic_auc(time, event, risk, np.array(expected["times"]))
    np.testing.assert_allclose(
        result.estimate, expected["AUC"], rtol=0, atol=1e-13
    )  # printed to 13 decimals
    # riskRegression divides by n - 1, and takes the product limit for the exponential of a sum in
    # the curve's own part
    errors = result.standard_error * np.sqrt(len(time) / (len(time) - 1))
    np.testing.assert_allclose(errors, expected["se"], rtol=2e-5)


@pytest.mark.parametrize("name", ["simulated", "simulated_ties", *SETS])
@pytest.mark.parametrize("rounded", [False, True])
def test_auc_and_its_mean_in_scikit_survivals_convention(name, rounded):
    time, event, risk = outcomes(name)
    if rounded:
        time, risk = np.ceil(time / 90), risk.round(1)
    event[time == time.max()] = 1  # else scikit-survival finds G = 0 at the last time
    times = np.unique(np.quantile(time, [0.1, 0.25, 0.4, 0.6, 0.8]))
    times = times[times < time.max()]
    moving = risk[:, None] + np.random.default_rng(0).integers(-3, 4, (len(risk), len(times)))
    outcome = Surv.from_arrays(event == 1, time)
    for values in (risk, moving):
        mine = cumulative_dynamic_auc(time, event, values, times, convention="sksurv")
        theirs, mean = sksurv_metrics.cumulative_dynamic_auc(
            outcome, outcome, values, times, tied_tol=0
        )
        np.testing.assert_array_equal(mine.times, times)
        np.testing.assert_allclose(mine.estimate, theirs, rtol=0, atol=1e-12)
        assert mine.mean.estimate == pytest.approx(mean, abs=1e-12)


@pytest.mark.parametrize("ties", [False, True])
def test_auc_with_another_cohorts_curve(ties):
    train_time, train_event, _ = simulated(seed=1, ties=ties)
    time, event, risk = simulated(ties=ties)
    inside = time < train_time.max()  # else scikit-survival refuses
    time, event, risk = time[inside], event[inside], risk[inside]
    times = np.array([100.0, 250.0, 400.0])
    outcome, train = (
        Surv.from_arrays(event == 1, time),
        Surv.from_arrays(train_event == 1, train_time),
    )
    mine = cumulative_dynamic_auc(
        time, event, risk, times, censoring=(train_time, train_event), convention="sksurv"
    )
    theirs, mean = sksurv_metrics.cumulative_dynamic_auc(train, outcome, risk, times, tied_tol=0)
    np.testing.assert_allclose(mine.estimate, theirs, rtol=0, atol=1e-12)
    assert mine.mean.estimate == pytest.approx(mean, abs=1e-12)


def lattice(n=120):
    """A cohort with ties everywhere, in whole-number arithmetic: the same on every machine."""
    k = np.arange(n)
    halves = k * 37 % 29 + 1
    event = (k * 11 % 7 < 4).astype(int)
    fall = 2 + 3 * ((13 * k[:, None] + halves[:, None] * [5, 8, 11, 14]) % 5)
    return halves / 2, event, 1 - np.cumsum(fall, axis=1) / 64, np.array([2.0, 5.0, 8.5, 12.0])


@pytest.mark.parametrize(
    ("method", "steps", "expected"),
    [
        # pycox 0.3.0: concordance_td(time, event, survival.T, idx_at_times(times, time, steps),
        # method)
        ("antolini", "post", 0.42093596059113303),
        ("antolini", "pre", 0.4009852216748768),
        ("adj_antolini", "post", 0.5040906965871903),
        ("adj_antolini", "pre", 0.47510518934081347),
    ],
)
def test_antolini_equals_pycox(method, steps, expected):
    time, event, survival, times = lattice()
    result = concordance_index_antolini(time, event, survival, times, method=method, steps=steps)
    assert result.estimate == pytest.approx(expected, abs=1e-15)
