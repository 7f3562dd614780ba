"""One test per line of the contract in `concordant.fusion.base.Fusion`, over every strategy and variant."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from fusion_cases import CASES, IDS, PRESENCE, make_model, make_pair, risk_of

from concordant.core.embedding import TokenTable
from concordant.core.errors import NotApplicableError
from concordant.core.modality import Modality
from concordant.core.survival import SurvivalTarget
from concordant.core.tokens import CodeTokens, Pair
from concordant.fusion import BOTH, modalities_used
from concordant.metrics import concordance_index
from concordant.model import ModelSpec
from concordant.training.batches import Samples
from concordant.training.fit import fit
from concordant.training.gradients import survival_loss
from concordant.training.options import TrainOptions

pytestmark = pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
KINDS = pytest.mark.parametrize("kind", ["tokens", "codes"])


@KINDS
@pytest.mark.parametrize("present", PRESENCE, ids=lambda there: f"ct={there[0]},ehr={there[1]}")
def test_finite_forward_and_backward_whatever_is_missing(name, options, kind, present):
    model, pair = make_model(name, options, kind), make_pair(kind, ct=present[0], ehr=present[1])
    output = model(pair)
    assert output.log_hazard.shape == output.view_valid.shape == (6, len(model.fusion.view_modalities))
    target = torch.arange(1.0, 7.0, dtype=torch.float64), torch.tensor([1, 0, 1, 1, 0, 1])
    batch = type("Batch", (), {"time": target[0], "event": target[1]})
    loss = survival_loss(model, output.log_hazard, output.view_valid, batch)
    if output.alignment_loss is not None:
        loss = loss + output.alignment_loss
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(model.risk(output)).all()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all(), parameter_name


@KINDS
@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), 1e30])
def test_garbage_in_invalid_tokens_changes_nothing(name, options, kind, garbage):
    model, pair = make_model(name, options, kind), make_pair(kind)
    spoilt = Pair(_spoil(pair.ct, garbage), _spoil(pair.ehr, garbage))
    np.testing.assert_allclose(risk_of(model, spoilt), risk_of(model, pair), rtol=1e-6, atol=1e-6)


def _spoil(tokens, garbage):
    if isinstance(tokens, CodeTokens):
        weight = torch.where(tokens.valid, tokens.weight, torch.full_like(tokens.weight, garbage))
        return replace(tokens, weight=weight, index=torch.where(tokens.valid, tokens.index, torch.full_like(tokens.index, 10**6)))
    return replace(tokens, values=torch.where(tokens.valid[..., None], tokens.values, torch.full_like(tokens.values, garbage)))


@KINDS
def test_permuting_the_batch_permutes_the_risk(name, options, kind):
    model, pair = make_model(name, options, kind), make_pair(kind)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    permuted = Pair(*(type(one)(*(None if part is None else part[order] for part in _parts(one))) for one in (pair.ct, pair.ehr)))
    np.testing.assert_allclose(risk_of(model, permuted), risk_of(model, pair)[order.numpy()], rtol=1e-5, atol=1e-6)


def _parts(tokens):
    if isinstance(tokens, CodeTokens):
        return tokens.index, tokens.weight, tokens.valid
    return tokens.values, tokens.valid, tokens.pooled


@KINDS
@pytest.mark.parametrize("missing", BOTH)
def test_with_one_modality_missing_the_risk_depends_on_the_other(name, options, kind, missing):
    model = make_model(name, options, kind)
    there = {"ct": missing is not Modality.CT, "ehr": missing is not Modality.EHR}
    risk = risk_of(model, make_pair(kind, seed=1, **there))
    if missing.other in model.fusion.uses:
        assert np.ptp(risk) > 1e-3, "the present modality is silenced"
    else:
        np.testing.assert_array_equal(risk, float(model.mean_risk))


def test_without_any_modality_the_risk_is_the_mean_of_train(name, options):
    model = make_model(name, options)
    model.mean_risk.fill_(0.37)
    np.testing.assert_allclose(risk_of(model, make_pair(ct=False, ehr=False)), 0.37)


def test_memorises_32_subjects(name, options):
    samples = _samples(32, tokens=3)
    quick = TrainOptions(lr=1e-2, dropout=0.0, weight_decay=0.0, max_epochs=200, patience=200, width=16)
    fitted = fit(samples, samples, ModelSpec(name, options), quick, seed=1)
    risk = fitted.predict(samples.inputs).risk
    assert concordance_index(samples.target.time, samples.target.event, risk).estimate > 0.95


def _samples(n, tokens, features=40):
    rng = np.random.default_rng(5)
    tables = {one: TokenTable(rng.normal(size=(n * tokens, features)).astype(np.float32), np.arange(n + 1) * tokens) for one in BOTH}
    return Samples(tables, SurvivalTarget(rng.exponential(100, n) + 1, (rng.random(n) < 0.8).astype(np.int64)))


def test_refuses_attention_over_a_single_key(name, options):
    samples = _samples(24, tokens=1, features=4)
    spec, quick = ModelSpec(name, options), TrainOptions(max_epochs=1, min_epochs=0, width=8)
    if make_model(name, options).fusion.attends_to:
        with pytest.raises(NotApplicableError, match="more than one token"):
            fit(samples, samples, spec, quick)
    else:
        assert np.isfinite(fit(samples, samples, spec, quick).predict(samples.inputs).risk).all()


@KINDS
def test_functional_call_and_vmap_agree_with_the_loop(name, options, kind):
    models, pair = [make_model(name, options, kind, seed) for seed in (1, 2)], make_pair(kind)
    alone = [model(pair).log_hazard for model in models]
    called = torch.func.functional_call(models[0], dict(models[1].named_parameters()), (pair,)).log_hazard
    torch.testing.assert_close(called, alone[1])
    parameters, buffers = torch.func.stack_module_state(models)
    together = torch.func.vmap(lambda p, b: torch.func.functional_call(models[0], (p, b), (pair,)).log_hazard)(parameters, buffers)
    torch.testing.assert_close(together, torch.stack(alone), rtol=1e-4, atol=1e-5)


def test_the_registry_knows_what_the_model_uses(name, options):
    assert modalities_used(name, options) == make_model(name, options).fusion.uses
