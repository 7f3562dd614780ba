"""CLMBR against expected values.

Hidden states in both layouts, and a trained model that knows its own records.
"""

from __future__ import annotations

import csv
import os
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file

from concordant.core.errors import WeightsError
from concordant.core.events import Events
from concordant.encoders.clmbr import load_clmbr, read_checkpoint
from concordant.encoders.clmbr.batching import padded
from concordant.encoders.clmbr.layout import NEW, OLD
from concordant.encoders.clmbr.tokenizer import tokenize
from concordant.encoders.clmbr.vocabulary import Flat, read_dictionary
from concordant.encoders.motor import Motor

DATA = Path(os.environ.get("CONCORDANT_DATA", Path(__file__).parents[3] / "shared" / "data"))
GOLDEN, TUTORIAL = DATA / "clmbr_golden", DATA / "femr_tutorial_models"
golden = pytest.mark.skipif(
    not GOLDEN.is_dir(),
    reason=f"no {GOLDEN}; set CONCORDANT_DATA to the folder that holds clmbr_golden",
)
tutorial = pytest.mark.skipif(
    not TUTORIAL.is_dir(),
    reason=f"no {TUTORIAL}; set CONCORDANT_DATA to the folder of femr_tutorial_models",
)


def hidden(network, expected):
    tokens, ages = (
        torch.from_numpy(expected["tokens"].astype(np.int64))[None],
        torch.from_numpy(expected["age_days"].astype(np.float32))[None],
    )
    with torch.no_grad():
        return network(tokens, ages, torch.ones(ages.shape, dtype=torch.bool))[0].numpy()


@golden
@pytest.mark.parametrize("layout", [OLD, NEW], ids=["old", "new"])
def test_hidden_states_match_to_1e_5(layout):
    folder = GOLDEN / layout.name.partition(" ")[0]
    network = load_clmbr(folder)
    assert network.layout is layout
    expected = np.load(folder / "expected.npz")
    np.testing.assert_allclose(hidden(network, expected), expected["hidden"], atol=1e-5, rtol=0)


@golden
def test_one_layout_is_never_loaded_as_the_other(tmp_path):
    """Renaming is not loading.

    An old file under the new names is another network, and a half renamed one is none.
    """
    shutil.copytree(GOLDEN / "old", tmp_path / "renamed")
    tensors = load_file(GOLDEN / "old" / "model.safetensors")
    path = tmp_path / "renamed" / "model.safetensors"
    path.chmod(0o644)
    save_file(
        {name.replace("norm.scale", "norm.weight"): value for name, value in tensors.items()}, path
    )
    expected = np.load(GOLDEN / "old" / "expected.npz")
    assert (
        np.abs(hidden(load_clmbr(tmp_path / "renamed"), expected) - expected["hidden"]).max() > 0.1
    )
    save_file(
        {
            name.replace("out_norm.scale", "out_norm.weight"): value
            for name, value in tensors.items()
        },
        path,
    )
    with pytest.raises(WeightsError, match="its norms are called scale, weight"):
        load_clmbr(tmp_path / "renamed")


def tutorial_sequences():
    with (TUTORIAL / "clmbr" / "main_split.csv").open() as stream:
        train = {
            int(row["subject_id"]) for row in csv.DictReader(stream) if row["split_name"] == "train"
        }
    vocabulary = Flat(read_dictionary(TUTORIAL / "clmbr" / "dictionary.msgpack"))
    rows = pl.read_parquet(TUTORIAL / "synthetic_subjects.parquet").filter(
        pl.col("subject_id").is_in(sorted(train))
    )
    for _, record in rows.group_by("subject_id", maintain_order=True):
        days = (record["time"].max() - record["time"]).dt.total_microseconds().to_numpy() / 86_400e6
        values = record["numeric_value"].cast(pl.Float64).fill_null(float("nan")).to_numpy()
        yield tokenize(Events(days, tuple(record["code"]), values), vocabulary)


def next_code(network, head):
    """Return the mean negative log-likelihood in nats, and the accuracy, of the next code of
    those that the head knows.
    """
    batch = padded(list(tutorial_sequences()), bags=False)
    with torch.no_grad():
        logits = (
            network(batch.tokens, batch.age_days, batch.valid) @ head["final_layer.weight"].T
            + head["final_layer.bias"]
        )
    following = batch.tokens[:, 1:]
    asked = batch.valid[:, 1:] & (following < logits.shape[-1])
    logits, following = logits[:, :-1][asked], following[asked]
    return torch.nn.functional.cross_entropy(logits, following).item(), (
        logits.argmax(-1) == following
    ).float().mean().item()


@tutorial
def test_a_trained_model_knows_the_records_it_was_trained_on():
    checkpoint = read_checkpoint(TUTORIAL / "clmbr")
    assert checkpoint.layout is NEW
    assert next_code(checkpoint.network, checkpoint.head) == pytest.approx((2.44, 0.42), abs=0.005)


@tutorial
def test_under_the_old_names_and_rules_it_knows_nothing(tmp_path):
    shutil.copytree(TUTORIAL / "clmbr", tmp_path / "old")
    path = tmp_path / "old" / "model.safetensors"
    path.chmod(0o644)
    save_file(
        {
            name.replace("norm.weight", "norm.scale"): value
            for name, value in load_file(path).items()
        },
        path,
    )
    checkpoint = read_checkpoint(tmp_path / "old")
    assert checkpoint.layout is OLD
    likelihood, accuracy = next_code(checkpoint.network, checkpoint.head)
    assert likelihood == pytest.approx(3.79, abs=0.01)
    assert accuracy < 0.01


@tutorial
def test_the_third_layout_is_refused_by_name():
    with pytest.raises(WeightsError, match=r"hawk_module.*femr 0\.2\.4, another architecture"):
        load_clmbr(TUTORIAL / "motor")
    with pytest.raises(WeightsError, match="hawk_module"):
        Motor(weights=TUTORIAL / "motor").encode(
            [Events(np.array([1.0]), ("MEDS_BIRTH",), np.array([np.nan]))]
        )
