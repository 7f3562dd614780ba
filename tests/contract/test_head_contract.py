"""One test per line of the contract in `concordant.heads.base.Head`, over the registry; the slow reference stands here."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from concordant.heads import HEADS
from concordant.heads.cox import cox_negative_log_likelihood

heads = pytest.mark.parametrize("name", list(HEADS))


def slow_cox(hazard, time, event, ties="efron", valid=None):
    """The definition, event time by event time, each risk set summed afresh."""
    n = len(hazard)
    there = [True] * n if valid is None else list(valid)
    total = torch.zeros((), dtype=torch.float64)
    for when in sorted({float(time[i]) for i in range(n) if event[i] == 1 and there[i]}):
        tied = [i for i in range(n) if time[i] == when and event[i] == 1 and there[i]]
        at_risk = torch.stack([hazard[i].exp() for i in range(n) if time[i] >= when and there[i]]).sum()
        tied_sum = torch.stack([hazard[i].exp() for i in tied]).sum()
        for place, i in enumerate(tied):
            share = place / len(tied) if ties == "efron" else 0.0
            total = total + torch.log(at_risk - share * tied_sum) - hazard[i]
    return total


@pytest.mark.parametrize("ties", ["efron", "breslow"])
@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.tuples(st.floats(-3, 3), st.integers(1, 6), st.integers(0, 2), st.booleans()), min_size=1, max_size=15))
def test_cox_loss_and_gradient_equal_the_slow_reference(ties, rows):
    values, time, event, valid = (list(column) for column in zip(*rows, strict=True))
    fast, slow = (torch.tensor(values, dtype=torch.float64, requires_grad=True) for _ in range(2))
    time, event, valid = torch.tensor(time, dtype=torch.float64), torch.tensor(event), torch.tensor(valid)
    found = cox_negative_log_likelihood(fast, time, event, ties, valid=valid)
    expected = slow_cox(slow, time, event, ties, valid)
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-10, abs=1e-10)
    found.backward()
    if expected.requires_grad:
        expected.backward()
        torch.testing.assert_close(fast.grad, slow.grad, rtol=1e-9, atol=1e-10)


@heads
@pytest.mark.parametrize("size", [1000.0, -1000.0])
@pytest.mark.parametrize("events", [0, 1, 5])
def test_loss_is_finite_at_extreme_hazards_with_ties_and_without_events(name, size, events):
    head = HEADS.create(name, 4, 1)
    hazard = (torch.tensor([1.0, -1.0, 1.0, 0.0, 1.0, -1.0]) * size).requires_grad_()
    event = (torch.arange(6) < events).long()
    loss = head.loss(hazard, torch.tensor([3.0, 3.0, 3.0, 5.0, 5.0, 7.0]), event)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(hazard.grad).all()
    if events == 0:
        assert float(loss.detach()) == 0.0


@heads
def test_survival_falls_from_one_and_higher_risk_is_earlier(name):
    rng = torch.Generator().manual_seed(0)
    head = HEADS.create(name, 4, 1)
    risk = torch.randn(200, generator=rng, dtype=torch.float64)
    time = torch.empty(200, dtype=torch.float64).exponential_(generator=rng) * torch.exp(-risk) * 100
    head.fit_baseline(risk, time, torch.ones(200, dtype=torch.long))
    times = torch.linspace(0, float(time.max()) * 2, 50, dtype=torch.float64)
    curves = head.survival(torch.tensor([-1.0, 0.0, 1.0]), times)
    assert ((curves >= 0) & (curves <= 1)).all()
    assert (curves.diff(dim=1) <= 0).all()
    assert (curves[:, 0] == 1).all()
    assert (curves[0, 1:] >= curves[1, 1:]).all()
    assert (curves[1, 1:] >= curves[2, 1:]).all()


@heads
def test_survival_stays_a_probability_at_extreme_risks(name):
    head = HEADS.create(name, 4, 1)
    risk = torch.tensor([1000.0, -1000.0, 0.0, 3.0])
    head.fit_baseline(risk, torch.tensor([1.0, 2.0, 2.0, 3.0]), torch.tensor([1, 1, 0, 1]))
    curves = head.survival(risk, torch.tensor([0.5, 1.0, 2.5, 9.0]))
    assert ((curves >= 0) & (curves <= 1)).all()


@heads
def test_recovers_a_known_hazard_ratio(name):
    rng = torch.Generator().manual_seed(3)
    covariate = (torch.rand(4000, generator=rng) < 0.5).double()
    time = torch.empty(4000, dtype=torch.float64).exponential_(generator=rng) / torch.exp(math.log(2.0) * covariate)
    event = (torch.rand(4000, generator=rng) < 0.8).long()
    head = HEADS.create(name, 1, 1)
    slope = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([slope], max_iter=50)

    def closure():
        optimiser.zero_grad()
        loss = head.loss(slope * covariate, time, event)
        loss.backward()
        return loss

    optimiser.step(closure)
    assert float(slope.detach()) == pytest.approx(math.log(2.0), abs=0.1)


@heads
def test_runs_under_vmap(name):
    head = HEADS.create(name, 4, 1)
    hazards = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 12)))
    time, event = torch.tensor([1.0, 1, 2, 2, 2, 3, 4, 5, 5, 6, 7, 8]), torch.tensor([1, 0, 1, 1, 0, 1, 0, 1, 1, 0, 1, 1])
    together = torch.func.vmap(lambda hazard: head.loss(hazard, time, event))(hazards)
    torch.testing.assert_close(together, torch.stack([head.loss(hazard, time, event) for hazard in hazards]))


@heads
def test_starts_at_a_log_hazard_of_zero(name):
    head = HEADS.create(name, 4, 2)
    assert (head(torch.randn(5, 2, 4)) == 0).all()
