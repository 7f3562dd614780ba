"""Where the inputs of a study come from: its encoders, their stores, and the audit over them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Self

from concordant.config import FEATURES, Component, Study
from concordant.core.errors import CohortError, FeatureError
from concordant.core.files import DigestCache
from concordant.core.modality import Modality
from concordant.data.audit import Audit, audit
from concordant.data.cohort import Cohort
from concordant.data.features import FeatureOptions, read_features
from concordant.data.meds import RecordCounts, count_events
from concordant.data.pretraining import PretrainingSubjects, dataset_identity, read_subjects
from concordant.embeddings.extract import Progress, embed
from concordant.embeddings.store import EmbeddingStore
from concordant.encoders.base import ENCODERS, Encoder
from concordant.engines import Engine
from concordant.study.data import StudyData

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
class Sources:
    """The encoders and feature files of a study, and where their stores go.

    Attributes:
        choices: Every one that a strategy uses, records first, so that a slow reading of scans
            does not hide a fault elsewhere.
        root: Folder of the stores.
        max_quarantined: Share of unreadable inputs that stops the encoding.
        named_by_sample: Whether a file of features or of predictions names samples by their id.
    """

    choices: tuple[tuple[Modality, Component], ...]
    root: Path
    max_quarantined: float
    named_by_sample: bool

    @classmethod
    def of(cls, study: Study) -> Self:
        """Return the sources of a study."""
        order = (Modality.EHR, Modality.CT)
        choices = tuple((one, choice) for one in order for choice in study.encoder_choices(one))
        by_name = bool(study.foreign) or any(choice.name == FEATURES for _, choice in choices)
        return cls(choices, study.embeddings_root, study.max_quarantined, by_name)

    @property
    def reads_records(self) -> bool:
        """Whether an encoder reads records."""
        return any(one is Modality.EHR and choice.name != FEATURES for one, choice in self.choices)

    def digests(self) -> DigestCache:
        """Return the remembered digests of large inputs."""
        return DigestCache(self.root / "digests.json")


def check_inputs(sources: Sources, data: StudyData) -> None:
    """Look for what is wrong with feature files and scan columns, before anything slow begins.

    Raises:
        FeatureError: A feature file breaks its format, or has nothing for the development cohort.
        CohortError: An encoder of scans, and a cohort without `ct_path`; or a sample_id in two
            cohorts, where a file of features or predictions names samples by it alone.
    """
    if sources.named_by_sample:
        _check_sample_ids(data.cohorts)
    for modality, choice in sources.choices:
        if choice.name == FEATURES:
            _check_features(FeatureOptions(**choice.options), data.development)
        elif modality is Modality.CT:
            for cohort in data.cohorts:
                cohort.ct_path(0)


def _check_sample_ids(cohorts: tuple[Cohort, ...]) -> None:
    for one, other in combinations(cohorts, 2):
        shared = len(set(one.sample_ids) & set(other.sample_ids))
        if shared:
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
    sources: Sources,
    data: StudyData,
    *,
    engine: Engine,
    retry_quarantined: bool,
    progress: Progress | None,
) -> Stores:
    """Fill, or open, the store of every encoder that a strategy uses, for every cohort."""
    digests = sources.digests()
    stores: dict[tuple[Modality, str], dict[str, EmbeddingStore]] = {}
    for modality, choice in sources.choices:
        source = _source(choice)  # one for all cohorts: its weights are digested once
        stores[modality, choice.label] = {
            cohort.label: embed(
                cohort,
                modality,
                source,
                sources.root,
                name=choice.name,
                options=choice.options,
                shard_size=shard_size(modality, source),
                max_quarantined=sources.max_quarantined,
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


def audit_data(sources: Sources, data: StudyData, records: Mapping[str, RecordCounts]) -> Audit:
    """Check the study for leakage."""
    labelled = [(choice.label, _source(choice)) for _, choice in sources.choices]
    training_data: dict[str, tuple[str, ...]] = defaultdict(tuple)
    for label, source in labelled:  # one of scans and one of records may have the same label
        training_data[label] += _training_data(source)
    pretraining = _pretraining(labelled)
    return audit(
        data.development,
        data.external,
        cross_validation=data.assignment is not None,
        assignment=data.assignment,
        group=data.group,
        training_data=training_data,
        records=records,
        pretraining=pretraining,
        datasets=_datasets(sources, data) if any(pretraining.values()) else {},
    )


def _source(choice: Component) -> Encoder | FeatureOptions:
    if choice.name == FEATURES:
        return FeatureOptions(**choice.options)
    return ENCODERS.create(choice.name, **choice.options)


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


def _datasets(sources: Sources, data: StudyData) -> dict[str, str]:
    digests = sources.digests()
    found = {
        cohort.label: dataset_identity(cohort.meds, cohort.meds_columns, digests)
        for cohort in data.cohorts
        if cohort.meds
    }
    with suppress(OSError):  # a study may be checked where nothing may be written
        digests.save()  # the encoding that follows reads no shard once more for its digest
    return found


def counted_records(sources: Sources, data: StudyData) -> dict[str, RecordCounts]:
    """Read every cohort's records, where an encoder reads them, and return what was met."""
    if not sources.reads_records:
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
