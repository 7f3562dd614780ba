"""What is fitted, and on what.

Scaling, stopping, view weights, checkpoints, folds, gradients in chunks.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from concordant.core.embedding import CodeEmbedding as Codes
from concordant.core.embedding import CodeTable, TokenTable, pack_codes
from concordant.core.errors import ConcordantError, FeatureError, StoreError
from concordant.core.modality import Modality
from concordant.core.survival import Outcomes
from concordant.fusion import FUSIONS, Phase
from concordant.model import ModelSpec
from concordant.training.batches import Samples
from concordant.training.checkpoint import load_fitted, save_fitted
from concordant.training.fit import fit
from concordant.training.folds import draw_folds
from concordant.training.gradients import backward
from concordant.training.options import MANY_EVENTS, TrainOptions, regularisation
from concordant.training.scaling import CLIP, fit_scaling
from training_fixture import make_batch

QUICK = TrainOptions(max_epochs=8, min_epochs=2, patience=3, width=8)
VARIANTS = {"unimodal": {"modality": "ct"}}


def make_samples(n=60, seed=0, *, codes=True, missing=True):
    rng = np.random.default_rng(seed)
    scan = rng.normal(size=(n, 3, 4)).astype(np.float32)
    there = rng.random(n) > (0.15 if missing else -1)
    offsets = np.concatenate([[0], np.cumsum(there * 3)]).astype(np.int64)
    ct = TokenTable(scan[there].reshape(-1, 4), offsets)
    record = rng.normal(size=n)
    if codes:
        ehr = pack_codes([_record(rng, value) for value in record])
    else:
        ehr = TokenTable(
            np.stack([record, rng.normal(size=n)], 1).astype(np.float32), np.arange(n + 1)
        )
    hazard = scan[:, :, 0].mean(1) * there * 2 + record
    time = rng.exponential(np.exp(-hazard)) * 100 + 0.1
    return Samples(
        {Modality.CT: ct, Modality.EHR: ehr},
        Outcomes(time, (rng.random(n) < 0.7).astype(np.int64)),
        np.arange(n),
    )


def _record(rng, value):
    chosen = sorted({f"code{place}" for place in range(5) if rng.random() < 0.5})
    names = (*chosen, "lab")
    return Codes(
        names,
        np.array([*np.ones(len(chosen)), value], np.float32),
        np.array([*[False] * len(chosen), True]),
    )


def halves(samples):
    n = len(samples)
    return samples.take(np.arange(n // 2)), samples.take(np.arange(n // 2, n))


def test_columns_are_standardised_imputed_flagged_and_clipped():
    values = np.array([[1.0, 5.0, np.nan], [3.0, 5.0, 2.0], [5.0, 5.0, 4.0]], np.float32)
    scaling = fit_scaling(TokenTable(values, np.arange(4), None, "median"))
    found = scaling.apply(
        TokenTable(
            np.array([[3.0, 5.0, np.nan], [1e9, 6.0, 3.0]], np.float32),
            np.arange(3),
            None,
            "median",
        )
    )
    assert found.values.shape == (2, 1, 4)
    np.testing.assert_allclose(found.values[0, 0], [0, 0, 0, 0.5], atol=1e-6)
    assert float(found.values[1, 0, 0]) == CLIP
    assert float(found.values[1, 0, 1]) == 1.0  # a constant column is centred, not blown up
    assert float(found.values[1, 0, 3]) == -0.5


def test_vocabulary_comes_from_train_and_unknown_codes_are_dropped_and_counted():
    def one(codes):
        return Codes(tuple(codes), np.ones(len(codes), np.float32), np.zeros(len(codes), bool))

    train = pack_codes(
        [one(["a", "b"]), one(["a", "b", "rare"]), one(["a"]), one(["c"]), one(["c"])]
    )
    scaling = fit_scaling(train)
    assert scaling.codes == ("a", "b", "c")
    new = pack_codes([one(["a", "new"]), None, one(["new", "rare"])])
    found = scaling.apply(new)
    assert found.valid.sum(1).tolist() == [1, 0, 0]
    assert scaling.dropped(new) == 3


def test_numeric_codes_are_standardised_over_their_carriers():
    table = CodeTable(
        ("lab",),
        np.array([True]),
        np.zeros(3, np.int64),
        np.array([1.0, 2.0, 3.0], np.float32),
        np.array([0, 1, 1, 2, 3]),
    )
    weight = fit_scaling(table).apply(table).weight
    assert float(weight.sum()) == pytest.approx(0.0, abs=1e-6)
    assert float(weight[0, 0]) == pytest.approx(-np.sqrt(1.5), rel=1e-5)


def test_a_model_refuses_inputs_of_another_kind_or_width():
    scaling = fit_scaling(make_samples().table(Modality.CT))
    with pytest.raises(FeatureError, match="width 4"):
        scaling.apply(TokenTable(np.zeros((1, 7), np.float32), np.array([0, 1])))
    with pytest.raises(FeatureError, match="codes"):
        scaling.apply(make_samples().table(Modality.EHR))


@pytest.mark.parametrize("name", list(FUSIONS))
def test_fit_is_deterministic_and_leaves_the_global_generator_alone(name):
    train, tuning = halves(make_samples())
    spec = ModelSpec(name, VARIANTS.get(name, {}))
    before = torch.get_rng_state()
    first = fit(train, tuning, spec, QUICK, seed=3).predict(tuning.inputs).risk
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(5)
    np.testing.assert_array_equal(
        first, fit(train, tuning, spec, QUICK, seed=3).predict(tuning.inputs).risk
    )
    if name != "linear":
        assert not np.array_equal(
            first, fit(train, tuning, spec, QUICK, seed=4).predict(tuning.inputs).risk
        )


@pytest.mark.parametrize("name", list(FUSIONS))
def test_a_checkpoint_gives_the_same_predictions(name, tmp_path):
    train, tuning = halves(make_samples())
    fitted = fit(train, tuning, ModelSpec(name, VARIANTS.get(name, {})), QUICK)
    save_fitted(fitted, tmp_path)
    loaded = load_fitted(tmp_path)
    risk, times = fitted.predict(tuning.inputs).risk, np.array([1.0, 50.0, 500.0])
    np.testing.assert_array_equal(loaded.predict(tuning.inputs).risk, risk)
    np.testing.assert_array_equal(loaded.survival(risk, times), fitted.survival(risk, times))
    assert all(json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines())


def test_a_damaged_checkpoint_is_named(tmp_path):
    train, tuning = halves(make_samples())
    save_fitted(fit(train, tuning, ModelSpec("concat", {}), QUICK), tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(StoreError, match="no readable model"):
        load_fitted(tmp_path)


def test_predictions_do_not_depend_on_the_outcome_or_company_of_who_is_predicted():
    samples = make_samples(90)
    train, tuning, new = (samples.take(np.arange(start, start + 30)) for start in (0, 30, 60))
    fitted = fit(train, tuning, ModelSpec("cross_attention", {"query": "both"}), QUICK)
    together = fitted.predict(new.inputs).risk
    alone = np.concatenate(
        [fitted.predict(new.take(np.array([row])).inputs).risk for row in range(30)]
    )
    np.testing.assert_allclose(alone, together, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["concat", "late", "cross_attention", "co_attention"])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_chunked_gradients_are_those_of_the_whole_batch(name, dropout):
    train, tuning = halves(make_samples())
    fitted = fit(train, tuning, ModelSpec(name, {}), QUICK.model_copy(update={"dropout": 0.0}))
    batch = make_batch(train, fitted.scaling)
    model = fitted.model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = dropout

    def gradients(chunk_size, seed):
        model.zero_grad()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            loss = backward(model, batch, Phase(), chunk_size)
        return loss, torch.cat(
            [one.grad.flatten() for one in model.parameters() if one.grad is not None]
        )

    loss, chunked = gradients(7, 0)
    if dropout == 0.0:
        whole_loss, whole = gradients(None, 0)
        assert loss == pytest.approx(whole_loss, rel=1e-6)
        torch.testing.assert_close(chunked, whole, rtol=1e-3, atol=1e-6)
    again_loss, again = gradients(7, 0)
    assert loss == again_loss
    torch.testing.assert_close(chunked, again)


def test_the_views_of_late_fusion_are_independent():
    train, tuning = halves(make_samples(codes=False))
    other = {
        **train.inputs,
        Modality.EHR: TokenTable(
            train.table(Modality.EHR).values[::-1].copy(), train.table(Modality.EHR).offsets
        ),
    }
    plain = QUICK.model_copy(update={"dropout": 0.0})
    first = fit(train, tuning, ModelSpec("late", {}), plain).model.state_dict()
    second = fit(
        Samples(other, train.target, train.subject), tuning, ModelSpec("late", {}), plain
    ).model.state_dict()
    scan = [
        name
        for name in first
        if name.startswith(("projectors.ct", "fusion.branches.ct", "head.layers.0"))
    ]
    assert scan
    for name in scan:
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=0)
    assert not torch.equal(first["head.layers.1.weight"], second["head.layers.1.weight"])


@pytest.mark.parametrize("combine", ["stack", "mean"])
def test_view_weights_are_not_negative_and_a_missing_view_adds_nothing(combine):
    train, tuning = halves(make_samples(200, seed=2))
    fitted = fit(train, tuning, ModelSpec("late", {"combine": combine}), TrainOptions(width=8))
    weight = fitted.model.view_weight
    assert (weight >= 0).all()
    assert weight.any()
    nothing = {modality: fitted.scaling[modality].absent(2) for modality in Modality}
    predicted = fitted.predict(nothing)
    assert not predicted.known.any()
    np.testing.assert_allclose(predicted.risk, float(fitted.model.mean_risk))


def test_no_event_in_a_part_is_said():
    train, tuning = halves(make_samples())
    censored = Samples(tuning.inputs, Outcomes(tuning.target.time, np.zeros(len(tuning), np.int64)))
    with pytest.raises(ConcordantError, match="tuning has no observed event"):
        fit(train, censored, ModelSpec("concat", {}), QUICK)


def test_regularisation_shrinks_with_events_and_numbers_are_taken_as_given():
    few, many = regularisation(TrainOptions(), 27), regularisation(TrainOptions(), 4 * MANY_EVENTS)
    assert (few.dropout, few.weight_decay) == pytest.approx(
        (4 * many.dropout, 4 * many.weight_decay)
    )
    assert regularisation(TrainOptions(dropout=0.1, weight_decay=0.2), 27).dropout == 0.1


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 12), st.booleans()), min_size=20, max_size=80),
    st.integers(2, 5),
    st.integers(0, 9),
)
def test_folds_keep_groups_whole_and_spread_events(rows, folds, seed):
    group, event = (np.array(column) for column in zip(*rows, strict=True))
    fold = draw_folds(event.astype(int), group, folds=folds, seed=seed)
    for one in np.unique(group):
        assert len(set(fold[group == one])) == 1
    alone = draw_folds(event.astype(int), np.arange(len(rows)), folds=folds, seed=seed)
    assert np.ptp(np.bincount(alone, event, minlength=folds)) <= 1
    np.testing.assert_array_equal(
        alone, draw_folds(event.astype(int), np.arange(len(rows)), folds=folds, seed=seed)
    )
