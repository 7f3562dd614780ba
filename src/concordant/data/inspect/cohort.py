"""INSPECT's files to a cohort table, with a flow that counts every exam left out."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

import polars as pl

from concordant.core.errors import CohortError, ConfigError
from concordant.core.files import atomic_path, write_json
from concordant.data.cohort import subjects_in_several_splits
from concordant.data.flow import Flow, FlowCounter, FlowStep, events_by_name
from concordant.data.inspect.tables import (
    ExamTable,
    TimeUnit,
    read_labels,
    read_mapping,
    read_splits,
    window_names,
    with_outcome,
)
from concordant.data.meds import scan_shards

Outcome = Literal["mortality", "readmission", "PH"]
Exams = Literal["all", "first"]
Embolism = Literal["all", "positive"]

SITE = "stanford"
_LEAST_TUNING_SHARE = 0.1
_LEAST_TUNING_EVENTS = 50


@dataclass(frozen=True, slots=True)
class InspectOptions:
    """Who is taken from INSPECT, and what is predicted.

    Attributes:
        outcome: `mortality`, `readmission` or `PH` (pulmonary hypertension); deaths censor the last
            two, as the label file has it.
        embolism: "positive" keeps the exams that show a pulmonary embolism.
        exams: "first" keeps the first exam of each patient, "all" keeps up to 13; a patient's exams
            always lie in one split.
        time_unit: Unit of the times in the label file; None = found by checking them against the
            labels of the windows.

    Raises:
        ConfigError: A word that is not known.
    """

    outcome: Outcome = "mortality"
    embolism: Embolism = "all"
    exams: Exams = "all"
    time_unit: TimeUnit | None = None

    def __post_init__(self) -> None:
        """Check the words, which may come from a command line."""
        words = {"outcome": Outcome, "embolism": Embolism, "exams": Exams, "time_unit": TimeUnit}
        for name, kind in words.items():
            given, known = getattr(self, name), get_args(kind)
            if given not in known and not (name == "time_unit" and given is None):
                raise ConfigError(f"{name} is {given!r}; expected one of {', '.join(known)}")


@dataclass(frozen=True, slots=True)
class InspectCohort:
    """The cohort that was written.

    Attributes:
        path: The cohort table; `flow.json` lies beside it.
        table: `sample_id` (the impression), `subject_id`, `prediction_time`, `time_days`, `event`
            (1 = observed), `split`, `site`, `ct_path` (relative to the table's folder; null where
            the scan is not there) and `pe_positive`.
        flow: Every exam that was left out, and why; its warnings are what a reader of the results
            should know, in counts.
    """

    path: Path
    table: pl.DataFrame
    flow: Flow


def inspect_cohort(
    aimi: Path | str,
    out: Path | str,
    *,
    meds: Path | str | None = None,
    ctpa: Path | str | None = None,
    options: InspectOptions | None = None,
) -> InspectCohort:
    """Build a cohort from the files of INSPECT.

    The outcome comes from the label file alone, for the deaths were removed from the records; what
    lies after the prediction time is cut when records are read
    (`concordant.data.meds.read_events`).

    Args:
        aimi: Folder with `labels_DATE.tsv`, `study_mapping_DATE.tsv`, `splits_DATE.tsv` and, unless
            `ctpa` is given, `CTPA/`.
        out: The cohort table to write (parquet); `flow.json` is written beside it.
        meds: The records, unpacked, to check that they belong to these patients.
        ctpa: Folder of the scans `<image_id>.nii.gz`; None = `CTPA` in `aimi`.
        options: Who is taken; None = everyone, to death.

    Raises:
        CohortError: A file is missing or breaks its format, an assumption about the labels does not
            hold (unit, flag, duplicates), a patient lies in two splits, no scan or no record
            belongs to these exams, or nobody is left.
        RecordError: The records cannot be read.
    """
    options = options or InspectOptions()
    aimi, out, meds = Path(aimi), Path(out), None if meds is None else Path(meds)
    mapping, splits = read_mapping(aimi), read_splits(aimi)
    labels = read_labels(aimi, options.outcome, window_names(options.outcome))
    outcomes = with_outcome(labels.table, options.outcome, labels.path, unit=options.time_unit)
    joined = mapping.table.join(splits.table, on="impression_id", how="left").join(
        outcomes, on="impression_id", how="left"
    )
    _check_patients(joined)
    chosen, steps = _choose(joined, mapping, options)
    scans = aimi / "CTPA" if ctpa is None else Path(ctpa)
    table = _table(chosen, scans, out)
    warnings = (
        *_repeated(mapping, splits, labels),
        *_about_scans(table, scans),
        *_about_records(table, meds),
        *_about_tuning(table),
    )
    flow = Flow(
        steps,
        events_by_name(table["event"], 0),
        warnings=warnings,
        made_from={"inspect": aimi, **asdict(options)},
    )
    with atomic_path(out) as temporary:
        table.write_parquet(temporary)
    write_json(out.with_name("flow.json"), flow.to_json())
    return InspectCohort(out, table, flow)


def _check_patients(joined: pl.DataFrame) -> None:
    shared = subjects_in_several_splits(joined.drop_nulls("split"))
    if shared:
        raise CohortError(
            f"{shared} person_id(s) have exams in more than one split; a patient's exams must "
            "share one, or training sees the test"
        )


def _choose(
    joined: pl.DataFrame, mapping: ExamTable, options: InspectOptions
) -> tuple[pl.DataFrame, tuple[FlowStep, ...]]:
    """Leave out the exams that cannot take part, step by step."""
    flow = FlowCounter()
    flow.note("rows of the mapping file", mapping.n_rows, joined["subject_id"].n_unique())
    flow.passed("each exam once", joined)
    steps = {
        "with a split": pl.col("split").is_not_null(),
        "in the label file": pl.col("event").is_not_null(),
        "with a time of the exam": pl.col("prediction_time").is_not_null(),
        "with a time and a flag of the outcome": pl.col("time_days").is_not_null()
        & pl.col("censored").is_not_null(),
        "whose labels agree with the time": ~pl.col("contradicts"),
        "followed beyond the exam (time > 0)": pl.col("time_days") > 0,
    }
    if options.embolism == "positive":
        steps["with a pulmonary embolism"] = pl.col("pe_positive").fill_null(False)
    if options.exams == "first":
        exam = pl.col("impression_id")
        earliest = exam.sort_by("prediction_time", "impression_id").first()
        steps["the first of its patient"] = exam == earliest.over("subject_id")
    for step, keep in steps.items():
        joined = flow.passed(step, joined.filter(keep))
    if joined.is_empty():
        raise CohortError(
            "no exam is left: " + "; ".join(f"{one.name}: {one.samples}" for one in flow.steps())
        )
    return joined, flow.steps()


def _table(chosen: pl.DataFrame, scans: Path, out: Path) -> pl.DataFrame:
    present = {path.name.removesuffix(".nii.gz") for path in scans.glob("*.nii.gz")}
    folder = os.path.relpath(scans, out.parent)
    scan = pl.when(pl.col("image_id").is_in(list(present))).then(
        pl.format("{}/{}.nii.gz", pl.lit(folder), "image_id")
    )
    return chosen.sort("impression_id").select(
        pl.col("impression_id").alias("sample_id"),
        *("subject_id", "prediction_time", "time_days", "event", "split"),
        pl.lit(SITE).alias("site"),
        scan.alias("ct_path"),
        "pe_positive",
    )


def _repeated(*tables: ExamTable) -> list[str]:
    return [
        f"{one.path.name}: {one.n_repeated} row(s) state an exam once more and were left out"
        for one in tables
        if one.n_repeated
    ]


def _about_scans(table: pl.DataFrame, scans: Path) -> list[str]:
    n_absent = table["ct_path"].null_count()
    if n_absent == table.height and scans.is_dir():
        raise CohortError(
            f"{scans}: no scan of the {table.height} exams is there; expected <image_id>.nii.gz"
        )
    if n_absent == 0:
        return []
    place = f"not in {scans.name}" if scans.is_dir() else f"missing, for there is no folder {scans}"
    return [f"the scans of {n_absent} of {table.height} exams are {place}; ct_path is null there"]


def _about_records(table: pl.DataFrame, meds: Path | None) -> list[str]:
    if meds is None:
        return []
    if meds.is_file() and meds.name.endswith((".tar", ".tar.gz", ".tgz", ".zip")):
        raise CohortError(f"{meds} is packed; unpack it, and give the folder that holds data/")
    subjects, died = set[int](), set[int]()
    for shard in scan_shards(meds):
        own = shard.frame.filter(pl.col("subject_id").is_in(table["subject_id"].unique().implode()))
        died_here = pl.col("code").str.starts_with("MEDS_DEATH").any()
        found = own.group_by("subject_id").agg(died=died_here).collect(engine="streaming")
        subjects |= set(found["subject_id"])
        died |= set(found.filter("died")["subject_id"])
    n_patients = table["subject_id"].n_unique()
    if not subjects:
        raise CohortError(
            f"{meds}: holds none of the {n_patients} patients; expected the MEDS bundle of "
            "INSPECT, whose subject_id is person_id"
        )
    notes = []
    if len(subjects) < n_patients:
        notes.append(f"{n_patients - len(subjects)} of {n_patients} patients have no record")
    if died:
        notes.append(
            f"{len(died)} patients have a death in the records, which INSPECT removed; the label "
            "file is what counts"
        )
    return notes


def _about_tuning(table: pl.DataFrame) -> list[str]:
    tuning = table.filter(pl.col("split") == "tuning")
    n_events = int(tuning["event"].sum())
    if tuning.height >= _LEAST_TUNING_SHARE * table.height and n_events >= _LEAST_TUNING_EVENTS:
        return []
    return [
        f"tuning has {tuning.height} of {table.height} exams and {n_events} events: early stopping "
        "and the weights of late fusion will be noisy; cross_validation in the study takes a fifth "
        "of each training part instead"
    ]
