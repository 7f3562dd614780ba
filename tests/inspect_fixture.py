"""A look-alike of INSPECT's files, scans and records that holds every trap the real ones are
known for. For tests.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import nibabel
import numpy as np
import polars as pl

MONTHS = {1: 30, 6: 180, 12: 365}
MINUTES_PER_DAY = 1440
WORDS = {
    True: ("TRUE", "True", "true"),
    False: ("FALSE", "False", "false"),
    None: ("CENSORED", "Censored", "censored"),
}


@dataclass
class Inspect:
    """The tables of the look-alike, to be altered before they are written.

    Attributes:
        labels: `labels_20250611.tsv`.
        mapping: `study_mapping_20250611.tsv`.
        splits: `splits_20250611.tsv`.
        truth: `impression_id`, `days`, `died`.
        records: MEDS events.
    """

    labels: list[dict[str, str]] = field(default_factory=list)
    mapping: list[dict[str, str]] = field(default_factory=list)
    splits: list[dict[str, str]] = field(default_factory=list)
    truth: dict[str, tuple[float, bool]] = field(default_factory=dict)
    records: list[tuple[int, datetime | None, str, float | None]] = field(default_factory=list)

    def write(self, folder: Path, *, scans: bool = False) -> Path:
        """Write the tables, empty files for the scans (or real ones), and the records as MEDS.

        Return the folder.
        """
        (folder / "CTPA").mkdir(parents=True, exist_ok=True)
        for name, rows in (
            ("labels", self.labels),
            ("study_mapping", self.mapping),
            ("splits", self.splits),
        ):
            pl.DataFrame(rows).write_csv(folder / f"{name}_20250611.tsv", separator="\t")
        for row in self.mapping:
            path = folder / "CTPA" / f"{row['image_id'].removesuffix('.nii.gz')}.nii.gz"
            if scans:
                nibabel.Nifti1Image(
                    np.full((8, 8, 8), -50, np.int16), np.diag([2.0, 2.0, 2.0, 1.0])
                ).to_filename(path)
            else:
                path.touch()
        (folder / "meds" / "data").mkdir(parents=True, exist_ok=True)
        schema = {
            "subject_id": pl.Int64,
            "time": pl.Datetime("us"),
            "code": pl.String,
            "numeric_value": pl.Float32,
        }
        events = pl.DataFrame(self.records, schema=schema, orient="row").sort(
            "subject_id", "time", nulls_last=False
        )
        events.write_parquet(folder / "meds" / "data" / "0000.parquet")
        return folder


def look_alike(*, n_patients: int = 60, seed: int = 0) -> Inspect:
    """Draw a look-alike without a fault.

    Exams, labels of windows in varying case, times in minutes, a small `valid` split.
    """
    rng = np.random.default_rng(seed)
    made = Inspect()
    exam = 0
    for patient in range(n_patients):
        split = "test" if patient % 5 == 4 else "valid" if patient % 10 == 3 else "train"
        first = datetime(2010, 1, 1, 8) + timedelta(days=int(rng.integers(0, 3000)))
        death, end = (
            first + timedelta(days=float(rng.exponential(500)) + 91),
            first + timedelta(days=float(rng.uniform(91, 1500))),
        )
        for repeat in range(13 if patient == 0 else 1 + patient % 2):
            _add_exam(
                made, exam, 900_000 + patient, first + timedelta(days=7 * repeat), split, death, end
            )
            exam += 1
        _add_records(made, 900_000 + patient, first)
    return made


def _add_exam(
    made: Inspect,
    exam: int,
    person_id: int,
    when: datetime,
    split: str,
    death: datetime,
    end: datetime,
) -> None:
    impression_id = str(20_429_000 + exam)
    died = death <= end
    days = (min(death, end) - when).total_seconds() / 86_400
    made.truth[impression_id] = (days, died)
    word = {told: words[exam % 3] for told, words in WORDS.items()}
    windows = {
        f"{months}_month_mortality": word[_label(days, died, limit)]
        for months, limit in MONTHS.items()
    }
    made.labels.append(
        {
            "impression_id": impression_id,
            "pe_positive": word[exam % 4 == 0],
            "pe_acute": word[False],
        }
        | windows
        | {
            "tte_mortality": f"{days * MINUTES_PER_DAY:.1f}",
            "is_censored_mortality": word[not died],
        }
    )
    image = f"PE{exam:05x}" + (".nii.gz" if exam % 2 else "")
    row = {"impression_id": impression_id, "image_id": image, "person_id": str(person_id)}
    made.mapping.append(
        row
        | {
            "procedure_DATETIME": when.strftime(
                "%Y-%m-%d %H:%M:%S" if exam % 2 else "%Y-%m-%dT%H:%M:%S"
            )
        }
    )
    made.splits.append({"impression_id": impression_id, "split": split})


def _label(days: float, died: bool, limit: int) -> bool | None:
    if days <= limit:
        return True if died else None
    return False


def _add_records(made: Inspect, person_id: int, first: datetime) -> None:
    """Add a record without the death, as INSPECT's are; one event lies after the exam."""
    made.records += [
        (person_id, datetime(1950, 1, 1), "MEDS_BIRTH", None),
        (person_id, None, "Gender/F", None),
        (person_id, first - timedelta(days=100), "SNOMED/38341003", None),
        (person_id, first - timedelta(hours=2), "LOINC/2160-0", 1.1),
        (person_id, first + timedelta(days=400), "SNOMED/after", None),
    ]
