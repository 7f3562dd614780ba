"""A unit of work: what its result depends on, what it writes, and that it is done once."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from concordant.core.files import differing_keys, read_json
from concordant.core.modality import Modality
from concordant.core.survival import COLUMNS, read_predictions
from concordant.engines import LocalEngine
from concordant.metrics import concordance_index
from concordant.study.cohorts import embed_all, read_data
from concordant.study.members import plan_members
from concordant.study.units import Unit, availability, run_unit, tuning_predictions
from concordant.training.checkpoint import load_fitted
from study_fixture import files_of, small_study, write_tables


def units(folder: Path, **changes: object) -> list[Unit]:
    study = small_study(folder, **changes)
    data = read_data(study)
    stores = embed_all(study, data, engine=LocalEngine(), retry_quarantined=False, progress=None)
    return [unit for plan in plan_members(study, data, stores) for unit in plan.units]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_tables(tmp_path_factory.mktemp("tables"))


@pytest.fixture(scope="module")
def done(folder) -> Unit:
    unit = units(folder, name="done", grid={"fusion": ["late"]})[0]
    run_unit(unit)
    return unit


def test_availability_says_which_modalities_there_are():
    ct, ehr = np.array([True, True, False, False]), [True, False, True, False]
    assert availability({Modality.CT: ct, Modality.EHR: ehr}, 4).to_list() == [
        "both",
        "ct",
        "ehr",
        "none",
    ]
    assert availability({Modality.EHR: ehr}, 4).to_list() == ["ehr", "none", "ehr", "none"]
    assert availability({}, 2).to_list() == ["none", "none"]


def test_a_unit_writes_its_folder(done):
    assert done.is_done
    assert sorted(files_of(done.folder)) == [
        "history.jsonl",
        "model.json",
        "model.safetensors",
        "predictions/held_out.parquet",
        "predictions/west.parquet",
        "unit.json",
    ]
    assert [path.name for path in done.folder.parent.iterdir()] == [
        done.folder.name
    ]  # nothing temporary


def test_predictions_are_those_of_the_test_rows_and_of_every_external_row(done, folder):
    held_out = pl.read_parquet(folder / "development.parquet").filter(pl.col("split") == "held_out")
    for label, rows in {
        "held_out": held_out,
        "west": pl.read_parquet(folder / "external.parquet"),
    }.items():
        predictions = read_predictions(done.folder / "predictions" / f"{label}.parquet")
        assert list(predictions.table.columns) == list(COLUMNS)
        columns = ["sample_id", "subject_id", "time_days", "event", "site"]
        assert predictions.table.select(columns).rows() == rows.select(columns).rows()
        assert (
            predictions.table["repeat"].null_count()
            == predictions.table["fold"].null_count()
            == rows.height
        )
        assert predictions.survival_times_days is not None
        assert predictions.survival_times_days.tolist() == done.times.tolist()
        survival = predictions.survival
        assert survival is not None
        assert (np.diff(survival, axis=1) <= 1e-12).all()
        higher = np.argsort(predictions.risk)
        assert (np.diff(survival[higher], axis=0) <= 1e-9).all()  # a higher risk survives less


def test_availability_is_read_off_the_files(done, folder):
    predictions = read_predictions(done.folder / "predictions" / "west.parquet").table
    ct, ehr = (
        set(pl.read_parquet(folder / name)["sample_id"]) for name in ("ct.parquet", "ehr.parquet")
    )
    patterns = {
        (True, True): "both",
        (True, False): "ct",
        (False, True): "ehr",
        (False, False): "none",
    }
    expected = [
        patterns[sample_id in ct, sample_id in ehr] for sample_id in predictions["sample_id"]
    ]
    assert predictions["available"].to_list() == expected
    assert len(set(expected)) >= 3


def test_a_sample_without_any_modality_gets_the_mean_risk(folder):
    unit = units(folder, name="mean", grid={"fusion": [{"name": "unimodal", "modality": "ct"}]})[0]
    run_unit(unit)
    predictions = read_predictions(unit.folder / "predictions" / "west.parquet").table
    without = predictions.filter(pl.col("available").is_in(["ehr", "none"]))
    assert without.height
    assert without["risk"].to_numpy() == pytest.approx(
        read_json(unit.folder / "unit.json")["train_mean_risk"]
    )


def test_the_account_tells_the_fit(done):
    account = read_json(done.folder / "unit.json")
    table = done.development.table
    assert account["n"] == {"train": 60, "tuning": 20, "test": 20}
    assert account["n_events_train"] == int(
        (table["event"].to_numpy() == 1)[done.rows["train"]].sum()
    )
    assert (account["repeat"], account["fold"], account["device"]) == (None, None, "cpu")
    fitted = load_fitted(done.folder)
    assert account["n_parameters"] == fitted.n_parameters
    assert account["train_mean_risk"] == pytest.approx(float(fitted.model.mean_risk))


def test_the_tuning_concordance_is_that_of_the_tuning_rows(done, folder):
    swapped = replace(
        done, folder=done.folder.parent / "swapped", rows={**done.rows, "test": done.rows["tuning"]}
    )
    run_unit(swapped)
    predictions = read_predictions(swapped.folder / "predictions" / "held_out.parquet")
    expected = concordance_index(
        predictions.target.time, predictions.target.event, predictions.risk
    ).estimate
    assert read_json(swapped.folder / "unit.json")["tuning_concordance"] == pytest.approx(expected)
    assert read_json(done.folder / "unit.json")["tuning_concordance"] == pytest.approx(expected)


def test_what_is_done_is_not_done_again(done):
    before = files_of(done.folder)
    run_unit(done)
    assert files_of(done.folder) == before


def test_another_cohort_table_or_split_changes_the_facts(done):
    part = done.development
    late = part.table.with_columns(pl.col("time_days") + 1)
    others = {
        "rows": replace(done, rows={**done.rows, "train": done.rows["train"][1:]}),
        "times": replace(done, times=done.times[1:]),
        "cohorts": replace(done, development=replace(part, table=late)),
        "stores": replace(
            done,
            development=replace(
                part, stores={name: path.with_name("x") for name, path in part.stores.items()}
            ),
        ),
        "available": replace(
            done, development=replace(part, available=part.available.replace("ct", "none"))
        ),
        "member": replace(done, member=replace(done.member, seed=9)),
    }
    for key, other in others.items():
        assert differing_keys(done.facts, other.facts) == [key]
        assert not other.is_done
    assert replace(done, folder=done.folder.parent).facts == done.facts


def test_a_unit_replaces_what_another_left(done):
    again = replace(done, folder=done.folder.parent / "again")
    run_unit(again)
    (again.folder / "stale").touch()
    shorter = replace(again, times=again.times[1:])
    run_unit(shorter)
    assert shorter.is_done
    assert not again.is_done
    assert not (again.folder / "stale").exists()


def test_a_store_that_was_made_anew_is_read_anew(folder):
    unit = units(folder, name="anew", grid={"fusion": [{"name": "unimodal", "modality": "ct"}]})[0]
    run_unit(unit)
    before = read_predictions(unit.folder / "predictions" / "west.parquet").risk
    store = unit.external[0].stores[Modality.CT]
    values = np.load(store / "00000.npy")
    np.save(store / "00000.npy", values * 0)
    os.utime(store / "manifest.json", ns=(1, 1))
    again = replace(unit, folder=unit.folder.parent / "again")
    run_unit(again)
    after = read_predictions(again.folder / "predictions" / "west.parquet").risk
    np.save(store / "00000.npy", values)
    assert np.unique(before).size > 10
    assert np.unique(after).size == 2  # all the same, but for those without a scan


def test_what_a_saved_model_predicts_for_its_tuning_part(done, folder):
    tuning = pl.read_parquet(folder / "development.parquet").filter(pl.col("split") == "tuning")
    predictions = tuning_predictions(done)
    assert predictions.table["sample_id"].to_list() == tuning["sample_id"].to_list()
    value = concordance_index(
        predictions.target.time, predictions.target.event, predictions.risk
    ).estimate
    assert value == pytest.approx(read_json(done.folder / "unit.json")["tuning_concordance"])
    assert predictions.survival_times_days is not None
    assert predictions.survival_times_days.tolist() == done.times.tolist()
