"""The audit: proof that nothing which is tested was seen in training. Details are counts; no sample or subject is named."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import Any

import polars as pl

from concordant.core.errors import CohortError, did_you_mean
from concordant.data.cohort import SPLITS, Cohort, subjects_in_several_splits
from concordant.data.meds import RecordCounts, quality_table


@dataclass(frozen=True, slots=True)
class AuditCheck:
    """One question and its answer.

    Attributes:
        name: What was checked.
        passed: Whether it holds.
        detail: What was found, in counts.
    """

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Audit:
    """All checks of a study.

    Attributes:
        checks: The checks, in order.
        records: Per cohort what reading its records met.
    """

    checks: tuple[AuditCheck, ...]
    records: Mapping[str, RecordCounts] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether every check holds."""
        return all(check.passed for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """Return what `audit.json` holds."""
        quality = {"data_quality": quality_table(self.records).to_dicts()} if self.records else {}
        return {"passed": self.passed, "checks": [asdict(check) for check in self.checks], **quality}


def audit(
    development: Cohort,
    external: Sequence[Cohort] = (),
    *,
    cross_validation: bool,
    assignment: pl.DataFrame | None = None,
    group: str = "subject_id",
    training_data: Mapping[str, Sequence[str]] | None = None,
    records: Mapping[str, RecordCounts] | None = None,
) -> Audit:
    """Check a study for leakage.

    Args:
        development: The cohort that models are fitted on.
        external: The cohorts that are only predicted.
        cross_validation: Whether folds replace the splits of the table.
        assignment: Under cross-validation `sample_id`, `repeat`, `fold`.
        group: Column whose values must never be split across folds.
        training_data: Per encoder label the public cohorts its weights were trained on (`EncoderCard.training_data`).
        records: Per cohort label what reading its records met.

    Raises:
        CohortError: The group column is absent, or the assignment lacks a column.
    """
    cohorts = (development, *external)
    checks = [_subjects_across_splits(development), _subjects_across_cohorts(cohorts)]
    if not cross_validation:
        checks.append(_every_sample_has_a_split(development))
    elif assignment is not None:
        folds = _folds(development, assignment, group)
        checks += [_every_sample_has_a_fold(development, folds), _groups_within_folds(folds, group)]
    checks += [_events_after_prediction(cohorts, records or {}), _training_data(cohorts, training_data or {}), _shared_scans(cohorts)]
    return Audit(tuple(checks), records or {})


def _subjects_across_splits(development: Cohort) -> AuditCheck:
    shared = subjects_in_several_splits(development.table)
    total = development.table["subject_id"].n_unique()
    return AuditCheck(
        "subjects across splits", shared == 0, f"{shared} of {total} subjects of {development.label} lie in more than one split"
    )


def _subjects_across_cohorts(cohorts: Sequence[Cohort]) -> AuditCheck:
    subjects = [(cohort.label, set(cohort.table["subject_id"])) for cohort in cohorts]
    shared = {f"{a} and {b}": len(left & right) for (a, left), (b, right) in combinations(subjects, 2)}
    listed = "; ".join(f"{pair} share {count} subjects" for pair, count in shared.items())
    return AuditCheck("subjects across cohorts", not any(shared.values()), listed or "there is one cohort")


def _every_sample_has_a_split(development: Cohort) -> AuditCheck:
    split = development.table["split"]
    counts = {name: int((split == name).sum()) for name in SPLITS}
    listed = ", ".join(f"{count} {name}" for name, count in counts.items())
    return AuditCheck(
        "every sample has a split", split.null_count() == 0 and all(counts.values()), f"{listed}, {split.null_count()} without"
    )


def _folds(development: Cohort, assignment: pl.DataFrame, group: str) -> pl.DataFrame:
    """Join the assignment to the development cohort: `sample_id`, `repeat`, `fold`, `held_out`, `group`."""
    absent = [name for name in ("sample_id", "repeat", "fold") if name not in assignment.columns]
    if absent:
        raise CohortError(f"the assignment has no column {', '.join(absent)}; expected sample_id, repeat, fold")
    if group not in development.table.columns:
        raise CohortError(f"{development.path}: no column {group!r} to group folds by.{did_you_mean(group, development.table.columns)}")
    samples = development.table.select("sample_id", _held_out(), pl.col(group).alias("group"))
    return assignment.select(pl.col("sample_id").cast(pl.String), "repeat", "fold").join(samples, on="sample_id", how="inner")


def _held_out() -> pl.Expr:
    return pl.col("split").eq_missing("held_out").alias("held_out")


def _every_sample_has_a_fold(development: Cohort, folds: pl.DataFrame) -> AuditCheck:
    n_repeats = folds["repeat"].n_unique()
    n_samples = development.table.height - int(development.table.select(_held_out())["held_out"].sum())
    held_out = int(folds["held_out"].sum())
    once = folds.filter(~pl.col("held_out")).unique(["sample_id", "repeat"]).height
    twice = folds.height - held_out - once
    absent = n_samples * max(n_repeats, 1) - once
    detail = f"{n_samples} samples, {n_repeats} repeats: {absent} without a fold, {twice} with another, {held_out} held out but given one"
    return AuditCheck("every sample has one fold per repeat", not (absent or twice or held_out), detail)


def _groups_within_folds(folds: pl.DataFrame, group: str) -> AuditCheck:
    per_group = folds.drop_nulls("group").group_by("repeat", "group").agg(pl.col("fold").n_unique())
    split = int((per_group["fold"] > 1).sum())
    return AuditCheck(
        "groups within folds", split == 0, f"{split} of {per_group.height} values of {group} (per repeat) lie in more than one fold"
    )


def _events_after_prediction(cohorts: Sequence[Cohort], records: Mapping[str, RecordCounts]) -> AuditCheck:
    read = [(cohort.label, records[cohort.label]) for cohort in cohorts if cohort.label in records]
    late = [label for label, counts in read if counts.latest_days_before is not None and counts.latest_days_before < 0]
    listed = "; ".join(
        f"{label}: {counts.n_after_prediction} of {counts.n_events_read} events came after the prediction time and were cut"
        for label, counts in read
    )
    return AuditCheck("events after the prediction time", not late, listed or "no records were read")


def _words(text: str) -> str:
    return f" {' '.join(re.findall('[a-z0-9]+', text.casefold()))} "


def _training_data(cohorts: Sequence[Cohort], training_data: Mapping[str, Sequence[str]]) -> AuditCheck:
    """Compare names word by word, without case or punctuation: weights trained on `INSPECT` have seen the cohort `inspect_test`."""
    seen = [
        f"{encoder} was trained on {name}, the study tests on {cohort.label}"
        for encoder, names in training_data.items()
        for name in names
        for cohort in cohorts
        if _words(name) in _words(cohort.label)
    ]
    return AuditCheck(
        "encoders' training data", not seen, "; ".join(seen) or f"none of {len(training_data)} encoders declares a cohort of this study"
    )


def _shared_scans(cohorts: Sequence[Cohort]) -> AuditCheck:
    scans = pl.DataFrame(list(_scans(cohorts)), schema={"path": pl.String, "subject_id": pl.Int64}, orient="row")
    subjects = scans.group_by("path").agg(pl.col("subject_id").n_unique())
    shared = int((subjects["subject_id"] > 1).sum())
    return AuditCheck("scans of two subjects", shared == 0, f"{shared} of {subjects.height} scans are used by more than one subject")


def _scans(cohorts: Sequence[Cohort]) -> Iterator[tuple[str, int]]:
    for cohort in cohorts:
        if "ct_path" in cohort.table.columns:
            for row, subject_id in enumerate(cohort.table["subject_id"]):
                path = cohort.ct_path(row)
                if path is not None:
                    yield str(path.resolve()), subject_id
