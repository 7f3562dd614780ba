"""One test per line of the contract in `concordant.heads.base.Head`, over the registry.

The slow reference stands here.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from concordant.heads import HEADS
from concordant.heads.cox import cox_negative_log_likelihood
from training_fixture import SlowCox
from training_fixture import slow_cox as slow_cox_in_log_space

heads = pytest.mark.parametrize("name", list(HEADS))


def slow_cox(hazard, time, event, ties="efron", valid=None):
    """The definition, event time by event time, each risk set summed afresh."""
    n = len(hazard)
    there = [True] * n if valid is None else list(valid)
    total = torch.zeros((), dtype=torch.float64)
    for when in sorted({float(time[i]) for i in range(n) if event[i] == 1 and there[i]}):
        tied = [i for i in range(n) if time[i] == when and event[i] == 1 and there[i]]
        at_risk = torch.stack(
            [hazard[i].exp() for i in range(n) if time[i] >= when and there[i]]
        ).sum()
        tied_sum = torch.stack([hazard[i].exp() for i in tied]).sum()
        for place, i in enumerate(tied):
            share = place / len(tied) if ties == "efron" else 0.0
            total = total + torch.log(at_risk - share * tied_sum) - hazard[i]
    return total


@pytest.mark.parametrize("ties", ["efron", "breslow"])
@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.floats(-3, 3), st.integers(1, 6), st.integers(0, 2), st.booleans()),
        min_size=1,
        max_size=15,
    )
)
def test_cox_loss_and_gradient_equal_the_slow_reference(ties, rows):
    values, time, event, valid = (list(column) for column in zip(*rows, strict=True))
    fast, slow = (torch.tensor(values, dtype=torch.float64, requires_grad=True) for _ in range(2))
    time, event, valid = (
        torch.tensor(time, dtype=torch.float64),
        torch.tensor(event),
        torch.tensor(valid),
    )
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
    time = (
        torch.empty(200, dtype=torch.float64).exponential_(generator=rng) * torch.exp(-risk) * 100
    )
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
    time = torch.empty(4000, dtype=torch.float64).exponential_(generator=rng) / torch.exp(
        math.log(2.0) * covariate
    )
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
    time, event = (
        torch.tensor([1.0, 1, 2, 2, 2, 3, 4, 5, 5, 6, 7, 8]),
        torch.tensor([1, 0, 1, 1, 0, 1, 0, 1, 1, 0, 1, 1]),
    )
    together = torch.func.vmap(lambda hazard: head.loss(hazard, time, event))(hazards)
    torch.testing.assert_close(
        together, torch.stack([head.loss(hazard, time, event) for hazard in hazards])
    )


@heads
def test_starts_at_a_log_hazard_of_zero(name):
    head = HEADS.create(name, 4, 2)
    assert (head(torch.randn(5, 2, 4)) == 0).all()


def cox_reference(hazard, time, event, valid, **options):
    found = slow_cox_in_log_space(hazard, time, event, valid=valid, **options)
    events = max(int(((event == 1) & valid).sum()), 1)
    return SlowCox(found.value / events, found.gradient / events)


REFERENCES = {"cox": cox_reference}
"""The slow reference of each head: its loss per event, and the gradient in the log-hazards."""

VARIANTS = {"cox": [{}, {"ties": "breslow"}]}
variants = pytest.mark.parametrize(
    ("name", "options"), [(name, options) for name in HEADS for options in VARIANTS.get(name, [{}])]
)


def compare(name, options, hazard, time, event, valid):
    head = HEADS.create(name, 4, 1, **options)
    given = torch.tensor(
        np.where(valid, hazard, np.nan), requires_grad=True
    )  # what an absent sample says is never read
    found = head.loss(given, torch.tensor(time), torch.tensor(event), torch.tensor(valid))
    found.backward()
    expected = REFERENCES[name](hazard, time, event, valid, **options)
    assert float(found.detach()) == pytest.approx(expected.value, rel=1e-9, abs=1e-12)
    np.testing.assert_allclose(
        given.grad.numpy(), np.where(valid, expected.gradient, 0.0), rtol=1e-8, atol=1e-12
    )


@variants
@settings(max_examples=40, deadline=None)
@given(st.integers(1, 25), st.integers(1, 8), st.floats(0.1, 5), st.integers(0, 10**6))
def test_the_loss_per_event_and_its_gradient_equal_the_reference(
    name, options, n, times, spread, seed
):
    rng = np.random.default_rng(seed)
    time, event = rng.integers(1, times + 1, n).astype(float), rng.integers(0, 3, n)
    compare(name, options, rng.normal(0, spread, n), time, event, rng.random(n) < 0.8)


@variants
@pytest.mark.parametrize("seed", range(4))
def test_the_reference_holds_at_extreme_hazards_too(name, options, seed):
    rng = np.random.default_rng(seed)
    hazard = rng.choice([-1000.0, 0.0, 1000.0], 20) + rng.normal(size=20)
    compare(
        name,
        options,
        hazard,
        rng.integers(1, 6, 20).astype(float),
        rng.integers(0, 2, 20),
        rng.random(20) < 0.8,
    )


@variants
def test_nobody_valid_is_a_loss_of_zero_with_a_gradient_of_zero(name, options):
    rng = np.random.default_rng(0)
    compare(
        name,
        options,
        rng.normal(size=6),
        np.arange(1.0, 7),
        np.ones(6, np.int64),
        np.zeros(6, bool),
    )


@heads
def test_single_precision_hazards_are_summed_in_double(name):
    rng = np.random.default_rng(0)
    hazard, time = (
        rng.normal(size=3000).astype(np.float32),
        torch.tensor(rng.integers(1, 500, 3000).astype(float)),
    )
    event = torch.tensor(rng.integers(0, 2, 3000))
    head = HEADS.create(name, 4, 1)
    found, exact = (
        head.loss(torch.tensor(one), time, event) for one in (hazard, hazard.astype(np.float64))
    )
    assert found.dtype == torch.float64
    assert float(found) == float(exact)


@heads
def test_the_right_order_costs_less_than_the_wrong_one(name):
    head, risk = HEADS.create(name, 4, 1), torch.linspace(2, -2, 30, dtype=torch.float64)
    time, event = torch.arange(1.0, 31, dtype=torch.float64), (torch.arange(30) % 3 != 0).long()
    assert (
        head.loss(risk, time, event)
        < head.loss(torch.zeros_like(risk), time, event)
        < head.loss(-risk, time, event)
    )


@heads
def test_the_output_layers_recover_a_known_hazard_ratio(name):
    """Through the head's own parameters and from the data alone, within three standard errors."""
    rng = torch.Generator().manual_seed(5)
    truth = torch.tensor([0.7, -0.4, 0.0], dtype=torch.float64)
    covariates = torch.randn(4000, 3, generator=rng, dtype=torch.float64)
    time = (
        torch.empty(4000, dtype=torch.float64).exponential_(generator=rng)
        / torch.exp(covariates @ truth)
        * 100
    )
    limit = torch.empty(4000, dtype=torch.float64).exponential_(generator=rng) * 200
    event = (time <= limit).long()
    head = HEADS.create(name, 3, 1).double()
    optimiser = torch.optim.LBFGS(
        [one for one in head.parameters() if one.requires_grad], max_iter=60
    )

    def closure():
        optimiser.zero_grad()
        loss = head.loss(head(covariates[:, None])[:, 0], torch.minimum(time, limit), event)
        loss.backward()
        return loss

    optimiser.step(closure)
    error = (head.layers[0].weight.detach()[0] - truth).abs()
    assert (error < 3 / event.sum().sqrt()).all()


@heads
def test_survival_is_right_continuous_and_constant_after_the_last_event(name):
    head = HEADS.create(name, 4, 1)
    head.fit_baseline(
        torch.zeros(4), torch.tensor([2.0, 5.0, 5.0, 9.0]), torch.tensor([1, 1, 0, 1])
    )
    curve = head.survival(
        torch.zeros(1), torch.tensor([0.0, 1.999, 2.0, 4.999, 5.0, 8.9, 9.0, 1e6])
    )[0]
    expected = np.exp(
        -np.array(
            [0, 0, 1 / 4, 1 / 4, 1 / 4 + 1 / 3, 1 / 4 + 1 / 3, 1 / 4 + 1 / 3 + 1, 1 / 4 + 1 / 3 + 1]
        )
    )
    np.testing.assert_allclose(curve, expected, rtol=1e-12)


@heads
def test_a_constant_in_the_risk_is_taken_up_by_the_baseline(name):
    rng = torch.Generator().manual_seed(1)
    risk, time = (
        torch.randn(50, generator=rng, dtype=torch.float64),
        torch.randint(1, 30, (50,), generator=rng).double(),
    )
    event, times, curves = (torch.arange(50) % 2), torch.linspace(0, 40, 9), []
    for constant in (0.0, 300.0):
        head = HEADS.create(name, 4, 1)
        head.fit_baseline(risk + constant, time, event)
        curves.append(head.survival(risk + constant, times))
    torch.testing.assert_close(curves[0], curves[1], rtol=1e-9, atol=1e-12)


@variants
def test_loss_and_gradient_run_under_vmap_over_outcomes_as_well(name, options):
    head, rng = HEADS.create(name, 4, 1, **options), np.random.default_rng(0)
    hazard, time = (
        torch.tensor(rng.normal(size=(3, 12))),
        torch.tensor(rng.integers(1, 6, (3, 12)).astype(float)),
    )
    event, valid = (
        torch.tensor(rng.integers(0, 2, (3, 12))),
        torch.tensor(rng.random((3, 12)) < 0.8),
    )
    together = torch.func.vmap(torch.func.grad_and_value(head.loss))(hazard, time, event, valid)
    for row in range(3):
        gradient, value = torch.func.grad_and_value(head.loss)(
            hazard[row], time[row], event[row], valid[row]
        )
        torch.testing.assert_close(together[0][row], gradient)
        torch.testing.assert_close(together[1][row], value)


@heads
def test_the_forward_pass_runs_under_functional_call_and_vmap(name):
    several, views = [HEADS.create(name, 4, 2) for _ in range(3)], torch.randn(5, 2, 4)
    for head in several:
        for parameter in head.parameters():
            torch.nn.init.normal_(parameter)
    stacked = torch.func.stack_module_state(several)
    together = torch.func.vmap(
        lambda p, b: torch.func.functional_call(several[0], (p, b), (views,))
    )(*stacked)
    torch.testing.assert_close(together, torch.stack([head(views) for head in several]))


@heads
def test_each_view_has_an_output_layer_of_its_own(name):
    head, views = HEADS.create(name, 4, 2), torch.randn(5, 2, 4)
    torch.nn.init.normal_(head.layers[0].weight)
    found = head(views)
    torch.testing.assert_close(found[:, 0], head.layers[0](views[:, 0])[:, 0])
    assert (found[:, 1] == 0).all()
