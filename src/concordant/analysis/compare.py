"""Does fusing help? Paired differences to the better unimodal model, and between any predictions
files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from concordant.analysis.candidates import (
    CHOSEN_PER_FOLD,
    Candidate,
    Reference,
    average_seeds,
    merged,
    references,
)
from concordant.analysis.families import (
    DIFFERENCE_SCHEMA,
    FURTHER_SCHEMA,
    Judging,
    Multiplicity,
    PairedTest,
    adjusted,
    paired_test,
)
from concordant.core.errors import ConfigError, PredictionsError, did_you_mean
from concordant.core.survival import Predictions, SurvivalTarget
from concordant.evaluation import (
    KEY,
    WEIGHT,
    CensoringSource,
    Measure,
    align,
    column_names,
    evaluate,
    measures,
    read_judged,
)

__all__ = [
    "CHOSEN_PER_FOLD",
    "CONTRAST_SCHEMA",
    "FILE_DIFFERENCE_SCHEMA",
    "Candidate",
    "FileComparison",
    "average_seeds",
    "compare_files",
    "contrasts",
]

CONTRAST_SCHEMA: dict[str, type[pl.DataType]] = {
    "cohort": pl.String,
    "ct_encoder": pl.String,
    "ehr_encoder": pl.String,
    "fusion": pl.String,
    "reference": pl.String,
    **DIFFERENCE_SCHEMA,
    "family": pl.String,
    **FURTHER_SCHEMA,
}

FILE_DIFFERENCE_SCHEMA: dict[str, type[pl.DataType]] = {
    "file": pl.String,
    "reference": pl.String,
    **DIFFERENCE_SCHEMA,
    **FURTHER_SCHEMA,
}


@dataclass(frozen=True, slots=True)
class FileComparison:
    """Predictions files side by side, on the samples that all of them hold.

    Attributes:
        files: `file`, `n_in_file` and the columns of `RESULT_SCHEMA`.
        differences: The columns of `FILE_DIFFERENCE_SCHEMA`: metric(file) minus metric(reference),
            adjusted within each metric.
        reference: Label of the reference file.
        n_shared: Distinct samples that all files hold.
    """

    files: pl.DataFrame
    differences: pl.DataFrame
    reference: str
    n_shared: int


def contrasts(
    candidates: Sequence[Candidate],
    *,
    metrics: Sequence[str] = ("concordance_index",),
    horizons_days: Sequence[float] = (),
    censoring: CensoringSource = "cohort",
    train: SurvivalTarget | None = None,
    tau: float | None = None,
    cause: int | None = None,
    multiplicity: Multiplicity = "holm",
    margin: float | None = None,
    test_train_ratio: float | None = None,
) -> pl.DataFrame:
    """Compare every fusion with the unimodal models of the same encoders, paired, on risks averaged
    over seeds.

    The declared family, per cohort, record encoder and metric, is every fusion against the unimodal
    model that is better on tuning; p-values are adjusted within it. Under cross-validation the
    reference is chosen within each fold on its tuning part, on another cohort by the mean tuning
    concordance. Differences to a unimodal model that is not the reference are given without
    entering a family.

    Args:
        candidates: All models, every seed.
        metrics: Names from `METRICS`.
        horizons_days: Horizons of the metrics that have one value per horizon.
        censoring: Whose censoring curve the weighted metrics use.
        train: Outcomes of train, for `censoring` "train" and "pooled".
        tau: Days up to which the truncated metrics run; None = all that each cohort supports.
        cause: As in `evaluate`.
        multiplicity: How p-values are adjusted within a family; "max_t" also gives simultaneous 95
            % intervals.
        margin: The smallest difference of a concordance index that would matter: each fusion is
            also tested for not being worse than the reference by it, and for being equivalent to
            it. None = no such tests.
        test_train_ratio: Rows of a fold's test part over those of its train part: gives the
            Nadeau-Bengio p-value beside the others, which takes folds, not subjects, as the units
            and lets for training again on other data.

    Returns:
        The columns of `CONTRAST_SCHEMA`. `difference` is metric(fusion) minus metric(reference):
        above 0 is better for a concordance, below 0 for a Brier score. Null where the metric cannot
        be computed (`note` says why); such a test still counts in its family, except by "max_t".

    Raises:
        ConfigError: As `evaluate`, an unknown multiplicity, or a margin that is not > 0.
        MetricError: A unimodal model without a tuning concordance for a fold.
        PredictionsError: Models of one cohort that do not hold the same samples, folds and
            outcomes.
    """
    judging = Judging(
        censoring=censoring,
        train=train,
        tau=tau,
        cause=cause,
        multiplicity=multiplicity,
        margin=margin,
        test_train_ratio=test_train_ratio,
    )
    models = merged(candidates)
    asked = measures(metrics, horizons_days)
    tests = [
        _contrast(fusion, cohort, reference, measure, judging)
        for fusion in models
        if fusion.modality is None
        for cohort in fusion.predictions
        for reference in references(fusion, cohort, models)
        for measure in asked
    ]
    return pl.DataFrame(adjusted(tests, judging), schema=CONTRAST_SCHEMA).fill_nan(None)


def _contrast(
    fusion: Candidate, cohort: str, reference: Reference, measure: Measure, judging: Judging
) -> PairedTest:
    family = family_of(cohort, fusion, measure) if reference.declared else None
    names = {
        "cohort": cohort,
        "ct_encoder": fusion.ct_encoder,
        "ehr_encoder": fusion.ehr_encoder,
        "fusion": fusion.fusion,
        "reference": reference.label,
        "family": family,
    }
    return paired_test(
        names, fusion.predictions[cohort], reference.predictions, measure, family, judging
    )


def family_of(cohort: str, fusion: Candidate, measure: Measure) -> str:
    """Name the family of tests that a fusion's test belongs to."""
    return f"{cohort} | {fusion.ehr_encoder or 'no record encoder'} | {measure.metric}"


def compare_files(
    paths: Sequence[Path],
    reference: str | None = None,
    *,
    metrics: Sequence[str] = ("concordance_index",),
    horizons_days: Sequence[float] = (),
    censoring: CensoringSource = "cohort",
    train: SurvivalTarget | None = None,
    tau: float | None = None,
    cause: int | None = None,
    multiplicity: Multiplicity = "holm",
    margin: float | None = None,
    cluster: str | None = None,
    weights: str | None = None,
) -> FileComparison:
    """Compare predictions files, ours or another group's, on the samples that all of them hold.

    Args:
        paths: Two or more predictions tables (see `read_predictions`). A file's label is its stem,
            or its path where stems repeat.
        reference: Label or path of the file the others are compared with; None = the first.
        metrics: Names from `METRICS`.
        horizons_days: Horizons of the metrics that have one value per horizon.
        censoring: Whose censoring curve the weighted metrics use.
        train: Outcomes of train, for `censoring` "train" and "pooled".
        tau: Days up to which the truncated metrics run; None = all that is supported.
        cause: Code of the event of interest, which has to occur in every file; as in `evaluate`.
        multiplicity: How the p-values of each metric are adjusted; "max_t" also gives simultaneous
            95 % intervals.
        margin: The smallest difference that would matter, in the units of the metrics: tests of
            non-inferiority and equivalence.
        cluster: Column whose values name independent units, in one file at least; None =
            `subject_id`, or `cluster`.
        weights: Column of weights, in one file at least; a weight of 2 equals two copies of the
            subject.

    Raises:
        ConfigError: Fewer than two files, a file twice, an unknown reference, metric or
            multiplicity, a margin that is not > 0, or a cause below 1.
        PredictionsError: An invalid file, a cause that does not occur in one, no shared sample, or
            files that give a shared sample different outcomes or weights.
    """
    judging = Judging(
        censoring=censoring,
        train=train,
        tau=tau,
        cause=cause,
        multiplicity=multiplicity,
        margin=margin,
        margin_for_all=True,
    )
    labels = _labels(paths)
    chosen = _reference_label(labels, paths, reference)
    columns = dict(zip(labels, (column_names(path) for path in paths), strict=True))
    for name in (cluster, weights):
        if name is not None and not any(name in own for own in columns.values()):
            raise PredictionsError(
                f"no column {name!r} in any of the {len(paths)} files; expected it in one of them "
                "at least"
            )
    given = {
        label: read_judged(
            path,
            cluster=cluster if cluster in own else None,
            weights=weights if weights in own else None,
            cause=cause,
        )
        for (label, own), path in zip(columns.items(), paths, strict=True)
    }
    shared = _on_shared_samples(
        given, [label for label, own in columns.items() if cluster is None or cluster in own]
    )
    asked = measures(metrics, horizons_days)
    options: dict[str, Any] = {
        "horizons_days": horizons_days,
        "censoring": censoring,
        "train": train,
        "tau": tau,
        "cause": cause,
    }
    files = [
        evaluate(predictions, metrics=metrics, **options).select(
            pl.lit(label).alias("file"),
            pl.lit(given[label].table["sample_id"].n_unique(), pl.Int64).alias("n_in_file"),
            pl.all(),
        )
        for label, predictions in shared.items()
    ]
    tests = [
        paired_test(
            {"file": label, "reference": chosen},
            predictions,
            shared[chosen],
            measure,
            measure.metric,
            judging,
        )
        for label, predictions in shared.items()
        if label != chosen
        for measure in asked
    ]
    return FileComparison(
        files=pl.concat(files),
        differences=pl.DataFrame(adjusted(tests, judging), schema=FILE_DIFFERENCE_SCHEMA).fill_nan(
            None
        ),
        reference=chosen,
        n_shared=shared[chosen].table["sample_id"].n_unique(),
    )


def _labels(paths: Sequence[Path]) -> list[str]:
    if len(paths) < 2:
        raise ConfigError(f"a comparison needs two predictions files or more; given {len(paths)}")
    files = [path.resolve() for path in paths]
    if twice := [path for path, file in zip(paths, files, strict=True) if files.count(file) > 1]:
        raise ConfigError(
            f"{twice[0]} is given {len(twice)} times; give each predictions file once"
        )
    stems = [path.stem for path in paths]
    return [path.stem if stems.count(path.stem) == 1 else str(path) for path in paths]


def _reference_label(labels: Sequence[str], paths: Sequence[Path], reference: str | None) -> str:
    if reference is None:
        return labels[0]
    by_path = dict(zip((str(path) for path in paths), labels, strict=True))
    if reference not in labels and reference not in by_path:
        raise ConfigError(f"unknown reference {reference!r}.{did_you_mean(reference, labels)}")
    return by_path.get(reference, reference)


def _on_shared_samples(
    given: Mapping[str, Predictions], clustered: Sequence[str]
) -> dict[str, Predictions]:
    """Reduce all tables to the rows they share, in one order, with one set of subjects and of
    weights.

    Args:
        given: The tables by label.
        clustered: Labels of those that may tell who is one subject; the one that knows of most
            repeats does.
    """
    key = list(KEY)
    tables = [predictions.table for predictions in given.values()]
    shared = tables[0].select(key)
    for table in tables[1:]:
        shared = shared.join(table, on=key, how="semi", nulls_equal=True, maintain_order="left")
    if shared.is_empty():
        raise PredictionsError(
            f"no sample (of the same repeat and fold) is in all {len(given)} files"
        )
    first, *others = (
        Predictions(
            shared.join(one.table, on=key, how="left", nulls_equal=True, maintain_order="left"),
            one.survival_times_days,
        )
        for one in given.values()
    )
    aligned = [first]
    for label, one in zip(list(given)[1:], others, strict=True):
        try:
            aligned.append(align(one, first))
        except PredictionsError as error:
            raise PredictionsError(f"{label}: {error}") from None
    telling = (
        one.table["subject_id"]
        for label, one in zip(given, aligned, strict=True)
        if label in clustered
    )
    subjects = min(telling, key=pl.Series.n_unique)
    added = [subjects, *_weights(list(given), aligned)]
    return {
        label: Predictions(one.table.with_columns(added), one.survival_times_days)
        for label, one in zip(given, aligned, strict=True)
    }


def _weights(labels: Sequence[str], aligned: Sequence[Predictions]) -> list[pl.Series]:
    """Return the weights that the tables agree on, or nothing where none has any."""
    found = [
        (label, one.table[WEIGHT])
        for label, one in zip(labels, aligned, strict=True)
        if WEIGHT in one.table.columns
    ]
    for label, weights in found[1:]:
        if not weights.equals(found[0][1]):
            raise PredictionsError(
                f"{label}: its weights are not those of {found[0][0]}; expected one weight per "
                "sample in all files"
            )
    return [weights for _, weights in found[:1]]
