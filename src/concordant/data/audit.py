"""The audit: proof that nothing which is tested was seen in training, in counts, naming nobody."""

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
from concordant.data.pretraining import SUBJECTS, USES, PretrainingSubjects

TRAINING_DATA = "encoders' training data"
PRETRAINING = "subjects of pretraining"
SHARED_SCANS = "scans of two subjects"
"""Names of checks that only the user can judge."""

_ADVICE = "pretrain with the cohort table as --splits, or on subjects outside of the study"
_ADVICE_FOLDED = (
    "under cross-validation every subject is tested, so pretrain on subjects outside of the study "
    "(a table of them as --splits), or give the cohort table a held_out split in place of the "
    "folds and pretrain with it as --splits"
)


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
        checks = [asdict(check) for check in self.checks]
        return {"passed": self.passed, "checks": checks, **quality}


def audit(
    development: Cohort,
    external: Sequence[Cohort] = (),
    *,
    cross_validation: bool,
    assignment: pl.DataFrame | None = None,
    group: str = "subject_id",
    training_data: Mapping[str, Sequence[str]] | None = None,
    records: Mapping[str, RecordCounts] | None = None,
    pretraining: Mapping[str, PretrainingSubjects | None] | None = None,
    datasets: Mapping[str, str] | None = None,
) -> Audit:
    """Check a study for leakage.

    Args:
        development: The cohort that models are fitted on.
        external: The cohorts that are only predicted.
        cross_validation: Whether folds replace the splits of the table.
        assignment: Under cross-validation `sample_id`, `repeat`, `fold`.
        group: Column whose values must never be split across folds.
        training_data: Per encoder label the public cohorts its weights were trained on
            (`EncoderCard.training_data`).
        records: Per cohort label what reading its records met.
        pretraining: Per label of an encoder whose weights `concordant pretrain` can make, whom they
            were pretrained on; None = not known.
        datasets: Per cohort label the identity of its MEDS dataset (`dataset_identity`).

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
    tested = _tested(development, external, cross_validation=cross_validation)
    advice = _ADVICE_FOLDED if cross_validation else _ADVICE
    checks += [
        _events_after_prediction(cohorts, records or {}),
        _training_data(cohorts, training_data or {}),
        _pretraining(tested, pretraining or {}, datasets or {}, advice),
        _shared_scans(cohorts),
    ]
    return Audit(tuple(checks), records or {})


def _subjects_across_splits(development: Cohort) -> AuditCheck:
    shared = subjects_in_several_splits(development.table)
    total = development.table["subject_id"].n_unique()
    return AuditCheck(
        "subjects across splits",
        shared == 0,
        f"{shared} of {total} subjects of {development.label} lie in more than one split",
    )


def _subjects_across_cohorts(cohorts: Sequence[Cohort]) -> AuditCheck:
    subjects = [(cohort.label, set(cohort.table["subject_id"])) for cohort in cohorts]
    shared = {
        f"{a} and {b}": len(left & right) for (a, left), (b, right) in combinations(subjects, 2)
    }
    listed = "; ".join(f"{pair} share {count} subjects" for pair, count in shared.items())
    return AuditCheck(
        "subjects across cohorts", not any(shared.values()), listed or "there is one cohort"
    )


def _every_sample_has_a_split(development: Cohort) -> AuditCheck:
    split = development.table["split"]
    counts = {name: int((split == name).sum()) for name in SPLITS}
    listed = ", ".join(f"{count} {name}" for name, count in counts.items())
    return AuditCheck(
        "every sample has a split",
        split.null_count() == 0 and all(counts.values()),
        f"{listed}, {split.null_count()} without",
    )


def _folds(development: Cohort, assignment: pl.DataFrame, group: str) -> pl.DataFrame:
    """Join the assignment to the cohort: `sample_id`, `repeat`, `fold`, `held_out`, `group`."""
    absent = [name for name in ("sample_id", "repeat", "fold") if name not in assignment.columns]
    if absent:
        raise CohortError(
            f"the assignment has no column {', '.join(absent)}; expected sample_id, repeat, fold"
        )
    if group not in development.table.columns:
        raise CohortError(
            f"{development.path}: no column {group!r} to group folds "
            f"by.{did_you_mean(group, development.table.columns)}"
        )
    samples = development.table.select("sample_id", _held_out(), pl.col(group).alias("group"))
    return assignment.select(pl.col("sample_id").cast(pl.String), "repeat", "fold").join(
        samples, on="sample_id", how="inner"
    )


def _held_out() -> pl.Expr:
    return pl.col("split").eq_missing("held_out").alias("held_out")


def _tested(
    development: Cohort, external: Sequence[Cohort], *, cross_validation: bool
) -> dict[str, pl.DataFrame]:
    """Return per cohort whom the study predicts: the held out, or all in folds; externally all."""
    predicted = development.table.filter(~_held_out() if cross_validation else _held_out())
    tables = {development.label: predicted} | {cohort.label: cohort.table for cohort in external}
    return {label: table.select("subject_id").unique() for label, table in tables.items()}


def _every_sample_has_a_fold(development: Cohort, folds: pl.DataFrame) -> AuditCheck:
    n_repeats = folds["repeat"].n_unique()
    n_samples = development.table.filter(~_held_out()).height
    held_out = int(folds["held_out"].sum())
    once = folds.filter(~pl.col("held_out")).unique(["sample_id", "repeat"]).height
    twice = folds.height - held_out - once
    absent = n_samples * max(n_repeats, 1) - once
    detail = (
        f"{n_samples} samples, {n_repeats} repeats: {absent} without a fold, {twice} with another, "
        f"{held_out} held out but given one"
    )
    return AuditCheck(
        "every sample has one fold per repeat", not (absent or twice or held_out), detail
    )


def _groups_within_folds(folds: pl.DataFrame, group: str) -> AuditCheck:
    per_group = folds.drop_nulls("group").group_by("repeat", "group").agg(pl.col("fold").n_unique())
    split = int((per_group["fold"] > 1).sum())
    return AuditCheck(
        "groups within folds",
        split == 0,
        f"{split} of {per_group.height} values of {group} (per repeat) lie in more than one fold",
    )


def _events_after_prediction(
    cohorts: Sequence[Cohort], records: Mapping[str, RecordCounts]
) -> AuditCheck:
    read = [(cohort.label, records[cohort.label]) for cohort in cohorts if cohort.label in records]
    late = any((counts.latest_days_before or 0) < 0 for _, counts in read)
    listed = "; ".join(
        f"{label}: {counts.n_after_prediction} of {counts.n_events_read} events came after the "
        "prediction time and were cut"
        for label, counts in read
    )
    return AuditCheck(
        "events after the prediction time", not late, listed or "no records were read"
    )


def _words(text: str) -> str:
    return f" {' '.join(re.findall('[a-z0-9]+', text.casefold()))} "


def _training_data(
    cohorts: Sequence[Cohort], training_data: Mapping[str, Sequence[str]]
) -> AuditCheck:
    """Compare names word by word: weights trained on `INSPECT` have seen `inspect_test`."""
    seen = [
        f"{encoder} was trained on {name}, the study tests on {cohort.label}"
        for encoder, names in training_data.items()
        for name in names
        for cohort in cohorts
        if _words(name) in _words(cohort.label)
    ]
    return AuditCheck(
        TRAINING_DATA,
        not seen,
        "; ".join(seen) or f"none of {len(training_data)} encoders declares a cohort of this study",
    )


@dataclass(frozen=True, slots=True)
class _Meeting:
    """Whom a cohort tests among the ids that an encoder's weights were pretrained on."""

    encoder: str
    cohort: str
    n_tested: int
    uses: pl.Series
    same_dataset: bool

    @property
    def is_overlap(self) -> bool:
        """Whether the same people are on both sides; elsewhere a number may be another person."""
        return self.same_dataset and len(self.uses) > 0

    def in_words(self) -> str:
        """Say it in counts."""
        if not self.same_dataset:
            return (
                f"{self.encoder} cannot be compared with {self.cohort}, whose MEDS dataset is not "
                f"the one it was pretrained on (ids that coincide: {len(self.uses)} of "
                f"{self.n_tested}; the same number may be another person)"
            )
        uses = ", ".join(f"{int((self.uses == use).sum())} {use}" for use in USES)
        return (
            f"{self.encoder} was pretrained on {len(self.uses)} of {self.n_tested} tested subjects "
            f"of {self.cohort} ({uses})"
        )


def _pretraining(
    tested: Mapping[str, pl.DataFrame],
    pretraining: Mapping[str, PretrainingSubjects | None],
    datasets: Mapping[str, str],
    advice: str,
) -> AuditCheck:
    unknown = [
        f"{encoder} could not be checked: no {SUBJECTS} beside its weights"
        for encoder, listed in pretraining.items()
        if listed is None
    ]
    met = []
    known = {encoder: listed for encoder, listed in pretraining.items() if listed is not None}
    for encoder, listed in known.items():
        for cohort, ids in tested.items():
            uses = listed.table.join(ids, on="subject_id", how="semi")["used_for"]
            same = datasets.get(cohort) == listed.dataset
            met.append(_Meeting(encoder, cohort, ids.height, uses, same))
    overlaps = "; ".join(one.in_words() for one in met if one.is_overlap)
    others = [*(one.in_words() for one in met if not one.is_overlap), *unknown]
    found = "; ".join([f"{overlaps}: {advice}", *others] if overlaps else others)
    return AuditCheck(
        PRETRAINING,
        not overlaps,
        found or "no encoder has weights that `concordant pretrain` can make",
    )


def _shared_scans(cohorts: Sequence[Cohort]) -> AuditCheck:
    scans = pl.DataFrame(
        list(_scans(cohorts)), schema={"path": pl.String, "subject_id": pl.Int64}, orient="row"
    )
    subjects = scans.group_by("path").agg(pl.col("subject_id").n_unique())
    shared = int((subjects["subject_id"] > 1).sum())
    return AuditCheck(
        SHARED_SCANS,
        shared == 0,
        f"{shared} of {subjects.height} scans are used by more than one subject",
    )


def _scans(cohorts: Sequence[Cohort]) -> Iterator[tuple[str, int]]:
    for cohort in cohorts:
        if "ct_path" in cohort.table.columns:
            for row, subject_id in enumerate(cohort.table["subject_id"]):
                path = cohort.ct_path(row)
                if path is not None:
                    yield str(path.resolve()), subject_id
