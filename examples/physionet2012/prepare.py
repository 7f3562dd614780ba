"""Write the ICU stays of the PhysioNet Challenge 2012 (sets a and b) as a MEDS dataset, with an
index table per set.

Usage:
    python examples/physionet2012/prepare.py --data ../shared/data --out work/physionet2012

The index is 48 hours after admission, when the measurements end. The source counts minutes and days
from admission and gives no calendar date, so every admission is dated `ADMISSION`; survival is
counted in whole days from admission. Who died within two days is dead at the index: `concordant
cohort` leaves them out and counts them. The source has no end of follow-up: everyone without a
recorded death counts as alive until the horizon of the task, which assumes that deaths until then
are complete.

A negative value is not one: -1 stands for missing height, weight and gender, and -17.8 for a
thermometer at 0 Fahrenheit. They are left out and counted. SAPS-I, SOFA, length of stay and death
in hospital are never read: they were known later, or are scores of the same data.
"""

from __future__ import annotations

import argparse
import shutil
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl

from concordant.core.files import atomic_path, write_json

ADMISSION = datetime(2012, 1, 1)
INDEX = ADMISSION + timedelta(hours=48)
DAYS_PER_YEAR = 365.25
SETS = ("a", "b")
ICU = {1: "coronary", 2: "cardiac_surgery", 3: "medical", 4: "surgical"}
HORIZONS = (30, 180, 365)
NO_DEATH = -1
NOT_MEASURED = ("RecordID", "Age", "Gender", "ICUType")
SCHEMA = pl.Schema(
    {
        "subject_id": pl.Int64(),
        "time": pl.Datetime("us"),
        "code": pl.String(),
        "numeric_value": pl.Float32(),
    }
)


def read_set(data: Path, name: str) -> pl.DataFrame:
    """Read the measurements of a set: `subject_id`, `minute`, `parameter`, `value`."""
    table = pl.read_parquet(data / f"set-{name}_long.parquet")
    return table.select(
        pl.col("record_id").cast(pl.Int64).alias("subject_id"),
        "minute",
        pl.col("parameter").cast(pl.String),
        pl.col("value"),
    )


def read_outcomes(data: Path, name: str) -> pl.DataFrame:
    """Read days from admission to death, null where none is recorded.

    A death before admission is no outcome: left out, counted.
    """
    table = pl.read_csv(data / f"Outcomes-{name}.txt").select(
        subject_id="RecordID", survival="Survival"
    )
    possible = table.filter(pl.col("survival") >= NO_DEATH)
    print(
        f"set {name}: {possible.height} stays, {table.height - possible.height} left out with a "
        "death before admission"
    )
    return possible.with_columns(
        survival=pl.when(pl.col("survival") != NO_DEATH).then(pl.col("survival"))
    )


def stay_events(measured: pl.DataFrame, outcomes: pl.DataFrame) -> pl.DataFrame:
    """Return the events of a set's stays.

    Static first, birth, measurements, and the death of those who died.
    """
    at_admission = pl.lit(ADMISSION).cast(pl.Datetime("us"))
    births = _events(
        measured.filter(pl.col("parameter") == "Age"),
        at_admission
        - pl.duration(
            microseconds=(pl.col("value").cast(pl.Float64) * DAYS_PER_YEAR * 86_400_000_000).cast(
                pl.Int64
            )
        ),
        pl.lit("MEDS_BIRTH"),
    )
    at = at_admission + pl.duration(minutes=pl.col("minute").cast(pl.Int64))
    values = _events(
        measured.filter(~pl.col("parameter").is_in(NOT_MEASURED)),
        at,
        pl.col("parameter"),
        pl.col("value"),
    )
    deaths = _events(
        outcomes.drop_nulls("survival"),
        at_admission + pl.duration(days=pl.col("survival")),
        pl.lit("MEDS_DEATH"),
    )
    return pl.concat([*_static(measured), births, values, deaths])


def _static(measured: pl.DataFrame) -> list[pl.DataFrame]:
    undated = pl.lit(None, pl.Datetime("us"))
    kinds = (("Gender", "GENDER", {0: "female", 1: "male"}), ("ICUType", "ICU", ICU))
    return [
        _events(
            measured.filter(pl.col("parameter") == parameter),
            undated,
            pl.lit(f"{code}//")
            + pl.col("value").cast(pl.Int64).replace_strict(names, return_dtype=pl.String),
        )
        for parameter, code, names in kinds
    ]


def _events(
    table: pl.DataFrame, time: pl.Expr, code: pl.Expr, value: pl.Expr | None = None
) -> pl.DataFrame:
    value = pl.lit(None) if value is None else value
    return table.select("subject_id", time=time, code=code, numeric_value=value.cast(pl.Float32))


def index_table(measured: pl.DataFrame, outcomes: pl.DataFrame) -> pl.DataFrame:
    """Return one sample per stay with a usable outcome; its ICU is the site."""
    kinds = measured.filter(pl.col("parameter") == "ICUType").select(
        "subject_id",
        site=pl.col("value").cast(pl.Int64).replace_strict(ICU, return_dtype=pl.String),
    )
    samples = (
        outcomes.select("subject_id")
        .join(kinds, on="subject_id", how="inner", validate="1:1")
        .sort("subject_id")
    )
    return samples.select(
        "subject_id", "site", prediction_time=pl.lit(INDEX).cast(pl.Datetime("us"))
    )


def prepare_set(data: Path, name: str, out: Path) -> pl.DataFrame:
    """Write a set's shard and index table; return its codes."""
    given = read_set(data, name)
    measured = given.filter(pl.col("value") >= 0)
    outcomes = read_outcomes(data, name)
    print(
        f"set {name}: {measured.height} values, {given.height - measured.height} negative ones "
        "left out"
    )
    events = (
        stay_events(measured, outcomes)
        .cast(SCHEMA)
        .sort("subject_id", "time", "code", "numeric_value", nulls_last=False)
    )
    write_parquet(events, out / "meds" / "data" / f"{name}.parquet")
    write_parquet(index_table(measured, outcomes), out / f"index_{name}.parquet")
    return events.select("code").unique()


def write_parquet(table: pl.DataFrame, path: Path) -> None:
    """Write a table as parquet, atomically."""
    with atomic_path(path) as temporary:
        table.write_parquet(temporary)


def prepare(data: Path, out: Path) -> None:
    """Write everything under `out`; a second run writes the same bytes again."""
    codes = pl.concat([prepare_set(data, name, out) for name in SETS]).unique().sort("code")
    codes = codes.with_columns(
        description=pl.lit(None, pl.String), parent_codes=pl.lit([], pl.List(pl.String))
    )
    write_parquet(codes, out / "meds" / "metadata" / "codes.parquet")
    facts = {
        "dataset_name": "physionet2012",
        "dataset_version": "sets a and b",
        "meds_version": "0.4",
    }
    write_json(out / "meds" / "metadata" / "dataset.json", facts)
    for days in HORIZONS:
        for name in (f"death_{days}.yaml", f"study_{days}.yaml"):
            shutil.copyfile(Path(__file__).parent / name, out / name)
        for name in SETS:
            index, table = out / f"index_{name}.parquet", out / f"{name}_{days}" / "cohort.parquet"
            print(
                f"next: concordant cohort {out / f'death_{days}.yaml'} --meds {out / 'meds'} "
                f"--index {index} --out {table}"
            )
        print(f"      concordant run {out / f'study_{days}.yaml'}")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Write the ICU stays of the PhysioNet Challenge 2012 as a MEDS dataset."
    )
    parser.add_argument(
        "--data", type=Path, default=Path("../shared/data"), help="folder that holds physionet2012/"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    given = parser.parse_args()
    prepare(given.data / "physionet2012", given.out)


if __name__ == "__main__":
    main()
