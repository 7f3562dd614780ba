"""Write the NAFLD cohort (Mayo Clinic, Rochester Epidemiology Project) as a MEDS dataset, with an
index table and observation periods.

Usage:
    python examples/nafld/prepare.py --data ../shared/data --out work/nafld

The source counts days from each person's index (the diagnosis of fatty liver, or the matched date)
and gives no calendar date, so every index is dated `INDEX`. An event of day 0 is dated exactly so:
concordant takes it as history. On day 0 lie 2,473 diagnoses of fatty liver, which are what the
index is, and 76 other events, none of them an outcome; the outcomes begin on day 1.

The source is taken as it is: in it every total cholesterol repeats the HDL of its day, and every
diastolic pressure the systolic one.

The record holds what came later too. What is cut where is not decided here: the task files say what
is an outcome, and the encoders never see an event after the index. Age, sex, weight, height and
body mass index were known at the index by the source's own account.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import polars as pl

from concordant.core.files import atomic_path, write_json

INDEX = datetime(2010, 1, 1)
DAYS_PER_YEAR = 365.25
AT_BASELINE = ("weight", "height", "bmi")
STUDY_FILES = ("death.yaml", "mace.yaml", "study_death.yaml", "study_mace.yaml")
SCHEMA = pl.Schema(
    {
        "subject_id": pl.Int64(),
        "time": pl.Datetime("us"),
        "code": pl.String(),
        "numeric_value": pl.Float32(),
    }
)


def read_source(data: Path, number: int) -> pl.DataFrame:
    """Read one of the three tables."""
    return pl.read_csv(
        data / f"nafld{number}.csv.gz", infer_schema_length=None, null_values=["NA", ""]
    )


def on_day(days: pl.Expr) -> pl.Expr:
    """Return the time of a day relative to the index, to the microsecond."""
    return pl.lit(INDEX).cast(pl.Datetime("us")) + pl.duration(
        microseconds=(days * 86_400_000_000).round().cast(pl.Int64)
    )


def people_events(people: pl.DataFrame) -> pl.DataFrame:
    """Return sex, birth, the measurements at the index, and the death of those who died."""
    static = people.select(
        "subject_id",
        time=pl.lit(None, pl.Datetime("us")),
        code=pl.when(pl.col("male") == 1)
        .then(pl.lit("GENDER//male"))
        .otherwise(pl.lit("GENDER//female")),
        numeric_value=pl.lit(None, pl.Float32),
    )
    births = _dated(people, on_day(-pl.col("age") * DAYS_PER_YEAR), pl.lit("MEDS_BIRTH"))
    deaths = _dated(
        people.filter(pl.col("status") == 1), on_day(pl.col("futime")), pl.lit("MEDS_DEATH")
    )
    measured = [
        _dated(
            people.drop_nulls(name), on_day(pl.lit(0)), pl.lit(f"MEASUREMENT//{name}"), pl.col(name)
        )
        for name in AT_BASELINE
    ]
    return pl.concat([static, births, deaths, *measured])


def _dated(
    table: pl.DataFrame, time: pl.Expr, code: pl.Expr, value: pl.Expr | None = None
) -> pl.DataFrame:
    value = pl.lit(None) if value is None else value
    return table.select("subject_id", time=time, code=code, numeric_value=value.cast(pl.Float32))


def record_events(tests: pl.DataFrame, diagnoses: pl.DataFrame) -> pl.DataFrame:
    """Return the dated measurements and diagnoses, history and future alike."""
    measured = _dated(
        tests, on_day(pl.col("days")), pl.lit("MEASUREMENT//") + pl.col("test"), pl.col("value")
    )
    return pl.concat(
        [
            measured,
            _dated(diagnoses, on_day(pl.col("days")), pl.lit("DIAGNOSIS//") + pl.col("event")),
        ]
    )


def usable(name: str, table: pl.DataFrame, people: pl.DataFrame) -> pl.DataFrame:
    """Leave out, and count, events of nobody in the cohort and events without a day.

    These can be placed neither before nor after.
    """
    known = table.join(people.select("subject_id"), on="subject_id", how="semi")
    dated = known.drop_nulls("days")
    print(
        f"{name}: {dated.height} kept, {table.height - known.height} of nobody in nafld1, "
        f"{known.height - dated.height} without a day"
    )
    return dated


def write_meds(events: pl.DataFrame, out: Path) -> None:
    """Write events as a MEDS 0.4 dataset of one shard, static first, then by time."""
    events = events.cast(SCHEMA).sort(
        "subject_id", "time", "code", "numeric_value", nulls_last=False
    )
    write_parquet(events, out / "data" / "0.parquet")
    codes = events.select("code").unique().sort("code")
    codes = codes.with_columns(
        description=pl.lit(None, pl.String), parent_codes=pl.lit([], pl.List(pl.String))
    )
    write_parquet(codes, out / "metadata" / "codes.parquet")
    write_json(
        out / "metadata" / "dataset.json",
        {"dataset_name": "nafld", "dataset_version": "survival", "meds_version": "0.4"},
    )


def write_parquet(table: pl.DataFrame, path: Path) -> None:
    """Write a table as parquet, atomically."""
    with atomic_path(path) as temporary:
        table.write_parquet(temporary)


def index_table(people: pl.DataFrame) -> pl.DataFrame:
    """Return one sample per person, with the matched set and columns for subgroups."""
    return people.select(
        "subject_id",
        prediction_time=pl.lit(INDEX).cast(pl.Datetime("us")),
        matched_set="case.id",
        gender=pl.when(pl.col("male") == 1).then(pl.lit("male")).otherwise(pl.lit("female")),
    )


def observation_periods(people: pl.DataFrame) -> pl.DataFrame:
    """Return who is followed until when."""
    return people.select("subject_id", start=on_day(pl.lit(0)), end=on_day(pl.col("futime")))


def prepare(data: Path, out: Path) -> None:
    """Write everything under `out`; a second run writes the same bytes again."""
    people = read_source(data, 1).rename({"id": "subject_id"}).sort("subject_id")
    tests = usable("measurements", read_source(data, 2).rename({"id": "subject_id"}), people)
    diagnoses = usable("diagnoses", read_source(data, 3).rename({"id": "subject_id"}), people)
    write_meds(pl.concat([people_events(people), record_events(tests, diagnoses)]), out / "meds")
    write_parquet(index_table(people), out / "index.parquet")
    write_parquet(observation_periods(people), out / "periods.parquet")
    copy_files(STUDY_FILES, out)
    print(
        f"{people.height} people, {people['status'].sum()} deaths, {people['case.id'].n_unique()} "
        "matched sets"
    )
    for task in ("death", "mace"):
        print(
            f"next: concordant cohort {out / task}.yaml --meds {out / 'meds'} --out "
            f"{out / task / 'cohort.parquet'}"
        )
        print(f"      concordant run {out / f'study_{task}.yaml'}")


def copy_files(names: Sequence[str], out: Path) -> None:
    """Copy the task and study files beside the data, against whose folder their paths resolve."""
    for name in names:
        shutil.copyfile(Path(__file__).parent / name, out / name)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Write the NAFLD cohort as a MEDS dataset.")
    parser.add_argument(
        "--data", type=Path, default=Path("../shared/data"), help="folder that holds nafld/"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    given = parser.parse_args()
    prepare(given.data / "nafld", given.out)


if __name__ == "__main__":
    main()
