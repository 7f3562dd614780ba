"""The weights of late fusion's views.

Fitted on tuning, never negative, and what an absent view does.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from concordant.core.modality import Modality
from concordant.core.tokens import Pair, Tokens
from concordant.model import InputDims, ModelOutput, ModelSpec, TTEModel
from concordant.training.batches import Batch
from concordant.training.calibration import calibrate
from training_fixture import slow_cox

N = 120


def late(combine):
    return TTEModel(
        ModelSpec("late", {"combine": combine}),
        dict.fromkeys(Modality, InputDims("tokens", 2)),
        4,
        0.0,
    )


def output(hazard, valid=None):
    hazard = torch.as_tensor(hazard, dtype=torch.float32)
    return ModelOutput(
        hazard,
        torch.ones_like(hazard, dtype=torch.bool) if valid is None else torch.as_tensor(valid),
        None,
        None,
    )


def outcome(truth, seed=1):
    """Times from a hazard of exp(truth); the inputs are of no account here."""
    rng = np.random.default_rng(seed)
    time = torch.tensor(np.ceil(rng.exponential(np.exp(-truth)) * 50) + 1)
    nothing = Tokens(torch.zeros(len(truth), 1, 2), torch.ones(len(truth), 1, dtype=torch.bool))
    return Batch(
        Pair(nothing, nothing), time, torch.tensor((rng.random(len(truth)) < 0.8).astype(np.int64))
    )


def draw(seed=0):
    rng = np.random.default_rng(seed)
    views = rng.normal(size=(N, 2)).astype(np.float32)
    return views * [3.0, 0.5] + [1.0, -2.0], outcome(views[:, 0] + 0.5 * views[:, 1])


def standardised(hazard):
    return (hazard - hazard.mean(0)) / hazard.std(0)


def test_stack_is_the_cox_model_of_the_standardised_views_on_tuning():
    hazard, batch = draw()
    train, _ = draw(5)
    model = late("stack")
    calibrate(model, output(train), output(hazard), batch)
    np.testing.assert_allclose(model.view_mean, train.mean(0), rtol=1e-5)
    np.testing.assert_allclose(model.view_scale, train.std(0), rtol=1e-5)
    views = (hazard - train.mean(0)) / train.std(0)

    def loss(weight):
        return slow_cox(views @ weight, batch.time.numpy(), batch.event.numpy()).value

    best = minimize(
        loss, np.ones(2), method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-10}
    ).x
    assert (best > 0).all()
    np.testing.assert_allclose(model.view_weight, best, rtol=1e-4)


def test_a_view_that_misleads_gets_no_weight_and_does_not_enter_the_risk():
    hazard, batch = draw()
    hazard[:, 1] *= -1
    model = late("stack")
    calibrate(model, output(hazard), output(hazard), batch)
    assert model.view_weight[0] > 0
    assert model.view_weight[1] == 0
    other = hazard.copy()
    other[:, 1] = 7
    np.testing.assert_array_equal(model.risk(output(other)), model.risk(output(hazard)))


@pytest.mark.parametrize("combine", ["stack", "mean"])
def test_views_that_all_mislead_weigh_alike(combine):
    hazard, batch = draw()
    model = late(combine)
    calibrate(model, output(-hazard), output(-hazard), batch)
    assert model.view_weight.tolist() == [0.5, 0.5]


def test_mean_is_one_slope_times_the_mean_of_the_views_that_are_there():
    hazard, batch = draw()
    valid = np.ones((N, 2), bool)
    valid[::3, 0], valid[1::3, 1] = False, False
    model = late("mean")
    calibrate(model, output(hazard), output(hazard, valid), batch)
    assert model.view_weight[0] == model.view_weight[1] > 0
    views = np.where(valid, standardised(hazard), 0)
    expected = float(model.view_weight[0]) * views.sum(1) / valid.sum(1)
    np.testing.assert_allclose(model.risk(output(hazard, valid)), expected, rtol=1e-5, atol=1e-6)
    at_optimum = slow_cox(expected, batch.time.numpy(), batch.event.numpy())
    assert abs(at_optimum.gradient @ expected) < 1e-3


def test_an_absent_view_adds_nothing_to_a_stack():
    hazard, batch = draw()
    model = late("stack")
    calibrate(model, output(hazard), output(hazard), batch)
    valid = np.ones((N, 2), bool)
    valid[:, 1] = False
    expected = standardised(hazard)[:, 0] * float(model.view_weight[0])
    np.testing.assert_allclose(model.risk(output(hazard, valid)), expected, rtol=1e-5, atol=1e-6)


def test_absent_views_take_no_part_in_mean_and_scale_of_train():
    hazard, batch = draw()
    valid = np.ones((N, 2), bool)
    valid[:40, 0] = False
    spoilt = np.where(valid, hazard, 1e6)
    model = late("stack")
    calibrate(model, output(spoilt, valid), output(hazard), batch)
    np.testing.assert_allclose(model.view_mean[0], hazard[40:, 0].mean(), rtol=1e-5)
    np.testing.assert_allclose(model.view_scale[0], hazard[40:, 0].std(), rtol=1e-5)


@pytest.mark.parametrize("combine", ["stack", "mean"])
def test_a_view_without_spread_or_without_anyone_does_no_harm(combine):
    hazard, batch = draw()
    hazard[:, 1] = 4.0
    valid = np.ones((N, 2), bool)
    valid[:, 1] = False
    for there in (np.ones((N, 2), bool), valid):
        model = late(combine)
        calibrate(model, output(hazard, there), output(hazard, there), batch)
        assert torch.isfinite(model.risk(output(hazard, there))).all()
        assert model.view_weight[0] > 0
        assert model.view_scale[1] == 1


def test_one_view_passes_unchanged():
    hazard, batch = draw()
    model = TTEModel(
        ModelSpec("concat", {}), dict.fromkeys(Modality, InputDims("tokens", 2)), 4, 0.0
    )
    calibrate(model, output(hazard[:, :1]), output(hazard[:, :1]), batch)
    np.testing.assert_array_equal(
        model.risk(output(hazard[:, :1])), hazard[:, 0].astype(np.float32)
    )
