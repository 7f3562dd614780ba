"""What the fits of a fold share: made once, without outcomes, and the same from files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fusion_cases import CASES, IDS

import concordant.training.prepare as preparing
from concordant.core.embedding import CodeTable, TokenTable
from concordant.core.errors import StoreError
from concordant.core.modality import Modality
from concordant.core.survival import Outcomes
from concordant.core.tokens import CodeTokens
from concordant.model import ModelSpec
from concordant.training.batches import Samples
from concordant.training.fit import FitFailed, FitRequest, fit, fit_many
from concordant.training.fitted import FittedModel
from concordant.training.prepare import FoldData, PreparedModality
from training_fixture import make_samples, prepared, quick, split, with_inputs

REQUESTS = [FitRequest(ModelSpec(name, options), quick(max_epochs=3), 1) for name, options in CASES]


def three_parts(**options):
    train, tuning, test = split(make_samples(110, **options), 50, 30, 30)
    return {"train": train, "tuning": tuning, "test": test}


def tensors(tokens):
    if isinstance(tokens, CodeTokens):
        return tokens.index, tokens.weight, tokens.valid
    return tokens.values, tokens.valid, tokens.pooled


def from_files(data, folder):
    modalities = {}
    for modality, one in data.modalities.items():
        one.write(folder / modality)
        modalities[modality] = PreparedModality.open(folder / modality)
    return FoldData(modalities, data.targets, data.subjects)


def test_every_strategy_trial_and_seed_shares_one_preparation(monkeypatch):
    calls = []
    monkeypatch.setattr(
        preparing,
        "fit_scaling",
        lambda *given, **options: calls.append(1) or real(*given, **options),
    )
    data = prepared(**three_parts())
    assert len(calls) == 2
    fitted = fit_many(
        data, [*REQUESTS, *(FitRequest(one.spec, one.options, 2) for one in REQUESTS)]
    )
    assert all(isinstance(one, FittedModel) for one in fitted)
    assert len(calls) == 2


real = preparing.fit_scaling


@pytest.mark.parametrize("ehr", ["codes", "tokens"])
def test_the_features_of_those_who_are_predicted_change_no_parameter(ehr):
    parts = three_parts(ehr=ehr, pooled=ehr == "codes")
    changed = {
        modality: CodeTable(
            tuple(f"{code}X" for code in table.codes),
            table.numeric,
            table.index,
            table.weight * 9,
            table.offsets,
        )
        if isinstance(table, CodeTable)
        else TokenTable(table.values * 100 + 5, table.offsets, table.pooled)
        for modality, table in parts["test"].inputs.items()
    }
    other = {**parts, "test": with_inputs(parts["test"], changed)}
    for one, two in zip(
        fit_many(prepared(**parts), REQUESTS), fit_many(prepared(**other), REQUESTS), strict=True
    ):
        state = two.model.state_dict()
        assert all(
            torch.equal(value, state[name]) for name, value in one.model.state_dict().items()
        )


@pytest.mark.parametrize("ehr", ["codes", "tokens"])
def test_files_give_the_same_inputs_and_the_same_fits(ehr, tmp_path):
    data = prepared(**three_parts(ehr=ehr, pooled=ehr == "codes"))
    read = from_files(data, tmp_path)
    for modality, one in data.modalities.items():
        assert list(read.modalities[modality].parts) == list(one.parts)
        for part, tokens in one.parts.items():
            found = tensors(read.modalities[modality].parts[part])
            assert all(torch.equal(*both) for both in zip(tensors(tokens), found, strict=True))
    for one, two in zip(fit_many(data, REQUESTS), fit_many(read, REQUESTS), strict=True):
        for part in data.targets:
            np.testing.assert_array_equal(
                two.predict_part(read, part).risk, one.predict_part(data, part).risk
            )


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_a_prepared_part_is_predicted_as_its_tables_are(name, options):
    parts = three_parts()
    data = prepared(**parts)
    (fitted,) = fit_many(data, [FitRequest(ModelSpec(name, options), quick(max_epochs=3), 1)])
    alone = fit(
        parts["train"], parts["tuning"], ModelSpec(name, options), quick(max_epochs=3), seed=1
    )
    found, expected = fitted.predict_part(data, "test"), alone.predict(parts["test"].inputs)
    np.testing.assert_allclose(found.risk, expected.risk, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found.known, expected.known)


def test_what_lies_in_the_files_is_plain_and_writing_to_a_tensor_does_not_reach_them(tmp_path):
    data = prepared(**three_parts(pooled=True))
    read = from_files(data, tmp_path)
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".npy", ".json"}
    read.modalities[Modality.CT].parts["train"].values.zero_()
    again = PreparedModality.open(tmp_path / Modality.CT).parts["train"]
    assert torch.equal(again.values, data.modalities[Modality.CT].parts["train"].values)


def test_strategies_that_read_pooled_vectors_do_not_touch_tokens():
    data = prepared(**three_parts(ehr="tokens"))
    for modality in data.modalities.values():
        for tokens in modality.parts.values():
            tokens.values.fill_(float("nan"))
    for request, one in zip(REQUESTS, fit_many(data, REQUESTS), strict=True):
        reads = request.spec.fusion in {"cross_attention", "co_attention"}
        assert isinstance(one, FitFailed) == reads
        if not reads:
            assert np.isfinite(one.predict_part(data, "test").risk).all()


def test_a_modality_that_is_left_out_is_missing_in_everyone():
    whole = prepared(**three_parts())
    data = FoldData({Modality.CT: whole.modalities[Modality.CT]}, whole.targets, {})
    (fitted,) = fit_many(data, [FitRequest(ModelSpec("concat", {}), quick(), 0)])
    pair = data.pair("test")
    assert not pair.ehr.present.any()
    assert pair.subject is None
    np.testing.assert_array_equal(fitted.predict_part(data, "test").known, pair.ct.present.numpy())


@pytest.mark.parametrize("damage", ["missing", "cut"])
@pytest.mark.parametrize("name", ["prepared.json", "scaling.token.mean.npy", "0.values.npy"])
def test_damaged_files_are_named(tmp_path, name, damage):
    prepared(**three_parts()).modalities[Modality.CT].write(tmp_path)
    path = tmp_path / name
    content = path.read_bytes()
    path.unlink()
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    with pytest.raises(StoreError, match="prepared inputs cannot be read"):
        PreparedModality.open(tmp_path)


def test_a_fit_that_fails_leaves_the_others_alone():
    data = prepared(**three_parts())
    spec = ModelSpec("concat", {})
    wild = FitRequest(spec, quick(lr=1e30, max_epochs=9), 0)
    found = fit_many(
        data, [wild, FitRequest(spec, quick(), 0), FitRequest(spec, quick(device="x"), 0)]
    )
    assert [isinstance(one, FitFailed) for one in found] == [True, False, True]
    assert "diverged" in found[0].reason
    assert "epoch" in found[0].reason
    assert "train.lr" in found[0].reason
    assert found[0].expected
    assert "Traceback" in found[0].details


def test_a_defect_is_told_from_a_wrong_input(monkeypatch):
    data = prepared(**three_parts())
    broken = FoldData(data.modalities, {"train": data.targets["train"]}, data.subjects)
    (found,) = fit_many(broken, [FitRequest(ModelSpec("concat", {}), quick(), 0)])
    assert isinstance(found, FitFailed)
    assert not found.expected
    assert "KeyError" in found.details


@pytest.mark.parametrize("name", ["linear", "late", "concat"])
def test_the_tuning_loss_is_that_of_the_final_risk(name):
    parts = three_parts()
    fitted = fit(parts["train"], parts["tuning"], ModelSpec(name, {}), quick())
    found, target = fitted.predict(parts["tuning"].inputs), parts["tuning"].target
    rows = np.flatnonzero(found.known)
    known = Samples({}, Outcomes(target.time[rows], target.event[rows])).target
    loss = fitted.model.head.loss(
        torch.from_numpy(found.risk[rows]),
        torch.from_numpy(known.time),
        torch.from_numpy(known.event),
    )
    assert fitted.tuning_loss == pytest.approx(float(loss), rel=1e-6)
