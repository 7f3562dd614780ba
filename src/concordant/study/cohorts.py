"""The data of a study: its cohorts, its folds, its embedding stores, and the audit over them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import polars as pl

from concordant.config import FEATURES, CohortSource, Component, Study
from concordant.core.errors import CohortError, FeatureError, did_you_mean
from concordant.core.files import DigestCache
from concordant.core.modality import Modality
from concordant.data.audit import Audit, audit
from concordant.data.cohort import Cohort, read_cohort
from concordant.data.features import FeatureOptions, read_features
from concordant.data.meds import RecordCounts, count_events
from concordant.data.pretraining import PretrainingSubjects, dataset_identity, read_subjects
from concordant.embeddings.extract import Progress, embed
from concordant.embeddings.store import EmbeddingStore
from concordant.encoders.base import ENCODERS, Encoder
from concordant.engines import Engine
from concordant.training.folds import assign_folds

INTERNAL = "held_out"
"""Label of the development cohort's predicted rows where the table has splits."""

INTERNAL_CROSS_VALIDATED = "development"
"""The same under cross-validation."""

SHARD_SIZES = {Modality.CT: 64, Modality.EHR: 512}
"""Samples per shard of a store.

Few enough that several workers share a cohort, and records, which are light, make few files.
"""

COUNTED_PER_SHARD = 4096
"""The same for records that are only counted, not run through a network.

Writing a shard takes longer than counting its records.
"""

Stores = Mapping[tuple[Modality, str], Mapping[str, EmbeddingStore]]
"""Per modality and encoder label, per cohort label, the store."""


@dataclass(frozen=True, slots=True)
class StudyData:
    """The cohorts of a study and, under cross-validation, the fold of each sample.

    Attributes:
        development: The cohort models are fitted on.
        external: The cohorts that are only predicted.
        assignment: `sample_id`, `repeat`, `fold`; None where the table has splits.
    """

    development: Cohort
    external: tuple[Cohort, ...]
    assignment: pl.DataFrame | None

    @property
    def cohorts(self) -> tuple[Cohort, ...]:
        """All cohorts, development first."""
        return (self.development, *self.external)

    @property
    def internal_label(self) -> str:
        """What tables call the predicted rows of the development cohort."""
        return INTERNAL if self.assignment is None else INTERNAL_CROSS_VALIDATED


def read_data(study: Study) -> StudyData:
    """Read and check the cohorts, and draw or read the folds.

    Raises:
        CohortError: A table breaks an invariant, or the folds do not fit the table.
    """
    source = study.cohorts.development
    folded = study.cross_validation is not None
    development = _read(source, splits_required=not folded)
    external = tuple(_read(one, splits_required=False) for one in study.cohorts.external)
    return StudyData(development, external, _assignment(study, development) if folded else None)


def _read(source: CohortSource, *, splits_required: bool) -> Cohort:
    return read_cohort(
        source.table,
        label=source.name,
        meds=source.meds,
        meds_columns=dict(source.columns.items()),
        splits_required=splits_required,
    )


def _assignment(study: Study, development: Cohort) -> pl.DataFrame:
    options = study.cross_validation
    assert options is not None  # noqa: S101 # the caller has just asked; for the type checker
    taking_part = development.table.filter(pl.col("split").ne_missing("held_out"))
    if options.group not in taking_part.columns:
        raise CohortError(
            f"{development.path}: no column {options.group!r} to group folds "
            f"by.{did_you_mean(options.group, taking_part.columns)}"
        )
    if options.assignment is not None:
        assignment = _read_assignment(options.assignment)
        _check_assignment(assignment, taking_part, study)
        return assignment
    groups = (
        taking_part[options.group].drop_nulls().n_unique() + taking_part[options.group].null_count()
    )
    if options.folds > groups:
        raise CohortError(
            f"{development.path}: cross_validation.folds is {options.folds}, but only {groups} "
            f"values of {options.group} take part, and none is divided; give fewer folds"
        )
    return assign_folds(
        taking_part,
        group=options.group,
        folds=options.folds,
        repeats=options.repeats,
        seed=options.seed,
    )


_ASSIGNMENT = {"sample_id": pl.String(), "repeat": pl.Int16(), "fold": pl.Int16()}


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


def _check_assignment(assignment: pl.DataFrame, taking_part: pl.DataFrame, study: Study) -> None:
    unknown = assignment.join(taking_part, on="sample_id", how="anti")["sample_id"].n_unique()
    repeats = assignment["repeat"].n_unique()
    known = assignment.join(taking_part.select("sample_id"), on="sample_id", how="semi")
    once = known.select("sample_id", "repeat").unique().height
    expected = taking_part.height * repeats
    if unknown or once != expected or known.height != once:
        path = study.cross_validation.assignment if study.cross_validation else None
        raise CohortError(
            f"{path}: {unknown} sample(s) are not in the development cohort, {expected - once} "
            f"lack a fold and {known.height - once} have more than one; expected every sample of "
            f"{study.cohorts.development.table} once per repeat"
        )


def check_inputs(study: Study, data: StudyData) -> None:
    """Look for what is wrong with feature files and scan columns, before anything slow begins.

    Raises:
        FeatureError: A feature file breaks its format, or has nothing for the development cohort.
        CohortError: An encoder of scans, and a cohort without `ct_path`; or a sample_id in two
            cohorts, where a file of features or predictions names samples by it alone.
    """
    _check_sample_ids(study, data.cohorts)
    for modality in Modality:
        for choice in study.encoder_choices(modality):
            if choice.name == FEATURES:
                _check_features(FeatureOptions(**choice.options), data.development)
            elif modality is Modality.CT:
                for cohort in data.cohorts:
                    cohort.ct_path(0)


def _check_sample_ids(study: Study, cohorts: tuple[Cohort, ...]) -> None:
    by_name = study.foreign or any(
        choice.name == FEATURES
        for modality in Modality
        for choice in study.encoder_choices(modality)
    )
    for one, other in combinations(cohorts, 2):
        shared = len(set(one.sample_ids) & set(other.sample_ids))
        if by_name and shared:
            raise CohortError(
                f"{one.path} and {other.path} share {shared} sample_id(s); files of features and "
                "of predictions name samples by their sample_id alone, so make them different, for "
                "example by a prefix"
            )


def _check_features(options: FeatureOptions, development: Cohort) -> None:
    features = read_features(options)
    if all(features.embedding(sample_id) is None for sample_id in development.sample_ids):
        raise FeatureError(
            f"{options.path}: no sample of {development.path} has a feature in it; check the "
            "sample_id column"
        )


def embed_all(
    study: Study,
    data: StudyData,
    *,
    engine: Engine,
    retry_quarantined: bool,
    progress: Progress | None,
) -> Stores:
    """Fill, or open, the store of every encoder a member uses, for every cohort.

    Scans last, so that they do not hide a fault elsewhere.
    """
    digests = _digests(study)
    stores: dict[tuple[Modality, str], dict[str, EmbeddingStore]] = {}
    for modality in (Modality.EHR, Modality.CT):
        for choice in study.encoder_choices(modality):
            source = _source(
                choice
            )  # one for all cohorts: the digest of its weights is computed once
            stores[modality, choice.label] = {
                cohort.label: embed(
                    cohort,
                    modality,
                    source,
                    study.embeddings_root,
                    name=choice.name,
                    options=choice.options,
                    shard_size=shard_size(modality, source),
                    max_quarantined=study.max_quarantined,
                    engine=engine,
                    retry_quarantined=retry_quarantined,
                    progress=progress,
                    digests=digests,
                )
                for cohort in data.cohorts
            }
    return stores


def shard_size(modality: Modality, source: Encoder | FeatureOptions) -> int:
    """Return how many samples a shard of a source's store holds."""
    counted = (
        modality is Modality.EHR and isinstance(source, Encoder) and source.card.kind == "codes"
    )
    return COUNTED_PER_SHARD if counted else SHARD_SIZES[modality]


def audit_data(study: Study, data: StudyData, records: Mapping[str, RecordCounts]) -> Audit:
    """Check the study for leakage."""
    options = study.cross_validation
    sources = [
        (choice.label, _source(choice))
        for modality in Modality
        for choice in study.encoder_choices(modality)
    ]
    training_data: dict[str, tuple[str, ...]] = defaultdict(tuple)
    for label, source in sources:  # one of scans and one of records may have the same label
        training_data[label] += _training_data(source)
    pretraining = _pretraining(sources)
    return audit(
        data.development,
        data.external,
        cross_validation=options is not None,
        assignment=data.assignment,
        group="subject_id" if options is None else options.group,
        training_data=training_data,
        records=records,
        pretraining=pretraining,
        datasets=_datasets(study, data) if any(pretraining.values()) else {},
    )


def _source(choice: Component) -> Encoder | FeatureOptions:
    return (
        FeatureOptions(**choice.options)
        if choice.name == FEATURES
        else ENCODERS.create(choice.name, **choice.options)
    )


def _training_data(source: Encoder | FeatureOptions) -> tuple[str, ...]:
    return source.card.training_data if isinstance(source, Encoder) else source.training_data


def _pretraining(
    sources: Iterable[tuple[str, Encoder | FeatureOptions]],
) -> dict[str, PretrainingSubjects | None]:
    """Return, for every encoder whose weights can be one's own, whom they were pretrained on.

    None where the list is not beside them.
    """
    folders = [
        (label, source.pretraining_folder)
        for label, source in sources
        if isinstance(source, Encoder)
    ]
    return {label: read_subjects(folder) for label, folder in folders if folder is not None}


def _datasets(study: Study, data: StudyData) -> dict[str, str]:
    digests = _digests(study)
    found = {
        cohort.label: dataset_identity(cohort.meds, cohort.meds_columns, digests)
        for cohort in data.cohorts
        if cohort.meds
    }
    with suppress(OSError):  # a study may be checked where nothing may be written
        digests.save()  # the encoding that follows reads no shard once more for its digest
    return found


def _digests(study: Study) -> DigestCache:
    return DigestCache(study.embeddings_root / "digests.json")


def counted_records(study: Study, data: StudyData) -> dict[str, RecordCounts]:
    """Read every cohort's records, where an encoder reads them, and return what was met."""
    if all(choice.name == FEATURES for choice in study.encoder_choices(Modality.EHR)):
        return {}
    return {
        cohort.label: count_events(cohort.meds, cohort.table, columns=cohort.meds_columns)
        for cohort in data.cohorts
        if cohort.meds
    }


def records_of(stores: Stores) -> dict[str, RecordCounts]:
    """Return what was met when the records of the stores were read."""
    return {
        label: store.record_counts
        for (modality, _), by_cohort in stores.items()
        if modality is Modality.EHR
        for label, store in by_cohort.items()
        if store.record_counts is not None
    }
