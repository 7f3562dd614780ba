"""Does fusing help? Paired differences to the better unimodal model, and between any predictions files."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float

from concordant.core.errors import ConfigError, MetricError, PredictionsError, did_you_mean
from concordant.core.modality import Modality
from concordant.core.survival import Predictions, SurvivalTarget, read_predictions
from concordant.evaluation import KEY, CensoringSource, Measure, align, averaged, evaluate, measures
from concordant.metrics import holm
from concordant.metrics.inference import wald_p_value

CHOSEN_PER_FOLD = "unimodal(chosen per fold)"
"""Reference under cross-validation: in every fold the unimodal model that is better on the fold's tuning part."""

_PAIRED: dict[str, type[pl.DataType]] = {
    "metric": pl.String,
    "horizon_days": pl.Float64,
    "difference": pl.Float64,
    "standard_error": pl.Float64,
    "ci_low": pl.Float64,
    "ci_high": pl.Float64,
    "p_value": pl.Float64,
    "p_adjusted": pl.Float64,
}

CONTRAST_SCHEMA: dict[str, type[pl.DataType]] = {
    "cohort": pl.String,
    "ct_encoder": pl.String,
    "ehr_encoder": pl.String,
    "fusion": pl.String,
    "reference": pl.String,
    **_PAIRED,
    "family": pl.String,
}

FILE_DIFFERENCE_SCHEMA: dict[str, type[pl.DataType]] = {"file": pl.String, "reference": pl.String, **_PAIRED}

Fold = tuple[int, int]
"""Repeat and fold."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One trained model: what it is, what it predicts for every cohort, and how good it was on tuning.

    Attributes:
        fusion: Label of the fusion.
        ct_encoder: Label of the scan's encoder, None where the model uses no scan.
        ehr_encoder: Label of the record's encoder, None where the model uses no record.
        modality: "ct" or "ehr" if the model uses that modality alone, else None.
        seed: Seed of the training.
        predictions: Predictions per cohort label; the cohort under cross-validation has `repeat` and `fold`.
        tuning: Concordance on the tuning part per (repeat, fold); the key is None without cross-validation.
        is_reference: Whether the others may be measured against it, if it is unimodal. False for a further unimodal row, such as a
            linear model of one modality, that is neither a reference nor a fusion.
    """

    fusion: str
    ct_encoder: str | None
    ehr_encoder: str | None
    modality: str | None
    seed: int
    predictions: Mapping[str, Predictions]
    tuning: Mapping[Fold | None, float]
    is_reference: bool = True


@dataclass(frozen=True, slots=True)
class FileComparison:
    """Predictions files side by side, on the samples that all of them hold.

    Attributes:
        files: `file`, `n_in_file` and the columns of `RESULT_SCHEMA`.
        differences: The columns of `FILE_DIFFERENCE_SCHEMA`: metric(file) minus metric(reference); Holm within each metric.
        reference: Label of the reference file.
        n_shared: Distinct samples that all files hold.
    """

    files: pl.DataFrame
    differences: pl.DataFrame
    reference: str
    n_shared: int


def average_seeds(predictions: Sequence[Predictions]) -> Predictions:
    """Average risks and survival curves row by row; rows are matched by sample, repeat and fold, in the first table's order.

    Args:
        predictions: One table per seed. Survival curves are kept only where every table has them for all rows at the same times.

    Raises:
        PredictionsError: No table, or other samples or outcomes.
    """
    if not predictions:
        raise PredictionsError("no predictions to average; expected one table per seed")
    first = predictions[0]
    if len(predictions) == 1:
        return first
    aligned = [first, *(align(other, first) for other in predictions[1:])]
    risk = pl.Series("risk", np.mean([one.risk for one in aligned], axis=0))
    curves = [one.survival for one in aligned if one.survival is not None]
    times = _shared_times(aligned) if len(curves) == len(aligned) else None
    survival = [None] * len(risk) if times is None else np.mean(curves, axis=0).tolist()
    return Predictions(first.table.with_columns(risk, pl.Series("survival", survival, dtype=pl.List(pl.Float64))), times)


def _shared_times(tables: Sequence[Predictions]) -> Float[np.ndarray, " time"] | None:
    """Return the times of the survival curves, None where the tables do not have the same."""
    times = [table.survival_times_days for table in tables if table.survival_times_days is not None]
    return times[0] if len(times) == len(tables) and all(np.array_equal(times[0], other) for other in times) else None


def contrasts(
    candidates: Sequence[Candidate],
    *,
    metrics: Sequence[str] = ("concordance_index",),
    horizons_days: Sequence[float] = (),
    censoring: CensoringSource = "cohort",
    train: SurvivalTarget | None = None,
) -> pl.DataFrame:
    """Compare every fusion with the unimodal models of the same encoders, paired, on risks averaged over seeds.

    The declared family, per cohort, record encoder and metric, is every fusion against the unimodal model that is better on
    tuning; Holm's adjustment runs within it. Under cross-validation the reference is chosen within each fold on its tuning part,
    on another cohort by the mean tuning concordance. Differences to a unimodal model that is not the reference are given without
    entering a family.

    Args:
        candidates: All models, every seed.
        metrics: Names from `METRICS`.
        horizons_days: Horizons of the metrics that have one value per horizon.
        censoring: Whose censoring curve the weighted metrics use.
        train: Outcomes of train, for `censoring` "train" and "pooled".

    Returns:
        The columns of `CONTRAST_SCHEMA`. `difference` is metric(fusion) minus metric(reference): above 0 is better for a
        concordance, below 0 for a Brier score. Null where the metric cannot be computed; such a test still counts in its family.

    Raises:
        ConfigError: As `evaluate`.
        MetricError: A unimodal model without a tuning concordance for a fold.
        PredictionsError: Models of one cohort that do not hold the same samples, folds and outcomes.
    """
    models = _merged(candidates)
    asked = measures(metrics, horizons_days)
    rows = [
        _contrast(fusion, cohort, reference, measure, censoring=censoring, train=train)
        for fusion in models
        if fusion.modality is None
        for cohort in fusion.predictions
        for reference in _references(fusion, cohort, models)
        for measure in asked
    ]
    return pl.DataFrame(_adjusted(rows, "family"), schema=CONTRAST_SCHEMA)


def compare_files(
    paths: Sequence[Path],
    reference: str | None = None,
    *,
    metrics: Sequence[str] = ("concordance_index",),
    horizons_days: Sequence[float] = (),
) -> FileComparison:
    """Compare predictions files, ours or another group's, on the samples that all of them hold.

    Args:
        paths: Two or more predictions tables (see `read_predictions`). A file's label is its stem, or its path where stems repeat.
        reference: Label or path of the file the others are compared with; None = the first.
        metrics: Names from `METRICS`.
        horizons_days: Horizons of the metrics that have one value per horizon.

    Raises:
        ConfigError: Fewer than two files, an unknown reference or metric.
        PredictionsError: An invalid file, no shared sample, or files that give a shared sample different outcomes.
    """
    labels = _labels(paths)
    chosen = _reference_label(labels, paths, reference)
    given = dict(zip(labels, (read_predictions(path) for path in paths), strict=True))
    shared = _on_shared_samples(given)
    asked = measures(metrics, horizons_days)
    files = [
        evaluate(predictions, metrics=metrics, horizons_days=horizons_days).select(
            pl.lit(label).alias("file"), pl.lit(given[label].table["sample_id"].n_unique(), pl.Int64).alias("n_in_file"), pl.all()
        )
        for label, predictions in shared.items()
    ]
    differences = [
        {"file": label, "reference": chosen, **_difference(predictions, shared[chosen], measure)}
        for label, predictions in shared.items()
        if label != chosen
        for measure in asked
    ]
    return FileComparison(
        files=pl.concat(files),
        differences=pl.DataFrame(_adjusted(differences, "metric"), schema=FILE_DIFFERENCE_SCHEMA),
        reference=chosen,
        n_shared=shared[chosen].table["sample_id"].n_unique(),
    )


@dataclass(frozen=True, slots=True)
class _Reference:
    label: str
    predictions: Predictions
    declared: bool  # in the family, or shown beside it


def _merged(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return one candidate per model: predictions and tuning concordances averaged over the seeds that have them."""
    seeds: dict[tuple[str | None, ...], list[Candidate]] = defaultdict(list)
    for one in candidates:
        seeds[one.fusion, one.ct_encoder, one.ehr_encoder, one.modality].append(one)
    return [replace(group[0], predictions=_mean_predictions(group), tuning=_mean_tuning(group)) for group in seeds.values()]


def _mean_predictions(seeds: Sequence[Candidate]) -> dict[str, Predictions]:
    cohorts = dict.fromkeys(cohort for one in seeds for cohort in one.predictions)
    return {cohort: average_seeds([one.predictions[cohort] for one in seeds if cohort in one.predictions]) for cohort in cohorts}


def _mean_tuning(seeds: Sequence[Candidate]) -> dict[Fold | None, float]:
    folds = dict.fromkeys(fold for one in seeds for fold in one.tuning)
    return {fold: float(np.mean([one.tuning[fold] for one in seeds if fold in one.tuning])) for fold in folds}


def _references(fusion: Candidate, cohort: str, models: Sequence[Candidate]) -> list[_Reference]:
    """Return the declared reference first, then the unimodal models that are not it."""
    unimodal = [model for model in models if model.is_reference and _is_part_of(model, fusion) and cohort in model.predictions]
    if not unimodal:
        return []
    folds = _folds(fusion.predictions[cohort])
    if len(unimodal) > 1 and folds != [None]:
        chosen = _Reference(CHOSEN_PER_FOLD, _chosen_per_fold(unimodal, cohort, folds), declared=True)
        others = unimodal
    else:
        best = max(unimodal, key=_overall_tuning)
        chosen = _Reference(best.fusion, best.predictions[cohort], declared=True)
        others = [model for model in unimodal if model is not best]
    return [chosen, *(_Reference(model.fusion, model.predictions[cohort], declared=False) for model in others)]


def _is_part_of(model: Candidate, fusion: Candidate) -> bool:
    """Return whether a model is unimodal and uses the fusion's own encoder for its modality."""
    if model.modality == Modality.CT:
        return model.ct_encoder == fusion.ct_encoder
    return model.modality == Modality.EHR and model.ehr_encoder == fusion.ehr_encoder


def _folds(predictions: Predictions) -> list[Fold | None]:
    """Return the folds of a table, or [None] where it has none."""
    pairs = predictions.table.select("repeat", "fold").unique(maintain_order=True).rows()
    return [None if fold is None else (repeat, fold) for repeat, fold in pairs]


def _chosen_per_fold(unimodal: Sequence[Candidate], cohort: str, folds: Sequence[Fold | None]) -> Predictions:
    """Return a table whose rows come, fold by fold, from the unimodal model that is better on the fold's tuning part."""
    parts = []
    for fold in folds:
        best = max(unimodal, key=partial(_tuning, fold=fold)).predictions[cohort]
        repeat, number = fold if fold is not None else (None, None)
        parts.append(best.filter(pl.col("repeat").eq_missing(repeat) & pl.col("fold").eq_missing(number)))
    return Predictions(pl.concat([part.table for part in parts]), _shared_times(parts))


def _tuning(model: Candidate, fold: Fold | None) -> float:
    """Return the tuning concordance of a fold; a tuning part without an event recommends nothing."""
    if fold not in model.tuning:
        raise MetricError(f"{model.fusion} has no tuning concordance for repeat and fold {fold}; the reference is chosen by it")
    value = model.tuning[fold]
    return -math.inf if math.isnan(value) else value


def _overall_tuning(model: Candidate) -> float:
    if not model.tuning:
        raise MetricError(f"{model.fusion} has no tuning concordance; the reference is chosen by it")
    known = [value for value in model.tuning.values() if not math.isnan(value)]
    return sum(known) / len(known) if known else -math.inf


def _contrast(
    fusion: Candidate, cohort: str, reference: _Reference, measure: Measure, *, censoring: CensoringSource, train: SurvivalTarget | None
) -> dict[str, Any]:
    family = f"{cohort} | {fusion.ehr_encoder or 'no record encoder'} | {measure.metric}"
    return {
        "cohort": cohort,
        "ct_encoder": fusion.ct_encoder,
        "ehr_encoder": fusion.ehr_encoder,
        "fusion": fusion.fusion,
        "reference": reference.label,
        **_difference(fusion.predictions[cohort], reference.predictions, measure, censoring=censoring, train=train),
        "family": family if reference.declared else None,
    }


def _difference(
    predictions: Predictions,
    reference: Predictions,
    measure: Measure,
    *,
    censoring: CensoringSource = "cohort",
    train: SurvivalTarget | None = None,
) -> dict[str, Any]:
    """Return the columns from `metric` to `p_value`; nothing after the horizon where the metric cannot be computed."""
    named = {"metric": measure.metric, "horizon_days": measure.horizon_days}
    try:
        paired = averaged(
            predictions, measure.metric, horizon_days=measure.horizon_days, censoring=censoring, train=train, reference=reference
        )
    except MetricError:
        return named
    low, high = paired.interval()
    p_value = wald_p_value(paired.estimate, paired.standard_error)
    return {
        **named,
        "difference": paired.estimate,
        "standard_error": paired.standard_error,
        "ci_low": low,
        "ci_high": high,
        "p_value": None if math.isnan(p_value) else p_value,
    }


def _adjusted(rows: Sequence[dict[str, Any]], family: str) -> list[dict[str, Any]]:
    """Add Holm's p-values within each value of the `family` column; rows without one are in no family."""
    members: dict[str, list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        if row[family] is not None:
            members[row[family]].append(number)
    adjusted: dict[int, float] = {}
    for numbers in members.values():
        p_values = np.array([rows[number].get("p_value") for number in numbers], dtype=np.float64)  # None becomes NaN
        adjusted.update((number, float(p)) for number, p in zip(numbers, holm(p_values), strict=True) if not np.isnan(p))
    return [{**row, "p_adjusted": adjusted.get(number)} for number, row in enumerate(rows)]


def _labels(paths: Sequence[Path]) -> list[str]:
    if len(paths) < 2:
        raise ConfigError(f"a comparison needs two predictions files or more; given {len(paths)}")
    stems = [path.stem for path in paths]
    return [path.stem if stems.count(path.stem) == 1 else str(path) for path in paths]


def _reference_label(labels: Sequence[str], paths: Sequence[Path], reference: str | None) -> str:
    if reference is None:
        return labels[0]
    by_path = dict(zip((str(path) for path in paths), labels, strict=True))
    if reference not in labels and reference not in by_path:
        raise ConfigError(f"unknown reference {reference!r}.{did_you_mean(reference, labels)}")
    return by_path.get(reference, reference)


def _on_shared_samples(given: Mapping[str, Predictions]) -> dict[str, Predictions]:
    """Reduce all tables to the rows they share, in one order and with the subjects of the table that knows of most repeats."""
    key = list(KEY)
    tables = [predictions.table for predictions in given.values()]
    shared = tables[0].select(key)
    for table in tables[1:]:
        shared = shared.join(table, on=key, how="semi", nulls_equal=True, maintain_order="left")
    if shared.is_empty():
        raise PredictionsError(f"no sample (of the same repeat and fold) is in all {len(given)} files")
    first, *others = (
        Predictions(shared.join(one.table, on=key, how="left", nulls_equal=True, maintain_order="left"), one.survival_times_days)
        for one in given.values()
    )
    subjects = min((one.table["subject_id"] for one in (first, *others)), key=pl.Series.n_unique)
    aligned = [first]
    for label, one in zip(list(given)[1:], others, strict=True):
        try:
            aligned.append(align(one, first))
        except PredictionsError as error:
            raise PredictionsError(f"{label}: {error}") from None
    return {
        label: Predictions(one.table.with_columns(subjects), one.survival_times_days) for label, one in zip(given, aligned, strict=True)
    }
