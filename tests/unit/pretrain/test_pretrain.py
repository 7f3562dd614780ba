"""Pretraining: vocabulary and objectives against slow references, what may be learned from,
resume, and that something is learned.
"""

from __future__ import annotations

import json
import math
import shutil
from datetime import datetime, timedelta
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from clmbr_fixture import events
from concordant.cli import app
from concordant.core.errors import ConfigError, RecordError, WeightsError
from concordant.core.files import DigestCache
from concordant.data.meds import scan_shards
from concordant.data.pretraining import dataset_identity, read_subjects
from concordant.encoders.base import ENCODERS
from concordant.encoders.clmbr import read_checkpoint
from concordant.encoders.clmbr.layout import NEW
from concordant.encoders.clmbr.vocabulary import read_dictionary
from concordant.pretrain import PretrainOptions, pretrain
from concordant.pretrain import run as run_module
from concordant.pretrain.objectives import TimeTasks, TimeToEvent, outlook, places_of
from concordant.pretrain.sequences import Piece, Sequences, batches_of, pieces_of
from concordant.pretrain.vocabulary import build_vocabulary

SMALL = {
    "hidden": 16,
    "layers": 1,
    "heads": 2,
    "min_subjects": 2,
    "batch_tokens": 400,
    "warm_up": 5,
    "learning_rate": 0.01,
}
WORDS = ("RED", "GREEN", "BLUE")


def write_meds(root, n=60, length=20, splits=True):
    """Write subjects whose codes follow each other in a circle, begun anywhere, every ten days.

    Held-out ones have a code of their own.
    """
    rows = []
    for subject in range(n):
        birth = datetime(1950, 1, 1) + timedelta(days=subject)
        rows.append((subject, birth, "MEDS_BIRTH", None, None))
        for place in range(length):
            code = (
                WORDS[(subject + place) % 3] if subject % 10 < 8 or subject % 10 == 8 else "SECRET"
            )
            rows.append((subject, birth + timedelta(days=10_000 + 10 * place), code, None, None))
        rows.append((subject, birth + timedelta(days=10_005), "LAB", float(subject), None))
        rows.append(
            (subject, birth + timedelta(days=10_006), "NOTE", None, "yes" if subject % 2 else "no")
        )
    (root / "data").mkdir(parents=True)
    schema = {
        "subject_id": pl.Int64,
        "time": pl.Datetime("us"),
        "code": pl.String,
        "numeric_value": pl.Float32,
        "text_value": pl.String,
    }
    pl.DataFrame(rows, schema=schema, orient="row").sort("subject_id", "time").write_parquet(
        root / "data" / "0.parquet"
    )
    split = [
        "held_out" if subject % 10 == 9 else "tuning" if subject % 10 == 8 else "train"
        for subject in range(n)
    ]
    table = pl.DataFrame({"subject_id": range(n), "split": split})
    if splits:
        (root / "metadata").mkdir()
        table.write_parquet(root / "metadata" / "subject_splits.parquet")
    return root, table


def test_the_vocabulary_is_that_of_counting_by_hand(tmp_path):
    meds, table = write_meds(tmp_path)
    train = table.filter(pl.col("split") == "train")["subject_id"]
    entries = build_vocabulary(scan_shards(meds), train, size=100, min_subjects=2)
    assert entries[0] == {"type": "code", "code_string": "MEDS_BIRTH", "weight": -1.0}
    assert {entry["code_string"] for entry in entries if entry["type"] == "code"} == {
        "MEDS_BIRTH",
        *WORDS,
    }
    assert {
        (entry["code_string"], entry["text_string"]) for entry in entries if entry["type"] == "text"
    } == {
        ("NOTE", "yes"),
        ("NOTE", "no"),
    }
    half = [entry["weight"] for entry in entries if entry["type"] == "text"]
    assert half == pytest.approx([-math.log(2)] * 2, rel=1e-3)
    ranges = sorted(
        (entry["val_start"], entry["val_end"]) for entry in entries if entry["type"] == "numeric"
    )
    assert (ranges[0][0], ranges[-1][1], len(ranges)) == (-math.inf, math.inf, 10)
    assert all(one[1] == other[0] for one, other in pairwise(ranges))
    inside = [sum(start <= value < end for value in train) for start, end in ranges]
    assert max(inside) - min(inside) <= 2
    assert [entry["weight"] for entry in entries] == sorted(entry["weight"] for entry in entries)
    assert build_vocabulary(scan_shards(meds), train, size=4, min_subjects=2) == entries[:4]


def test_a_code_of_one_value_is_one_range_and_rare_ones_are_left_out(tmp_path):
    rows = [
        (subject, datetime(2000, 1, 1), code, 1.0)
        for subject in range(6)
        for code in ("SAME", "RARE")
        if code == "SAME" or subject == 0
    ]
    pl.DataFrame(
        rows, schema=["subject_id", "time", "code", "numeric_value"], orient="row"
    ).write_parquet(tmp_path / "0.parquet")
    everyone = pl.Series(range(6))
    entries = build_vocabulary(scan_shards(tmp_path), everyone, size=9, min_subjects=2)
    assert [
        (entry["code_string"], entry.get("val_start"), entry.get("val_end"))
        for entry in entries[1:]
    ] == [("SAME", -math.inf, math.inf)]
    with pytest.raises(RecordError, match="occurs in the records of 7 train subjects"):
        build_vocabulary(scan_shards(tmp_path), everyone, size=9, min_subjects=7)


def packed(*records):
    """Pack records of (token, age)."""
    tokens = np.array([token for record in records for token, _ in record], np.int32)
    ages = np.array([age for record in records for _, age in record], np.float32)
    return Sequences(
        tokens,
        ages,
        np.concatenate([[0], np.cumsum([len(record) for record in records])]).astype(np.int64),
        0,
        0,
    )


RECORD = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 12)), min_size=2, max_size=15).map(
    lambda rows: sorted(rows, key=lambda row: row[1])
)


@settings(max_examples=60, deadline=None)
@given(RECORD, RECORD)
def test_what_lies_ahead_is_that_of_looking_event_by_event(before, record):
    sequences = packed(before, record)
    start, end = (int(one) for one in sequences.offsets[1:])
    rows = np.arange(start, end)
    found = outlook(sequences, rows, end, np.array([1, 3, 7]))
    for place, (_, age) in enumerate(record):
        for task, token in enumerate((1, 3, 7)):
            later = [when - age for one, when in record if one == token and when > age]
            assert found.observed[place, task] == bool(later)
            assert (
                found.seconds[place, task]
                == (min(later) if later else record[-1][1] - age) * 86_400
            )


@settings(max_examples=60, deadline=None)
@given(RECORD, RECORD, st.integers(2, 6))
def test_a_hazard_is_asked_at_the_last_event_of_a_time_that_has_a_future(
    before, record, max_length
):
    sequences = packed(before, record)
    asked = {
        int(row)
        for piece in pieces_of(sequences, max_length)
        for row in places_of(sequences, piece)
    }
    expected = {
        first + place
        for first, rows in ((0, before), (len(before), record))
        for place, (one, other) in enumerate(pairwise(rows))
        if other[1] > one[1] >= 1
    }
    assert asked == expected


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(2, 40), min_size=1, max_size=20), st.integers(2, 15))
def test_pieces_hold_every_step_once(lengths, max_length):
    sequences = packed(*([(0, age) for age in range(length)] for length in lengths))
    steps = [
        (row, row + 1)
        for piece in pieces_of(sequences, max_length)
        for row in range(piece.start, piece.end - 1)
    ]
    expected = [
        (row, row + 1)
        for start, end in pairwise(sequences.offsets.tolist())
        for row in range(start, end - 1)
    ]
    assert sorted(steps) == expected
    pieces = pieces_of(sequences, max_length)
    assert max(map(len, pieces)) <= max_length
    drawn = batches_of(pieces, 30, [1, 2])
    assert sorted(piece.start for batch in drawn for piece in batch) == sorted(
        piece.start for piece in pieces
    )
    assert drawn == batches_of(pieces, 30, [1, 2])


def test_the_loss_of_motor_is_the_likelihood_of_hazards_that_are_constant_in_pieces():
    generator = np.random.default_rng(0)
    edges = np.array([0.0, 100.0, 250.0, math.inf])
    tasks = TimeTasks(np.array([1, 2]), ("a", "b"), np.array([1e-3, 1e-2]), edges)
    head = TimeToEvent(4, 5, tasks)
    hidden = torch.from_numpy(generator.normal(size=(6, 4))).float()
    seconds = torch.from_numpy(generator.choice([0.0, 50, 100, 180, 250, 900], (6, 2))).float()
    observed = torch.from_numpy(generator.random((6, 2)) < 0.5)
    with torch.no_grad():
        losses = head.losses(hidden, seconds, observed).double().numpy()
        hazards = 2.0 ** head.log_hazards(hidden).double().numpy()
    for place in range(6):
        for task in range(2):
            time, total = float(seconds[place, task]), 0.0
            for piece in range(3):
                spent = max(0.0, min(time, edges[piece + 1]) - edges[piece])
                inside = bool(observed[place, task]) and edges[piece] < time <= edges[piece + 1]
                expected = hazards[place, piece, task] * spent - (
                    math.log(hazards[place, piece, task]) if inside else 0.0
                )
                assert losses[place, piece, task] == pytest.approx(expected, rel=1e-4, abs=1e-5)
                total += expected
    with torch.no_grad():
        head.final_layer.weight.zero_(), head.final_layer.bias.zero_()
        torch.testing.assert_close(
            head.log_hazards(hidden)[0, 0], torch.tensor([1e-3, 1e-2]).log2()
        )


@pytest.mark.parametrize("objective", ["clmbr", "motor"])
def test_a_checkpoint_loads_like_a_released_one_and_encodes(tmp_path, objective):
    meds, _ = write_meds(tmp_path / "meds")
    out = tmp_path / "out"
    done = pretrain(meds, out, PretrainOptions(objective=objective, max_epochs=2, **SMALL))
    assert (done.n_train, done.n_tuning, done.epochs) == (48, 6, 2)
    checkpoint = read_checkpoint(out)
    assert (checkpoint.layout, checkpoint.config.task) == (NEW, objective)
    assert set(checkpoint.head) >= {"final_layer.weight", "final_layer.bias"}
    dictionary = read_dictionary(out / "dictionary.msgpack")
    assert "SECRET" not in dictionary.codes
    encoder = ENCODERS.create(objective, weights=str(out))
    encoded = encoder.encode([events((9000.0, "MEDS_BIRTH"), (20.0, "RED"), (10.0, "GREEN"))])[0]
    assert encoded.tokens.shape == (3, 16)
    assert encoder.card.training_data == ("own records",)
    record = json.loads((out / "pretraining.json").read_text())
    assert record["counts"]["train"] == {
        "records": 48,
        "events": 48 * 23,
        "without_birth": 0,
        "short": 0,
    }
    assert record["held_out_subjects"] == 6
    assert min(entry["tuning_loss"] for entry in record["history"]) == pytest.approx(
        done.tuning_loss
    )


def test_the_next_code_is_learned(tmp_path):
    """Codes in a circle have log 3 nats of surprise when looked at alone.

    Who reads the order has next to none.
    """
    meds, _ = write_meds(tmp_path / "meds", n=100)
    done = pretrain(meds, tmp_path / "out", PretrainOptions(max_epochs=8, patience=8, **SMALL))
    assert (
        done.tuning_loss < 0.45
        # a first code, a tenth of numbers and a text, which nothing tells, cost (1.1 + 2.3 + 0.7) /
        # 22
        # = 0.19
    )


def test_hazards_are_learned(tmp_path):
    """Who is sick has pain every thirty days on average, who is well every three hundred.

    A ratio of 2 to the power of 3.3.
    """
    generator = np.random.default_rng(0)
    rows = []
    for subject in range(120):
        birth = datetime(1950, 1, 1)
        state, mean = ("SICK", 30.0) if subject % 2 else ("WELL", 300.0)
        pains = 10_000 + np.cumsum(generator.exponential(mean, 8 if subject % 2 else 3))
        rows += [(subject, birth, "MEDS_BIRTH"), (subject, birth + timedelta(days=10_000), state)]
        rows += [(subject, birth + timedelta(days=day), "PAIN") for day in pains] + [
            (subject, birth + timedelta(days=11_500), "END")
        ]
    (tmp_path / "meds").mkdir()
    table = pl.DataFrame(rows, schema=["subject_id", "time", "code"], orient="row")
    table.sort("subject_id", "time").write_parquet(tmp_path / "meds" / "0.parquet")
    pretrain(
        tmp_path / "meds",
        tmp_path / "out",
        PretrainOptions(objective="motor", max_epochs=12, patience=12, time_bins=2, **SMALL),
    )
    checkpoint = read_checkpoint(tmp_path / "out")
    tokens = read_dictionary(tmp_path / "out" / "dictionary.msgpack").codes
    told = checkpoint.config.task_options
    names = [code for code, _ in told["pretraining_task_info"]]
    tasks = TimeTasks(
        np.array([tokens[name] for name in names]),
        tuple(names),
        np.ones(len(names)),
        np.array([*told["time_bins"][:-1], math.inf]),
    )
    head = TimeToEvent(16, told["final_layer_size"], tasks)
    head.load_state_dict(dict(checkpoint.head))
    records = torch.tensor([[tokens["MEDS_BIRTH"], tokens[state]] for state in ("SICK", "WELL")])
    with torch.no_grad():
        hidden = checkpoint.network(
            records, torch.tensor([[0.0, 10_000.0]] * 2), torch.ones(2, 2, dtype=torch.bool)
        )
        sick, well = head.log_hazards(hidden[:, -1])[:, 0, names.index("PAIN")].tolist()
    assert sick - well > 1.5


@pytest.mark.parametrize("objective", ["clmbr", "motor"])
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path, objective, monkeypatch):
    meds, _ = write_meds(tmp_path / "meds")
    options = PretrainOptions(objective=objective, max_epochs=3, rounds_per_epoch=2, **SMALL)
    whole = pretrain(meds, tmp_path / "whole", options)
    kept = run_module.save_state
    calls = []

    def stop_after_three(*arguments):
        kept(*arguments)
        calls.append(None)
        if len(calls) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(run_module, "save_state", stop_after_three)
    with pytest.raises(KeyboardInterrupt):
        pretrain(meds, tmp_path / "parts", options)
    monkeypatch.setattr(run_module, "save_state", kept)
    parts = pretrain(meds, tmp_path / "parts", options)
    assert parts.tuning_loss == whole.tuning_loss
    assert (tmp_path / "parts" / "model.safetensors").read_bytes() == (
        tmp_path / "whole" / "model.safetensors"
    ).read_bytes()
    histories = [
        json.loads((tmp_path / name / "pretraining.json").read_text())["history"]
        for name in ("parts", "whole")
    ]
    assert histories[0] == histories[1]
    assert (
        pretrain(meds, tmp_path / "parts", options) == parts
    )  # a run that has ended is left as it is


def test_another_run_is_not_gone_on_with_unless_begun_anew(tmp_path):
    meds, _ = write_meds(tmp_path / "meds")
    pretrain(meds, tmp_path / "out", PretrainOptions(max_epochs=1, **SMALL))
    with pytest.raises(ConfigError, match="holds a run with other options; give the same"):
        pretrain(meds, tmp_path / "out", PretrainOptions(max_epochs=1, seed=1, **SMALL))
    assert (
        pretrain(
            meds, tmp_path / "out", PretrainOptions(max_epochs=1, seed=1, **SMALL), restart=True
        ).epochs
        == 1
    )


def test_a_run_that_has_ended_goes_on_when_more_epochs_are_allowed(tmp_path):
    meds, _ = write_meds(tmp_path / "meds")
    longer = PretrainOptions(max_epochs=3, patience=9, **SMALL)
    whole = pretrain(meds, tmp_path / "whole", longer)
    assert pretrain(meds, tmp_path / "parts", PretrainOptions(max_epochs=1, **SMALL)).epochs == 1
    parts = pretrain(meds, tmp_path / "parts", longer)
    assert (parts.epochs, parts.tuning_loss) == (3, whole.tuning_loss)
    assert (tmp_path / "parts" / "model.safetensors").read_bytes() == (
        tmp_path / "whole" / "model.safetensors"
    ).read_bytes()


def uses(folder):
    """Return whom a folder says it was pretrained on: sorted ids by use."""
    table = read_subjects(folder).table
    return {
        use: sorted(table.filter(pl.col("used_for") == use)["subject_id"])
        for use in ("train", "tuning")
    }


def test_whom_a_checkpoint_was_pretrained_on_lies_beside_it_and_is_no_part_of_it(tmp_path):
    meds, table = write_meds(tmp_path / "meds")
    out = tmp_path / "out"
    pretrain(meds, out, PretrainOptions(max_epochs=1, **SMALL))
    assert uses(out) == {
        use: table.filter(pl.col("split") == use)["subject_id"].to_list()
        for use in ("train", "tuning")
    }
    assert read_subjects(out).dataset == dataset_identity(meds, None, DigestCache())
    with_list = ENCODERS.create("clmbr", weights=str(out)).weights_digest
    (out / "subjects.parquet").unlink()
    without = ENCODERS.create("clmbr", weights=str(out))
    assert without.weights_digest == with_list
    assert len(without.encode([events((9000.0, "MEDS_BIRTH"), (20.0, "RED"))])[0].tokens) == 2
    assert read_subjects(out) is None


def test_the_list_holds_only_those_whose_records_the_dataset_has(tmp_path):
    meds, _ = write_meds(tmp_path / "meds", splits=False)
    cohort = tmp_path / "cohort.parquet"
    split = ["train"] * 20 + ["tuning"] * 5 + ["held_out"] * 15 + ["train"] * 3
    pl.DataFrame({"subject_id": [*range(40), 901, 902, 903], "split": split}).write_parquet(cohort)
    pretrain(meds, tmp_path / "out", PretrainOptions(max_epochs=1, **SMALL), splits=cohort)
    assert uses(tmp_path / "out") == {"train": list(range(20)), "tuning": list(range(20, 25))}


def test_weights_of_before_get_their_list_by_the_same_command_and_stay_as_they_are(tmp_path):
    meds, _ = write_meds(tmp_path / "meds")
    options = PretrainOptions(max_epochs=1, **SMALL)
    pretrain(meds, tmp_path / "out", options)
    expected, weights = (
        uses(tmp_path / "out"),
        (tmp_path / "out" / "model.safetensors").read_bytes(),
    )
    (tmp_path / "out" / "subjects.parquet").unlink()
    pretrain(meds, tmp_path / "out", options)
    assert uses(tmp_path / "out") == expected
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == weights


def test_a_run_begun_anew_has_no_list_of_the_one_before(tmp_path, monkeypatch):
    meds, _ = write_meds(tmp_path / "meds")
    pretrain(meds, tmp_path / "out", PretrainOptions(max_epochs=1, **SMALL))

    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(run_module, "save_checkpoint", stop)
    with pytest.raises(KeyboardInterrupt):
        pretrain(
            meds, tmp_path / "out", PretrainOptions(max_epochs=1, seed=1, **SMALL), restart=True
        )
    assert read_subjects(tmp_path / "out") is None


def test_a_dataset_is_told_by_its_bytes_wherever_it_lies(tmp_path):
    meds, _ = write_meds(tmp_path / "meds")
    other, _ = write_meds(tmp_path / "other", length=21)
    moved = shutil.copytree(meds, tmp_path / "moved" / "meds")
    (moved / "data" / "0.parquet").rename(moved / "data" / "renamed.parquet")
    identities = [
        dataset_identity(one, columns, DigestCache())
        for one, columns in ((meds, None), (moved, {}), (other, None))
    ]
    assert identities[0] == identities[1] != identities[2]
    assert dataset_identity(meds, {"numeric_value": "value"}, DigestCache()) == identities[0]
    assert (
        dataset_identity(meds, {"subject_id": "mrn"}, DigestCache()) != identities[0]
    )  # other ids of the same rows


def test_a_list_that_is_none_is_refused_without_an_id(tmp_path):
    path = tmp_path / "subjects.parquet"
    path.write_bytes(b"no parquet")
    with pytest.raises(
        WeightsError, match=r"subjects.parquet: not readable, .*without the file the weights work"
    ):
        read_subjects(tmp_path)
    good = pl.DataFrame({"subject_id": [71_123], "used_for": ["train"]})
    unsaid = (
        good.with_columns(used_for=pl.lit("test")),
        good.with_columns(used_for=pl.lit(1)),
        good.with_columns(used_for=pl.lit(None, pl.String)),
        good.with_columns(subject_id=pl.lit(None, pl.Int64)),
    )
    for table in unsaid:
        table.write_parquet(path, metadata={"meds_dataset": "ours"})
        with pytest.raises(WeightsError, match="a null, or a used_for other than train, tuning"):
            read_subjects(tmp_path)
    for table in (
        good,
        good.rename({"used_for": "split"}),
        good.with_columns(subject_id=pl.lit("p71123")),
    ):
        table.write_parquet(path)
        with pytest.raises(WeightsError) as refused:
            read_subjects(tmp_path)
        assert "71123" not in str(refused.value)


def test_training_stops_when_tuning_no_longer_gets_better(tmp_path):
    meds, _ = write_meds(tmp_path / "meds")
    options = PretrainOptions(max_epochs=60, patience=1, **(SMALL | {"learning_rate": 0.3}))
    done = pretrain(meds, tmp_path / "out", options)
    losses = [
        entry["tuning_loss"]
        for entry in json.loads((tmp_path / "out" / "pretraining.json").read_text())["history"]
    ]
    assert done.epochs < 60
    assert losses[-1] >= min(losses[:-1]) == done.tuning_loss


def test_a_cohort_says_who_may_be_learned_from(tmp_path, caplog):
    meds, _ = write_meds(tmp_path / "meds", splits=False)
    cohort = tmp_path / "cohort.parquet"
    split = ["train"] * 20 + ["tuning"] * 5 + ["held_out"] * 15
    pl.DataFrame(
        {"sample_id": [str(one) for one in range(40)], "subject_id": range(40), "split": split}
    ).write_parquet(cohort)
    done = pretrain(meds, tmp_path / "out", PretrainOptions(max_epochs=1, **SMALL), splits=cohort)
    assert (done.n_train, done.n_tuning) == (20, 5)
    pl.DataFrame({"subject_id": [1, 1], "split": ["train", "tuning"]}).write_parquet(cohort)
    with pytest.raises(RecordError, match="2 rows give a subject more than one split"):
        pretrain(meds, tmp_path / "out", PretrainOptions(max_epochs=1, **SMALL), splits=cohort)
    pl.DataFrame({"subject_id": [1, 2], "split": ["train", "test"]}).write_parquet(cohort)
    with pytest.raises(RecordError, match="split is 'test'"):
        pretrain(meds, tmp_path / "out", PretrainOptions(max_epochs=1, **SMALL), splits=cohort)
    drawn = pretrain(meds, tmp_path / "drawn", PretrainOptions(max_epochs=1, **SMALL))
    assert (drawn.n_train, drawn.n_tuning) == (48, 6)
    assert caplog.text.count("drawn from everyone, also from those whom a study may hold out") == 1


def test_records_that_cannot_be_used_are_counted(tmp_path, caplog):
    meds, _ = write_meds(tmp_path / "meds")
    path = meds / "data" / "0.parquet"
    table = pl.read_parquet(path)
    kept = table.filter(
        ~((pl.col("subject_id") == 1) & (pl.col("code") == "MEDS_BIRTH"))
        & (pl.col("subject_id") != 3)
    )
    undated = pl.col("subject_id") == 2
    kept.with_columns(time=pl.when(~undated).then("time")).write_parquet(path)
    done = pretrain(meds, tmp_path / "out", PretrainOptions(max_epochs=1, **SMALL))
    assert done.n_train == 45
    assert (
        "train: 3 record(s) left out without a dated birth, 0 with fewer than two known events"
        in caplog.text
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "bert"}, "objective is 'bert'; expected clmbr or motor"),
        ({"hidden": 10, "heads": 4}, "hidden is 10, heads 4"),
        ({"layers": 0}, "layers is 0; expected at least 1"),
        ({"learning_rate": 0.0}, "learning_rate 0.0"),
        ({"device": "tpu"}, "device is 'tpu'"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        PretrainOptions(**options)


def test_the_command_trains_and_says_what_it_did(tmp_path):
    meds, _ = write_meds(tmp_path / "meds")
    arguments = [
        "pretrain",
        "clmbr",
        "--meds",
        str(meds),
        "--out",
        str(tmp_path / "out"),
        "--hidden",
        "16",
        "--layers",
        "1",
        "--heads",
        "2",
    ]
    done = CliRunner().invoke(app, [*arguments, "--max-epochs", "1", "--min-subjects", "2"])
    assert done.exit_code == 0, done.output
    assert f"weights: {tmp_path / 'out'}" in done.output
    assert "48 train and 6 tuning records, 1 epochs" in done.output
    assert "subjects.parquet in it lists patients" in done.output
    refused = CliRunner().invoke(app, [*arguments, "--column", "value"])
    assert refused.exit_code == 2
    assert "expected MEDS_NAME=NAME_IN_THE_FILE, such as numeric_value=value" in refused.output


def test_a_piece_at_the_end_of_a_record_looks_no_further():
    sequences = packed([(0, 0), (1, 5), (2, 9)], [(0, 0), (1, 3)])
    assert places_of(sequences, Piece(0, 3, 3)).tolist() == [1]
    assert outlook(sequences, np.array([1]), 3, np.array([1, 2])).observed.tolist() == [
        [False, True]
    ]
