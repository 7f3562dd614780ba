"""The files of one site: cohort table, scans, MEDS dataset, written in tasks of any order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import polars as pl

from concordant.core.files import write_json
from concordant.simulation.codes import codes_table, coding_practice
from concordant.simulation.options import SimulationOptions
from concordant.simulation.phantom import chest, scan, scanner
from concordant.simulation.records import SCHEMA, Person, record
from concordant.simulation.subjects import Site, generator

CHUNK = 25

_CODING, _SCAN, _RECORD = 1, 2, 3  # random streams; 0 is that of `draw_subjects`
_DATASET = {
    "dataset_name": "concordant simulation",
    "dataset_version": "1",
    "meds_version": "0.4.0",
}


class Task(Protocol):
    """A part of a site's files that is written independently of all others."""

    @property
    def subjects(self) -> pl.DataFrame:
        """The subjects whose files are written."""

    def write(self) -> None:
        """Write the files; a second time gives the same bytes."""


@dataclass(frozen=True, slots=True)
class Scans:
    """The scans of some subjects, one file each."""

    folder: Path
    site: Site
    options: SimulationOptions
    subjects: pl.DataFrame

    def write(self) -> None:
        """Write the files; a second time gives the same bytes."""
        device = scanner(0.0 if self.site.is_development else self.options.intensity_shift)
        for subject in self.subjects.iter_rows(named=True):
            rng = generator(self.options, self.site, _SCAN, subject["subject_id"])
            factors = subject["factor_ct"], subject["factor_shared"]
            hounsfield = chest(*factors, self.options.volume_size, rng)
            path = self.folder / _scan_name(subject["sample_id"])
            path.write_bytes(scan(hounsfield, device, rng))


@dataclass(frozen=True, slots=True)
class Shard:
    """The records of some subjects, one file."""

    path: Path
    site: Site
    options: SimulationOptions
    coding: Mapping[str, str | None]
    subjects: pl.DataFrame

    def write(self) -> None:
        """Write the file; a second time gives the same bytes."""
        records = [pl.DataFrame(schema=SCHEMA)]
        for subject in self.subjects.iter_rows(named=True):
            rng = generator(self.options, self.site, _RECORD, subject["subject_id"])
            records.append(record(_person(subject), self.coding, rng))
        pl.concat(records).write_parquet(self.path)


def _person(subject: Mapping[str, Any]) -> Person:
    return Person(
        subject_id=subject["subject_id"],
        ehr=subject["factor_ehr"],
        shared=subject["factor_shared"],
        female=subject["sex"] == "female",
        birth=(subject["prediction_time"] - timedelta(days=365.25 * subject["age"])).date(),
        prediction_time=subject["prediction_time"],
        time_days=subject["time_days"],
        died=subject["event"] == 1,
    )


def _scan_name(sample_id: str) -> str:
    return f"ct/{sample_id}.nii.gz"


def write_tables(
    folder: Path, site: Site, subjects: pl.DataFrame, options: SimulationOptions
) -> None:
    """Write a site's cohort table and metadata, and make room for scans and shards."""
    (folder / "ct").mkdir(parents=True)
    metadata = folder / "meds" / "metadata"
    metadata.mkdir(parents=True)
    _cohort(subjects).write_parquet(folder / "cohort.parquet")
    split = pl.col("split").fill_null("held_out")
    subjects.filter("has_ehr").select("subject_id", split).write_parquet(
        metadata / "subject_splits.parquet"
    )
    codes_table(_coding(site, options)).write_parquet(metadata / "codes.parquet")
    write_json(metadata / "dataset.json", _DATASET)


def _cohort(subjects: pl.DataFrame) -> pl.DataFrame:
    name = pl.col("sample_id").map_elements(_scan_name, return_dtype=pl.String)
    path = pl.when("has_ct").then(name).alias("ct_path")
    columns = ("sample_id", "subject_id", "prediction_time", "split", "site", "time_days", "event")
    return subjects.select(*columns, path, "age", "sex")


def _coding(site: Site, options: SimulationOptions) -> dict[str, str | None]:
    if site.is_development:
        return {}
    return coding_practice(options.coding_shift, generator(options, site, _CODING))


def tasks(
    folder: Path, site: Site, subjects: pl.DataFrame, options: SimulationOptions
) -> Iterator[Task]:
    """Cut a site's scans and records into tasks."""
    for part in subjects.filter("has_ct").iter_slices(CHUNK):
        yield Scans(folder, site, options, part)
    coding = _coding(site, options)
    with_record = subjects.filter("has_ehr").with_columns(pl.col("split").fill_null("held_out"))
    for (split,), members in with_record.group_by("split", maintain_order=True):
        shards = folder / "meds" / "data" / str(split)
        shards.mkdir(parents=True)
        for number, part in enumerate(members.iter_slices(10 * CHUNK)):
            yield Shard(shards / f"{number}.parquet", site, options, coding, part)
