"""The plan of a study: folds, trials, fits, what cannot be fitted, what a fit depends on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from concordant.config import Study
from concordant.core.errors import CohortError
from concordant.core.modality import Modality
from concordant.engines import LocalEngine
from concordant.study.data import StudyData, read_data
from concordant.study.plan import Plan, refuse_without_events
from concordant.study.planning import availability, make_plan, survival_times
from concordant.study.sources import Sources, embed_all
from study_fixture import alter, small_study, write_tables

CT_ONLY = {"fusion": [{"name": "unimodal", "modality": "ct"}]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tables(tmp_path)


def plan_of(study: Study, data: StudyData | None = None) -> Plan:
    data = read_data(study) if data is None else data
    stores = embed_all(
        Sources.of(study), data, engine=LocalEngine(), retry_quarantined=False, progress=None
    )
    return make_plan(study, data, stores)


def refused(study: Study) -> None:
    data = read_data(study)
    refuse_without_events(plan_of(study, data), data.development.target.observed)


# Times


def test_survival_is_predicted_at_quantiles_of_train_event_times_and_at_the_horizons(folder):
    study = small_study(folder)
    times = survival_times(read_data(study), study.task.horizons_days)
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
    assert set(survival_times(data, ())) == set(rows["time_days"])


# Folds


def test_without_folds_the_parts_are_the_splits_of_the_table(folder):
    plan = plan_of(small_study(folder, grid=CT_ONLY))
    (fold,) = plan.folds
    split = pl.read_parquet(folder / "development.parquet")["split"]
    assert {part: set(split[rows]) for part, rows in fold.rows.items()} == {
        "train": {"train"},
        "tuning": {"tuning"},
        "test": {"held_out"},
    }
    assert sum(map(len, fold.rows.values())) == 100
    assert fold.key is None
    (fit,) = plan.fits
    assert fit.folder.path == plan.strategies[0].folder.path / "fits" / "seed0"


def test_folds_partition_who_takes_part_and_keep_groups_whole(folder):
    options = {"folds": 3, "repeats": 2, "group": "household"}
    plan = plan_of(small_study(folder, grid=CT_ONLY, cross_validation=options))
    assert [fold.key for fold in plan.folds] == [
        (repeat, fold) for repeat in (0, 1) for fold in (0, 1, 2)
    ]
    assert [fit.folder.path.name for fit in plan.fits][:2] == ["seed0__r0-f0", "seed0__r0-f1"]
    table = pl.read_parquet(folder / "development.parquet")
    taking_part = np.flatnonzero(table["split"] != "held_out")
    for fold in plan.folds:
        assert sorted(np.concatenate(list(fold.rows.values()))) == taking_part.tolist()
        households = [set(table["household"][part]) for part in fold.rows.values()]
        assert sum(map(len, households)) == len(set.union(*households))
        learned = len(fold.rows["train"]) + len(fold.rows["tuning"])
        assert len(fold.rows["tuning"]) / learned == pytest.approx(0.2, abs=0.05)
        assert table["event"][fold.rows["tuning"]].sum() > 0
    for repeat in (0, 1):
        tested = np.concatenate([one.rows["test"] for one in plan.folds if one.repeat == repeat])
        assert sorted(tested) == taking_part.tolist()


def test_the_tuning_part_is_drawn_the_same_every_time_and_anew_for_every_fold(folder):
    study = small_study(folder, grid=CT_ONLY, cross_validation={"folds": 3, "repeats": 2})
    first, second = (plan_of(study).folds for _ in range(2))
    tuning = [tuple(fold.rows["tuning"]) for fold in first]
    assert tuning == [tuple(fold.rows["tuning"]) for fold in second]
    assert len(set(tuning)) == 6


# Strategies, trials, seeds


def test_every_strategy_is_fitted_by_every_trial_on_every_fold_from_every_seed(folder):
    study = small_study(
        folder,
        grid={
            "fusion": [*CT_ONLY["fusion"], "concat", "linear"],
            "train.lr": [0.1, 0.01],
            "train.min_code_samples": [1, 2],
            "seed": [3, 5],
        },
        cross_validation={"folds": 2},
    )
    plan = plan_of(study)
    assert [len(one.trials) for one in plan.strategies] == [4, 4, 2]  # ridge knows no learning rate
    assert len(plan.fits) == 2 * 2 * (4 + 4 + 2)
    assert len({fit.folder.path for fit in plan.fits}) == len(plan.fits)
    assert len({fit.fingerprint for fit in plan.fits}) == len(plan.fits)
    folds = [fit.fold for fit in plan.fits]
    assert folds == sorted(folds)  # those that share inputs stand together
    name = plan.name(plan.fits_of(1)[0])
    assert name == "concat__scan__record__cox, lr=0.1,min_code_samples=1, seed 3, repeat 0, fold 0"


def test_a_plan_holds_plain_values(folder):
    plan = plan_of(small_study(folder))
    found: set[type] = set()

    def look(value: Any) -> None:
        found.add(type(value))
        if is_dataclass(value):
            for field in fields(value):
                look(getattr(value, field.name))
        elif isinstance(value, Mapping):
            for one in value.values():
                look(one)
        elif isinstance(value, tuple | list):
            for one in value:
                look(one)

    look(plan)
    assert pl.DataFrame not in found
    assert pl.Series not in found


def test_what_a_fit_depends_on_changes_its_fingerprint(folder):
    study = small_study(folder)
    before = plan_of(study)

    def changed(**changes: Any) -> list[bool]:
        after = plan_of(small_study(folder, **changes))
        pairs = zip(before.fits, after.fits, strict=True)
        return [one.fingerprint != other.fingerprint for one, other in pairs]

    assert changed() == [False] * 4
    assert changed(name="another") == [False] * 4
    assert changed(seed=9) == [True] * 4
    assert changed(task={"event": "death", "horizons_days": [90]}) == [True] * 4
    assert changed(train={"max_epochs": 7}) == [True] * 4
    assert changed(evaluate={"metrics": ["concordance_index_ipcw"]}) == [False] * 4
    alter(folder / "ehr.parquet", lambda table: table.with_columns(pl.col("e0") + 1))
    assert changed() == [False, True, True, True]
    alter(folder / "external.parquet", lambda table: table.with_columns(pl.col("time_days") + 1))
    assert changed() == [True] * 4


def test_imported_component_code_is_part_of_the_fingerprint(folder, monkeypatch):
    monkeypatch.syspath_prepend(str(folder))
    code = folder / "plan_plugin.py"
    code.write_text("WORD = 1\n")
    study = small_study(folder)
    study._imports = ("plan_plugin",)
    __import__("plan_plugin")
    before = plan_of(study).fingerprint
    assert plan_of(study).fingerprint == before
    code.write_text("WORD = 2\n")
    assert plan_of(study).fingerprint != before


def test_availability_says_which_modalities_there_are():
    ct, ehr = np.array([True, True, False, False]), [True, False, True, False]
    both = {Modality.CT: ct, Modality.EHR: ehr}
    assert availability(both, 4) == ("both", "ct", "ehr", "none")
    assert availability({Modality.EHR: ehr}, 4) == ("ehr", "none", "ehr", "none")
    assert availability({}, 2) == ("none", "none")


# What cannot be fitted


def test_attention_over_a_single_token_is_planned_without_fits(folder):
    grid = {"fusion": [{"name": "cross_attention", "query": "ehr"}, "concat"]}
    plan = plan_of(small_study(folder, grid=grid))
    attention, concat = plan.strategies
    assert plan.fits_of(0) == []
    assert attention.reason is not None
    assert "attention over ct needs more than one token" in attention.reason
    assert concat.reason is None
    assert len(plan.fits_of(1)) == 1


def test_attention_over_tokens_is_planned(folder):
    tokens = {
        "ct": {"name": "features", "path": "ct_tokens.parquet"},
        "ehr": {"name": "features", "path": "ehr.parquet"},
    }
    grid = {"fusion": [{"name": "cross_attention", "query": "ehr"}]}
    plan = plan_of(small_study(folder, encoders=tokens, grid=grid))
    assert plan.strategies[0].reason is None
    assert len(plan.fits) == 1


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
        refused(small_study(folder))
    assert str(caught.value).startswith(
        f"unimodal-modality=ct__scan__cox: {part} has no observed event (event = 1) among "
        f"its {left.height} samples with ct; "
    )
    grid = {"fusion": [{"name": "unimodal", "modality": "ehr"}, "late"]}
    refused(small_study(folder, grid=grid))


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
        match=r"concat__scan__record__cox, repeat 3, fold 0: train has no observed event .* with "
        r"ct or ehr",
    ):
        refused(study)
