"""The fits of a strategy put together: the trial that tuning chose, predictions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import yaml
from jaxtyping import Float

from concordant.core.errors import ConcordantError
from concordant.core.files import write_text
from concordant.core.survival import AS_IS, COLUMNS, RECALIBRATED, Predictions, join_predictions
from concordant.metrics import Recalibration
from concordant.study.data import StudyData
from concordant.study.fits import PartPredictions, failure_of, read_account, read_fit
from concordant.study.plan import Fit, Fold, Plan, StrategyPlan
from concordant.study.recalibration import fitted_on
from concordant.study.workspace import part_of

TRIAL_SCHEMA: dict[str, Any] = {
    "ct_encoder": pl.String,
    "ehr_encoder": pl.String,
    "fusion": pl.String,
    "repeat": pl.Int16,
    "fold": pl.Int16,
    "trial": pl.Int16,
    "options": pl.String,
    "tuning_loss": pl.Float64,
    "tuning_concordance": pl.Float64,
    "n_seeds": pl.Int64,
    "chosen": pl.Boolean,
    "note": pl.String,
}
"""Columns of `trials.parquet`: a row per strategy, fold and trial; means over seeds."""

FoldKey = tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class StrategyResult:
    """What became of a strategy.

    Attributes:
        plan: What was to be fitted.
        predictions: Per variant and seed, the predictions per cohort label.
        tuning: Per seed the concordance on tuning per fold; NaN where it cannot be told.
        trials: Rows of `trials.parquet`.
        accounts: What each fit of a chosen trial came to.
        reason: Why it failed, or None.
    """

    plan: StrategyPlan
    predictions: Mapping[str, Mapping[int, Mapping[str, Predictions]]]
    tuning: Mapping[int, Mapping[FoldKey, float]]
    trials: tuple[Mapping[str, Any], ...]
    accounts: tuple[Mapping[str, Any], ...]
    reason: str | None = None


def collect(plan: Plan, strategy: int, data: StudyData, *, recalibrate: bool) -> StrategyResult:
    """Choose a trial per fold, put its predictions together and write them.

    Args:
        plan: The plan; its fits are done or have failed.
        strategy: Position of the strategy.
        data: The cohorts.
        recalibrate: Whether survival recalibrated on each fit's tuning part stands beside.
    """
    planned = plan.strategies[strategy]
    tried = [_Tried.of(plan, fit) for fit in plan.fits_of(strategy)]
    chosen, rows = _choose(plan, planned, tried)
    failed = next((one.reason for one in tried if one.reason), "no fit")
    if len(chosen) < len(plan.folds):
        return StrategyResult(planned, {}, {}, rows, (), failed)
    kept = {
        seed: [one for one in tried if one.fit.seed == seed and one.is_of(chosen)]
        for seed in plan.seeds
    }
    assembler = _Assembler(plan, planned, data)
    variants = [AS_IS, *([RECALIBRATED] if recalibrate else [])]
    read = {seed: [read_fit(one.fit.folder) for one in fits] for seed, fits in kept.items()}
    predictions = {
        variant: {
            seed: assembler.predictions(kept[seed], read[seed], variant) for seed in plan.seeds
        }
        for variant in variants
    }
    _write(planned, plan.labels, predictions)
    return StrategyResult(
        planned,
        predictions,
        {seed: {one.fold_key(plan): one.tuning for one in fits} for seed, fits in kept.items()},
        rows,
        tuple(one.account for fits in kept.values() for one in fits),
    )


@dataclass(frozen=True, slots=True)
class _Tried:
    """A fit that was tried."""

    fit: Fit
    account: Mapping[str, Any]
    reason: str | None

    @classmethod
    def of(cls, plan: Plan, fit: Fit) -> _Tried:
        reason = failure_of(fit.folder, fit.fingerprint)
        return cls(fit, {} if reason else read_account(fit.folder), reason)

    @property
    def tuning(self) -> float:
        """Concordance on tuning; NaN where it cannot be told."""
        known = self.account.get("tuning_concordance")
        return float("nan") if known is None else float(known)

    def is_of(self, chosen: Mapping[int, int]) -> bool:
        return chosen.get(self.fit.fold) == self.fit.trial

    def fold_key(self, plan: Plan) -> FoldKey:
        return plan.folds[self.fit.fold].key


def _choose(
    plan: Plan, planned: StrategyPlan, tried: Sequence[_Tried]
) -> tuple[dict[int, int], tuple[Mapping[str, Any], ...]]:
    """Return the trial chosen per fold, by the mean tuning loss over seeds, and what is told of it.

    A trial of which a seed has failed is not chosen.
    """
    grouped: dict[tuple[int, int], list[_Tried]] = {}
    for one in tried:
        grouped.setdefault((one.fit.fold, one.fit.trial), []).append(one)
    losses = {
        key: float(np.mean([one.account["tuning_loss"] for one in group]))
        for key, group in grouped.items()
        if not any(one.reason for one in group)
    }
    chosen: dict[int, int] = {}
    for (fold, trial), loss in losses.items():
        if fold not in chosen or loss < losses[fold, chosen[fold]]:
            chosen[fold] = trial
    rows = [
        {
            **_names(planned),
            "repeat": plan.folds[fold].repeat,
            "fold": plan.folds[fold].fold,
            "trial": trial,
            "options": planned.trials[trial].name,
            "tuning_loss": losses.get((fold, trial)),
            "tuning_concordance": _mean([one.tuning for one in group]),
            "n_seeds": len(group),
            "chosen": chosen.get(fold) == trial,
            "note": next((one.reason for one in group if one.reason), None),
        }
        for (fold, trial), group in grouped.items()
    ]
    return chosen, tuple(rows)


def _names(planned: StrategyPlan) -> dict[str, str | None]:
    strategy = planned.strategy
    return {
        "ct_encoder": strategy.ct_label,
        "ehr_encoder": strategy.ehr_label,
        "fusion": strategy.label,
    }


def _mean(values: Sequence[float]) -> float | None:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else None


@dataclass(frozen=True, slots=True)
class _Assembler:
    """Puts the rows of a strategy's predictions together."""

    plan: Plan
    planned: StrategyPlan
    data: StudyData

    def predictions(
        self,
        tried: Sequence[_Tried],
        read: Sequence[Mapping[str, PartPredictions]],
        variant: str,
    ) -> dict[str, Predictions]:
        """Return one seed's predictions per cohort.

        The test rows of its folds one after the other; of another cohort the mean of the fold
        models, risks each centred on the mean of its train.
        """
        folds = [self.plan.folds[one.fit.fold] for one in tried]
        changes = [
            self._change(fold, parts, variant) for fold, parts in zip(folds, read, strict=True)
        ]
        inside = [
            self._rows(0, fold.rows["test"], change(parts["test"]), one, fold, variant)
            for one, fold, parts, change in zip(tried, folds, read, changes, strict=True)
        ]
        found = {self.plan.labels[0]: Predictions(pl.concat(inside), self.plan.times)}
        for place, label in enumerate(self.plan.labels[1:], 1):
            outside = [
                change(parts[part_of(place)]) for parts, change in zip(read, changes, strict=True)
            ]
            centres = [float(one.account["train_mean_risk"]) for one in tried]
            found[label] = self._mean_of_folds(place, outside, centres, tried, variant)
        return found

    def _change(self, fold: Fold, parts: Mapping[str, PartPredictions], variant: str) -> _Change:
        if variant == AS_IS:
            return _Change(None, self.plan.times)
        target = self.data.development.target.take(fold.rows["tuning"])
        tuning = parts["tuning"]
        return _Change(fitted_on(target, tuning.survival, self.plan.times), self.plan.times)

    def _mean_of_folds(
        self,
        place: int,
        parts: Sequence[PartPredictions],
        centres: Sequence[float],
        tried: Sequence[_Tried],
        variant: str,
    ) -> Predictions:
        alone = len(parts) == 1
        shift = [0.0] if alone else centres
        mean = PartPredictions(
            np.mean([one.risk - centre for one, centre in zip(parts, shift, strict=True)], axis=0),
            np.mean([one.survival for one in parts], axis=0),
        )
        everyone = np.arange(self.data.cohorts[place].table.height)
        same = {one.fit.trial for one in tried}
        table = self._rows(place, everyone, mean, tried[0], Fold({}), variant)
        if len(same) > 1:  # the folds' models are of several trials
            table = table.with_columns(pl.lit(None, pl.Int16).alias("trial"))
        return Predictions(table, self.plan.times)

    def _rows(
        self,
        place: int,
        rows: Any,
        predicted: PartPredictions,
        one: _Tried,
        fold: Fold,
        variant: str,
    ) -> pl.DataFrame:
        cohort = self.data.cohorts[place].table
        available = pl.Series("available", self.planned.cohorts[place].available)
        outcomes = cohort.select("sample_id", "subject_id", "site", "time_days", "event")
        table: pl.DataFrame = outcomes[rows]
        return table.with_columns(
            pl.Series("risk", predicted.risk),
            pl.Series("survival", predicted.survival).arr.to_list(),
            available[rows],
            pl.lit(fold.repeat, pl.Int16).alias("repeat"),
            pl.lit(fold.fold, pl.Int16).alias("fold"),
            pl.lit(one.fit.trial, pl.Int16).alias("trial"),
            pl.lit(one.fit.seed, pl.Int64).alias("seed"),
            pl.lit(variant).alias("variant"),
        ).select([pl.col(name).cast(kind) for name, kind in COLUMNS.items()])


@dataclass(frozen=True, slots=True)
class _Change:
    """A variant of a fit's predictions: its survival recalibrated, or as it is."""

    recalibration: Recalibration | None
    times: Float[np.ndarray, " time"]

    def __call__(self, part: PartPredictions) -> PartPredictions:
        if self.recalibration is None:
            return part
        return PartPredictions(part.risk, self.recalibration.apply(part.survival, self.times))


def _write(
    planned: StrategyPlan,
    labels: Sequence[str],
    predictions: Mapping[str, Mapping[int, Mapping[str, Predictions]]],
) -> None:
    text = yaml.safe_dump(planned.strategy.resolved(), sort_keys=False, allow_unicode=True)
    write_text(planned.folder.config, text)
    for label in labels:
        together = join_predictions(list(_of_cohort(predictions, label)))
        together.write(planned.folder.predictions(label))


def _of_cohort(
    predictions: Mapping[str, Mapping[int, Mapping[str, Predictions]]], label: str
) -> Iterator[Predictions]:
    for by_seed in predictions.values():
        for by_cohort in by_seed.values():
            yield by_cohort[label]


def tuning_concordance(result: StrategyResult) -> float | None:
    """Return the mean concordance on tuning over folds and seeds; None where none is known."""
    return _mean([value for by_fold in result.tuning.values() for value in by_fold.values()])


def refuse_if_all_failed(results: Sequence[StrategyResult]) -> None:
    """Refuse to judge a study of which no strategy has predictions.

    Raises:
        ConcordantError: The message gives the first reason.
    """
    reasons = [one.reason for one in results if one.reason]
    if results and len(reasons) == len(results):
        raise ConcordantError(
            f"every strategy failed, the first because: {reasons[0]}. Mend the cause and run again"
        )
