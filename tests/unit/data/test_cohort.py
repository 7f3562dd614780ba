from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from concordant.core.errors import CohortError
from concordant.data.cohort import read_cohort

SPLIT = ["train", "train", "tuning", "tuning", "held_out", "held_out"]


@pytest.fixture
def table():
    return pl.DataFrame(
        {
            "sample_id": [f"s{row}" for row in range(6)],
            "subject_id": [1, 1, 2, 3, 4, 5],
            "prediction_time": [datetime(2020, 1, 1 + row) for row in range(6)],
            "split": SPLIT,
            "site": ["a"] * 6,
            "time_days": [10.0, 20.0, 30.0, 40.0, 50.0, 60.0],
            "event": pl.Series([1, 0, 1, 2, 0, 1], dtype=pl.Int8),
            "ct_path": ["ct/0.nii.gz", None, "/elsewhere/2.nii.gz", None, None, None],
            "age": [50, 50, 60, 70, 80, 90],
        }
    )


@pytest.fixture
def read(tmp_path):
    def read(table, *, splits_required=True, **options):
        table.write_parquet(tmp_path / "cohort.parquet")
        return read_cohort(tmp_path / "cohort.parquet", splits_required=splits_required, **options)

    return read


def test_reads_a_table_whole(table, read, tmp_path):
    cohort = read(table, meds=Path("meds"))
    assert (cohort.label, cohort.path, cohort.meds) == (
        "cohort",
        tmp_path / "cohort.parquet",
        Path("meds"),
    )
    assert cohort.table.columns == table.columns
    assert len(cohort) == 6
    assert cohort.sample_ids == ("s0", "s1", "s2", "s3", "s4", "s5")
    np.testing.assert_array_equal(cohort.target.time, [10, 20, 30, 40, 50, 60])
    np.testing.assert_array_equal(cohort.target.event, [1, 0, 1, 2, 0, 1])
    assert cohort.target.time.dtype == np.float64
    assert read(table, label="mayo").label == "mayo"


def test_rows_are_the_positions_of_a_split(table, read):
    cohort = read(table)
    np.testing.assert_array_equal(cohort.rows("tuning"), [2, 3])
    with pytest.raises(CohortError, match="'test'"):
        cohort.rows("test")
    without = read(table.drop("split"), splits_required=False)
    assert len(without.rows("train")) == 0


def test_ct_path_is_relative_to_the_table(table, read, tmp_path):
    cohort = read(table)
    assert cohort.ct_path(0) == tmp_path / "ct" / "0.nii.gz"
    assert cohort.ct_path(1) is None
    assert cohort.ct_path(cohort.rows("tuning")[0]) == Path("/elsewhere/2.nii.gz")
    assert cohort.ct_path(2) == Path("/elsewhere/2.nii.gz")
    with pytest.raises(CohortError, match="no column ct_path"):
        read(table.drop("ct_path")).ct_path(0)


@pytest.mark.parametrize("kind", [pl.Date, pl.Datetime("ms"), pl.Datetime("us"), pl.Datetime("ns")])
def test_prediction_time_of_any_unit_becomes_microseconds(table, read, kind):
    cohort = read(table.with_columns(pl.col("prediction_time").cast(kind)))
    assert cohort.table.schema["prediction_time"] == pl.Datetime("us")
    assert cohort.table["prediction_time"][1] == datetime(2020, 1, 2)


def test_known_columns_are_kept_in_their_types(table, read):
    given = table.with_columns(
        pl.col("subject_id").cast(pl.UInt16),
        pl.col("event", "time_days").cast(pl.Int64),
        pl.col("split").cast(pl.Categorical),
    )
    kept = read(given).table.schema
    assert [kept[name] for name in ("subject_id", "event", "time_days", "split")] == [
        pl.Int64,
        pl.Int8,
        pl.Float64,
        pl.String,
    ]


def test_split_and_site_may_be_absent_or_null_without_required_splits(table, read):
    for given in (table.drop("split", "site"), table.with_columns(split=None, site=None)):
        cohort = read(given, splits_required=False)
        assert cohort.table["split"].null_count() == cohort.table["site"].null_count() == 6
        assert cohort.table.schema["split"] == pl.String


@pytest.mark.parametrize(
    "name", ["sample_id", "subject_id", "prediction_time", "time_days", "event"]
)
def test_refuses_an_absent_or_null_required_column(table, read, name):
    with pytest.raises(CohortError, match=rf"missing column\(s\) {name}"):
        read(table.drop(name))
    holed = table.with_columns(
        pl.when(pl.col("age") == 60).then(None).otherwise(pl.col(name)).alias(name)
    )
    with pytest.raises(CohortError, match=rf"{name} is null.* 1 row\(s\), the first is row 3"):
        read(holed)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (
            pl.Series("sample_id", ["a", "b", "a", "c", "d", "e"]),
            r"sample_id is not unique: 2 row\(s\), the first is row 1",
        ),
        (pl.Series("sample_id", range(6)), "sample_id is Int64; expected text"),
        (pl.Series("subject_id", ["1"] * 6), "subject_id is String; expected an integer"),
        (
            pl.Series("subject_id", [2**64 - 1] + [1] * 5, dtype=pl.UInt64),
            "subject_id holds a value that does not fit Int64",
        ),
        (
            pl.Series("subject_id", [1, 1, 1, 3, 4, 5]),
            r"1 subject_id\(s\) lie in more than one split",
        ),
        (
            pl.Series("prediction_time", ["2020-01-01"] * 6),
            "prediction_time is String; expected a date or a timestamp",
        ),
        (pl.Series("prediction_time", [datetime(2020, 1, 1, tzinfo=UTC)] * 6), "without time zone"),
        (
            pl.Series("time_days", [1.0, 0.0, 1, 1, 1, -1.0]),
            r"time_days .* 2 row\(s\), the first is row 2",
        ),
        (pl.Series("time_days", [1.0, 1, 1, 1, 1, np.inf]), r"not finite .* row 6"),
        (pl.Series("time_days", [np.nan, 1, 1, 1, 1, 1]), r"not finite .* row 1"),
        (pl.Series("time_days", ["1"] * 6), "time_days is String"),
        (pl.Series("event", [True] * 6), "event is Boolean; expected an integer"),
        (pl.Series("event", [1.0] * 6), "event is Float64; expected an integer"),
        (pl.Series("event", [1, 1, -1, 1, 1, 1]), "event is null or negative"),
        (pl.Series("event", [1, 1, 300, 1, 1, 1]), "event holds a value that does not fit Int8"),
        (pl.Series("event", [0, 2, 0, 2, 0, 2]), "no sample has event 1"),
        (pl.Series("event", [1, 0, 0, 0, 1, 0]), "no sample of split tuning has event 1"),
        (
            pl.Series("split", ["train", "train", "tuning", "tuning", "heldout", "heldout"]),
            r"'heldout' .*Did you mean 'held_out'",
        ),
        (
            pl.Series("split", ["train", "train", "tuning", "tuning", "tuning", "tuning"]),
            "no sample has split held_out",
        ),
        (
            pl.Series("split", ["train", "train", "tuning", "tuning", "held_out", None]),
            "split is null in 1 row",
        ),
        (pl.Series("ct_path", [0] * 6), "ct_path is Int64; expected text"),
    ],
)
def test_refuses_a_broken_invariant(table, read, column, message):
    with pytest.raises(CohortError, match=message) as caught:
        read(table.with_columns(column))
    assert not any(
        sample in str(caught.value).split("cohort.parquet")[1] for sample in ("s0", "s1", "s2")
    )


def test_one_subject_with_and_without_a_split_is_refused_under_cross_validation(table, read):
    with pytest.raises(CohortError, match="more than one split"):
        read(
            table.with_columns(split=pl.Series([None, "held_out", None, None, None, None])),
            splits_required=False,
        )


def test_refuses_what_is_no_parquet_table(tmp_path, table):
    with pytest.raises(CohortError, match="no such cohort table"):
        read_cohort(tmp_path / "absent.parquet", splits_required=True)
    (tmp_path / "table.parquet").write_text("sample_id,subject_id\n")
    with pytest.raises(CohortError, match="not readable as parquet"):
        read_cohort(tmp_path / "table.parquet", splits_required=True)
    table.head(0).write_parquet(tmp_path / "empty.parquet")
    with pytest.raises(CohortError, match="has no row"):
        read_cohort(tmp_path / "empty.parquet", splits_required=True)


def test_dates_are_midnight(table, read):
    cohort = read(table.with_columns(prediction_time=pl.lit(date(2020, 5, 5))))
    assert cohort.table["prediction_time"][0] == datetime(2020, 5, 5, 0, 0)
