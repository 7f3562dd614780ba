"""One test per line of the contract in `concordant.fusion.base.Fusion`, over every strategy and
variant.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from fusion_cases import CASES, DIMS, IDS, PRESENCE, WIDTH, make_model, make_pair, risk_of

from concordant.core.embedding import CodeTable, TokenTable
from concordant.core.errors import NotApplicableError
from concordant.core.modality import Modality
from concordant.core.survival import Outcomes
from concordant.core.tokens import CodeTokens, Pair
from concordant.fusion import BOTH, FUSIONS, Phase, modalities_used
from concordant.metrics import concordance_index
from concordant.model import ModelSpec, TTEModel
from concordant.training.batches import Batch, Samples
from concordant.training.fit import fit
from concordant.training.gradients import backward, survival_loss
from concordant.training.options import TrainOptions

pytestmark = pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
KINDS = pytest.mark.parametrize("kind", ["tokens", "codes"])


@KINDS
@pytest.mark.parametrize("present", PRESENCE, ids=lambda there: f"ct={there[0]},ehr={there[1]}")
def test_finite_forward_and_backward_whatever_is_missing(name, options, kind, present):
    model, pair = make_model(name, options, kind), make_pair(kind, ct=present[0], ehr=present[1])
    output = model(pair)
    assert (
        output.log_hazard.shape == output.view_valid.shape == (6, len(model.fusion.view_modalities))
    )
    time, event = torch.arange(1.0, 7.0, dtype=torch.float64), torch.tensor([1, 0, 1, 1, 0, 1])
    batch = Batch(pair, time, event)
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
    spoilt = Pair(_spoil(pair.ct, garbage), _spoil(pair.ehr, garbage)).cleaned()
    np.testing.assert_allclose(risk_of(model, spoilt), risk_of(model, pair), rtol=1e-6, atol=1e-6)


def _spoil(tokens, garbage):
    if isinstance(tokens, CodeTokens):
        weight = torch.where(tokens.valid, tokens.weight, torch.full_like(tokens.weight, garbage))
        return replace(
            tokens,
            weight=weight,
            index=torch.where(tokens.valid, tokens.index, torch.full_like(tokens.index, 10**6)),
        )
    return replace(
        tokens,
        values=torch.where(
            tokens.valid[..., None], tokens.values, torch.full_like(tokens.values, garbage)
        ),
    )


@KINDS
def test_permuting_the_batch_permutes_the_risk(name, options, kind):
    model, pair = make_model(name, options, kind), make_pair(kind)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    np.testing.assert_allclose(
        risk_of(model, pair.rows(order)), risk_of(model, pair)[order.numpy()], rtol=1e-5, atol=1e-6
    )


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
    quick = TrainOptions(
        lr=1e-2, dropout=0.0, weight_decay=0.0, max_epochs=200, patience=200, width=16
    )
    fitted = fit(samples, samples, ModelSpec(name, options), quick, seed=1)
    risk = fitted.predict(samples.inputs).risk
    assert concordance_index(samples.target.time, samples.target.event, risk).estimate > 0.95


def _samples(n, tokens, features=40):
    rng = np.random.default_rng(5)
    tables = {
        one: TokenTable(
            rng.normal(size=(n * tokens, features)).astype(np.float32), np.arange(n + 1) * tokens
        )
        for one in BOTH
    }
    return Samples(
        tables, Outcomes(rng.exponential(100, n) + 1, (rng.random(n) < 0.8).astype(np.int64))
    )


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
    called = torch.func.functional_call(
        models[0], dict(models[1].named_parameters()), (pair,)
    ).log_hazard
    torch.testing.assert_close(called, alone[1])
    parameters, buffers = torch.func.stack_module_state(models)
    together = torch.func.vmap(
        lambda p, b: torch.func.functional_call(models[0], (p, b), (pair,)).log_hazard
    )(parameters, buffers)
    torch.testing.assert_close(together, torch.stack(alone), rtol=1e-4, atol=1e-5)


def test_the_registry_knows_what_the_model_uses(name, options):
    assert modalities_used(name, options) == make_model(name, options).fusion.uses


MIXTURES = [mixture for size in (2, 3, 4) for mixture in combinations(PRESENCE, size)]


def _masked(pair, rows):
    """Row i has the modalities that rows[i] says."""
    there = torch.tensor(rows)
    ct, ehr = (
        replace(one, valid=one.valid & there[:, place, None])
        for place, one in enumerate((pair.ct, pair.ehr))
    )
    return Pair(ct, ehr, pair.subject).cleaned()


def _batch(pair):
    n = len(pair.ct.valid)
    return Batch(
        pair, torch.arange(1.0, n + 1, dtype=torch.float64), torch.tensor([1, 0, 1, 1, 0, 1])[:n]
    )


def _gradients(model, pair):
    model.zero_grad()
    loss = backward(model, _batch(pair), Phase(alignment=1.0), None)
    return loss, {
        name: parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


@KINDS
def test_finite_in_every_mixture_of_what_is_missing(name, options, kind):
    model = make_model(name, options, kind)
    for mixture in MIXTURES:
        rows = [mixture[place % len(mixture)] for place in range(6)]
        pair = _masked(make_pair(kind), rows)
        output = model.fusion(model._project(pair))  # the view itself has a shape to keep
        assert output.views.shape == (6, len(model.fusion.view_modalities), model.fusion.view_dim)
        loss, gradients = _gradients(model, pair)
        assert np.isfinite(loss)
        assert all(torch.isfinite(gradient).all() for gradient in gradients.values())
        known = [
            any(there for there, used in zip(row, BOTH, strict=True) if used in model.fusion.uses)
            for row in rows
        ]
        assert model(pair).view_valid.any(1).tolist() == known


@KINDS
@pytest.mark.parametrize("garbage", [float("nan"), float("-inf"), 1e30])
def test_garbage_where_something_is_missing_changes_neither_risk_nor_gradient(
    name, options, kind, garbage
):
    model, pair = (
        make_model(name, options, kind),
        _masked(make_pair(kind), [*PRESENCE, *PRESENCE[:2]]),
    )
    spoilt = Pair(_spoil(pair.ct, garbage), _spoil(pair.ehr, garbage))
    pooled = torch.where(
        pair.ct.present[:, None], pair.ct.pooled, torch.full_like(pair.ct.pooled, garbage)
    )
    spoilt = replace(spoilt, ct=replace(spoilt.ct, pooled=pooled)).cleaned()
    assert torch.equal(model(spoilt).log_hazard, model(pair).log_hazard)
    expected = _gradients(model, pair)[1]
    found = _gradients(model, spoilt)[1]
    assert all(torch.equal(found[key], expected[key]) for key in expected)


@KINDS
def test_longer_padding_changes_nothing(name, options, kind):
    model, pair = make_model(name, options, kind), make_pair(kind)
    longer = Pair(_padded(pair.ct), _padded(pair.ehr))
    np.testing.assert_allclose(risk_of(model, longer), risk_of(model, pair), rtol=1e-5, atol=1e-6)


def _padded(tokens):
    names = ("index", "weight", "valid") if isinstance(tokens, CodeTokens) else ("values", "valid")
    return replace(
        tokens,
        **{
            name: torch.cat([getattr(tokens, name), torch.zeros_like(getattr(tokens, name))], 1)
            for name in names
        },
    )


@KINDS
def test_permuting_the_batch_leaves_the_losses_as_they_are(name, options, kind):
    model = make_model(name, options, kind)
    pair = replace(
        _masked(make_pair(kind), [*PRESENCE, *PRESENCE[:2]]),
        subject=torch.tensor([1, 1, 2, 3, 2, 4]),
    )
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    permuted, batch = pair.rows(order), _batch(pair)
    outputs = [model(pair), model(permuted)]
    torch.testing.assert_close(
        outputs[1].log_hazard, outputs[0].log_hazard[order], rtol=1e-4, atol=1e-5
    )
    assert torch.equal(outputs[1].view_valid, outputs[0].view_valid[order])
    losses = [
        survival_loss(model, output.log_hazard, output.view_valid, one)
        for output, one in zip(
            outputs, (batch, Batch(permuted, batch.time[order], batch.event[order])), strict=True
        )
    ]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-6)
    if outputs[0].alignment_loss is not None:
        torch.testing.assert_close(outputs[0].alignment_loss, outputs[1].alignment_loss)


@KINDS
@pytest.mark.parametrize("changed", BOTH)
def test_a_changed_input_moves_exactly_the_risks_of_those_who_have_it(name, options, kind, changed):
    """Sample by sample, in a batch where each has something else.

    Nobody is silenced, and nobody feels a neighbour.
    """
    model, pair = (
        make_model(name, options, kind),
        _masked(make_pair(kind), [*PRESENCE, *PRESENCE[:2]]),
    )
    other = make_pair(kind, seed=8)
    fresh = replace(getattr(other, changed.value), valid=getattr(pair, changed.value).valid)
    other = replace(pair, **{changed.value: fresh.cleaned()})
    moved = risk_of(model, other) - risk_of(model, pair)
    has = getattr(pair, changed.value).present.numpy() & (changed in model.fusion.uses)
    assert (np.abs(moved[has]) > 1e-4).all(), "a modality that is there is not heard"
    assert (moved[~has] == 0).all()


def test_memorises_32_subjects_from_codes(name, options):
    rng = np.random.default_rng(6)
    n, each, vocabulary = 32, 6, 60
    codes = CodeTable(
        tuple(f"{code:02d}" for code in range(vocabulary)),
        np.zeros(vocabulary, bool),
        np.concatenate([np.sort(rng.choice(vocabulary, each, replace=False)) for _ in range(n)]),
        np.ones(n * each, np.float32),
        np.arange(n + 1) * each,
    )
    tokens = _samples(n, tokens=3)
    samples = Samples({Modality.CT: tokens.inputs[Modality.CT], Modality.EHR: codes}, tokens.target)
    quick = TrainOptions(
        lr=1e-2, dropout=0.0, weight_decay=0.0, max_epochs=120, patience=120, width=16
    )
    risk = fit(samples, samples, ModelSpec(name, options), quick).predict(samples.inputs).risk
    assert concordance_index(samples.target.time, samples.target.event, risk).estimate > 0.95


@pytest.mark.parametrize("single", BOTH)
def test_a_single_token_is_refused_as_key_and_welcome_otherwise(name, options, single):
    many, one = _samples(24, tokens=3, features=4), _samples(24, tokens=1, features=4)
    samples = Samples(
        {single: one.inputs[single], single.other: many.inputs[single.other]}, many.target
    )
    spec, quick = ModelSpec(name, options), TrainOptions(max_epochs=1, min_epochs=0, width=8)
    if single in make_model(name, options).fusion.attends_to:
        with pytest.raises(NotApplicableError, match=f"attention over {single.value}"):
            fit(samples, samples, spec, quick)
    else:
        assert np.isfinite(fit(samples, samples, spec, quick).predict(samples.inputs).risk).all()


@KINDS
def test_gradients_under_vmap_agree_with_the_loop(name, options, kind):
    models, pair = [make_model(name, options, kind, seed) for seed in (1, 2)], make_pair(kind)

    def loss(parameters, buffers):
        return (
            torch.func.functional_call(models[0], (parameters, buffers), (pair,))
            .log_hazard.square()
            .sum()
        )

    parameters, buffers = torch.func.stack_module_state(models)
    together = torch.func.vmap(torch.func.grad(loss))(parameters, buffers)
    for place, model in enumerate(models):
        model.zero_grad()
        model(pair).log_hazard.square().sum().backward()
        for key, parameter in model.named_parameters():
            if parameter.grad is not None:
                torch.testing.assert_close(
                    together[key][place], parameter.grad, rtol=1e-3, atol=1e-4, msg=key
                )


@KINDS
def test_every_parameter_belongs_to_a_view_and_no_view_reaches_anothers(name, options, kind):
    model, pair = make_model(name, options, kind), make_pair(kind)
    owned = [set(model.view_parameters(view)) for view in range(len(model.fusion.view_modalities))]
    assert set.union(*owned) == {one for one, _ in model.named_parameters()}
    for view, own in enumerate(owned):
        model.zero_grad()
        model(pair).log_hazard[:, view].sum().backward()
        reached = {
            one
            for one, value in model.named_parameters()
            if value.grad is not None and value.grad.any()
        }
        assert reached
        assert reached <= own


def test_what_start_sets_to_zero_is_zero_in_a_new_model(name, options, monkeypatch):
    def start(fusion):
        for module in fusion.modules():
            if isinstance(module, torch.nn.Linear):
                torch.nn.init.zeros_(module.weight)
                torch.nn.init.zeros_(module.bias)

    before = [one for one in _linear_maps(name, options) if one.weight.any()]
    monkeypatch.setattr(FUSIONS.get(name), "start", start)
    after = _linear_maps(name, options)
    assert bool(before) == bool(after)
    assert not any(one.weight.any() or one.bias.any() for one in after)


def _linear_maps(name, options):
    model = TTEModel(ModelSpec(name, options), DIMS["tokens"], WIDTH, 0.0)
    return [one for one in model.fusion.modules() if isinstance(one, torch.nn.Linear)]


def test_every_strategy_of_the_registry_is_a_case(name, options):
    assert {case for case, _ in CASES} == set(FUSIONS)
    given = FUSIONS.resolve(name, options)
    assert all(given[key] == value for key, value in options.items())
