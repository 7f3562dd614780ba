"""The tables of a run: predictions of others, what is said of cohorts, and that nothing names a
patient.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from concordant.core.errors import PredictionsError
from concordant.core.survival import COLUMNS, SURVIVAL_TIMES_KEY
from concordant.engines import LocalEngine
from concordant.metrics import median_follow_up
from concordant.study.collect import StrategyResult
from concordant.study.data import read_data
from concordant.study.foreign import read_foreign
from concordant.study.planning import make_plan
from concordant.study.records import cohort_records, quarantine_records, strategy_records
from concordant.study.sources import Sources, embed_all
from study_fixture import alter, small_study, write_tables

FOREIGN = [{"name": "score", "table": "score.parquet"}]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tables(tmp_path)


def write_score(folder: Path, rows: pl.DataFrame, **columns: object) -> None:
    rows.select("sample_id", pl.col("time_days").neg().alias("risk")).with_columns(
        **columns
    ).write_parquet(folder / "score.parquet")


def foreign(folder: Path, **changes: object):
    study = small_study(folder, foreign=FOREIGN, **changes)
    return read_foreign(study.foreign, read_data(study))["score"]


def rows_of(folder: Path, name: str) -> pl.DataFrame:
    return pl.read_parquet(folder / f"{name}.parquet")


def held_out(folder: Path) -> pl.DataFrame:
    return rows_of(folder, "development").filter(pl.col("split") == "held_out")


def test_predictions_of_others_are_joined_to_the_outcomes_of_the_cohorts_they_cover(folder):
    write_score(
        folder, pl.concat([rows_of(folder, "external")[::-1], held_out(folder).drop("split")])
    )
    found = foreign(folder)
    assert {label: predictions.table.height for label, predictions in found.items()} == {
        "held_out": 20,
        "west": 40,
    }
    for predictions in found.values():
        assert list(predictions.table.columns) == list(COLUMNS)
        assert predictions.risk.tolist() == (-predictions.target.time).tolist()
        assert predictions.survival is None
    assert (
        found["west"].table["sample_id"].to_list()
        == rows_of(folder, "external")["sample_id"].to_list()
    )


def test_a_cohort_that_is_not_covered_is_left_out(folder):
    write_score(folder, rows_of(folder, "external"))
    assert list(foreign(folder)) == ["west"]


def test_under_cross_validation_the_predictions_of_others_stand_in_every_repeat_and_fold(folder):
    write_score(folder, rows_of(folder, "development"))
    table = foreign(folder, cross_validation={"folds": 2, "repeats": 3})["development"].table
    assert table.height == 3 * 80
    assert table.select("sample_id", "repeat").is_unique().all()
    assert table["fold"].n_unique() == 2


TIMES = [90.0, 180.0, 365.0]


def write_curves(
    folder: Path, rows: pl.DataFrame, given: pl.Expr | None = None, times: str | None = str(TIMES)
) -> None:
    """Write a score with curves, for all rows or where `given` says so."""
    risk = pl.col("time_days").log().neg()
    curves = pl.concat_list([(risk.exp() * -days).exp() for days in TIMES])
    table = rows.select(
        "sample_id",
        risk.alias("risk"),
        survival=curves if given is None else pl.when(given).then(curves),
    )
    table.write_parquet(
        folder / "score.parquet", metadata=None if times is None else {SURVIVAL_TIMES_KEY: times}
    )


def test_curves_of_others_come_along(folder):
    rows = pl.concat([rows_of(folder, "external")[::-1], held_out(folder).drop("split")])
    write_curves(folder, rows)
    for predictions in foreign(folder).values():
        expected = np.exp(-np.outer(1 / predictions.target.time, TIMES))
        np.testing.assert_allclose(predictions.survival, expected, rtol=1e-12)
        assert predictions.survival_times_days.tolist() == TIMES


def test_curves_of_others_may_stand_for_one_cohort_alone(folder):
    rows = pl.concat([rows_of(folder, "external"), held_out(folder).drop("split")])
    write_curves(folder, rows, pl.col("sample_id").str.starts_with("b"))
    found = foreign(folder)
    assert found["held_out"].survival is found["held_out"].survival_times_days is None
    assert found["west"].survival.shape == (40, 3)


def test_curves_for_a_part_of_a_cohort_or_without_times_are_refused(folder):
    write_curves(folder, rows_of(folder, "external"), pl.int_range(pl.len()) < 7)
    with pytest.raises(
        PredictionsError,
        match=r"score.parquet: gives survival for 7 of the 40 rows of west; give a curve for all "
        r"of them",
    ):
        foreign(folder)
    write_curves(folder, rows_of(folder, "external"), times=None)
    with pytest.raises(PredictionsError, match="has no survival_times_days"):
        foreign(folder)


def test_a_cohorts_own_columns_do_not_stand_in_for_what_others_predict(folder):
    alter(
        folder / "external.parquet",
        lambda table: table.with_columns(risk=pl.lit(1.0), survival=pl.lit("alive")),
    )
    write_curves(folder, rows_of(folder, "external"))
    found = foreign(folder)["west"]
    np.testing.assert_allclose(found.risk, -np.log(found.target.time))
    assert found.survival is not None


FAULTS = {
    "a part of a cohort": (
        "external",
        lambda rows: rows[1:],
        {},
        "covers 39 of the 40 rows of west; give a risk for all",
    ),
    "nobody": (
        "external",
        lambda rows: rows.with_columns(sample_id=pl.lit("x"))[:1],
        {},
        "no sample of this study's cohorts is in it",
    ),
    "twice": ("external", lambda rows: pl.concat([rows, rows]), {}, "a sample_id occurs twice"),
    "null": (
        "external",
        lambda rows: rows,
        {"risk": pl.lit(None, pl.Float64)},
        "risk holds a null, NaN or infinity in 40 row",
    ),
    "infinite": (
        "external",
        lambda rows: rows,
        {"risk": pl.lit(np.inf)},
        "risk holds a null, NaN or infinity in 40 row",
    ),
    "text": (
        "external",
        lambda rows: rows,
        {"risk": pl.lit("high")},
        "risk holds String values that are no numbers",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_predictions_of_others_that_do_not_fit_are_refused(folder, fault):
    cohort, change, columns, message = FAULTS[fault]
    write_score(folder, change(rows_of(folder, cohort)), **columns)
    with pytest.raises(PredictionsError, match=message) as caught:
        foreign(folder)
    assert str(caught.value).startswith(f"{folder / 'score.parquet'}: ")


def test_a_file_of_others_without_risk_or_that_is_no_table_is_refused(folder):
    rows_of(folder, "external").select("sample_id").write_parquet(folder / "score.parquet")
    with pytest.raises(PredictionsError, match="a predictions table needs sample_id, risk"):
        foreign(folder)
    (folder / "score.parquet").write_text("sample_id,risk\n")
    with pytest.raises(PredictionsError, match="not readable as parquet"):
        foreign(folder)


def planned(folder: Path, **changes: object):
    study = small_study(folder, **changes)
    data = read_data(study)
    stores = embed_all(
        Sources.of(study), data, engine=LocalEngine(), retry_quarantined=False, progress=None
    )
    return data, stores, make_plan(study, data, stores)


def cohorts_of(folder: Path, **changes: object):
    data, _, plan = planned(folder, **changes)
    return cohort_records(data, plan)


def test_cohorts_are_described_in_counts(folder):
    data, stores, plan = planned(folder)
    internal, external = cohort_records(data, plan)
    rows = held_out(folder)
    assert (internal.label, internal.role) == ("held_out", "internal")
    assert (internal.n, internal.n_train, internal.n_tuning) == (20, 60, 20)
    assert (internal.n_events, internal.n_competing) == (rows["event"].sum(), 0)
    assert internal.sites == dict(rows["site"].value_counts().rows())
    assert internal.median_follow_up_days == pytest.approx(
        median_follow_up(rows["time_days"].to_numpy(), rows["event"].to_numpy())
    )
    assert internal.columns["sex"] == "female: 10, male: 10"
    assert (external.label, external.role) == ("west", "external")
    assert (external.n, external.n_train) == (40, None)
    assert sum(external.available.values()) == 40
    assert set(external.available) <= {"both", "ct", "ehr", "none"}
    assert quarantine_records(stores) == ()


def test_under_cross_validation_the_whole_cohort_is_described(folder):
    internal, _ = cohorts_of(folder, cross_validation={"folds": 2})
    assert (internal.label, internal.n, internal.n_train) == ("development", 100, None)


def test_a_column_that_may_name_a_patient_is_not_described(folder):
    alter(
        folder / "development.parquet",
        lambda table: table.with_columns(name=pl.col("sample_id"), nothing=pl.lit(None, pl.String)),
    )
    internal, _ = cohorts_of(folder)
    assert set(internal.columns) == {"household", "sex"}
    assert internal.columns["household"].startswith("median ")


GRID = {"fusion": ["concat", "late", {"name": "cross_attention", "query": "ct"}], "seed": [0, 1]}


def test_seeds_are_one_strategy_with_the_mean_of_its_numbers(folder):
    *_, plan = planned(folder, grid=GRID)
    account = {"n_parameters": 1234, "seconds": 1.25}
    tuning = {seed: {(0, 0): 0.6 + 0.1 * seed, (0, 1): np.nan} for seed in (0, 1)}
    results = [
        StrategyResult(plan.strategies[0], {}, tuning, (), (account, account)),
        StrategyResult(plan.strategies[1], {}, {}, (), (), "NaN loss"),
    ]
    concat, late, crossed = strategy_records(plan, results)
    assert (concat.folder, concat.seeds) == ("concat__scan__record__cox", (0, 1))
    assert (concat.status, concat.reason, concat.n_trials) == ("done", None, 1)
    assert (concat.n_parameters, concat.seconds) == (1234, 2.5)
    assert concat.tuning_concordance == pytest.approx(0.65)
    assert (late.status, late.reason, late.tuning_concordance) == ("failed", "NaN loss", None)
    assert (crossed.status, crossed.seconds) == ("not_applicable", None)
    assert "attention over ehr needs more than one token" in crossed.reason


def test_sets_of_options_are_counted_and_make_no_strategy(folder):
    *_, plan = planned(folder, grid={"fusion": ["concat"], "seed": [0, 1], "train.lr": [1, 2]})
    (record,) = strategy_records(plan, [])
    assert (record.seeds, record.n_trials) == ((0, 1), 2)
