"""The encoder: pooled and tokens, budgets, batches, coverage.

And the way from a study's cohort to its store.
"""

from __future__ import annotations

import json
import logging
import pickle
import shutil
from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest
import torch

from clmbr_fixture import FLAT, events, write_clmbr
from concordant.core.errors import ConfigError, StoreError, WeightsError
from concordant.core.modality import Modality
from concordant.data.cohort import read_cohort
from concordant.embeddings.extract import embed
from concordant.encoders.base import ENCODERS
from concordant.encoders.clmbr import Clmbr, load_clmbr
from concordant.encoders.clmbr.batching import padded
from concordant.encoders.clmbr.tokenizer import NO_BIRTH, tokenize
from concordant.encoders.clmbr.vocabulary import Flat, read_dictionary
from concordant.engines import LocalEngine


def record(generator, n):
    rows = [
        (float(day), f"LAB//{generator.integers(0, 20)}")
        for day in np.sort(generator.uniform(0, 900, n))[::-1]
    ]
    return events((None, "GENDER//F"), (1000.0, "MEDS_BIRTH"), *rows)


@pytest.fixture
def folder(tmp_path):
    return write_clmbr(tmp_path / "weights")


def test_tokens_are_the_last_states_and_pooled_is_the_very_last(folder):
    generator = np.random.default_rng(0)
    records = [record(generator, n) for n in (40, 2)]
    vocabulary = Flat(read_dictionary(folder / "dictionary.msgpack"))
    for one, encoded in zip(
        records, Clmbr(weights=folder, max_tokens=5).encode(records), strict=True
    ):
        batch = padded([tokenize(one, vocabulary)], bags=False)
        with torch.no_grad():
            states = load_clmbr(folder)(batch.tokens, batch.age_days, batch.valid)[0].numpy()
        np.testing.assert_allclose(encoded.tokens, states[-5:], atol=1e-5)
        np.testing.assert_array_equal(encoded.pooled, encoded.tokens[-1])
        assert len(encoded.tokens) == min(5, len(states))


def test_batches_of_any_size_give_what_single_records_give(folder):
    generator = np.random.default_rng(1)
    records = [record(generator, int(n)) for n in generator.integers(1, 90, 20)]
    singles = [Clmbr(weights=folder).encode([one])[0] for one in records]
    for batch_tokens in (1, 100, 100_000):
        for one, other in zip(
            Clmbr(weights=folder, batch_tokens=batch_tokens).encode(records), singles, strict=True
        ):
            np.testing.assert_allclose(one.tokens, other.tokens, atol=1e-5, rtol=1e-5)


def test_a_long_record_is_cut_to_what_its_last_states_depend_on(folder):
    generator = np.random.default_rng(2)
    long = record(generator, 3000)
    encoder = Clmbr(weights=folder, max_tokens=4)
    vocabulary = Flat(read_dictionary(folder / "dictionary.msgpack"))
    batch = padded([tokenize(long, vocabulary)], bags=False)
    with torch.no_grad():
        whole = load_clmbr(folder)(batch.tokens, batch.age_days, batch.valid)[0, -4:].numpy()
    np.testing.assert_allclose(encoder.encode([long])[0].tokens, whole, atol=1e-5)


def test_a_record_of_unknown_codes_alone_has_no_token(tmp_path):
    write_clmbr(tmp_path, entries=FLAT[1:])  # without the birth
    encoder = Clmbr(weights=tmp_path)
    unknown = events((90.0, "MEDS_BIRTH"), (3.0, "ICD10CM/I21"))
    nothing, something = encoder.encode([unknown, events((90.0, "MEDS_BIRTH"), (3.0, "LAB//1"))])
    assert (nothing.tokens.shape, nothing.pooled) == ((0, 32), None)
    assert something.tokens.shape == (1, 32)
    assert encoder.known_events(unknown) == 0


def test_an_encoder_can_be_sent_to_another_process(folder):
    encoder = Clmbr(weights=folder)
    one = record(np.random.default_rng(3), 9)
    before = encoder.encode([one])[0]
    assert len(pickle.dumps(encoder)) < 5000
    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(encoder)).encode([one])[0].tokens,  # noqa: S301 # its own bytes
        before.tokens,
    )


def test_the_card_comes_from_the_configuration_alone(folder):
    (folder / "model.safetensors").unlink()
    card = Clmbr(weights=folder, max_tokens=7).card
    assert (card.token_dim, card.pooled_dim, card.max_tokens, card.licence) == (
        32,
        32,
        7,
        "CC-BY-NC-4.0",
    )
    assert card.training_data == ("STARR-OMOP",)
    content = json.loads((folder / "config.json").read_text())
    content["concordant"] = {"licence": "ours", "training_data": ["ours_2020"]}
    (folder / "config.json").write_text(json.dumps(content))
    assert (Clmbr(weights=folder).card.licence, Clmbr(weights=folder).card.training_data) == (
        "ours",
        ("ours_2020",),
    )


@pytest.mark.parametrize("option", ["max_tokens", "batch_tokens"])
def test_a_budget_of_nothing_is_refused(folder, option):
    with pytest.raises(
        ConfigError, match=f"encoder 'clmbr', option {option}: 0 given, expected at least 1"
    ):
        ENCODERS.create("clmbr", weights=str(folder), **{option: 0})


@pytest.mark.parametrize(
    ("entries", "found"), [([*FLAT, *FLAT], "54 entries, flat"), (FLAT, "27 entries, hierarchical")]
)
def test_a_dictionary_of_another_model_is_refused(folder, tmp_path, entries, found):
    hierarchical = "hierarchical" in found
    other = write_clmbr(tmp_path / "other", entries=entries, is_hierarchical=hierarchical)
    shutil.copy(other / "dictionary.msgpack", folder)
    with pytest.raises(WeightsError, match=f"{found}; the network beside it takes 27, flat"):
        Clmbr(weights=folder).encode([record(np.random.default_rng(0), 2)])


INDEX = datetime(2020, 1, 10)


def write_study(root, codes, n=8, no_birth=()):
    """Eight subjects with twenty events each, of the given codes in turn."""
    rows = [
        (subject, INDEX - timedelta(days=days), code)
        for subject in range(n)
        for days, code in [
            *([] if subject in no_birth else [(9000, "MEDS_BIRTH")]),
            *((400 - 7 * place, codes[place % len(codes)]) for place in range(20)),
        ]
    ]
    (root / "meds" / "data").mkdir(parents=True, exist_ok=True)
    pl.DataFrame(rows, schema=["subject_id", "time", "code"], orient="row").write_parquet(
        root / "meds/data/0.parquet"
    )
    pl.DataFrame(
        {
            "sample_id": [f"s{subject}" for subject in range(n)],
            "subject_id": range(n),
            "prediction_time": [INDEX] * n,
            "split": ["train"] * n,
            "site": ["a"] * n,
            "time_days": [1.0] * n,
            "event": [1] * n,
        },
        schema_overrides={"event": pl.Int8},
    ).write_parquet(root / "cohort.parquet")
    return read_cohort(root / "cohort.parquet", meds=root / "meds", splits_required=False)


def run(cohort, root, folder, **more):
    options = ENCODERS.resolve("clmbr", {"weights": str(folder), **more.pop("given", {})})
    encoder = ENCODERS.create("clmbr", **options)
    return embed(
        cohort,
        Modality.EHR,
        encoder,
        root / "embeddings",
        name="clmbr",
        options=options,
        shard_size=3,
        **more,
    )


def test_the_store_says_how_many_events_the_vocabulary_has(tmp_path, folder):
    store = run(
        write_study(tmp_path, ["LAB//3", "LAB//4", "ICD10CM/I21", "LAB//5"]), tmp_path, folder
    )
    assert store.index["n_events"].to_list() == [21] * 8
    assert store.index["n_known"].to_list() == [16] * 8
    vocabulary = store.manifest["vocabulary"]
    assert (vocabulary["n_events"], vocabulary["n_known"], vocabulary["n_samples"]) == (168, 128, 8)
    assert vocabulary["share"] == vocabulary["median_share"] == pytest.approx(16 / 21)
    assert vocabulary["n_samples_below_half"] == 0
    assert store.manifest["facts"]["weights"] == Clmbr(weights=folder).weights_digest
    table = store.read(["s0", "s7"])
    assert table.pooled.shape == (2, 32)


def test_few_known_events_are_warned_of(tmp_path, folder, caplog):
    with caplog.at_level(logging.WARNING):
        run(
            write_study(tmp_path, ["LAB//3", *(f"ICD10CM/{n}" for n in range(4))]), tmp_path, folder
        )
    assert (
        "the encoder's vocabulary has 40 of 168 events (23.8%); of 8 of 8 records less than half"
        in caplog.text
    )


def test_next_to_no_known_event_is_refused_unless_forced_and_what_is_encoded_is_kept(
    tmp_path, folder, monkeypatch
):
    cohort = write_study(tmp_path, [f"ICD10CM/{n}" for n in range(5)])
    with pytest.raises(
        StoreError,
        match=r"vocabulary has 8 of 168 events \(4\.8%\), less than the 10% that are "
        r"required.*force: true",
    ):
        run(cohort, tmp_path, folder)
    monkeypatch.setattr(
        Clmbr, "encode", None
    )  # the shards are there: nothing is encoded a second time
    store = run(cohort, tmp_path, folder, given={"force": True})
    assert store.manifest["vocabulary"]["share"] == pytest.approx(8 / 168)


def test_a_store_that_was_forced_is_refused_again_without_force(tmp_path, folder):
    cohort = write_study(tmp_path, [f"ICD10CM/{n}" for n in range(5)])
    run(cohort, tmp_path, folder, given={"force": True})
    with pytest.raises(StoreError, match="less than the 10% that are required"):
        run(cohort, tmp_path, folder)


def test_a_record_without_birth_is_quarantined_with_its_reason(tmp_path, folder):
    cohort = write_study(tmp_path, ["LAB//3", "LAB//4"], no_birth=(2,))
    with pytest.raises(
        StoreError, match=r"1 of 8 samples cannot be encoded.*1 x no dated birth event"
    ):
        run(cohort, tmp_path, folder)
    store = run(cohort, tmp_path, folder, max_quarantined=0.2)
    assert store.quarantine.rows() == [("s2", NO_BIRTH)]
    assert store.present(["s1", "s2", "s3"]).tolist() == [True, False, True]


def test_other_weights_are_another_store_and_processes_change_nothing(tmp_path, folder):
    cohort = write_study(tmp_path, ["LAB//3", "LAB//4", "LAB//5"])
    first = run(cohort, tmp_path, folder)
    write_clmbr(folder, seed=1)
    second = run(cohort, tmp_path, folder, engine=LocalEngine(2))
    assert first.folder != second.folder
    here = run(cohort, tmp_path / "again", folder)
    np.testing.assert_allclose(
        here.read(["s0", "s5"]).values, second.read(["s0", "s5"]).values, atol=1e-5
    )
