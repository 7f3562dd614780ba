"""Against values computed by R (survival, riskRegression): golden_R/make_golden.R."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from concordant.core.survival import Outcomes
from concordant.metrics import (
    brier_score,
    concordance_covariance,
    concordance_index,
    concordance_index_ipcw,
    kaplan_meier,
    log_rank,
)

DATA = (
    Path(os.environ.get("CONCORDANT_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
    / "golden_R"
)
pytestmark = pytest.mark.skipif(
    not DATA.is_dir(),
    reason=f"no reference data at {DATA}; set CONCORDANT_DATA to the folder that holds golden_R",
)

SETS = ["lung", "veteran", "gbsg", "rotterdam", "pbc", "flchain", "nwtco"]


@pytest.fixture(scope="module")
def golden():
    return json.loads((DATA / "golden.json").read_text())


def columns(name):
    return np.genfromtxt(DATA / "data" / f"{name}.csv", delimiter=",", skip_header=1).T


def linear_predictor(name):
    time, status, risk = columns(f"{name}_lp")
    return time, status.astype(int), risk


@pytest.mark.parametrize("name", SETS)
def test_harrell_and_its_standard_error(golden, name):
    result = concordance_index(*linear_predictor(name))
    expected = golden[name]["harrell"]
    assert result.estimate == pytest.approx(expected["C"], abs=1e-12)
    assert result.standard_error == pytest.approx(expected["se"], abs=1e-12)
    assert result.n_pairs == sum(
        expected["counts"][kind] for kind in ("concordant", "discordant", "tied.x")
    )


@pytest.mark.parametrize("name", SETS)
def test_uno_and_its_standard_error_under_a_known_censoring_curve(golden, name):
    time, event, risk = linear_predictor(name)
    for expected in golden[name]["uno_ymax"]:
        tau = np.nextafter(expected["tau"], np.inf)  # R: T <= tau
        result = concordance_index_ipcw(time, event, risk, tau=tau)
        assert result.estimate == pytest.approx(expected["C"], abs=1e-12)
        # R takes the censoring curve as known: as another cohort's, its part of the influence comes
        # apart
        apart = concordance_index_ipcw(time, event, risk, tau=tau, censoring=Outcomes(time, event))
        assert np.sqrt((apart.influence**2).sum()) == pytest.approx(expected["se"], abs=1e-12)
        assert result.standard_error == pytest.approx(expected["se"], rel=0.04)


@pytest.mark.parametrize("name", SETS)
def test_brier_score(golden, name):
    time, status, *survival = columns(f"{name}_surv")
    expected = golden[name]["score_brier"]
    model = np.array(expected["model"]) == "cox"
    result = brier_score(
        time, status.astype(int), np.column_stack(survival), np.array(expected["times"])[model]
    )
    np.testing.assert_allclose(
        result.estimate, np.array(expected["Brier"])[model], rtol=0, atol=1e-12
    )
    # riskRegression divides by n - 1 and has its own estimate of the curve's part
    np.testing.assert_allclose(result.standard_error, np.array(expected["se"])[model], rtol=0.006)


@pytest.mark.parametrize("name", SETS)
def test_kaplan_meier_and_greenwood(golden, name):
    time, event, _ = linear_predictor(name)
    expected = golden[name]["km"]
    curve = kaplan_meier(time, event)
    np.testing.assert_allclose(
        curve.at(np.array(expected["times"])), expected["surv"], rtol=0, atol=1e-12
    )
    last = np.searchsorted(curve.times, expected["times"], side="right") - 1
    np.testing.assert_allclose(curve.standard_error[last], expected["se"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", SETS)
def test_log_rank_of_a_median_split(golden, name):
    time, event, risk = linear_predictor(name)
    expected = golden[name]["logrank_median_split"]
    result = log_rank(time, event, risk > np.median(risk))
    assert result.statistic == pytest.approx(expected["chisq"], abs=1e-10)
    np.testing.assert_allclose(result.expected, expected["exp"], rtol=0, atol=1e-10)
    assert result.observed.tolist() == expected["obs"]


def test_covariance_of_two_models(golden):
    time, status, first, second = columns("paired_lung")
    expected = golden["paired_lung"]
    result = concordance_covariance(time, status.astype(int), np.column_stack([first, second]))
    np.testing.assert_allclose(result.estimate, expected["C"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(result.covariance, expected["vcov"], rtol=0, atol=1e-12)
    difference = result.contrast(np.array([-1.0, 1.0]))
    assert difference.difference == pytest.approx(expected["diff"], abs=1e-12)
    assert difference.standard_error == pytest.approx(expected["se_diff"], abs=1e-12)
