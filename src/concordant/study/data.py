"""The cohorts of a study and, under cross-validation, the fold of each sample."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Int

from concordant.config import CohortSource, CrossValidation, Study
from concordant.core.errors import CohortError, did_you_mean
from concordant.core.survival import Outcomes
from concordant.data.cohort import Cohort, read_cohort
from concordant.training.folds import assign_folds

INTERNAL = "held_out"
"""Label of the development cohort's predicted rows where the table has splits."""

INTERNAL_CROSS_VALIDATED = "development"
"""The same under cross-validation."""

_ASSIGNMENT = {"sample_id": pl.String(), "repeat": pl.Int16(), "fold": pl.Int16()}


@dataclass(frozen=True, slots=True)
class StudyData:
    """The cohorts of a study and, under cross-validation, the fold of each sample.

    Attributes:
        development: The cohort models are fitted on.
        external: The cohorts that are only predicted.
        assignment: `sample_id`, `repeat`, `fold`; None where the table has splits.
        group: Column whose values are never divided between folds.
        seed: Seed of the folds, and of the tuning part of each.
    """

    development: Cohort
    external: tuple[Cohort, ...]
    assignment: pl.DataFrame | None
    group: str = "subject_id"
    seed: int = 0

    @property
    def cohorts(self) -> tuple[Cohort, ...]:
        """All cohorts, development first."""
        return (self.development, *self.external)

    @property
    def internal_label(self) -> str:
        """What tables call the predicted rows of the development cohort."""
        return INTERNAL if self.assignment is None else INTERNAL_CROSS_VALIDATED

    @property
    def labels(self) -> tuple[str, ...]:
        """What tables call the predicted rows of each cohort."""
        return (self.internal_label, *(cohort.label for cohort in self.external))

    def learned_from(self) -> Int[np.ndarray, " row"]:
        """Return the rows of the development cohort that models learn from in some fold."""
        if self.assignment is None:
            return self.development.rows("train")
        table = self.development.table.with_row_index("row")
        rows = table.join(self.assignment, on="sample_id", how="semi")["row"]
        return rows.cast(pl.Int64).to_numpy()

    def train_target(self) -> Outcomes:
        """Return the outcomes from which a censoring curve "train" comes."""
        return self.development.target.take(self.learned_from())


def read_data(study: Study) -> StudyData:
    """Read and check the cohorts, and draw or read the folds.

    Raises:
        CohortError: A table breaks an invariant, or the folds do not fit the table.
    """
    options = study.cross_validation
    development = _read(study.cohorts.development, splits_required=options is None)
    external = tuple(_read(one, splits_required=False) for one in study.cohorts.external)
    if options is None:
        return StudyData(development, external, None)
    assignment = _assignment(options, development)
    return StudyData(development, external, assignment, options.group, options.seed)


def _read(source: CohortSource, *, splits_required: bool) -> Cohort:
    return read_cohort(
        source.table,
        label=source.name,
        meds=source.meds,
        meds_columns=dict(source.columns.items()),
        splits_required=splits_required,
    )


def _assignment(options: CrossValidation, development: Cohort) -> pl.DataFrame:
    taking_part = development.table.filter(pl.col("split").ne_missing("held_out"))
    group = options.group
    if group not in taking_part.columns:
        raise CohortError(
            f"{development.path}: no column {group!r} to group folds "
            f"by.{did_you_mean(group, taking_part.columns)}"
        )
    if options.assignment is not None:
        return _given(options.assignment, taking_part, development.path)
    groups = taking_part[group].drop_nulls().n_unique() + taking_part[group].null_count()
    if options.folds > groups:
        raise CohortError(
            f"{development.path}: cross_validation.folds is {options.folds}, but only {groups} "
            f"values of {group} take part, and none is divided; give fewer folds"
        )
    return assign_folds(
        taking_part, group=group, folds=options.folds, repeats=options.repeats, seed=options.seed
    )


def _given(path: Path, taking_part: pl.DataFrame, cohort: Path) -> pl.DataFrame:
    """Return the folds of a file, every sample that takes part once per repeat."""
    assignment = _read_assignment(path)
    known = assignment.join(taking_part.select("sample_id"), on="sample_id", how="semi")
    unknown = assignment["sample_id"].n_unique() - known["sample_id"].n_unique()
    once = known.select("sample_id", "repeat").unique().height
    absent = taking_part.height * assignment["repeat"].n_unique() - once
    twice = known.height - once
    if unknown or absent or twice:
        raise CohortError(
            f"{path}: {unknown} sample(s) are not in the development cohort, {absent} lack a fold "
            f"and {twice} have more than one; expected every sample of {cohort} once per repeat"
        )
    return assignment


def _read_assignment(path: Path) -> pl.DataFrame:
    try:
        given = pl.read_csv(path, schema_overrides=_ASSIGNMENT)
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise CohortError(
            f"{path}: not readable ({reason}); expected CSV with sample_id, repeat, fold, the last "
            "two whole numbers"
        ) from None
    absent = [name for name in _ASSIGNMENT if name not in given.columns]
    if absent:
        raise CohortError(
            f"{path}: no column {', '.join(absent)}; expected sample_id, repeat, fold"
        )
    assignment = given.select(list(_ASSIGNMENT))
    folds = assignment.group_by("repeat").agg(pl.col("fold").n_unique())
    if sum(assignment.null_count().row(0)) or (folds["fold"] < 2).any():
        raise CohortError(
            f"{path}: a value is null, or a repeat has one fold only; expected at least two folds "
            "in every repeat"
        )
    return assignment
