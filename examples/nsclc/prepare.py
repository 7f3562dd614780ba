"""Write lung-cancer patients of two centres as feature files.

CT radiomics, clinical variables, cohort tables, the study file.

Usage:
    python examples/nsclc/prepare.py --data ../shared/data --out work/nsclc

Development is MAASTRO (281, radiotherapy), external is Stanford (57, surgery): another scanner and
another case mix. Both modalities are feature tables, so no encoder runs and no time of prediction
is known; the scan's date is set to one arbitrary day.

Only what was known at the scan enters: 53 radiomics features of the tumour, age, sex, T and N
stage, histology. Dates, treatment, recurrence, mutations and everything else in the table stay out,
and so does every column that only one centre has. M stage stays out too: one patient of MAASTRO has
M1, so there is nothing to learn from it. Stages are ordinal numbers; a code outside T1-4 and N0-3
(four in all) has no place on that scale and is null.
"""

from __future__ import annotations

import argparse
import shutil
from datetime import datetime
from pathlib import Path

import polars as pl

from concordant.core.files import atomic_path

SCAN_DATE = datetime(2015, 1, 1)
COHORTS = {"MAASTRO": "development", "Stanford": "external"}
RADIOMICS_PREFIX = "original_"
N_RADIOMICS = 53
STAGES = {"Tstage": (1, 4), "Nstage": (0, 3)}
HISTOLOGIES = {
    "adenocarcinoma": ("adenocarcinoma",),
    "squamous": ("squamous cell carcinoma",),
    "large_cell": ("large cell",),
    "nos": ("nos", "nsclc nos (not otherwise specified)"),
}
CLINICAL = ("age", "gender", "Histology", *STAGES)
"""The clinical columns: nothing else of the table is read but the radiomics and the outcome."""


def read_patients(data: Path) -> pl.DataFrame:
    """Return the whitelisted columns, one row per patient, sorted by `sample_id`."""
    table = pl.read_csv(
        data / "nsclc_3centre.csv", infer_schema_length=None, null_values=["", "NA"]
    )
    radiomics = [name for name in table.columns if name.startswith(RADIOMICS_PREFIX)]
    if len(radiomics) != N_RADIOMICS:
        raise ValueError(f"{len(radiomics)} radiomics columns; expected {N_RADIOMICS}")
    table = table.sort("source_id").with_row_index("subject_id", offset=1)
    return table.select(
        "subject_id", "centre", "time_days", "event", *CLINICAL, *radiomics, sample_id="source_id"
    )


def radiomics_table(patients: pl.DataFrame) -> pl.DataFrame:
    """Return the radiomics as they are; the study takes their signed logarithm."""
    return patients.select("sample_id", pl.selectors.starts_with(RADIOMICS_PREFIX).cast(pl.Float64))


def clinical_table(patients: pl.DataFrame) -> pl.DataFrame:
    """Return the clinical variables as numbers; an unknown histology is none of the four."""
    histology = pl.col("Histology").str.to_lowercase()
    known = {text for texts in HISTOLOGIES.values() for text in texts}
    foreign = set(patients.select(histology).to_series().drop_nulls()) - known
    if foreign:
        raise ValueError(
            f"unknown histology {', '.join(sorted(foreign))}; expected {', '.join(sorted(known))}"
        )
    return patients.select(
        "sample_id",
        "age",
        male=(pl.col("gender").str.to_lowercase() == "male").cast(pl.Float64),
        **{stage: _ordinal(stage, *limits) for stage, limits in STAGES.items()},
        **{
            name: histology.is_in(texts).fill_null(False).cast(pl.Float64)
            for name, texts in HISTOLOGIES.items()
        },
    )


def _ordinal(stage: str, lowest: int, highest: int) -> pl.Expr:
    return pl.when(pl.col(stage).is_between(lowest, highest)).then(pl.col(stage).cast(pl.Float64))


def cohort_table(patients: pl.DataFrame, centre: str) -> pl.DataFrame:
    """Return a centre's cohort table, without splits and scans."""
    return patients.filter(pl.col("centre") == centre).select(
        "sample_id",
        pl.col("subject_id").cast(pl.Int64),
        pl.lit(SCAN_DATE).cast(pl.Datetime("us")).alias("prediction_time"),
        pl.col("time_days").cast(pl.Float64),
        pl.col("event").cast(pl.Int8),
        pl.lit(None, pl.String).alias("split"),
        pl.col("centre").str.to_lowercase().alias("site"),
    )


def write_parquet(table: pl.DataFrame, path: Path) -> None:
    """Write a table as parquet, atomically."""
    with atomic_path(path) as temporary:
        table.write_parquet(temporary)


def prepare(data: Path, out: Path) -> None:
    """Write everything under `out`; a second run writes the same bytes again."""
    patients = read_patients(data)
    write_parquet(radiomics_table(patients), out / "radiomics.parquet")
    write_parquet(clinical_table(patients), out / "clinical.parquet")
    for centre, name in COHORTS.items():
        table = cohort_table(patients, centre)
        write_parquet(table, out / name / "cohort.parquet")
        print(f"{name}: {centre}, {table.height} patients, {table['event'].sum()} deaths")
    shutil.copyfile(Path(__file__).parent / "study.yaml", out / "study.yaml")
    print(f"next: concordant run {out / 'study.yaml'}")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Write lung-cancer patients of two centres as feature files."
    )
    parser.add_argument(
        "--data", type=Path, default=Path("../shared/data"), help="folder that holds nsclc_3centre/"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    given = parser.parse_args()
    prepare(given.data / "nsclc_3centre", given.out)


if __name__ == "__main__":
    main()
