"""Write the KiTS23 kidney-tumour patients in concordant's own formats.

Masks, pre-operative records, cohort tables, study files.

Usage:
    python examples/kits23/prepare.py --data ../shared/data --out work/kits23

Everything the index date (the day of the operation) could not have known stays out: only the fields
of `FIELDS` are ever read from a record. What follows the operation predicts survival better than
the record before it, and radiographic size, the risk score and the cytoreductive flag restate the
scan.

The source gives days relative to the operation and no calendar date, so every operation is dated
`SURGERY`. `folds.csv` and the masks come from the data folder (see PROVENANCE.md there); the
images' licence is CC BY-NC-SA 4.0, and the masks inherit it.
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import polars as pl

from concordant.core.files import atomic_path, write_json

SURGERY = datetime(2015, 1, 1)
FIRST_CASE_OF_2021 = 210
SPACING_MM = 4.0
STUDY_FILES = ("study.yaml", "temporal.yaml")

CATEGORIES = ("smoking_history", "chewing_tobacco_use", "alcohol_use")
NUMBERS = ("bmi", "age_when_quit_smoking", "pack_years")
FIELDS = frozenset(
    {"age_at_nephrectomy", "gender", "comorbidities", "last_preop_egfr", *CATEGORIES, *NUMBERS}
)
"""The pre-operative fields: nothing else of a record is read."""


@dataclass(frozen=True, slots=True)
class Event:
    """One row of a MEDS dataset; `time` None = static."""

    time: datetime | None
    code: str
    value: float | None = None


def events_of(record: Mapping[str, Any]) -> list[Event]:
    """Return a patient's pre-operative events, static first, then by time."""
    _only_preoperative(record)
    egfr = record["last_preop_egfr"] or {}
    events = [
        Event(None, f"GENDER//{record['gender']}"),
        Event(SURGERY - timedelta(days=365.25 * record["age_at_nephrectomy"]), "MEDS_BIRTH"),
        *_egfr(egfr.get("value"), egfr.get("days_before_nephrectomy")),
        *(
            Event(SURGERY, f"COMORBIDITY//{name}")
            for name, present in record["comorbidities"].items()
            if present
        ),
        *(
            Event(SURGERY, f"{field.upper()}//{record[field]}")
            for field in CATEGORIES
            if record[field] is not None
        ),
        *_number("BMI", record["bmi"]),
        *_number("PACK_YEARS", record["pack_years"]),
        *_number("AGE_WHEN_QUIT_SMOKING", record["age_when_quit_smoking"]),
    ]
    return sorted(events, key=lambda event: event.time or datetime.min)


def _only_preoperative(record: Mapping[str, Any]) -> None:
    foreign = set(record) - FIELDS
    if foreign:
        raise ValueError(
            f"{', '.join(sorted(foreign))}: not known before the operation; only "
            f"{', '.join(sorted(FIELDS))} may be read"
        )


def _number(code: str, value: float | None) -> Iterator[Event]:
    if value is not None:
        yield Event(SURGERY, code, float(value))


def _egfr(value: float | str | None, days_before: int | None) -> Iterator[Event]:
    """Yield the kidney function at its own date.

    A dated measurement without a value stays a measurement without a value.

    A string such as ">=90" (older releases) becomes its bound; a value without a date was known on
    the day of the operation.
    """
    if value is None and days_before is None:
        return
    number = float(value.lstrip("<>= ")) if isinstance(value, str) else value
    yield Event(SURGERY - timedelta(days=days_before or 0), "EGFR", number)


def read_patients(data: Path) -> pl.DataFrame:
    """Return the patients with follow-up: `sample_id`, `subject_id`, `time_days` and `event`."""
    table = pl.read_csv(data / "survival.csv").filter(pl.col("time_days") > 0)
    return table.select(
        sample_id="case_id",
        subject_id=pl.col("case_id").str.extract(r"(\d+)$").cast(pl.Int64),
        time_days=pl.col("time_days").cast(pl.Float64),
        event=pl.col("event").cast(pl.Int8),
    ).sort("sample_id")


def read_records(data: Path) -> dict[str, dict[str, Any]]:
    """Return each case's pre-operative fields, and no other."""
    cases = json.loads((data / "kits23.json").read_text(encoding="utf-8"))
    return {case["case_id"]: {field: case[field] for field in FIELDS} for case in cases}


def cohort_table(
    patients: pl.DataFrame, records: Mapping[str, Mapping[str, Any]], scans: str
) -> pl.DataFrame:
    """Return a cohort table without splits.

    `scans` is the folder of the masks, relative to the table.
    """
    return patients.with_columns(
        prediction_time=pl.lit(SURGERY).cast(pl.Datetime("us")),
        split=pl.lit(None, pl.String),
        site=pl.lit("umn"),
        ct_path=pl.lit(f"{scans}/") + pl.col("sample_id") + ".nii.gz",
        age=pl.Series(
            [float(records[case]["age_at_nephrectomy"]) for case in patients["sample_id"]]
        ),
        gender=pl.Series([records[case]["gender"] for case in patients["sample_id"]]),
        release=pl.when(pl.col("subject_id") < FIRST_CASE_OF_2021)
        .then(pl.lit("2019"))
        .otherwise(pl.lit("2021")),
    )


def write_meds(patients: pl.DataFrame, records: Mapping[str, Mapping[str, Any]], out: Path) -> None:
    """Write the records as a MEDS 0.4 dataset of one shard."""
    rows = [
        (subject, event.time, event.code, event.value)
        for case, subject in patients.select("sample_id", "subject_id").iter_rows()
        for event in events_of(records[case])
    ]
    schema: dict[str, pl.DataType] = {
        "subject_id": pl.Int64(),
        "time": pl.Datetime("us"),
        "code": pl.String(),
        "numeric_value": pl.Float32(),
    }
    events = pl.DataFrame(rows, schema=schema, orient="row")
    write_parquet(events, out / "data" / "0.parquet")
    codes = (
        events.select("code")
        .unique()
        .sort("code")
        .with_columns(
            description=pl.lit(None, pl.String), parent_codes=pl.lit([], pl.List(pl.String))
        )
    )
    write_parquet(codes, out / "metadata" / "codes.parquet")
    write_json(
        out / "metadata" / "dataset.json",
        {"dataset_name": "kits23", "dataset_version": "cases 00000-00299", "meds_version": "0.4"},
    )


def write_masks(patients: pl.DataFrame, data: Path, out: Path) -> None:
    """Write the expert masks (0 background, 1 kidney, 2 tumour, 3 cyst) as NIfTI, index growing
    to inferior, posterior, left.
    """
    archive = np.load(data / "mask_volumes_4mm.npz", allow_pickle=False)
    volumes = dict(zip(archive["case_id"].tolist(), archive["volume"], strict=True))
    affine = np.zeros((4, 4))
    affine[2, 0] = affine[1, 1] = affine[0, 2] = -SPACING_MM
    affine[3, 3] = 1.0
    for case in patients["sample_id"]:
        image = nib.Nifti1Image(volumes[case], affine)
        image.header.set_xyzt_units("mm")
        with atomic_path(out / f"{case}.nii.gz") as temporary:
            temporary.write_bytes(gzip.compress(image.to_bytes(), mtime=0))


def write_folds(patients: pl.DataFrame, data: Path, out: Path) -> None:
    """Write the data's assignment to folds under concordant's column names."""
    folds = pl.read_csv(data / "folds.csv").rename({"case_id": "sample_id"})
    if set(folds["sample_id"]) != set(patients["sample_id"]):
        raise ValueError(
            "folds.csv and survival.csv hold different patients; expected every patient with "
            "follow-up in both"
        )
    with atomic_path(out) as temporary:
        folds.write_csv(temporary)


def write_parquet(table: pl.DataFrame, path: Path) -> None:
    """Write a table as parquet, atomically."""
    with atomic_path(path) as temporary:
        table.write_parquet(temporary)


def prepare(data: Path, out: Path) -> None:
    """Write everything under `out`; a second run writes the same bytes again."""
    patients, records = read_patients(data), read_records(data)
    earlier = pl.col("subject_id") < FIRST_CASE_OF_2021
    write_masks(patients, data, out / "ct")
    write_meds(patients, records, out / "meds")
    write_folds(patients, data, out / "folds.csv")
    write_parquet(cohort_table(patients, records, "../ct"), out / "all" / "cohort.parquet")
    for name, part in (
        ("development", patients.filter(earlier)),
        ("external", patients.filter(~earlier)),
    ):
        write_parquet(
            cohort_table(part, records, "../../ct"), out / "temporal" / name / "cohort.parquet"
        )
    for name in STUDY_FILES:
        shutil.copyfile(Path(__file__).parent / name, out / name)
    print(
        f"{patients.height} patients, {patients['event'].sum()} deaths; of them "
        f"{patients.filter(~earlier).height} added in 2021"
    )
    print(f"next: concordant run {out / STUDY_FILES[0]}")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Write the KiTS23 patients in concordant's own formats."
    )
    parser.add_argument(
        "--data", type=Path, default=Path("../shared/data"), help="folder that holds kits23/"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    given = parser.parse_args()
    prepare(given.data / "kits23", given.out)


if __name__ == "__main__":
    main()
