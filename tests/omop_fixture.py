"""A small OMOP CDM 5.3 export that holds one row of every trap, and a slow reader of exports
written from the rules alone. For tests.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from pathlib import Path

Rows = Sequence[Mapping[str, object]]

CONCEPTS = [
    {"concept_id": 8507, "concept_name": "MALE", "vocabulary_id": "Gender", "concept_code": "M"},
    {"concept_id": 8532, "concept_name": "FEMALE", "vocabulary_id": "Gender", "concept_code": "F"},
    {
        "concept_id": 9201,
        "concept_name": "Inpatient Visit",
        "vocabulary_id": "Visit",
        "concept_code": "IP",
    },
    {
        "concept_id": 312327,
        "concept_name": "Acute myocardial infarction",
        "vocabulary_id": "SNOMED",
        "concept_code": "57054005",
    },
    {
        "concept_id": 4329847,
        "concept_name": "Myocardial infarction",
        "vocabulary_id": "SNOMED",
        "concept_code": "22298006",
    },
    {
        "concept_id": 321588,
        "concept_name": "Heart disease",
        "vocabulary_id": "SNOMED",
        "concept_code": "56265001",
    },
    {
        "concept_id": 45576865,
        "concept_name": "STEMI",
        "vocabulary_id": "ICD10CM",
        "concept_code": "I21.3",
    },
    {
        "concept_id": 3016723,
        "concept_name": "Creatinine",
        "vocabulary_id": "LOINC",
        "concept_code": "2160-0",
    },
    {
        "concept_id": 8840,
        "concept_name": "milligram per deciliter",
        "vocabulary_id": "UCUM",
        "concept_code": "mg/dL",
    },
    {
        "concept_id": 9191,
        "concept_name": "Positive",
        "vocabulary_id": "SNOMED",
        "concept_code": "10828004",
    },
]
ANCESTORS = [
    {
        "ancestor_concept_id": 4329847,
        "descendant_concept_id": 312327,
        "min_levels_of_separation": 1,
        "max_levels_of_separation": 1,
    },
    {
        "ancestor_concept_id": 321588,
        "descendant_concept_id": 4329847,
        "min_levels_of_separation": 1,
        "max_levels_of_separation": 1,
    },
    {
        "ancestor_concept_id": 321588,
        "descendant_concept_id": 312327,
        "min_levels_of_separation": 2,
        "max_levels_of_separation": 2,
    },
    {
        "ancestor_concept_id": 312327,
        "descendant_concept_id": 312327,
        "min_levels_of_separation": 0,
        "max_levels_of_separation": 0,
    },
]
RELATIONS = [
    {
        "concept_id_1": 45576865,
        "concept_id_2": 312327,
        "relationship_id": "Maps to",
        "invalid_reason": "",
    },
    {
        "concept_id_1": 312327,
        "concept_id_2": 45576865,
        "relationship_id": "Mapped from",
        "invalid_reason": "",
    },
    {
        "concept_id_1": 45576865,
        "concept_id_2": 3016723,
        "relationship_id": "Maps to",
        "invalid_reason": "D",
    },
]


def person(number: object, *, born: str = "1950-06-01", gender: int = 8507) -> dict[str, object]:
    """Return a row of `person` with a birth in parts."""
    year, month, day = born.split("-")
    return {
        "person_id": number,
        "gender_concept_id": gender,
        "year_of_birth": year,
        "month_of_birth": month,
        "day_of_birth": day,
        "race_concept_id": 0,
        "ethnicity_concept_id": 0,
    }


def condition(
    subject: object, concept: object, day: str, moment: str = "", **more: object
) -> dict[str, object]:
    """Return a row of `condition_occurrence`."""
    given = {
        "person_id": subject,
        "condition_concept_id": concept,
        "condition_start_date": day,
        "condition_start_datetime": moment,
    }
    return given | {"condition_source_concept_id": 0, "visit_occurrence_id": ""} | more


def measurement(subject: object, day: str, value: object = "", **more: object) -> dict[str, object]:
    """Return a row of `measurement`: a creatinine in mg/dL."""
    given = {
        "person_id": subject,
        "measurement_concept_id": 3016723,
        "measurement_date": day,
        "measurement_datetime": "",
    }
    values = {
        "value_as_number": value,
        "value_as_concept_id": 0,
        "unit_concept_id": 8840,
        "unit_source_value": "MG/DL",
    }
    return given | values | {"measurement_source_concept_id": 0} | more


def visit(
    subject: object,
    number: int,
    start: str,
    end: str,
    *,
    start_moment: str = "",
    end_moment: str = "",
) -> dict[str, object]:
    """Return a row of `visit_occurrence` as CDM 5.3 has it: an inpatient visit."""
    return {
        "visit_occurrence_id": number,
        "person_id": subject,
        "visit_concept_id": 9201,
        "visit_start_date": start,
        "visit_start_datetime": start_moment,
        "visit_end_date": end,
        "visit_end_datetime": end_moment,
        "visit_source_concept_id": 0,
        "admitting_source_concept_id": 0,
    }


def write_csv(
    path: Path, rows: Rows, *, delimiter: str = ",", header: Sequence[str] | None = None
) -> Path:
    """Write rows as CSV; without a row the header must be given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(header or rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_export(folder: Path, **tables: Rows) -> Path:
    """Write a folder of CSV tables; `concept` and one person are there unless given."""
    for name, rows in ({"person": [person(1)], "concept": CONCEPTS} | tables).items():
        write_csv(folder / f"{name}.csv", rows)
    return folder


Event = tuple[int, datetime | None, str, float | None, str | None, int | None]
"""subject_id, time, code, numeric_value, unit, visit_id."""


class SlowReader:
    """Reads the export of `synthea27nj` row by row.

    Standard concepts, midnight as a day, no row dropped but for a concept of 0.
    """

    def __init__(self, folder: Path) -> None:
        """Keep where the tables lie, and read the concepts."""
        self._folder = folder
        self._codes = {
            row["concept_id"]: f"{row['vocabulary_id']}/{row['concept_code']}"
            for row in self._rows("CONCEPT")
        }
        self._codes |= {
            "8507": "Gender/M",
            "8532": "Gender/F",
            "8527": "Race/5",
            "8515": "Race/2",
            "8516": "Race/3",
        }
        self._codes |= {"38003563": "Ethnicity/Hispanic", "38003564": "Ethnicity/Not Hispanic"}

    def events(self) -> Counter[Event]:
        """Return every event that the export gives, with how often."""
        found: Counter[Event] = Counter()
        for row in self._rows("PERSON"):
            found[self._event(row, "MEDS_BIRTH", row["birth_datetime"], exact=True)] += 1
            for name in ("gender", "race", "ethnicity"):
                if row[f"{name}_concept_id"] != "0":
                    found[self._event(row, self._codes[row[f"{name}_concept_id"]], None)] += 1
        for row in self._rows("DEATH"):
            found[self._event(row, "MEDS_DEATH", row["death_datetime"])] += 1
            found[
                self._event(
                    row,
                    f"MEDS_DEATH//{self._codes[row['cause_concept_id']]}",
                    row["death_datetime"],
                )
            ] += 1
        for row in self._rows("OBSERVATION_PERIOD"):
            found[
                self._event(
                    row,
                    "OBSERVATION_PERIOD_START",
                    f"{row['observation_period_start_date']} 00:00:00",
                    exact=True,
                )
            ] += 1
            found[
                self._event(
                    row, "OBSERVATION_PERIOD_END", f"{row['observation_period_end_date']} 00:00:00"
                )
            ] += 1
        for row in self._rows("VISIT_OCCURRENCE"):
            code = self._codes[row["visit_concept_id"]]
            found[self._event(row, code, row["visit_start_datetime"])] += 1
            found[self._event(row, f"{code}/end", row["visit_end_datetime"])] += 1
        for table, stem, when in (
            ("CONDITION_OCCURRENCE", "condition", "condition_start"),
            ("DRUG_EXPOSURE", "drug", "drug_exposure_start"),
            ("PROCEDURE_OCCURRENCE", "procedure", "procedure"),
            ("MEASUREMENT", "measurement", "measurement"),
            ("OBSERVATION", "observation", "observation"),
            ("DEVICE_EXPOSURE", "device", "device_exposure_start"),
        ):
            for row in self._rows(table):
                valued = table in ("MEASUREMENT", "OBSERVATION")
                found[
                    self._event(
                        row,
                        self._codes[row[f"{stem}_concept_id"]],
                        row[f"{when}_datetime"],
                        valued=valued,
                    )
                ] += 1
        return found

    def _rows(self, table: str) -> list[dict[str, str]]:
        with (self._folder / f"{table}.csv").open(newline="", encoding="utf-8") as stream:
            return list(csv.DictReader(stream))

    def _event(
        self,
        row: dict[str, str],
        code: str,
        moment: str | None,
        *,
        exact: bool = False,
        valued: bool = False,
    ) -> Event:
        value = row.get("value_as_number") if valued else None
        unit = None
        if valued:
            unit = (
                self._codes.get(row["unit_concept_id"], "/").partition("/")[2]
                or row["unit_source_value"]
                or None
            )
        visit_id = row.get("visit_occurrence_id")
        return (
            int(row["person_id"]),
            None if moment is None else _time(moment, exact),
            code,
            float(value) if value else None,
            unit,
            int(visit_id) if visit_id else None,
        )


def _time(moment: str, exact: bool) -> datetime:
    read = datetime.strptime(moment, "%Y-%m-%d %H:%M:%S")
    return (
        read + timedelta(hours=23, minutes=59)
        if read.hour == read.minute == read.second == 0 and not exact
        else read
    )


UNTIL = date(2025, 1, 1)
