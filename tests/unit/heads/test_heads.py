"""What the registry of heads promises: a new head is one file and one import."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from concordant.heads import HEADS, Head
from concordant.heads.cox import cox_negative_log_likelihood, cox_order
from concordant.model import ModelSpec
from concordant.training.fit import fit
from training_fixture import make_samples, quick, slow_cox, split


class Exponential(Head):
    """A constant baseline hazard: the least that a head can be."""

    def __init__(self, dim, views):
        super().__init__(dim, views)
        self.register_buffer("log_rate", torch.zeros((), dtype=torch.float64))

    def forward(self, views):
        return torch.cat([layer(views[:, k]) for k, layer in enumerate(self.layers)], 1)

    def loss(self, log_hazard, time, event, valid=None, *, order=None):
        there = torch.ones_like(event, dtype=torch.bool) if valid is None else valid
        hazard = torch.where(there, log_hazard.double(), 0.0)
        observed = ((event == 1) & there).double()
        unit = time.mean()
        total = (torch.exp(hazard) * time / unit * there - observed * hazard).sum()
        return total / observed.sum().clamp(min=1)

    def fit_baseline(self, risk, time, event):
        expected = (torch.exp(risk) * time).sum()
        self.log_rate.copy_(torch.log((event == 1).sum() / expected))

    def survival(self, risk, times):
        rate = torch.exp(risk.double() + self.log_rate)
        return torch.exp(-rate[:, None] * times.double()[None, :])


@pytest.fixture
def _exponential(monkeypatch):
    """Registered for one test."""
    for name in ("_classes", "_options"):
        monkeypatch.setattr(HEADS, name, dict(getattr(HEADS, name)))
    HEADS.register("exponential")(Exponential)


@pytest.mark.parametrize("fusion", ["concat", "late"])
@pytest.mark.usefixtures("_exponential")
def test_a_new_head_fits_and_predicts_under_every_kind_of_view(fusion):
    train, tuning = split(make_samples(140), 90, 50)
    fitted = fit(train, tuning, ModelSpec(fusion, {}, "exponential"), quick(max_epochs=30))
    risk = fitted.predict(tuning.inputs).risk
    curves = fitted.survival(risk, np.array([1.0, 100.0, 1000.0]))
    assert np.ptp(risk) > 0.05
    assert (np.diff(curves, axis=1) < 0).all()
    assert np.corrcoef(risk, curves[:, 1])[0, 1] < -0.9


@pytest.mark.parametrize("name", list(HEADS))
def test_an_identity_passes_the_one_number_of_the_one_view(name):
    head = HEADS.create(name, 1, 1)
    head.as_identity()
    views = torch.randn(5, 1, 1)
    assert torch.equal(head(views), views[:, :, 0])


@pytest.mark.parametrize("name", list(HEADS))
@pytest.mark.parametrize("shape", [(2, 1), (1, 2)])
def test_an_identity_of_several_numbers_is_refused(name, shape):
    with pytest.raises(TypeError, match=r"expected one of shape \(1, 1\)"):
        HEADS.create(name, *shape).as_identity()


@pytest.mark.parametrize("name", list(HEADS))
def test_the_parameters_of_a_view_are_those_its_log_hazard_depends_on(name):
    head = HEADS.create(name, 3, 2)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter.requires_grad_())
    for view in range(2):
        head.zero_grad()
        head(torch.randn(4, 2, 3))[:, view].sum().backward()
        reached = {
            key for key, one in head.named_parameters() if one.grad is not None and one.grad.any()
        }
        assert reached == set(head.view_parameters(view))


# --- outcomes sorted once ---


def outcomes(n=40, seed=0):
    rng = np.random.default_rng(seed)
    return (
        torch.tensor(rng.integers(1, 9, n).astype(float)),
        torch.tensor(rng.integers(0, 3, n)),
        torch.tensor(rng.random(n) < 0.7),
    )


@pytest.mark.parametrize("name", list(HEADS))
@pytest.mark.parametrize("left_out", [False, True])
def test_prepared_outcomes_give_the_same_loss_and_gradient(name, left_out):
    head, (time, event, valid) = HEADS.create(name, 4, 1), outcomes()
    valid = valid if left_out else None
    order = head.prepare(time, event, valid)
    for seed in range(3):
        hazard = torch.randn(40, generator=torch.Generator().manual_seed(seed)).double()
        one, other = (hazard.clone().requires_grad_() for _ in range(2))
        fresh = head.loss(one, time, event, valid)
        prepared = head.loss(other, time, event, valid, order=order)
        fresh.backward()
        prepared.backward()
        assert torch.equal(fresh, prepared)
        assert torch.equal(one.grad, other.grad)


def test_a_prepared_order_runs_under_vmap_over_hazards():
    time, event, valid = outcomes()
    order, hazards = cox_order(time, event, valid), torch.randn(3, 40, dtype=torch.float64)

    def loss(hazard):
        return cox_negative_log_likelihood(hazard, time, event, order=order)

    together = torch.func.vmap(torch.func.grad_and_value(loss))(hazards)
    for row, hazard in enumerate(hazards):
        gradient, value = torch.func.grad_and_value(loss)(hazard)
        torch.testing.assert_close(together[0][row], gradient)
        torch.testing.assert_close(together[1][row], value)


def test_a_second_derivative_is_refused_rather_than_zero():
    time, event, _ = outcomes()
    hazard = torch.randn(40, dtype=torch.float64, requires_grad=True)
    loss = cox_negative_log_likelihood(hazard, time, event)
    (gradient,) = torch.autograd.grad(loss.square(), hazard, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_a_large_batch_equals_small_risk_sets_summed_afresh(ties):
    """At a size where the sums cross many blocks, with few and with many ties."""
    rng = np.random.default_rng(1)
    hazard = rng.normal(0, 3, 700)
    for times in (20, 100_000):
        time, event = rng.integers(1, times, 700).astype(float), rng.integers(0, 2, 700)
        given = torch.tensor(hazard, requires_grad=True)
        found = cox_negative_log_likelihood(given, torch.tensor(time), torch.tensor(event), ties)
        found.backward()
        slow = slow_cox(hazard, time, event, ties)
        assert float(found.detach()) == pytest.approx(slow.value, rel=1e-12)
        np.testing.assert_allclose(given.grad.numpy(), slow.gradient, rtol=1e-8, atol=1e-12)
