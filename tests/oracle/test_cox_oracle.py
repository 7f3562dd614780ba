"""Cox regression against R (golden_R) and lifelines."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from concordant.core.survival import Outcomes
from concordant.heads.cox import Cox, cox_negative_log_likelihood
from concordant.metrics.cox import solve_cox
from concordant.metrics.partial_likelihood import PartialLikelihood

GOLDEN = (
    Path(os.environ.get("CONCORDANT_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
    / "golden_R"
)
SETS = ("lung", "veteran", "gbsg", "rotterdam", "pbc", "flchain", "nwtco")


def golden(name):
    if not GOLDEN.is_dir():
        pytest.skip(f"{GOLDEN} is absent; set CONCORDANT_DATA")
    return json.loads((GOLDEN / "golden.json").read_text())[name], pl.read_csv(
        GOLDEN / "data" / f"{name}.csv", null_values="NA", infer_schema_length=None
    )


def design_of(facts, table):
    """Build the columns of R's model matrix.

    Numbers, and 0/1 for the level that a factor's name ends with.
    """
    columns = []
    for name in facts["cox_efron"]["names"]:
        if name in table.columns:
            columns.append(table[name].cast(pl.Float64).to_numpy())
            continue
        if name.startswith("log("):
            columns.append(np.log(table[name[4:-1]].cast(pl.Float64).to_numpy()))
            continue
        source = next((column for column in table.columns if name.startswith(column)), None)
        if source is None:
            pytest.skip(f"the column behind R's term {name!r} is not in the table")
        level = name.removeprefix(source)
        columns.append((table[source].cast(pl.String) == level).cast(pl.Float64).to_numpy())
    return np.stack(columns, 1)


def outcome_of(table):
    time = next(
        table[name]
        for name in ("time", "rfstime", "futime", "edrel", "dtime")
        if name in table.columns
    )
    event = next(
        table[name] for name in ("status", "event", "death", "rel") if name in table.columns
    )
    return Outcomes(time.cast(pl.Float64).to_numpy(), event.cast(pl.Int64).to_numpy())


@pytest.mark.parametrize("name", SETS)
def test_log_likelihood_and_coefficients_equal_r(name):
    facts, table = golden(name)
    design, target = design_of(facts, table), outcome_of(table)
    assert len(design) == facts["n"]
    assert int(target.observed.sum()) == facts["events"]
    time, event = torch.tensor(target.time), torch.tensor(target.event)
    for ties in ("efron", "breslow"):
        expected = facts[f"cox_{ties}"]
        null = cox_negative_log_likelihood(
            torch.zeros(len(time), dtype=torch.float64), time, event, ties
        )
        assert float(null) == pytest.approx(-expected["loglik_null"], rel=1e-12)
        hazard = torch.tensor(design @ np.array(expected["coef"]))
        assert float(cox_negative_log_likelihood(hazard, time, event, ties)) == pytest.approx(
            -expected["loglik"], rel=1e-9
        )
    scale = design.std(0)
    found = solve_cox((design - design.mean(0)) / scale, target) / scale
    np.testing.assert_allclose(found, facts["cox_efron"]["coef"], rtol=1e-5, atol=1e-9)


def test_baseline_survival_equals_lifelines():
    import pandas as pd
    from lifelines import CoxPHFitter

    rng = np.random.default_rng(1)
    covariate = rng.normal(size=300)
    time = np.ceil(rng.exponential(np.exp(-covariate)) * 20)
    event = (rng.random(300) < 0.7).astype(int)
    frame = pd.DataFrame({"x": covariate, "t": time, "e": event})
    fitter = CoxPHFitter(baseline_estimation_method="breslow").fit(frame, "t", "e")
    slope = float(fitter.params_["x"])
    head = Cox(1, 1)
    head.fit_baseline(torch.tensor(slope * covariate), torch.tensor(time), torch.tensor(event))
    times = np.array([1.0, 5.0, 20.0, 60.0])
    ours = head.survival(
        torch.tensor(slope * np.array([-1.0, 0.0, 2.0])), torch.tensor(times)
    ).numpy()
    theirs = (
        fitter.predict_survival_function(np.array([[-1.0], [0.0], [2.0]]), times=times).to_numpy().T
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-9)


def test_ridge_equals_scikit_survival():
    from sksurv.linear_model import CoxPHSurvivalAnalysis
    from sksurv.util import Surv

    rng = np.random.default_rng(2)
    design = rng.normal(size=(150, 8))
    time, event = np.ceil(rng.exponential(np.exp(-design[:, 0])) * 10), rng.random(150) < 0.6
    alpha = 12.0
    theirs = (
        CoxPHSurvivalAnalysis(alpha=alpha, ties="efron", tol=1e-12)
        .fit(design, Surv.from_arrays(event, time))
        .coef_
    )
    target = Outcomes(time, event.astype(np.int64))
    ours = solve_cox(design, target, penalty=alpha / event.sum())
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


def plain_likelihood(design, target, beta):
    """Efron's likelihood per event as it is defined, for autograd to differentiate twice."""
    hazard, total = torch.tensor(design) @ beta, torch.zeros((), dtype=torch.float64)
    time, observed = torch.tensor(target.time), torch.tensor(target.observed)
    for when in time[observed].unique():
        at_risk = hazard[time >= when].exp().sum()
        tied = hazard[(time == when) & observed]
        share = torch.arange(len(tied)).double() / len(tied)
        total = total + torch.log(at_risk - share * tied.exp().sum()).sum() - tied.sum()
    return total / observed.sum()


@pytest.mark.parametrize("ties", [1, 4])
def test_closed_form_derivatives_equal_those_of_autograd(ties):
    rng = np.random.default_rng(3)
    design = rng.normal(size=(60, 4))
    target = Outcomes(
        np.ceil(rng.exponential(30, 60) / ties), (rng.random(60) < 0.6).astype(np.int64)
    )
    point = rng.normal(size=4)
    likelihood = PartialLikelihood.of(design, target)
    found = likelihood.at(point)
    at = torch.tensor(point, requires_grad=True)
    value = plain_likelihood(design, target, at)
    (gradient,) = torch.autograd.grad(value, at)
    assert found.value == pytest.approx(float(value.detach()), rel=1e-12)
    np.testing.assert_allclose(found.gradient, gradient.numpy(), atol=1e-12)
    hessian = torch.autograd.functional.hessian(
        lambda beta: plain_likelihood(design, target, beta), at.detach()
    )
    np.testing.assert_allclose(likelihood.hessian(found), hessian.numpy(), atol=1e-10)


def test_weighted_ties_equal_lifelines():
    import pandas as pd
    from lifelines import CoxPHFitter

    rng = np.random.default_rng(6)
    design = rng.normal(size=(200, 2))
    time, event = np.ceil(rng.exponential(np.exp(-design[:, 0])) * 8), rng.random(200) < 0.7
    weights = rng.integers(1, 4, 200)
    frame = pd.DataFrame(design, columns=["a", "b"]).assign(t=time, e=event, w=weights)
    fitter = CoxPHFitter().fit(
        frame, "t", "e", weights_col="w", robust=True, fit_options={"precision": 1e-12}
    )
    ours = solve_cox(design, Outcomes(time, event.astype(int), weights))
    np.testing.assert_allclose(ours, fitter.params_.to_numpy(), atol=1e-7)


def test_nonnegative_coefficients_stay_in_their_bounds():
    rng = np.random.default_rng(4)
    risk = rng.normal(size=80)
    target = Outcomes(np.exp(-risk) * 10, np.ones(80, np.int64))
    found = solve_cox(np.stack([risk, -risk], 1), target, nonnegative=True)
    assert found[0] == pytest.approx(10.0)
    assert found[1] == 0.0


@pytest.mark.parametrize("name", SETS)
def test_log_likelihood_gradient_and_standard_errors_equal_r(name):
    facts, table = golden(name)
    design, target = design_of(facts, table), outcome_of(table)
    time, event = torch.tensor(target.time), torch.tensor(target.event)
    for ties in ("efron", "breslow"):
        expected = facts[f"cox_{ties}"]
        beta = torch.tensor(expected["coef"], dtype=torch.float64, requires_grad=True)
        value = cox_negative_log_likelihood(torch.tensor(design) @ beta, time, event, ties)
        assert float(value.detach()) == pytest.approx(-expected["loglik"], abs=1e-8)
        (gradient,) = torch.autograd.grad(value, beta)
        # in units of a standard error, the Newton step that is left from R's coefficients
        np.testing.assert_allclose(gradient.numpy() * np.array(expected["se"]), 0, atol=2e-5)
    efron = facts["cox_efron"]
    likelihood = PartialLikelihood.of(design, target)
    hessian = likelihood.hessian(likelihood.at(np.array(efron["coef"])))
    errors = np.sqrt(np.diag(np.linalg.inv(hessian * target.observed.sum())))
    np.testing.assert_allclose(errors, efron["se"], rtol=1e-6)


@pytest.mark.parametrize("name", SETS)
def test_baseline_survival_equals_lifelines_on_real_data(name):
    import pandas as pd
    from lifelines import CoxPHFitter

    facts, table = golden(name)
    design, target = design_of(facts, table), outcome_of(table)
    design = (design - design.mean(0)) / design.std(0)
    frame = pd.DataFrame(design, columns=[f"x{place}" for place in range(design.shape[1])]).assign(
        t=target.time, e=target.event == 1
    )
    fitter = CoxPHFitter(baseline_estimation_method="breslow").fit(frame, "t", "e")
    risk = design @ fitter.params_.to_numpy()
    head = Cox(1, 1)
    head.fit_baseline(torch.tensor(risk), torch.tensor(target.time), torch.tensor(target.event))
    observed = np.unique(target.time[target.observed])
    times = observed[:: max(len(observed) // 25, 1)]
    someone = np.linspace(0, len(design) - 1, 15).astype(int)
    ours = head.survival(torch.tensor(risk[someone]), torch.tensor(times)).numpy()
    theirs = fitter.predict_survival_function(frame.iloc[someone], times=times).to_numpy().T
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("penalizer", [0.01, 0.3])
def test_ridge_equals_lifelines(penalizer):
    """lifelines minimises -loglik / n + penalizer / 2 times the squares.

    Ours is per event, so the penalty is penalizer * n / events.
    """
    import pandas as pd
    from lifelines import CoxPHFitter

    rng = np.random.default_rng(5)
    design = rng.normal(size=(200, 5))
    design = (design - design.mean(0)) / design.std(
        0, ddof=1
    )  # lifelines penalises coefficients of columns scaled this way
    time, event = (
        np.ceil(rng.exponential(np.exp(-design[:, 0])) * 15),
        (rng.random(200) < 0.6).astype(np.int64),
    )
    frame = pd.DataFrame(design, columns=[f"x{place}" for place in range(5)]).assign(
        t=time, e=event
    )
    theirs = (
        CoxPHFitter(penalizer=penalizer, l1_ratio=0.0)
        .fit(frame, "t", "e", fit_options={"precision": 1e-10})
        .params_.to_numpy()
    )
    ours = solve_cox(design, Outcomes(time, event), penalty=penalizer * len(time) / event.sum())
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)
