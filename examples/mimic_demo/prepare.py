"""Write the index table and the study of the MIMIC-IV demo (100 patients).

The file of events itself is read where it lies.

Usage:
    python examples/mimic_demo/prepare.py --data ../shared/data --out work/mimic_demo

The file is MEDS in all but the name of its number column (`value`), one file without metadata, and
it has real defects: repeated rows, rows out of order, events after death. They are counted here
over the whole file, and again by every command over what it reads.

The index is 24 hours after the first admission. The CLMBR is the tiny one of femr's tutorial,
trained on synthetic records in other codes: it knows next to nothing of these, and is refused
unless forced. It shows what that looks like, and no more.
"""

from __future__ import annotations

import argparse
import shutil
from datetime import timedelta
from pathlib import Path

import polars as pl

from concordant.core.files import atomic_path
from concordant.data.meds import data_quality, quality_table

LANDMARK = timedelta(hours=24)
COLUMNS = {"numeric_value": "value"}
CHECKPOINT = ("config.json", "dictionary.msgpack", "model.safetensors")


def index_table(events: pl.LazyFrame) -> pl.DataFrame:
    """Return one sample per patient, 24 hours after the first admission."""
    admissions = events.filter(pl.col("code").str.starts_with("HOSPITAL_ADMISSION//"))
    first = admissions.group_by("subject_id").agg(prediction_time=pl.col("time").min() + LANDMARK)
    return first.sort("subject_id").collect()


def prepare(data: Path, out: Path) -> None:
    """Write everything under `out`; a second run writes the same bytes again."""
    meds = data / "mimic_iv_demo_meds" / "events.parquet"
    with atomic_path(out / "index.parquet") as temporary:
        index_table(pl.scan_parquet(meds)).write_parquet(temporary)
    for name in ("death.yaml", "study.yaml"):
        shutil.copyfile(Path(__file__).parent / name, out / name)
    (out / "clmbr").mkdir(exist_ok=True)
    for name in CHECKPOINT:
        shutil.copyfile(data / "femr_tutorial_models" / "clmbr" / name, out / "clmbr" / name)
    for finding, number, rule in (
        quality_table({"all": data_quality(meds, columns=COLUMNS)})
        .select("finding", "n", "rule")
        .iter_rows()
    ):
        print(f"{number:>8} {finding.removeprefix('n_')}: {rule}")
    print(
        f"next: concordant cohort {out / 'death.yaml'} --meds {meds} --column numeric_value=value "
        f"--out {out / 'cohort.parquet'}"
    )
    print(
        f"      concordant run {out / 'study.yaml'} --set "
        f"cohorts.development.meds={meds.absolute()}"
    )


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Write the index table and the study of the MIMIC-IV demo."
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("../shared/data"),
        help="folder with mimic_iv_demo_meds/, femr_tutorial_models/",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    given = parser.parse_args()
    prepare(given.data, given.out)


if __name__ == "__main__":
    main()
