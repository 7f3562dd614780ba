"""A metric, or a paired difference of one, averaged over folds and repeats.

Samples are the units, never folds, repeats or seeds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Unpack

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from concordant.core.errors import MetricError, PredictionsError
from concordant.core.survival import COLUMNS, Predictions, event_code, shared_times
from concordant.evaluation.protocol import EvaluationProtocol, ProtocolOptions
from concordant.evaluation.support import incidence_remark, support_days
from concordant.metrics import METRICS, Estimate, subtract
from concordant.metrics.base import compute

KEY = ("sample_id", "repeat", "fold")
"""Columns that name a row of a predictions table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricEstimate(Estimate):
    """A metric, or a paired difference of one, averaged over folds and repeats.

    One influence per distinct sample.

    Attributes:
        sample_id: Sample that each influence belongs to.
        subject_id: Subject of each of these samples.
        by_fold: The value in each fold it could be computed in, repeat by repeat; one value without
            folds.
        tau_days: Time that the metric runs up to, where it does; else None.
    """

    sample_id: pl.Series
    subject_id: pl.Series
    by_fold: Float[np.ndarray, " fold"]
    tau_days: float | None = None


def averaged(
    predictions: Predictions,
    metric: str,
    *,
    horizon_days: float | None = None,
    reference: Predictions | None = None,
    protocol: EvaluationProtocol | None = None,
    **options: Unpack[ProtocolOptions],
) -> MetricEstimate:
    """Compute a metric within each fold and average it over folds, then over repeats.

    Without folds, on all rows at once.

    A fold in which it cannot be computed (no event, say) is left out of the average, and the note
    says so. The influence of a sample is the sum of its influences in all repeats, so that the
    standard error knows they are the same samples.

    Args:
        predictions: One cohort's predictions.
        metric: A name from `METRICS`.
        horizon_days: For a metric at a horizon.
        reference: Another model's predictions for the same samples: the result is the paired
            difference, `predictions` minus `reference`, over the folds in which both can be
            computed.
        protocol: How it is judged.
        options: Attributes of `EvaluationProtocol`, in place of those of `protocol`.

    Raises:
        ConfigError: As `EvaluationProtocol`.
        MetricError: It can be computed in no fold.
        PredictionsError: `reference` holds other samples, folds or outcomes.
    """
    judged = replace(protocol or EvaluationProtocol(), **options)
    other = None if reference is None else _comparable(metric, reference, predictions)
    runs_to, cut = _truncation(metric, predictions, judged)
    computed: list[_Fold] = []
    reasons: list[str] = []
    for repeat, rows in _folds(predictions.table):
        try:
            own = compute(metric, judged.of_rows(_take(predictions, rows), horizon_days))
            if other is not None:
                theirs = compute(metric, judged.of_rows(_take(other, rows), horizon_days))
                own = replace(subtract(own, theirs), note=own.note)
            computed.append(_Fold(repeat, rows, own))
        except MetricError as error:
            reasons.append(str(error))
    if not computed:
        raise MetricError(reasons[0] if reasons else "the predictions table holds no row")
    reads_survival = METRICS.get(metric).reads_survival
    assumed = incidence_remark(predictions, judged.cause) if reads_survival else ""
    note = _note([one.estimate.note for one in computed], reasons, cut, assumed)
    return _average(predictions.table, computed, note, runs_to, judged.cause)


def average_seeds(predictions: Sequence[Predictions]) -> Predictions:
    """Average risks and survival curves row by row; the result has neither seed nor trial.

    Rows are matched by sample, repeat and fold, in the first table's order.

    Args:
        predictions: One table per seed. Survival curves are kept only where every table has them
            for all rows at the same times.

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
    times = shared_times(aligned) if len(curves) == len(aligned) else None
    survival = [None] * len(risk) if times is None else np.mean(curves, axis=0).tolist()
    return Predictions(
        first.table.with_columns(
            risk,
            pl.Series("survival", survival, dtype=pl.List(pl.Float64)),
            pl.lit(None, COLUMNS["trial"]).alias("trial"),
            pl.lit(None, COLUMNS["seed"]).alias("seed"),
        ),
        times,
    )


def align(predictions: Predictions, to: Predictions) -> Predictions:
    """Return the rows of `predictions` in the order of `to`, matched by sample, repeat and fold.

    Raises:
        PredictionsError: The two do not hold the same samples, repeats and folds, or give them
            different outcomes.
    """
    key = list(KEY)
    rows = to.table.select(key).join(
        predictions.table.select(key).with_row_index("row"),
        on=key,
        how="left",
        nulls_equal=True,
        maintain_order="left",
    )
    absent = rows["row"].null_count()
    if absent or rows.height != predictions.table.height:
        raise PredictionsError(
            "a paired comparison needs the same samples, repeats and folds twice; given "
            f"{predictions.table.height} and {to.table.height} rows, {absent} of which have no "
            "partner"
        )
    aligned = _take(predictions, rows["row"].cast(pl.Int64).to_numpy())
    outcomes = ["time_days", "event"]
    unequal = aligned.table.select(outcomes) != to.table.select(outcomes)
    if different := int(unequal.select(pl.any_horizontal(pl.all()).sum()).item()):
        raise PredictionsError(
            f"{different} of {to.table.height} rows have another time_days or event in the other "
            "predictions table"
        )
    return aligned


def on_shared_samples(results: Sequence[MetricEstimate]) -> list[Estimate]:
    """Return results of one cohort with influences in one order (0 where a sample has no part)."""
    names = ("sample_id", "subject_id", "influence")
    frames = [pl.DataFrame({name: getattr(one, name) for name in names}) for one in results]
    people = pl.concat([frame.select(names[:2]) for frame in frames]).unique(
        "sample_id", maintain_order=True
    )
    cluster = np.unique(people["subject_id"].to_numpy(), return_inverse=True)[1]
    joined = (
        people.join(frame, on="sample_id", how="left", maintain_order="left") for frame in frames
    )
    return [
        Estimate(
            estimate=one.estimate,
            influence=own["influence"].fill_null(0.0).to_numpy(),
            n=one.n,
            n_events=one.n_events,
            cluster=cluster,
            censoring_influence=one.censoring_influence,
            note=one.note,
        )
        for one, own in zip(results, joined, strict=True)
    ]


class _Fold(NamedTuple):
    repeat: int | None
    rows: Int[np.ndarray, " row"]
    estimate: Estimate


def _truncation(
    metric: str, predictions: Predictions, protocol: EvaluationProtocol
) -> tuple[float | None, str]:
    """Return the time that a truncated metric runs up to, and what has to be said where that is
    less than was asked for.
    """
    if not METRICS.get(metric).runs_to_tau or predictions.table.is_empty():
        return None, ""
    supported, tau = support_days(predictions, protocol), protocol.tau
    if tau is None or tau <= supported:
        return supported if tau is None else tau, ""
    return supported, f"tau is {tau:g} days, but only {supported:g} are supported"


def _folds(table: pl.DataFrame) -> Iterator[tuple[int | None, Int[np.ndarray, " row"]]]:
    """Yield repeat and rows of every fold; a table without folds is one fold."""
    keyed = table.select("repeat", "fold").with_row_index("row")
    for repeat, _, rows in (
        keyed.group_by("repeat", "fold", maintain_order=True).agg("row").iter_rows()
    ):
        yield repeat, np.array(rows, dtype=np.int64)


def _take(predictions: Predictions, rows: Int[np.ndarray, " row"]) -> Predictions:
    return Predictions(predictions.table[rows], predictions.survival_times_days)


def _comparable(metric: str, reference: Predictions, predictions: Predictions) -> Predictions:
    """Align the reference, and refuse a metric over times that the two do not share."""
    aligned = align(reference, predictions)
    have_curves = all(one.survival_times_days is not None for one in (predictions, reference))
    if (
        METRICS.get(metric).over_curve_times
        and have_curves
        and shared_times([predictions, reference]) is None
    ):
        raise MetricError(
            "the two tables hold survival curves at different times; their integrals are not "
            "comparable"
        )
    return aligned


def _average(
    table: pl.DataFrame,
    folds: Sequence[_Fold],
    note: str,
    tau_days: float | None,
    cause: int | None,
) -> MetricEstimate:
    """Average over folds, then over repeats, and sum the influences of each sample."""
    per_repeat = Counter(one.repeat for one in folds)
    shares = [1 / (len(per_repeat) * per_repeat[one.repeat]) for one in folds]
    estimates = [one.estimate for one in folds]
    shared = list(zip(shares, estimates, strict=True))
    rows = np.concatenate([one.rows for one in folds])
    influence = np.concatenate([share * one.influence for share, one in shared])
    samples = (
        table[rows]
        .select("sample_id", "subject_id", "event", influence=pl.Series(influence))
        .group_by("sample_id", maintain_order=True)
        .agg(pl.col("subject_id", "event").first(), pl.col("influence").sum())
    )
    return MetricEstimate(
        estimate=float(sum(share * one.estimate for share, one in shared)),
        influence=samples["influence"].to_numpy(),
        n=samples.height,
        n_events=int((samples["event"].cast(pl.Int64) == event_code(cause)).sum()),
        cluster=np.unique(samples["subject_id"].to_numpy(), return_inverse=True)[1],
        censoring_influence=np.sum([share * one.censoring_influence for share, one in shared], 0),
        note=note,
        sample_id=samples["sample_id"],
        subject_id=samples["subject_id"],
        by_fold=np.array([one.estimate for one in estimates]),
        tau_days=tau_days,
    )


def _note(notes: Sequence[str], reasons: Sequence[str], *remarks: str) -> str:
    """Join the remarks, the note that all folds share, and why how many folds were left out."""
    agreed = notes[0] if len(set(notes)) == 1 else ""
    total = len(reasons) + len(notes)
    left_out = f"{len(reasons)} of {total} folds left out: {reasons[0]}" if reasons else ""
    return "; ".join(filter(None, (*remarks, agreed, left_out)))
