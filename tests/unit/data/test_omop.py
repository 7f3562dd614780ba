from __future__ import annotations

import csv
import gzip
import io
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from datetime import date, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from concordant.core.errors import ConfigError, RecordError
from concordant.data.meds import read_events
from concordant.data.omop import OmopConversion, OmopOptions, convert_omop
from concordant.data.omop import source as source_module
from concordant.data.omop.source import OmopSource
from omop_fixture import (
    ANCESTORS,
    CONCEPTS,
    RELATIONS,
    UNTIL,
    SlowReader,
    condition,
    measurement,
    person,
    visit,
    write_csv,
    write_export,
)

ZIP = (
    Path(os.environ.get("CONCORDANT_DATA", Path(__file__).parents[3] / ".." / "shared" / "data"))
    / "synthea27nj_omop"
    / "Synthea27Nj_5.4.zip"
)
needs_synthea = pytest.mark.skipif(
    not ZIP.is_file(),
    reason=f"no {ZIP}; set CONCORDANT_DATA to the folder that holds synthea27nj_omop/",
)
MI = 312327
NO_TABLES = {"condition_occurrence": [condition(1, MI, "2010-01-01")]}


def convert(export: Path, out: Path | None = None, **options) -> OmopConversion:
    return convert_omop(
        export, out or export.parent / "meds", OmopOptions(**{"until": UNTIL} | options)
    )


def events(conversion: OmopConversion) -> pl.DataFrame:
    return pl.concat(
        [pl.read_parquet(path) for path in sorted((conversion.folder / "data").glob("*.parquet"))]
    )


def codes(conversion: OmopConversion) -> list[str]:
    return events(conversion)["code"].to_list()


def count(conversion: OmopConversion, event: str, what: str) -> int:
    return conversion.counts.filter(pl.col("event") == event)[what].item()


def assert_invariants(folder: Path) -> None:
    """MEDS: a subject in one shard, contiguous, its static events first, then in order of time.

    The types of the schema.
    """
    seen: set[int] = set()
    for path in sorted((folder / "data").glob("*.parquet")):
        shard = pl.read_parquet(path)
        assert dict(list(shard.schema.items())[:5]) == {
            "subject_id": pl.Int64,
            "time": pl.Datetime("us"),
            "code": pl.String,
            "numeric_value": pl.Float32,
            "text_value": pl.String,
        }
        assert shard["code"].null_count() == shard["subject_id"].null_count() == 0
        subjects = shard["subject_id"].rle().struct.field("value").to_list()
        assert len(subjects) == len(set(subjects))
        assert not seen & set(subjects)
        seen |= set(subjects)
        for part in shard.partition_by("subject_id"):
            assert part["time"].equals(part["time"].sort(nulls_last=False))


def assert_counts_add_up(counts: pl.DataFrame) -> None:
    reasons = [name for name in counts.columns[3:] if not name.startswith("kept_")]
    assert (counts["rows"] == counts.select(pl.sum_horizontal(reasons)).to_series()).all()


@pytest.fixture(scope="module")
def synthea(tmp_path_factory) -> OmopConversion:
    out = tmp_path_factory.mktemp("synthea") / "meds"
    return convert(ZIP, out, subjects_per_shard=10)


@needs_synthea
def test_every_event_of_synthea_is_the_one_a_slow_reader_finds(synthea, tmp_path):
    with zipfile.ZipFile(ZIP) as archive:
        archive.extractall(tmp_path)
    expected = SlowReader(tmp_path).events()
    found = events(synthea).select(
        "subject_id", "time", "code", "numeric_value", "unit", "visit_id"
    )
    rounded = Counter()
    for (subject, time, code, value, unit, visit_id), n in expected.items():
        rounded[
            subject, time, code, None if value is None else float(np.float32(value)), unit, visit_id
        ] += n
    assert Counter(found.iter_rows()) == rounded
    assert synthea.n_events == sum(expected.values()) == 24894


@needs_synthea
def test_synthea_keeps_the_invariants_and_its_counts_add_up(synthea):
    assert_invariants(synthea.folder)
    assert_counts_add_up(synthea.counts)
    assert len(list((synthea.folder / "data").glob("*.parquet"))) == 3
    assert (count(synthea, "person: race", "rows"), count(synthea, "person: race", "unmapped")) == (
        28,
        4,
    )
    quality = json.loads((synthea.folder / "metadata" / "quality.json").read_text())
    assert quality["counts"] == synthea.counts.to_dicts()
    dataset = json.loads((synthea.folder / "metadata" / "dataset.json").read_text())
    assert (dataset["meds_version"], dataset["etl_name"]) == ("0.4.1", "concordant omop")


@needs_synthea
def test_the_records_of_synthea_can_be_read(synthea):
    subjects = events(synthea)["subject_id"].unique().sort()
    time = pl.Series([datetime(2015, 1, 1)] * len(subjects), dtype=pl.Datetime("us"))
    samples = pl.DataFrame(
        {"sample_id": subjects.cast(pl.String), "subject_id": subjects, "prediction_time": time}
    )
    records = read_events(synthea.folder, samples)
    assert records.counts.n_events_read == synthea.n_events
    assert records.counts.n_subjects_without_record == 0
    history = events(synthea).filter(
        (pl.col("subject_id") == 7) & (pl.col("time") <= datetime(2015, 1, 1))
    )
    timed = [
        code
        for code, days in zip(
            records.events("7").code, records.events("7").days_before, strict=True
        )
        if days >= 0
    ]
    assert set(timed) == set(history["code"])


@needs_synthea
def test_shards_do_not_change_what_is_written(synthea, tmp_path):
    whole = convert(ZIP, tmp_path / "meds")
    assert events(whole).equals(events(synthea))
    assert whole.counts.equals(synthea.counts)


def test_the_same_tables_in_any_packing_give_the_same_events(tmp_path):
    tables = {
        "person": [person(1), person(2, gender=8532)],
        "concept": CONCEPTS,
        "condition_occurrence": [
            condition(1, MI, "2010-03-01", "2010-03-01 09:30:00"),
            condition(2, MI, "2011-03-01"),
        ],
        "measurement": [measurement(1, "2010-03-02", 1.5)],
        "visit_occurrence": [visit(1, 5, "2010-03-01", "2010-03-04")],
    }
    plain = events(convert(write_export(tmp_path / "csv" / "export", **tables)))
    packed = {name: pack(tmp_path / name / "export", tables) for name, pack in PACKINGS.items()}
    for name, export in packed.items():
        assert events(convert(export)).equals(plain), name
    assert plain.height == 9


def _upper_case(folder, tables):
    for name, rows in tables.items():
        write_csv(
            folder / f"{name.upper()}.CSV",
            [{key.upper(): value for key, value in row.items()} for row in rows],
        )
    return folder


def _gzipped(folder, tables):
    for path in write_export(folder, **tables).glob("*.csv"):
        path.with_suffix(".csv.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    return folder


def _zipped(folder, tables):
    write_export(folder, **tables)
    with zipfile.ZipFile(folder.with_suffix(".zip"), "w", zipfile.ZIP_DEFLATED) as archive:
        for path in folder.glob("*.csv"):
            archive.write(path, f"omop/{path.name}")
        archive.writestr("__MACOSX/omop/._person.csv", "rubbish")
    return folder.with_suffix(".zip")


def _folders_of_parts(folder, tables):
    for name, rows in tables.items():
        for place, row in enumerate(rows):
            write_csv(folder / name / f"{place:012d}.csv", [row])
    return folder


def _tabs(folder, tables):
    for name, rows in tables.items():
        write_csv(folder / f"{name}.csv", rows, delimiter="\t")
    return folder


def _typed_parquet(folder, tables):
    folder.mkdir(parents=True)
    for name, rows in tables.items():
        table = pl.DataFrame(rows, infer_schema_length=None)
        blank = table.with_columns(
            pl.when(pl.col(pl.String) != "").then(pl.col(pl.String)).name.keep()
        )
        dates = [column for column in blank.columns if column.endswith("_date")]
        moments = [column for column in blank.columns if column.endswith("_datetime")]
        typed = blank.with_columns(
            pl.col(dates).str.to_date(), pl.col(moments).str.to_datetime(time_zone="UTC")
        )
        numbers = [
            column
            for column in ("visit_occurrence_id", "value_as_number")
            if column in typed.columns
        ]
        typed.with_columns(pl.col(numbers).cast(pl.Float64)).write_parquet(
            folder / f"{name}.parquet"
        )  # as pandas writes integers with nulls
    return folder


PACKINGS = {
    "upper_case": _upper_case,
    "gzipped": _gzipped,
    "zipped": _zipped,
    "folders_of_parts": _folders_of_parts,
    "tabs": _tabs,
    "parquet": _typed_parquet,
}


def test_an_event_of_which_only_the_day_is_known_comes_at_the_end_of_the_day(tmp_path):
    rows = [
        condition(1, MI, "2010-03-01"),
        condition(1, MI, "2010-03-02", "2010-03-02 00:00:00"),
        condition(1, MI, "2010-03-03", "2010-03-03T09:30:00.5Z"),
    ]
    export = write_export(tmp_path / "export", condition_occurrence=rows)

    def times(rule):
        found = events(convert(export, tmp_path / rule, date_only=rule))
        return found.filter(pl.col("code") == "SNOMED/57054005")["time"].to_list()

    exact = datetime(2010, 3, 3, 9, 30, 0, 500_000)
    assert times("end_of_day") == [
        datetime(2010, 3, 1, 23, 59),
        datetime(2010, 3, 2, 23, 59),
        exact,
    ]
    assert times("keep_midnight") == [datetime(2010, 3, 1, 23, 59), datetime(2010, 3, 2), exact]
    assert times("start_of_day") == [datetime(2010, 3, 1), datetime(2010, 3, 2), exact]


@pytest.mark.parametrize(
    "stated",
    [
        "2010-03-03 09:30:00",
        "2010-03-03T09:30:00",
        "2010-03-03 09:30",
        "2010-03-03 09:30:00.000000",
        "2010-03-03 09:30:00 UTC",
        "2010-03-03 09:30:00+05:30",
        "2010-03-03 09:30:00.000-08",
    ],
)
def test_timestamps_are_read_in_every_usual_form_by_their_wall_clock(stated, tmp_path):
    export = write_export(
        tmp_path / "export", condition_occurrence=[condition(1, MI, "2010-03-03", stated)]
    )
    assert events(convert(export)).filter(pl.col("code") == "SNOMED/57054005")[
        "time"
    ].item() == datetime(2010, 3, 3, 9, 30)


def test_a_visit_has_a_start_and_an_end_that_is_never_before_it(tmp_path):
    rows = [
        visit(
            1,
            11,
            "2010-03-01",
            "2010-03-04",
            start_moment="2010-03-01 08:00:00",
            end_moment="2010-03-04 12:00:00",
        ),
        visit(1, 12, "2011-03-01", "2011-03-01", end_moment="2011-03-01 14:00:00"),
        visit(1, 13, "2012-03-05", "2012-03-01"),
        visit(1, 14, "2013-03-05", ""),
    ]
    made = convert(write_export(tmp_path / "export", visit_occurrence=rows))
    visits = (
        events(made)
        .filter(pl.col("table") == "visit_occurrence")
        .select("time", "code", "visit_id")
        .rows()
    )
    assert visits == [
        (datetime(2010, 3, 1, 8), "Visit/IP", 11),
        (datetime(2010, 3, 4, 12), "Visit/IP/end", 11),
        (datetime(2011, 3, 1, 23, 59), "Visit/IP", 12),
        (datetime(2011, 3, 1, 23, 59), "Visit/IP/end", 12),
        (datetime(2012, 3, 5, 23, 59), "Visit/IP", 13),
        (datetime(2013, 3, 5, 23, 59), "Visit/IP", 14),
    ]
    assert count(made, "visit_occurrence: end", "end_before_start") == 1
    assert count(made, "visit_occurrence: end", "no_date") == 1


def test_columns_that_5_4_renamed_or_added_are_not_needed(tmp_path):
    old = visit(1, 11, "2010-03-01", "2010-03-04")
    new = {key: value for key, value in old.items() if key != "admitting_source_concept_id"} | {
        "admitted_from_concept_id": 0
    }
    least = {
        key: old[key]
        for key in ("person_id", "visit_concept_id", "visit_start_date", "visit_end_date")
    }
    found = [
        events(convert(write_export(tmp_path / str(n) / "export", visit_occurrence=[row])))
        for n, row in enumerate((old, new, least))
    ]
    assert found[0].equals(found[1])
    assert found[0].drop("visit_id").equals(found[2].drop("visit_id"))


@pytest.mark.parametrize(
    ("prefer", "expected"),
    [
        (
            "standard",
            [
                "SNOMED/57054005",
                "ICD10CM/I21.3",
                "ICD10CM/I21.3",
                "OMOP_CONCEPT_ID/77",
                "UNMAPPED/condition_occurrence",
            ],
        ),
        (
            "source",
            [
                "ICD10CM/I21.3",
                "ICD10CM/I21.3",
                "ICD10CM/I21.3",
                "OMOP_CONCEPT_ID/78",
                "UNMAPPED/condition_occurrence",
            ],
        ),
    ],
)
def test_the_code_is_the_preferred_concept_or_the_other_one(prefer, expected, tmp_path):
    pairs = [(MI, 45576865), (0, 45576865), (77, 45576865), (77, 78), (0, "")]
    rows = [
        condition(1, standard, f"2010-03-0{day}", condition_source_concept_id=source)
        for day, (standard, source) in enumerate(pairs, 1)
    ]
    made = convert(write_export(tmp_path / "export", condition_occurrence=rows), prefer=prefer)
    assert (
        events(made).filter(pl.col("table") == "condition_occurrence")["code"].to_list() == expected
    )
    assert count(made, "condition_occurrence", "kept_unlisted") == 1
    assert count(made, "condition_occurrence", "kept_unmapped") == 1


def test_rows_without_a_concept_are_kept_without_their_value_or_dropped_and_counted(tmp_path):
    export = write_export(
        tmp_path / "export",
        measurement=[
            measurement(1, "2010-01-01", 3.5, measurement_concept_id=0, value_as_concept_id=9191)
        ],
    )
    kept = convert(export, tmp_path / "kept")
    row = events(kept).filter(pl.col("code") == "UNMAPPED/measurement")
    assert row.select("numeric_value", "text_value", "unit", "value_code").rows() == [
        (None, None, None, None)
    ]
    dropped = convert(export, tmp_path / "dropped", unmapped="drop")
    assert "UNMAPPED/measurement" not in codes(dropped)
    assert count(dropped, "measurement", "unmapped") == 1
    assert_counts_add_up(dropped.counts)


def test_values_keep_their_unit_and_a_value_that_is_a_concept_is_text_and_code(tmp_path):
    rows = [
        measurement(1, "2010-01-01", 1.5),
        measurement(1, "2010-01-02", 1.5, unit_concept_id=0),
        measurement(1, "2010-01-03", value_as_concept_id=9191),
        measurement(1, "2010-01-04", "pending"),
        measurement(1, "2010-01-05", "1e300"),
    ]
    observation = {
        "person_id": 1,
        "observation_concept_id": MI,
        "observation_date": "2010-01-06",
        "value_as_string": "in 2004",
    }
    made = convert(write_export(tmp_path / "export", measurement=rows, observation=[observation]))
    found = events(made).filter(pl.col("table").is_in(["measurement", "observation"]))
    assert found.select("numeric_value", "unit", "text_value", "value_code").rows() == [
        (1.5, "mg/dL", None, None),
        (1.5, "MG/DL", None, None),
        (None, "mg/dL", "Positive", "SNOMED/10828004"),
        (None, "mg/dL", None, None),
        (None, "mg/dL", None, None),
        (None, None, "in 2004", None),
    ]
    assert count(made, "measurement", "kept_without_number") == 2


def test_the_birth_is_as_exact_as_the_export_knows_it(tmp_path):
    people = [
        person(1) | {"birth_datetime": "1950-06-01 03:15:00"},
        person(2, born="1950-06-09") | {"birth_datetime": ""},
        person(3, born="1950-06-09") | {"birth_datetime": "", "day_of_birth": ""},
        person(4, born="1950-06-09")
        | {"birth_datetime": "", "day_of_birth": "", "month_of_birth": ""},
        person(5) | {"birth_datetime": "", "year_of_birth": ""},
        person(6, born="1950-06-31") | {"birth_datetime": ""},
    ]
    made = convert(write_export(tmp_path / "export", person=people, **NO_TABLES))
    births = dict(
        events(made).filter(pl.col("code") == "MEDS_BIRTH").select("subject_id", "time").iter_rows()
    )
    assert births == {
        1: datetime(1950, 6, 1, 3, 15),
        2: datetime(1950, 6, 9),
        3: datetime(1950, 6, 1),
        4: datetime(1950, 1, 1),
    }
    assert count(made, "person: birth", "no_date") == 2
    assert (
        events(made).filter((pl.col("code") == "Gender/M") & pl.col("time").is_null()).height == 6
    )


def test_the_first_death_is_the_death_and_names_its_causes(tmp_path):
    def death(subject, day, cause):
        return {
            "person_id": subject,
            "death_date": day,
            "death_datetime": "",
            "cause_concept_id": cause,
            "cause_source_concept_id": 0,
        }

    rows = [
        death(1, "2012-01-01", 0),
        death(1, "2011-01-01", MI),
        death(1, "2011-01-01", 321588),
        death(1, "2011-01-01", MI),
    ]
    late = [condition(1, MI, "2011-01-01"), condition(1, MI, "2011-01-02")]
    made = convert(write_export(tmp_path / "export", death=rows, condition_occurrence=late))
    assert events(made).filter(pl.col("table") == "death").select("time", "code").rows() == [
        (datetime(2011, 1, 1, 23, 59), "MEDS_DEATH"),
        (datetime(2011, 1, 1, 23, 59), "MEDS_DEATH//SNOMED/56265001"),
        (datetime(2011, 1, 1, 23, 59), "MEDS_DEATH//SNOMED/57054005"),
    ]
    assert (
        count(made, "death", "repeated_death"),
        count(made, "death: cause", "repeated_death"),
    ) == (3, 1)
    assert count(made, "death: cause", "unmapped") == 1
    assert count(made, "condition_occurrence", "kept_after_death") == 1
    assert_counts_add_up(made.counts)


def test_a_cause_that_another_source_states_for_a_later_day_is_kept_at_the_death(tmp_path):
    def death(subject, day, cause, moment=""):
        return {
            "person_id": subject,
            "death_date": day,
            "death_datetime": moment,
            "cause_concept_id": cause,
            "cause_source_concept_id": 0,
        }

    rows = [
        *(death(1, "2011-01-01", 0), death(1, "2011-01-03", MI), death(1, "2011-01-04", 321588)),
        *(death(2, "2011-01-01", MI), death(2, "2011-01-03", 321588)),
        *(death(3, "2011-01-01", 0, "2011-01-01 03:00:00"), death(3, "2011-01-01", MI)),
    ]
    made = convert(
        write_export(tmp_path / "export", death=rows, person=[person(1), person(2), person(3)])
    )
    first, hour = datetime(2011, 1, 1, 23, 59), datetime(2011, 1, 1, 3)
    assert events(made).filter(pl.col("table") == "death").select(
        "subject_id", "time", "code"
    ).rows() == [
        (one, time, code)
        for one, time in ((1, first), (2, first), (3, hour))
        for code in ("MEDS_DEATH", "MEDS_DEATH//SNOMED/57054005")
    ]
    assert (
        count(made, "death", "repeated_death"),
        count(made, "death: cause", "repeated_death"),
    ) == (4, 2)
    assert_counts_add_up(made.counts)


def test_rows_that_give_no_event_are_counted_by_reason(tmp_path):
    rows = [
        condition(1, MI, "2010-01-01"),
        condition(1, MI, "2010-01-02"),
        condition(1, MI, "2010-01-03"),
        condition(1, MI, ""),
        condition(9, MI, "2010-01-01"),
        condition("", MI, "2010-01-01"),
        condition(1, MI, "1949-01-01"),
        condition(1, MI, "1900-01-01"),
        condition(1, MI, "2099-12-31"),
    ]
    made = convert(write_export(tmp_path / "export", condition_occurrence=rows))
    counts = made.counts.filter(pl.col("event") == "condition_occurrence").row(0, named=True)
    expected = {
        "rows": 9,
        "events": 3,
        "no_date": 1,
        "unknown_person": 1,
        "no_person": 1,
        "before_birth": 1,
        "out_of_range": 2,
    }
    assert {name: n for name, n in counts.items() if n and isinstance(n, int)} == expected


def test_observation_periods_start_at_the_beginning_of_their_day_and_end_at_its_end(tmp_path):
    period = {
        "person_id": 1,
        "observation_period_start_date": "2009-01-01",
        "observation_period_end_date": "2010-01-01",
    }
    made = convert(write_export(tmp_path / "export", observation_period=[period], **NO_TABLES))
    assert events(made).filter(pl.col("table") == "observation_period").select(
        "time", "code"
    ).rows() == [
        (datetime(2009, 1, 1), "OBSERVATION_PERIOD_START"),
        (datetime(2010, 1, 1, 23, 59), "OBSERVATION_PERIOD_END"),
    ]


def parents(conversion: OmopConversion) -> dict[str, list[str] | None]:
    table = pl.read_parquet(conversion.folder / "metadata" / "codes.parquet")
    assert table.schema == {
        "code": pl.String,
        "description": pl.String,
        "parent_codes": pl.List(pl.String),
    }
    assert table["code"].is_unique().all()
    assert set(codes(conversion)) <= set(table["code"])
    return {
        code: above for code, above in table.select("code", "parent_codes").iter_rows() if above
    }


def test_codes_have_their_direct_parents_up_to_the_top(tmp_path):
    rows = [
        condition(1, MI, "2010-01-01"),
        condition(1, 0, "2010-01-02", condition_source_concept_id=45576865),
    ]
    expected = {
        "SNOMED/57054005": ["SNOMED/22298006"],
        "SNOMED/22298006": ["SNOMED/56265001"],
        "ICD10CM/I21.3": ["SNOMED/57054005"],
    }
    tables = {"condition_occurrence": rows, "concept_relationship": RELATIONS}
    assert (
        parents(
            convert(write_export(tmp_path / "a" / "export", concept_ancestor=ANCESTORS, **tables))
        )
        == expected
    )
    is_a = [
        {
            "concept_id_1": child,
            "concept_id_2": parent,
            "relationship_id": "Is a",
            "invalid_reason": "",
        }
        for child, parent in ((MI, 4329847), (4329847, 321588))
    ]
    tables["concept_relationship"] = [*RELATIONS, *is_a]
    assert parents(convert(write_export(tmp_path / "b" / "export", **tables))) == expected
    assert (
        parents(convert(write_export(tmp_path / "c" / "export", condition_occurrence=rows))) == {}
    )


def test_a_vocabulary_from_athena_with_bare_quotation_marks_is_read(tmp_path):
    export = write_export(tmp_path / "export", **NO_TABLES)
    lines = [
        "concept_id\tconcept_name\tvocabulary_id\tconcept_code",
        f'{MI}\tthe "acute\tSNOMED\t57054005',
        '8507\t6" cast\tGender\tM',
    ]
    (export / "concept.csv").write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    assert codes(convert(export))[-1] == "SNOMED/57054005"


@pytest.mark.parametrize("delimiter", [",", "|", ";"])
def test_bare_quotation_marks_do_not_join_rows(tmp_path, delimiter):
    export = write_export(tmp_path / "export", person=[person(1), person(2)])
    header = delimiter.join(
        ("person_id", "condition_concept_id", "condition_start_date", "condition_source_value")
    )
    rows = [
        delimiter.join((str(one), str(MI), "2010-01-01", word))
        for one, word in ((1, '5" tube'), (2, 'b"'), (1, "c"))
    ]
    (export / "condition_occurrence.csv").write_text(
        "\n".join([header, *rows]) + "\n", encoding="utf-8"
    )
    made = convert(export)
    assert count(made, "condition_occurrence", "events") == 3
    assert events(made).filter(pl.col("table") == "condition_occurrence")[
        "subject_id"
    ].to_list() == [1, 1, 2]
    enclosed = delimiter.join(("2", str(MI), "2010-01-02", f'"one{delimiter} ""two""\nthree"'))
    (export / "condition_occurrence.csv").write_text(
        "\n".join([header, enclosed, enclosed]) + "\n", encoding="utf-8"
    )
    assert count(convert(export, tmp_path / "enclosed"), "condition_occurrence", "events") == 2
    escaped = delimiter.join(("2", str(MI), "2010-01-02", r'"one \"two\" three"'))
    (export / "condition_occurrence.csv").write_text(
        "\n".join([header, escaped, escaped]) + "\n", encoding="utf-8"
    )
    assert count(convert(export, tmp_path / "escaped"), "condition_occurrence", "events") == 2
    alone = delimiter.join(("2", str(MI), "2010-01-02", '"one"'))
    for number, both in enumerate(([enclosed, rows[0]], [rows[0], alone], [rows[0], enclosed])):
        (export / "condition_occurrence.csv").write_text(
            "\n".join([header, *both]) + "\n", encoding="utf-8"
        )
        with pytest.raises(
            RecordError,
            match=r"condition_occurrence\.csv: quotation marks enclose fields, and \d stand",
        ):
            convert(export, tmp_path / f"both-{number}")


@pytest.mark.parametrize("block", [1, 2, 3, 1 << 24])
@given(
    st.lists(
        st.lists(st.text('ab"\n ,', max_size=5), min_size=2, max_size=3), min_size=1, max_size=4
    )
)
def test_what_a_csv_writer_encloses_is_enclosed(block, rows):
    stream = io.StringIO()
    csv.writer(stream).writerows(rows)
    enclosed = sum(any(mark in word for mark in '",\n') for row in rows for word in row)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(source_module, "_BLOCK", block)
        (Path(folder) / "x.csv").write_text(stream.getvalue(), encoding="utf-8", newline="")
        marks = source_module._marks(Path(folder) / "x.csv", b",")
    assert marks.bare == 0
    assert (marks.enclosing > 0) == (enclosed > 0)


def _error(export: Path, **options) -> str:
    with pytest.raises(RecordError) as caught:
        convert(export, **options)
    assert not (export.parent / "meds").exists()
    assert [path.name for path in export.parent.iterdir() if path.name.startswith(".")] == []
    return str(caught.value)


def test_what_an_export_lacks_is_named(tmp_path):
    export = write_export(tmp_path / "export", **NO_TABLES)
    (export / "person.csv").rename(export / "people.csv")
    assert "no table person; expected person.csv" in _error(export)
    (export / "people.csv").rename(export / "person.csv")
    (export / "concept.csv").rename(export / "concepts.csv")
    assert "no table concept; the codes come from it" in _error(export)
    (export / "concepts.csv").rename(export / "concept.csv")
    (export / "condition_occurrence.csv").unlink()
    assert "person is the only clinical table" in _error(export)
    assert "no such folder or zip" in _error(tmp_path / "nowhere")
    with zipfile.ZipFile(export / "inner.zip", "w"):
        pass
    (export / "person.csv").unlink()
    assert "to read inner.zip, give its path" in _error(export)


def test_a_table_that_is_there_twice_is_refused(tmp_path):
    export = write_export(tmp_path / "export", **NO_TABLES)
    pl.DataFrame({"person_id": [1]}).write_parquet(export / "PERSON.parquet")
    assert "table person is there more than once (PERSON.parquet, person.csv); keep one" in _error(
        export
    )


def test_a_missing_column_is_named_with_its_file(tmp_path):
    row = {"person_id": 1, "condition_concept_id": MI, "started": "2010-01-01"}
    message = _error(write_export(tmp_path / "export", condition_occurrence=[row]))
    assert (
        "condition_occurrence.csv: missing column(s) condition_start_date; found person_id, "
        "condition_concept_id, started" in message
    )
    row = {"person_id": 1, "condition_start_date": "2010-01-01"}
    assert "missing column(s) condition_concept_id" in _error(
        write_export(tmp_path / "export", condition_occurrence=[row])
    )
    pairs = [{"ancestor_concept_id": MI, "descendant_concept_id": MI}]
    assert "concept_ancestor.csv: missing column(s) min_levels" in _error(
        write_export(
            tmp_path / "levels",
            condition_occurrence=[condition(1, MI, "2010-01-01")],
            concept_ancestor=pairs,
        )
    )
    assert "person.csv: missing column(s) person_id" in _error(
        write_export(tmp_path / "export", person=[{"year_of_birth": 1950}])
    )


@pytest.mark.parametrize("stated", ["03/15/2010", "2010-13-01", "yesterday", "2010-02-30"])
def test_dates_that_cannot_be_read_are_counted_with_their_file(stated, tmp_path):
    rows = [
        condition(1, MI, "2010-01-01"),
        condition(1, MI, stated),
        condition(1, MI, "2010-01-01", stated),
    ]
    message = _error(write_export(tmp_path / "export", condition_occurrence=rows))
    assert (
        "condition_occurrence.csv: 2 date(s) in condition_start_datetime or condition_start_date "
        "cannot be read" in message
    )
    people = [person(1), person(2) | {"birth_datetime": stated}]
    people[0]["birth_datetime"] = ""
    message = _error(write_export(tmp_path / "export", person=people, **NO_TABLES))
    assert "person.csv: birth_datetime cannot be read in 1 row(s), the first is row 2" in message


def test_identifiers_that_are_not_integers_or_not_unique_are_refused(tmp_path):
    message = _error(
        write_export(tmp_path / "export", person=[person("a7c"), person(1)], **NO_TABLES)
    )
    assert (
        "person.csv: person_id is not an integer in 1 row(s), the first is row 1; MEDS has int64 "
        "there" in message
    )
    assert "a7c" not in message
    message = _error(
        write_export(tmp_path / "export", condition_occurrence=[condition("a7c", MI, "2010-01-01")])
    )
    assert "condition_occurrence.csv: person_id is not an integer in 1 row(s)" in message
    message = _error(
        write_export(tmp_path / "export", person=[person(1), person(2), person(1)], **NO_TABLES)
    )
    assert "person_id is not unique in person in 2 row(s), the first is row 1" in message


def test_shifted_dates_are_refused_unless_the_last_day_is_given(tmp_path):
    rows = [condition(1, MI, f"{year}-01-01") for year in (*range(2100, 2106), *range(2010, 2015))]
    export = write_export(tmp_path / "export", condition_occurrence=rows)
    assert (
        "condition_occurrence: 6 of 11 rows lie on 1900-01-01 or before, or after 2025-01-01; if "
        "the dates were shifted" in _error(export)
    )
    assert count(convert(export, until=date(2200, 1, 1)), "condition_occurrence", "events") == 11
    few = write_export(tmp_path / "few" / "export", condition_occurrence=rows[:2])
    assert count(convert(few), "condition_occurrence", "out_of_range") == 2


def test_files_that_are_not_readable_are_named(tmp_path):
    export = write_export(tmp_path / "export", **NO_TABLES)
    path = export / "condition_occurrence.csv"
    packed = gzip.compress(path.read_bytes() * 100)
    path.unlink()
    (export / "condition_occurrence.csv.gz").write_bytes(packed[:-20])
    assert "condition_occurrence.csv.gz is not readable" in _error(export)
    (export / "condition_occurrence.csv.gz").unlink()
    (export / "condition_occurrence.parquet").write_bytes(b"no parquet")
    assert "condition_occurrence.parquet is not readable" in _error(export)
    (export / "condition_occurrence.parquet").unlink()
    path.write_text("")
    assert "condition_occurrence.csv is not readable" in _error(export)
    path.write_text("person_id,Person_ID\n1,1\n")
    assert "two columns have the same name but for the letter case" in _error(export)


def test_a_table_without_rows_is_no_error(tmp_path):
    export = write_export(
        tmp_path / "export", condition_occurrence=[condition(1, MI, "2010-01-01")]
    )
    write_csv(export / "measurement.csv", [], header=list(measurement(1, "2010-01-01")))
    made = convert(export)
    assert count(made, "measurement", "rows") == 0
    assert "visit_occurrence" in made.absent


def test_a_place_that_is_in_use_is_kept_unless_overwriting_is_asked_for(tmp_path):
    export = write_export(tmp_path / "export", **NO_TABLES)
    first = convert(export)
    with pytest.raises(RecordError, match="is there already; give another place"):
        convert(export)
    more = write_export(
        tmp_path / "export",
        condition_occurrence=[condition(1, MI, "2010-01-01"), condition(1, MI, "2011-01-01")],
    )
    again = convert_omop(more, first.folder, OmopOptions(until=UNTIL), overwrite=True)
    assert again.n_events == first.n_events + 1
    with pytest.raises(ConfigError, match="prefer is 'both'; expected one of standard, source"):
        OmopOptions(prefer="both")
    with pytest.raises(ConfigError, match="subjects_per_shard is 0"):
        OmopOptions(subjects_per_shard=0)


KILLED = """
import os, signal, sys
from pathlib import Path
from concordant.data.omop import convert_omop

def kill(stage, done, total):
    if stage == "shards written" and done == 1:
        os.kill(os.getpid(), signal.SIGKILL)

from concordant.data.omop import OmopOptions
convert_omop(Path(sys.argv[1]), Path(sys.argv[2]), OmopOptions(subjects_per_shard=1), progress=kill)
"""


def test_a_killed_conversion_leaves_nothing_in_its_place_and_the_next_one_cleans_up(tmp_path):
    export = write_export(tmp_path / "export", person=[person(1), person(2)], **NO_TABLES)
    out = tmp_path / "meds"
    assert (
        subprocess.run(
            [sys.executable, "-c", KILLED, str(export), str(out)], check=False
        ).returncode
        == -9
    )
    assert not out.exists()
    assert [path.name[:6] for path in tmp_path.glob(".*.tmp")] == [".meds."] * 2
    convert(export, out)
    assert list(tmp_path.glob(".*.tmp")) == []


@given(
    rows=st.lists(
        st.tuples(
            st.sampled_from([1, 2, 3, 9]),
            st.sampled_from([MI, 0, 77]),
            st.dates(date(1949, 1, 1), date(2026, 1, 1)),
            st.one_of(st.none(), st.times()),
        ),
        max_size=30,
    ),
    per_shard=st.integers(1, 4),
)
@settings(max_examples=15, deadline=None)
def test_any_conditions_keep_the_invariants_and_are_all_accounted_for(
    rows, per_shard, tmp_path_factory
):
    folder = tmp_path_factory.mktemp("any")
    stated = [
        condition(
            subject,
            concept,
            str(day),
            "" if hour is None else f"{day} {hour.isoformat(timespec='microseconds')}",
        )
        for subject, concept, day, hour in rows
    ]
    early = [condition(1, MI, "2010-01-01")] * 40  # so that most rows lie in range
    export = write_export(
        folder / "export",
        person=[person(n) for n in (1, 2, 3)],
        condition_occurrence=early + stated,
    )
    made = convert(export, subjects_per_shard=per_shard)
    assert_invariants(made.folder)
    assert_counts_add_up(made.counts)
    kept = [
        (
            subject,
            datetime.combine(day, hour)
            if hour is not None and hour.isoformat() != "00:00:00"
            else datetime(day.year, day.month, day.day, 23, 59),
        )
        for subject, _, day, hour in rows
        if subject != 9 and date(1950, 6, 1) <= day <= UNTIL
    ]
    found = (
        events(made).filter(pl.col("table") == "condition_occurrence").select("subject_id", "time")
    )
    assert Counter(found.iter_rows()) == Counter(kept) + Counter(
        {(1, datetime(2010, 1, 1, 23, 59)): 40}
    )


def test_the_files_of_a_source_are_found_by_name_alone(tmp_path):
    export = write_export(tmp_path / "export", **NO_TABLES)
    (export / "notes.csv").write_text("a\n1\n")
    (export / "person.md").write_text("about persons")
    (tmp_path / "scratch").mkdir()
    source = OmopSource(export, tmp_path / "scratch")
    assert [file.name for file in source.files("person")] == ["person.csv"]
    assert source.files("death") == []
