"""A fitted model as files.

The same model back for every strategy, and a clear word on every kind of damage.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from fusion_cases import CASES, IDS
from safetensors.torch import load_file, save_file

from concordant.core.errors import StoreError
from concordant.model import ModelSpec
from concordant.training.checkpoint import load_fitted, save_fitted
from concordant.training.fit import fit
from training_fixture import make_samples, quick, split

TIMES = np.array([0.0, 30.0, 200.0, 1e5])


@pytest.mark.parametrize("ehr", ["codes", "tokens"])
@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_the_same_model_comes_back(name, options, ehr, tmp_path):
    train, tuning = split(make_samples(60, ehr=ehr, pooled=ehr == "codes"), 36, 24)
    fitted = fit(train, tuning, ModelSpec(name, options), quick(max_epochs=3, min_epochs=0), seed=5)
    save_fitted(fitted, tmp_path)
    loaded = load_fitted(tmp_path)
    before, after = fitted.predict(tuning.inputs), loaded.predict(tuning.inputs)
    np.testing.assert_array_equal(after.risk, before.risk)
    np.testing.assert_array_equal(after.known, before.known)
    np.testing.assert_array_equal(
        loaded.survival(after.risk, TIMES), fitted.survival(before.risk, TIMES)
    )
    for known in ("options", "seed", "events", "tuning_loss"):
        assert getattr(loaded, known) == getattr(fitted, known)
    assert (loaded.spec.fusion, dict(loaded.spec.fusion_options)) == (name, options)
    assert loaded.n_parameters == fitted.n_parameters
    state = loaded.model.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in fitted.model.state_dict().items())
    assert not loaded.model.training


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    train, tuning = split(make_samples(60, pooled=True), 36, 24)
    save_fitted(fit(train, tuning, ModelSpec("late", {}), quick(max_epochs=2)), folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    for path in saved.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def test_a_gap_filled_scaling_comes_back(tmp_path):
    samples = make_samples(60, ehr="tokens")
    for table in samples.inputs.values():
        table.values[::5, 1] = np.nan
    train, tuning = split(samples, 36, 24)
    fitted = fit(train, tuning, ModelSpec("linear", {}), quick())
    save_fitted(fitted, tmp_path)
    np.testing.assert_array_equal(
        load_fitted(tmp_path).predict(tuning.inputs).risk, fitted.predict(tuning.inputs).risk
    )


def test_the_files_are_plain(folder):
    facts = json.loads((folder / "model.json").read_text())
    assert facts["spec"]["fusion"] == "late"
    history = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert [entry["epoch"] for entry in history] == [0, 1]
    assert sorted(path.name for path in folder.iterdir()) == [
        "history.jsonl",
        "model.json",
        "model.safetensors",
    ]


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "noise"])
def test_a_damaged_file_is_a_store_error(folder, name, damage):
    path = folder / name
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(
            {"empty": b"", "cut": content[: len(content) // 2], "noise": b"\xff\x00" * 50}[damage]
        )
    with pytest.raises(StoreError, match=r"model"):
        load_fitted(folder)


@pytest.mark.parametrize("facts", ["[]", "3", "{}", '{"format": 999}'])
def test_a_description_of_another_kind_or_format_is_a_store_error(folder, facts):
    (folder / "model.json").write_text(facts)
    with pytest.raises(StoreError, match=r"model\.json"):
        load_fitted(folder)


@pytest.mark.parametrize("key", ["spec", "scaling", "options", "seed", "events", "tuning_loss"])
def test_a_description_that_lacks_a_part_is_a_store_error(folder, key):
    facts = json.loads((folder / "model.json").read_text())
    del facts[key]
    (folder / "model.json").write_text(json.dumps(facts))
    with pytest.raises(StoreError, match="fit the model again"):
        load_fitted(folder)


@pytest.mark.parametrize(
    "change", [{"fusion": "unheard_of"}, {"fusion_options": {"combine": "sum"}}, {"unknown": 1}]
)
def test_a_strategy_this_version_does_not_know_is_a_store_error(folder, change):
    facts = json.loads((folder / "model.json").read_text())
    facts["spec"] |= change
    (folder / "model.json").write_text(json.dumps(facts))
    with pytest.raises(StoreError, match="fit the model again"):
        load_fitted(folder)


@pytest.mark.parametrize("spoil", ["lost", "other shape", "too many"])
@pytest.mark.parametrize(
    "name", ["model.head.layers.0.weight", "model.view_weight", "scaling.ct.token.mean"]
)
def test_tensors_that_do_not_fit_the_description_are_a_store_error(folder, name, spoil):
    tensors = load_file(folder / "model.safetensors")
    if spoil == "lost":
        del tensors[name]
    elif spoil == "other shape":
        tensors[name] = torch.zeros(17, dtype=tensors[name].dtype)
    else:
        tensors["model.unheard_of"] = torch.zeros(2)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(StoreError, match="fit the model again"):
        load_fitted(folder)


def test_saving_over_an_older_model_replaces_it(folder):
    train, tuning = split(make_samples(60, seed=3), 36, 24)
    fitted = fit(train, tuning, ModelSpec("concat", {}), quick(max_epochs=2))
    save_fitted(fitted, folder)
    np.testing.assert_array_equal(
        load_fitted(folder).predict(tuning.inputs).risk, fitted.predict(tuning.inputs).risk
    )
