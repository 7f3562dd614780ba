"""The tables of a run: one per registered analysis; and what `study.json` says of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from concordant.analysis import ANALYSES, Judged
from concordant.analysis.candidates import Candidate
from concordant.config import Study
from concordant.core.artifacts import MemberFolder, RunFolder
from concordant.core.files import atomic_path
from concordant.core.survival import (
    AS_IS,
    RECALIBRATED,
    Outcomes,
    Predictions,
    join_predictions,
    read_predictions,
)
from concordant.data.cohort import Cohort
from concordant.evaluation import tau_days
from concordant.fusion import modalities_used
from concordant.metrics import median_follow_up
from concordant.study.cohorts import Stores, StudyData
from concordant.study.members import MemberPlan, MemberResult, joined_folds
from concordant.study.recalibration import recalibrate
from concordant.study.units import tuning_predictions


def write_tables(run: RunFolder, judged: Judged) -> None:
    """Write the table of every registered analysis."""
    for name in ANALYSES:
        table = ANALYSES.create(name).compute(judged)
        with atomic_path(run.table(name)) as temporary:
            table.write_parquet(temporary)


def judged_of(
    study: Study,
    data: StudyData,
    results: Sequence[MemberResult],
    foreign: Mapping[str, Mapping[str, Predictions]],
) -> Judged:
    """Return what a study judges: its members, recalibrated too where it asks for it, others."""
    train, evaluate = _train_target(data), study.evaluate
    protocol = evaluate.protocol(
        study.task.horizons_days, train, test_train_ratio=_test_train_ratio(results)
    )
    own = [_candidate(one, results) for one in results]
    others = [Candidate(name, None, None, None, None, one, {}) for name, one in foreign.items()]
    cohorts = [one for model in (*own, *others) for one in model.predictions.values()]
    variants = {AS_IS: [*own, *others]}
    if evaluate.recalibrate:
        variants[RECALIBRATED] = [_candidate(_recalibrated(one), results) for one in results]
    for position, result in enumerate(results):
        _write_predictions(result.plan, [one[position] for one in variants.values()])
    tau = tau_days(evaluate.tau, cohorts, protocol)
    return Judged(variants, replace(protocol, tau=tau))


def _write_predictions(plan: MemberPlan, variants: Sequence[Candidate]) -> None:
    """Write all variants of a member's predictions, one file per cohort."""
    for label in variants[0].predictions:
        joined = join_predictions([one.predictions[label] for one in variants])
        joined.write(plan.folder.predictions(label))


def _recalibrated(result: MemberResult) -> MemberResult:
    tuning = [tuning_predictions(unit) for unit in result.plan.units]
    changed = {}
    for label in result.predictions:
        own = [
            read_predictions(MemberFolder(unit.folder).predictions(label)).of_variant(AS_IS)
            for unit in result.plan.units
        ]
        fits = [recalibrate(one, made) for one, made in zip(tuning, own, strict=True)]
        joined = joined_folds(result.plan, fits, label, [0.0] * len(fits))
        risk = result.predictions[label].table["risk"]  # centred fold by fold; it stays as it is
        changed[label] = replace(joined, table=joined.table.with_columns(risk))
    return replace(result, predictions=changed)


def _test_train_ratio(results: Sequence[MemberResult]) -> float | None:
    """Return how large a test part is beside the part that was learned from, over all folds.

    None without folds.
    """
    units = [unit for one in results[:1] for unit in one.plan.units if unit.fold is not None]
    sizes = {part: sum(len(unit.rows[part]) for unit in units) for part in ("test", "train")}
    return sizes["test"] / sizes["train"] if units else None


def _train_target(data: StudyData) -> Outcomes:
    """Return the outcomes a censoring curve "train" comes from.

    Under cross-validation those of all rows that take part.
    """
    if data.assignment is None:
        return data.development.target.take(data.development.rows("train"))
    rows = (
        data.development.table.with_row_index("row")
        .join(data.assignment, on="sample_id", how="semi")["row"]
        .to_numpy()
    )
    return data.development.target.take(rows)


def _candidate(result: MemberResult, results: Sequence[MemberResult]) -> Candidate:
    member = result.plan.member
    used = modalities_used(member.fusion.name, member.fusion.options)
    return Candidate(
        fusion=member.label,
        ct_encoder=member.ct_label,
        ehr_encoder=member.ehr_label,
        modality=used[0].value if len(used) == 1 else None,
        seed=member.seed,
        predictions=result.predictions,
        tuning=result.tuning,
        is_reference=member.fusion.name == "unimodal"
        or all(one.plan.member.fusion.name != "unimodal" for one in results),
    )


def cohort_facts(
    study: Study, data: StudyData, plans: Sequence[MemberPlan]
) -> list[dict[str, Any]]:
    """Return what `study.json` says of each cohort."""
    unit = next((unit for plan in plans for unit in plan.units), None)
    parts = (
        {}
        if unit is None
        else {part.label: part.available for part in (unit.development, *unit.external)}
    )
    labels = [
        (data.internal_label, "internal", data.development),
        *((one.label, "external", one) for one in data.external),
    ]
    return [_facts(label, role, cohort, data, parts.get(label)) for label, role, cohort in labels]


def _facts(
    label: str, role: str, cohort: Cohort, data: StudyData, available: pl.Series | None
) -> dict[str, Any]:
    table = cohort.table if available is None else cohort.table.with_columns(available)
    split = table["split"]
    predicted = (
        table.filter(pl.col("split") == "held_out")
        if role == "internal" and data.assignment is None
        else table
    )
    return {
        "label": label,
        "role": role,
        "n": predicted.height,
        "n_subjects": predicted["subject_id"].n_unique(),
        "n_events": int((predicted["event"] == 1).sum()),
        "n_competing": int((predicted["event"] > 1).sum()),
        "n_train": int((split == "train").sum())
        if role == "internal" and data.assignment is None
        else None,
        "n_tuning": int((split == "tuning").sum())
        if role == "internal" and data.assignment is None
        else None,
        "sites": Counter(predicted["site"].drop_nulls().to_list()),
        "available": {} if available is None else Counter(predicted["available"].to_list()),
        "median_follow_up_days": _number(
            median_follow_up(
                predicted["time_days"].to_numpy(), predicted["event"].cast(pl.Int64).to_numpy()
            )
        ),
        "columns": {
            name: text
            for name in predicted.columns
            if name not in _KNOWN and (text := _summary(predicted[name]))
        },
    }


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


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


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


def quarantine_facts(stores: Stores) -> list[dict[str, Any]]:
    """Return what `study.json` says of inputs that could not be read: counts per reason."""
    facts = []
    for (modality, label), by_cohort in stores.items():
        for cohort, store in by_cohort.items():
            reasons = Counter(store.quarantine["reason"].to_list())
            if reasons:
                total = store.manifest["n_inputs"]
                facts.append(
                    {
                        "cohort": cohort,
                        "modality": modality,
                        "encoder": label,
                        "n": reasons.total(),
                        "n_total": total,
                        "reasons": reasons,
                    }
                )
    return facts


def member_facts(
    plans: Sequence[MemberPlan], results: Sequence[MemberResult]
) -> list[dict[str, Any]]:
    """Return what `study.json` says of each member."""
    done = {one.plan.folder: one for one in results}
    return [_member(plan, done.get(plan.folder)) for plan in plans]


def _member(plan: MemberPlan, result: MemberResult | None) -> dict[str, Any]:
    member = plan.member
    known = (
        [] if result is None else [value for value in result.tuning.values() if not np.isnan(value)]
    )
    return {
        "folder": plan.folder.path.name,
        "fusion": member.label,
        "ct_encoder": member.ct_label,
        "ehr_encoder": member.ehr_label,
        "head": member.head.label,
        "seed": member.seed,
        "status": "not_applicable" if plan.reason else "done",
        "reason": plan.reason,
        "n_parameters": None if result is None else result.n_parameters,
        "tuning_concordance": float(np.mean(known)) if known else None,
        "seconds": None if result is None else round(result.seconds, 1),
    }
