"""The tables of a run: one per registered analysis, and that of the trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl

from concordant.analysis import ANALYSES, Judged
from concordant.analysis.candidates import Candidate
from concordant.config import Evaluate, Task
from concordant.core.artifacts import RunFolder
from concordant.core.files import atomic_path
from concordant.core.survival import AS_IS, Predictions
from concordant.evaluation import tau_days
from concordant.study.collect import TRIAL_SCHEMA, StrategyResult
from concordant.study.data import StudyData
from concordant.study.plan import Plan

ForeignPredictions = Mapping[str, Mapping[str, Predictions]]
"""Predictions of others, per name and cohort label."""


def write_tables(run: RunFolder, judged: Judged, results: Sequence[StrategyResult]) -> None:
    """Write the table of every registered analysis, and that of the trials."""
    rows = [row for one in results for row in one.trials]
    _write(pl.DataFrame(rows, TRIAL_SCHEMA), run.trials)
    for name in ANALYSES:
        _write(ANALYSES.create(name).compute(judged), run.table(name))


def judged_of(
    evaluate: Evaluate,
    task: Task,
    data: StudyData,
    plan: Plan,
    results: Sequence[StrategyResult],
    foreign: ForeignPredictions,
) -> Judged:
    """Return what a study judges, and how: every seed of its strategies, and others' models."""
    protocol = evaluate.protocol(
        task.horizons_days, data.train_target(), test_train_ratio=_test_train_ratio(plan)
    )
    others = [Candidate(name, None, None, None, None, one, {}) for name, one in foreign.items()]
    variants = dict.fromkeys(variant for one in results for variant in one.predictions)
    by_variant = {
        variant: [*_candidates(results, variant), *(others if variant == AS_IS else [])]
        for variant in variants
    }
    cohorts = [one for model in by_variant[AS_IS] for one in model.predictions.values()]
    return Judged(by_variant, replace(protocol, tau=tau_days(evaluate.tau, cohorts, protocol)))


def _candidates(results: Sequence[StrategyResult], variant: str) -> list[Candidate]:
    unimodal = any(one.plan.strategy.fusion.name == "unimodal" for one in results)
    return [
        Candidate(
            fusion=(strategy := one.plan.strategy).label,
            ct_encoder=strategy.ct_label,
            ehr_encoder=strategy.ehr_label,
            modality=str(strategy.modalities[0]) if len(strategy.modalities) == 1 else None,
            seed=seed,
            predictions=predictions,
            tuning=one.tuning[seed],
            is_reference=strategy.fusion.name == "unimodal" or not unimodal,
        )
        for one in results
        for seed, predictions in one.predictions.get(variant, {}).items()
    ]


def _test_train_ratio(plan: Plan) -> float | None:
    """Return how large a test part is beside the part that was learned from, over all folds.

    None without folds.
    """
    folds = [fold for fold in plan.folds if fold.key is not None]
    sizes = {part: sum(len(fold.rows[part]) for fold in folds) for part in ("test", "train")}
    return sizes["test"] / sizes["train"] if folds else None


def _write(table: pl.DataFrame, path: Path) -> None:
    with atomic_path(path) as temporary:
        table.write_parquet(temporary)
