"""The members of a study.

Their splits, what cannot be fitted, and predictions put together over folds.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from concordant.config import Study
from concordant.core.errors import CohortError, StoreError
from concordant.core.files import read_json
from concordant.core.modality import Modality
from concordant.core.survival import read_predictions
from concordant.engines import LocalEngine
from concordant.study.cohorts import StudyData, embed_all, read_data
from concordant.study.members import (
    MemberPlan,
    collect,
    git_revision,
    plan_members,
    refuse_without_events,
    survival_times,
    versions,
)
from concordant.study.units import run_unit
from study_fixture import alter, small_study, write_tables

CT_ONLY = {"fusion": [{"name": "unimodal", "modality": "ct"}]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tables(tmp_path)


def plans_of(study: Study, data: StudyData | None = None) -> tuple[MemberPlan, ...]:
    data = read_data(study) if data is None else data
    return plan_members(
        study,
        data,
        embed_all(study, data, engine=LocalEngine(), retry_quarantined=False, progress=None),
    )


# Times


def test_survival_is_predicted_at_quantiles_of_train_event_times_and_at_the_horizons(folder):
    study = small_study(folder)
    times = survival_times(study, read_data(study))
    train = pl.read_parquet(folder / "development.parquet").filter(
        (pl.col("split") == "train") & (pl.col("event") == 1)
    )
    known = set(train["time_days"])
    assert (np.diff(times) > 0).all()
    assert {180.0, 365.0} <= set(times)
    assert set(times) - {180.0, 365.0} <= known
    assert (min(known), max(known)) == (times[0], max(set(times) - {180.0, 365.0}))
    assert len(times) == min(100, len(known)) + 2


def test_under_cross_validation_the_times_are_those_of_all_who_take_part(folder):
    study = small_study(folder, cross_validation={"folds": 2}, task={"event": "death"})
    data = read_data(study)
    rows = data.development.table.filter((pl.col("split") != "held_out") & (pl.col("event") == 1))
    assert set(survival_times(study, data)) == set(rows["time_days"])


# Splits


def test_without_folds_the_roles_are_the_splits_of_the_table(folder):
    (plan,) = plans_of(small_study(folder, grid=CT_ONLY))
    (unit,) = plan.units
    split = unit.development.table.join(
        pl.read_parquet(folder / "development.parquet"), on="sample_id", maintain_order="left"
    )["split"]
    assert {role: set(split[rows]) for role, rows in unit.rows.items()} == {
        "train": {"train"},
        "tuning": {"tuning"},
        "test": {"held_out"},
    }
    assert sum(map(len, unit.rows.values())) == 100
    assert (unit.repeat, unit.fold, unit.folder) == (None, None, plan.folder.path)


def test_folds_partition_who_takes_part_and_keep_groups_whole(folder):
    options = {"folds": 3, "repeats": 2, "group": "household"}
    (plan,) = plans_of(small_study(folder, grid=CT_ONLY, cross_validation=options))
    assert [(unit.repeat, unit.fold) for unit in plan.units] == [
        (repeat, fold) for repeat in (0, 1) for fold in (0, 1, 2)
    ]
    assert [unit.folder.relative_to(plan.folder.path).as_posix() for unit in plan.units][:2] == [
        "folds/r0-f0",
        "folds/r0-f1",
    ]
    table = pl.read_parquet(folder / "development.parquet")
    taking_part = np.flatnonzero(table["split"] != "held_out")
    for unit in plan.units:
        rows = np.concatenate(list(unit.rows.values()))
        assert sorted(rows) == taking_part.tolist()
        households = [set(table["household"][part]) for part in unit.rows.values()]
        assert sum(map(len, households)) == len(set.union(*households))
        learned = len(unit.rows["train"]) + len(unit.rows["tuning"])
        assert len(unit.rows["tuning"]) / learned == pytest.approx(0.2, abs=0.05)
        assert table["event"][unit.rows["tuning"]].sum() > 0
    for repeat in (0, 1):
        tested = np.concatenate([unit.rows["test"] for unit in plan.units if unit.repeat == repeat])
        assert sorted(tested) == taking_part.tolist()


def test_the_tuning_part_is_drawn_the_same_every_time_and_anew_for_every_fold(folder):
    study = small_study(folder, grid=CT_ONLY, cross_validation={"folds": 3, "repeats": 2})
    first, second = (plans_of(study)[0].units for _ in range(2))
    tuning = [tuple(unit.rows["tuning"]) for unit in first]
    assert tuning == [tuple(unit.rows["tuning"]) for unit in second]
    assert len(set(tuning)) == 6


# What cannot be fitted


def test_attention_over_a_single_token_is_planned_without_units(folder):
    grid = {"fusion": [{"name": "cross_attention", "query": "ehr"}, "concat"]}
    attention, concat = plans_of(small_study(folder, grid=grid))
    assert attention.units == ()
    assert attention.reason is not None
    assert "attention over ct needs more than one token" in attention.reason
    assert concat.reason is None
    assert len(concat.units) == 1


def test_attention_over_tokens_is_planned(folder):
    tokens = {
        "ct": {"name": "features", "path": "ct_tokens.parquet"},
        "ehr": {"name": "features", "path": "ehr.parquet"},
    }
    (plan,) = plans_of(
        small_study(
            folder, encoders=tokens, grid={"fusion": [{"name": "cross_attention", "query": "ehr"}]}
        )
    )
    assert plan.reason is None
    assert len(plan.units) == 1


@pytest.mark.parametrize("part", ["train", "tuning"])
def test_a_part_where_nobody_with_the_modality_had_the_event_is_refused(folder, part):
    table = pl.read_parquet(folder / "development.parquet")
    dead = table.filter((pl.col("split") == part) & (pl.col("event") == 1))["sample_id"].to_list()
    alter(folder / "ct.parquet", lambda features: features.filter(~pl.col("sample_id").is_in(dead)))
    left = table.filter(
        (pl.col("split") == part)
        & pl.col("sample_id").is_in(pl.read_parquet(folder / "ct.parquet")["sample_id"].to_list())
    )
    with pytest.raises(CohortError) as caught:
        refuse_without_events(plans_of(small_study(folder)))
    assert str(caught.value).startswith(
        f"unimodal-modality=ct__scan__cox__seed0: {part} has no observed event (event = 1) among "
        f"its {left.height} samples with ct; "
    )
    refuse_without_events(
        plans_of(
            small_study(folder, grid={"fusion": [{"name": "unimodal", "modality": "ehr"}, "late"]})
        )
    )


def test_a_fold_without_events_is_named(folder):
    table = pl.read_parquet(folder / "development.parquet").filter(pl.col("split") != "held_out")
    assignment = table.select(
        "sample_id", pl.lit(3).alias("repeat"), (pl.col("event") != 1).cast(pl.Int64).alias("fold")
    )
    assignment.write_csv(folder / "folds.csv")
    study = small_study(
        folder, grid={"fusion": ["concat"]}, cross_validation={"assignment": "folds.csv"}
    )
    with pytest.raises(
        CohortError,
        match=r"concat__scan__record__cox__seed0, repeat 3, fold 0: train has no observed event .* "
        r"with ct or ehr",
    ):
        refuse_without_events(plans_of(study))


# Together


def collected(study: Study):
    (plan,) = plans_of(study)
    for unit in plan.units:
        run_unit(unit)
    return plan, collect(plan, study)


def test_a_member_over_folds_has_its_test_rows_and_the_mean_of_the_fold_models(folder):
    plan, result = collected(
        small_study(
            folder, grid=CT_ONLY, cross_validation={"folds": 3, "repeats": 2, "group": "household"}
        )
    )
    inside = result.predictions["development"].table
    assert inside.height == 160
    assert inside.select("sample_id", "repeat").is_unique().all()
    for unit in plan.units:
        own = inside.filter((pl.col("repeat") == unit.repeat) & (pl.col("fold") == unit.fold))
        assert (
            own["sample_id"].to_list()
            == unit.development.table["sample_id"][unit.rows["test"]].to_list()
        )
    fold_tables = [
        read_predictions(unit.folder / "predictions" / "west.parquet") for unit in plan.units
    ]
    centres = [read_json(unit.folder / "unit.json")["train_mean_risk"] for unit in plan.units]
    outside = result.predictions["west"]
    assert outside.table.height == 40
    assert outside.table["repeat"].null_count() == outside.table["fold"].null_count() == 40
    for row in range(40):  # one at a time, in plain Python
        risks = [
            table.table["risk"][row] - centre
            for table, centre in zip(fold_tables, centres, strict=True)
        ]
        assert outside.risk[row] == pytest.approx(sum(risks) / 6)
        curves = np.array([table.table["survival"][row] for table in fold_tables])
        assert outside.table["survival"][row].to_numpy() == pytest.approx(curves.mean(0))
    for label in ("development", "west"):
        assert read_predictions(plan.folder.predictions(label)).table.equals(
            result.predictions[label].table
        )
    assert list(result.tuning) == [(repeat, fold) for repeat in (0, 1) for fold in (0, 1, 2)]


def test_a_member_tells_what_it_was(folder):
    study = small_study(folder, grid=CT_ONLY, seed=4)
    plan, result = collected(study)
    told = read_json(plan.folder.run)
    assert told["given"] == study.given
    assert (
        told["resolved"] == plan.member.resolved() == yaml.safe_load(plan.folder.config.read_text())
    )
    assert told["seed"] == 4
    assert told["versions"] == versions()
    assert {"python", "concordant", "torch", "numpy", "polars"} <= set(told["versions"])
    assert [unit["device"] for unit in told["units"]] == ["cpu"]
    assert list(result.tuning) == [None]
    assert told["seconds"] == pytest.approx(result.seconds, abs=0.01)
    assert plan.member.encoder(Modality.EHR) is None


def test_a_fit_that_is_gone_is_named(folder):
    study = small_study(folder, grid=CT_ONLY)
    plan, _ = collected(study)
    (plan.folder.path / "unit.json").write_text("{")
    with pytest.raises(StoreError, match=r"the fit is not there or damaged .* run the study again"):
        collect(plan, study)


def test_the_revision_is_that_of_the_study_folder(tmp_path):
    assert git_revision(tmp_path) is None
    assert git_revision(tmp_path / "none") is None
