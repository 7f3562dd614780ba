"""Does fusing help? Paired differences to the better unimodal model, and between files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Unpack

import polars as pl

from concordant.analysis.base import ANALYSES, Analysis, Judged
from concordant.analysis.candidates import NAMES, Candidate, Reference, merged, references
from concordant.analysis.families import (
    CONCORDANCE_ALONE,
    DIFFERENCE_SCHEMA,
    FURTHER_SCHEMA,
    PairedTest,
    adjusted,
    family_of,
    paired_test,
)
from concordant.core.errors import ConfigError, PredictionsError, did_you_mean
from concordant.core.survival import WEIGHT, Predictions
from concordant.evaluation import (
    KEY,
    EvaluationProtocol,
    Measure,
    ProtocolOptions,
    align,
    column_names,
    evaluate,
    read_judged,
)

CONTRAST_SCHEMA: dict[str, type[pl.DataType]] = {
    **NAMES,
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
    protocol: EvaluationProtocol | None = None,
    **options: Unpack[ProtocolOptions],
) -> pl.DataFrame:
    """Compare every fusion with the unimodal models of its encoders, paired, seeds averaged.

    The declared family, per cohort, record encoder and metric, is every fusion against the unimodal
    model that is better on tuning; p-values are adjusted within it. Under cross-validation the
    reference is chosen within each fold on its tuning part, on another cohort by the mean tuning
    concordance. Differences to a unimodal model that is not the reference are given without
    entering a family.

    Args:
        candidates: All models, every seed.
        protocol: How they are judged; None = by the concordance index.
        options: Attributes of `EvaluationProtocol`, in place of those of `protocol`.

    Returns:
        The columns of `CONTRAST_SCHEMA`. `difference` is metric(fusion) minus metric(reference):
        above 0 is better for a concordance, below 0 for a Brier score. Null where the metric cannot
        be computed (`note` says why); such a test still counts in its family, except by "max_t".

    Raises:
        ConfigError: As `EvaluationProtocol`.
        MetricError: A unimodal model without a tuning concordance for a fold.
        PredictionsError: Models of one cohort that do not hold the same samples, folds and
            outcomes.
    """
    judged, models = replace(protocol or CONCORDANCE_ALONE, **options), merged(candidates)
    tests = [
        _contrast(fusion, cohort, reference, measure, judged)
        for fusion in models
        if fusion.modality is None
        for cohort in fusion.predictions
        for reference in references(fusion, cohort, models)
        for measure in judged.measures
    ]
    return pl.DataFrame(adjusted(tests, judged), schema=CONTRAST_SCHEMA).fill_nan(None)


@ANALYSES.register("contrasts")
class Contrasts(Analysis):
    """Every fusion against the better unimodal model, and beside the other."""

    schema = CONTRAST_SCHEMA

    def compute(self, judged: Judged) -> pl.DataFrame:
        """Compute the differences."""
        return contrasts(judged.models(), judged.protocol)


def _contrast(
    fusion: Candidate,
    cohort: str,
    reference: Reference,
    measure: Measure,
    protocol: EvaluationProtocol,
) -> PairedTest:
    family = family_of(cohort, fusion, measure) if reference.declared else None
    names = {**fusion.names(cohort), "reference": reference.label, "family": family}
    return paired_test(
        names, fusion.predictions[cohort], reference.predictions, measure, family, protocol
    )


def compare_files(
    paths: Sequence[Path],
    reference: str | None = None,
    protocol: EvaluationProtocol | None = None,
    *,
    cluster: str | None = None,
    weights: str | None = None,
    **options: Unpack[ProtocolOptions],
) -> FileComparison:
    """Compare predictions files, ours or another group's, on the samples that all of them hold.

    Args:
        paths: Two or more predictions tables (see `read_judged`: seeds are averaged, and of several
            variants the one as predicted counts). A file's label is its stem, or its path where
            stems repeat.
        reference: Label or path of the file the others are compared with; None = the first.
        protocol: How they are judged; None = by the concordance index. The margin is in the units
            of the metrics, and the cause has to occur in every file.
        cluster: Column whose values name independent units, in one file at least; None =
            `subject_id`, or `cluster`.
        weights: Column of weights, in one file at least; a weight of 2 equals two copies of the
            subject.
        options: Attributes of `EvaluationProtocol`, in place of those of `protocol`.

    Raises:
        ConfigError: Fewer than two files, a file twice, an unknown reference, or as
            `EvaluationProtocol`.
        PredictionsError: An invalid file, a cause that does not occur in one, no shared sample, or
            files that give a shared sample different outcomes or weights.
    """
    judged = replace(replace(protocol or CONCORDANCE_ALONE, **options), margin_for_all=True)
    labels = _labels(paths)
    chosen = _reference_label(labels, paths, reference)
    given, clustered = _read(dict(zip(labels, paths, strict=True)), cluster, weights, judged.cause)
    shared = _on_shared_samples(given, clustered)
    files = [
        evaluate(predictions, judged).select(
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
            judged,
        )
        for label, predictions in shared.items()
        if label != chosen
        for measure in judged.measures
    ]
    differences = pl.DataFrame(adjusted(tests, judged), schema=FILE_DIFFERENCE_SCHEMA)
    return FileComparison(
        files=pl.concat(files),
        differences=differences.fill_nan(None),
        reference=chosen,
        n_shared=shared[chosen].table["sample_id"].n_unique(),
    )


def _read(
    paths: Mapping[str, Path], cluster: str | None, weights: str | None, cause: int | None
) -> tuple[dict[str, Predictions], list[str]]:
    """Read the files, and tell which of them may say who is one subject."""
    columns = {label: column_names(path) for label, path in paths.items()}
    for name in (cluster, weights):
        if name is not None and not any(name in own for own in columns.values()):
            raise PredictionsError(
                f"no column {name!r} in any of the {len(paths)} files; expected it in one of them "
                "at least"
            )
    given = {
        label: read_judged(
            path,
            cluster=cluster if cluster in columns[label] else None,
            weights=weights if weights in columns[label] else None,
            cause=cause,
        )
        for label, path in paths.items()
    }
    return given, [label for label, own in columns.items() if cluster is None or cluster in own]


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
    """Reduce tables to the rows they share, in one order, with one set of subjects and weights.

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
