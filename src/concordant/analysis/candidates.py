"""The models of a study, seeds averaged, and the unimodal models that a fusion is held against."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import polars as pl

from concordant.core.errors import MetricError
from concordant.core.modality import Modality
from concordant.core.survival import Predictions, shared_times
from concordant.evaluation import average_seeds

CHOSEN_PER_FOLD = "unimodal(chosen per fold)"
"""Reference under cross-validation.

In every fold the unimodal model that is better on the fold's tuning part.
"""

NAMES: dict[str, type[pl.DataType]] = {
    "cohort": pl.String,
    "ct_encoder": pl.String,
    "ehr_encoder": pl.String,
    "fusion": pl.String,
}
"""Columns that name a cohort and a model in every table."""

Fold = tuple[int, int]
"""Repeat and fold."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One model: what it is, what it predicts for every cohort, and how good it was on tuning.

    A model of others has neither encoder, nor modality, nor tuning concordance.

    Attributes:
        fusion: Label of the fusion.
        ct_encoder: Label of the scan's encoder, None where the model uses no scan.
        ehr_encoder: Label of the record's encoder, None where the model uses no record.
        modality: "ct" or "ehr" if the model uses that modality alone, else None.
        seed: Seed of the training; None for the mean over seeds, and a model of others.
        predictions: Predictions per cohort label; the cohort under cross-validation has `repeat`
            and `fold`.
        tuning: Concordance on the tuning part per (repeat, fold); the key is None without
            cross-validation.
        is_reference: Whether the others may be measured against it, if it is unimodal. False for a
            further unimodal row, such as a linear model of one modality, that is neither a
            reference nor a fusion.
    """

    fusion: str
    ct_encoder: str | None
    ehr_encoder: str | None
    modality: str | None
    seed: int | None
    predictions: Mapping[str, Predictions]
    tuning: Mapping[Fold | None, float]
    is_reference: bool = True

    @property
    def is_foreign(self) -> bool:
        """True for a model of others, known by its predictions alone."""
        return self.ct_encoder is None and self.ehr_encoder is None

    def names(self, cohort: str) -> dict[str, str | None]:
        """Return the columns of `NAMES`."""
        return {
            "cohort": cohort,
            "ct_encoder": self.ct_encoder,
            "ehr_encoder": self.ehr_encoder,
            "fusion": self.fusion,
        }


@dataclass(frozen=True, slots=True)
class Reference:
    """What a fusion is held against on one cohort.

    Attributes:
        label: Its name in tables.
        predictions: Its predictions.
        declared: True for the one whose difference enters the family; the others are shown beside
            it.
    """

    label: str
    predictions: Predictions
    declared: bool


def by_model(candidates: Sequence[Candidate]) -> list[list[Candidate]]:
    """Return the seeds of each model, in the order in which models come."""
    seeds: dict[tuple[str | None, ...], list[Candidate]] = defaultdict(list)
    for one in candidates:
        seeds[one.fusion, one.ct_encoder, one.ehr_encoder, one.modality].append(one)
    return list(seeds.values())


def merged(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return one candidate per model.

    Predictions and tuning concordances averaged over the seeds that have them; a single seed stays
    as it is.
    """
    return [
        group[0]
        if len(group) == 1
        else replace(
            group[0], seed=None, predictions=_mean_predictions(group), tuning=_mean_tuning(group)
        )
        for group in by_model(candidates)
    ]


def _mean_predictions(seeds: Sequence[Candidate]) -> dict[str, Predictions]:
    cohorts = dict.fromkeys(cohort for one in seeds for cohort in one.predictions)
    return {
        cohort: average_seeds(
            [one.predictions[cohort] for one in seeds if cohort in one.predictions]
        )
        for cohort in cohorts
    }


def _mean_tuning(seeds: Sequence[Candidate]) -> dict[Fold | None, float]:
    folds = dict.fromkeys(fold for one in seeds for fold in one.tuning)
    return {
        fold: float(np.mean([one.tuning[fold] for one in seeds if fold in one.tuning]))
        for fold in folds
    }


def unimodal_parts(fusion: Candidate, cohort: str, models: Sequence[Candidate]) -> list[Candidate]:
    """Return the unimodal models with the fusion's own encoders that predict a cohort and may be
    references.
    """
    return [
        model
        for model in models
        if model.is_reference and _is_part_of(model, fusion) and cohort in model.predictions
    ]


def references(fusion: Candidate, cohort: str, models: Sequence[Candidate]) -> list[Reference]:
    """Return the declared reference first, then the unimodal models that are not it.

    Raises:
        MetricError: A unimodal model without a tuning concordance for a fold.
    """
    unimodal = unimodal_parts(fusion, cohort, models)
    if not unimodal:
        return []
    folds = _folds(fusion.predictions[cohort])
    if len(unimodal) > 1 and folds != [None]:
        chosen = Reference(
            CHOSEN_PER_FOLD, _chosen_per_fold(unimodal, cohort, folds), declared=True
        )
        others = unimodal
    else:
        best = max(unimodal, key=overall_tuning)
        chosen = Reference(best.fusion, best.predictions[cohort], declared=True)
        others = [model for model in unimodal if model is not best]
    return [
        chosen,
        *(Reference(model.fusion, model.predictions[cohort], declared=False) for model in others),
    ]


def best_fusion(models: Sequence[Candidate]) -> Candidate | None:
    """Return the fusion with the best mean tuning concordance, the first of equals.

    None without a fusion that has one.

    Args:
        models: One candidate per model, see `merged`.
    """
    fusions = [model for model in models if model.modality is None and model.tuning]
    return max(fusions, key=overall_tuning, default=None)


def overall_tuning(model: Candidate) -> float:
    """Return the mean tuning concordance over folds.

    Tuning parts without an event recommend nothing.

    Raises:
        MetricError: The model has none.
    """
    if not model.tuning:
        raise MetricError(
            f"{model.fusion} has no tuning concordance; the reference is chosen by it"
        )
    known = [value for value in model.tuning.values() if not math.isnan(value)]
    return sum(known) / len(known) if known else -math.inf


def _is_part_of(model: Candidate, fusion: Candidate) -> bool:
    """Return whether a model is unimodal and uses the fusion's own encoder for its modality."""
    if model.modality == Modality.CT:
        return model.ct_encoder == fusion.ct_encoder
    return model.modality == Modality.EHR and model.ehr_encoder == fusion.ehr_encoder


def _folds(predictions: Predictions) -> list[Fold | None]:
    """Return the folds of a table, or [None] where it has none."""
    pairs = predictions.table.select("repeat", "fold").unique(maintain_order=True).rows()
    return [None if fold is None else (repeat, fold) for repeat, fold in pairs]


def _chosen_per_fold(
    unimodal: Sequence[Candidate], cohort: str, folds: Sequence[Fold | None]
) -> Predictions:
    """Return, fold by fold, the rows of the unimodal model that is better on the tuning part."""
    parts = []
    for fold in folds:
        best = max(unimodal, key=partial(_tuning, fold=fold)).predictions[cohort]
        repeat, number = fold if fold is not None else (None, None)
        parts.append(
            best.filter(pl.col("repeat").eq_missing(repeat) & pl.col("fold").eq_missing(number))
        )
    return Predictions(pl.concat([part.table for part in parts]), shared_times(parts))


def _tuning(model: Candidate, fold: Fold | None) -> float:
    """Return the tuning concordance of a fold, -inf where it had no event."""
    if fold not in model.tuning:
        raise MetricError(
            f"{model.fusion} has no tuning concordance for repeat and fold {fold}; the reference "
            "is chosen by it"
        )
    value = model.tuning[fold]
    return -math.inf if math.isnan(value) else value
