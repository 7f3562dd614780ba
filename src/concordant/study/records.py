"""What a run's record says of its cohorts, strategies and unreadable inputs."""

from __future__ import annotations

import platform
import subprocess
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import polars as pl

from concordant.config import Study
from concordant.core.records import (
    CohortRecord,
    ForeignRecord,
    QuarantineRecord,
    RunRecord,
    StrategyRecord,
    TaskRecord,
)
from concordant.data.cohort import Cohort
from concordant.metrics import median_follow_up
from concordant.study.collect import StrategyResult, tuning_concordance
from concordant.study.data import StudyData
from concordant.study.plan import Plan, StrategyPlan
from concordant.study.sources import Stores

_KNOWN = {
    "sample_id",
    "subject_id",
    "prediction_time",
    "time_days",
    "event",
    "split",
    "site",
    "ct_path",
    "available",
}
_MOST_LEVELS = 8


def run_record(
    study: Study,
    data: StudyData,
    stores: Stores,
    plan: Plan,
    results: Sequence[StrategyResult],
    foreign: Iterable[str],
    **told: str,
) -> RunRecord:
    """Return what a run says about itself.

    Args:
        study: The study.
        data: Its cohorts.
        stores: Their embeddings.
        plan: What was to be fitted.
        results: What became of it.
        foreign: Names of the models of others.
        told: `started`, `finished` and `fingerprint`.
    """
    folded = study.cross_validation
    return RunRecord(
        name=study.name,
        task=TaskRecord(event=study.task.event, horizons_days=study.task.horizons_days),
        versions=versions(),
        git_revision=git_revision(study.folder),
        given=study.given,
        resolved=study.resolved(),
        train=study.train.model_dump(mode="json"),
        cross_validation=None if folded is None else folded.model_dump(mode="json"),
        cause=study.evaluate.cause,
        cohorts=cohort_records(data, plan),
        strategies=strategy_records(plan, results),
        foreign=tuple(
            ForeignRecord(name=name, oracle=name.startswith("oracle")) for name in foreign
        ),
        quarantine=quarantine_records(stores),
        **told,
    )


def cohort_records(data: StudyData, plan: Plan) -> tuple[CohortRecord, ...]:
    """Return who was studied, the development cohort first."""
    available = [pl.Series("available", one.available) for one in plan.strategies[0].cohorts]
    return tuple(
        _cohort(label, cohort, known, split=place == 0 and data.assignment is None, place=place)
        for place, (label, cohort, known) in enumerate(
            zip(data.labels, data.cohorts, available, strict=True)
        )
    )


def _cohort(
    label: str, cohort: Cohort, available: pl.Series, *, split: bool, place: int
) -> CohortRecord:
    table = cohort.table.with_columns(available)
    predicted = table.filter(pl.col("split") == "held_out") if split else table
    follow_up = median_follow_up(
        predicted["time_days"].to_numpy(), predicted["event"].cast(pl.Int64).to_numpy()
    )
    return CohortRecord(
        label=label,
        role="external" if place else "internal",
        n=predicted.height,
        n_subjects=predicted["subject_id"].n_unique(),
        n_events=int((predicted["event"] == 1).sum()),
        n_competing=int((predicted["event"] > 1).sum()),
        n_train=int((table["split"] == "train").sum()) if split else None,
        n_tuning=int((table["split"] == "tuning").sum()) if split else None,
        sites=Counter(predicted["site"].drop_nulls().to_list()),
        available=Counter(predicted["available"].to_list()),
        median_follow_up_days=float(follow_up) if np.isfinite(follow_up) else None,
        columns={
            name: text
            for name in predicted.columns
            if name not in _KNOWN and (text := _summary(predicted[name]))
        },
    )


def _summary(column: pl.Series) -> str | None:
    """Describe a further column in words, never listing values that may identify someone."""
    known = column.drop_nulls()
    if column.dtype.is_numeric() and known.n_unique() > 2:
        low, middle, high = (known.quantile(share) for share in (0.25, 0.5, 0.75))
        return f"median {middle:.3g} (quartiles {low:.3g} to {high:.3g})"
    counts = (
        known.cast(pl.String)
        .alias("level")
        .value_counts(name="count")
        .sort("count", "level", descending=[True, False])
    )
    if known.is_empty() or counts.height > _MOST_LEVELS:
        return None
    return ", ".join(f"{level}: {count}" for level, count in counts.rows())


def quarantine_records(stores: Stores) -> tuple[QuarantineRecord, ...]:
    """Return what is known of inputs that could not be read: counts per reason."""
    return tuple(
        QuarantineRecord(
            cohort=cohort,
            modality=modality,
            encoder=label,
            n=reasons.total(),
            n_total=store.manifest["n_inputs"],
            reasons=reasons,
        )
        for (modality, label), by_cohort in stores.items()
        for cohort, store in by_cohort.items()
        if (reasons := Counter(store.quarantine["reason"].to_list()))
    )


def strategy_records(plan: Plan, results: Sequence[StrategyResult]) -> tuple[StrategyRecord, ...]:
    """Return what became of each strategy, those that are not applicable too."""
    by_name = {one.plan.strategy.name: one for one in results}
    return tuple(
        _strategy(plan, planned, by_name.get(planned.strategy.name)) for planned in plan.strategies
    )


def _strategy(plan: Plan, planned: StrategyPlan, result: StrategyResult | None) -> StrategyRecord:
    strategy = planned.strategy
    failed = None if result is None else result.reason
    accounts = () if result is None else result.accounts
    return StrategyRecord(
        folder=planned.folder.path.name,
        fusion=strategy.label,
        ct_encoder=strategy.ct_label,
        ehr_encoder=strategy.ehr_label,
        head=strategy.head.label,
        seeds=plan.seeds,
        status="not_applicable" if planned.reason else "failed" if failed else "done",
        reason=planned.reason or failed,
        n_parameters=accounts[0]["n_parameters"] if accounts else None,
        n_trials=len(planned.trials),
        tuning_concordance=None if result is None else tuning_concordance(result),
        seconds=round(sum(one["seconds"] for one in accounts), 1) if accounts else None,
    )


def versions() -> dict[str, str]:
    """Return the versions of what numbers depend on."""
    packages = ("concordant", "torch", "numpy", "scipy", "polars", "numba")
    return {"python": platform.python_version()} | {one: version(one) for one in packages}


def git_revision(folder: Path) -> str | None:
    """Return the revision of the git checkout a study lies in, or None."""
    try:
        found = subprocess.run(  # noqa: S603 # fixed arguments, no shell
            ["git", "-C", str(folder), "rev-parse", "HEAD"],  # noqa: S607 # the user's own git
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None
