"""What a run's record says of its cohorts, strategies and unreadable inputs."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import polars as pl

from concordant.config import Study
from concordant.core.records import CohortRecord, QuarantineRecord, StrategyRecord
from concordant.data.cohort import Cohort
from concordant.metrics import median_follow_up
from concordant.study.cohorts import Stores, StudyData
from concordant.study.members import MemberPlan, MemberResult

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


def cohort_records(
    study: Study, data: StudyData, plans: Sequence[MemberPlan]
) -> tuple[CohortRecord, ...]:
    """Return who was studied, the development cohort first."""
    unit = next((unit for plan in plans for unit in plan.units), None)
    parts = () if unit is None else (unit.development, *unit.external)
    available = {part.label: part.available for part in parts}
    internal = _cohort(data.internal_label, "internal", data.development, data, available)
    external = (_cohort(one.label, "external", one, data, available) for one in data.external)
    return (internal, *external)


def _cohort(
    label: str,
    role: Literal["internal", "external"],
    cohort: Cohort,
    data: StudyData,
    available: Mapping[str, pl.Series],
) -> CohortRecord:
    known = available.get(label)
    table = cohort.table if known is None else cohort.table.with_columns(known)
    split = role == "internal" and data.assignment is None
    predicted = table.filter(pl.col("split") == "held_out") if split else table
    follow_up = median_follow_up(
        predicted["time_days"].to_numpy(), predicted["event"].cast(pl.Int64).to_numpy()
    )
    return CohortRecord(
        label=label,
        role=role,
        n=predicted.height,
        n_subjects=predicted["subject_id"].n_unique(),
        n_events=int((predicted["event"] == 1).sum()),
        n_competing=int((predicted["event"] > 1).sum()),
        n_train=int((table["split"] == "train").sum()) if split else None,
        n_tuning=int((table["split"] == "tuning").sum()) if split else None,
        sites=Counter(predicted["site"].drop_nulls().to_list()),
        available={} if known is None else Counter(predicted["available"].to_list()),
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


def strategy_records(
    plans: Sequence[MemberPlan],
    results: Sequence[MemberResult],
    failures: Mapping[str, str] | None = None,
) -> tuple[StrategyRecord, ...]:
    """Return one record per strategy; its seeds and the sets of options tried stand together.

    Args:
        plans: Every member of the grid.
        results: Those that were fitted.
        failures: Why a member failed, by the name of its folder; a strategy has failed where one
            of its members has.
    """
    by_strategy: dict[tuple[str | None, ...], list[MemberPlan]] = defaultdict(list)
    for plan in plans:
        member = plan.member
        key = (member.label, member.ct_label, member.ehr_label, member.head.label)
        by_strategy[key].append(plan)
    done = {one.plan.folder: one for one in results}
    return tuple(
        _strategy(own, [done[plan.folder] for plan in own if plan.folder in done], failures or {})
        for own in by_strategy.values()
    )


def _strategy(
    plans: Sequence[MemberPlan], results: Sequence[MemberResult], failures: Mapping[str, str]
) -> StrategyRecord:
    first = plans[0]
    seeds = tuple(dict.fromkeys(plan.member.seed for plan in plans))
    tuning = [value for one in results for value in one.tuning.values() if not np.isnan(value)]
    failed = [failures[name] for plan in plans if (name := plan.folder.path.name) in failures]
    inapplicable = [plan.reason for plan in plans if plan.reason is not None]
    return StrategyRecord(
        folder=first.folder.path.name,
        fusion=first.member.label,
        ct_encoder=first.member.ct_label,
        ehr_encoder=first.member.ehr_label,
        head=first.member.head.label,
        seeds=seeds,
        status="not_applicable" if inapplicable else "failed" if failed else "done",
        reason=next(iter([*inapplicable, *failed]), None),
        n_parameters=results[0].n_parameters if results else None,
        n_trials=len(plans) // len(seeds),
        tuning_concordance=float(np.mean(tuning)) if tuning else None,
        seconds=round(sum(one.seconds for one in results), 1) if results else None,
    )
