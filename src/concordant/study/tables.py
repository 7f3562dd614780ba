"""The tables of a run: results, subgroups, comparisons, utility and calibration, and what
`study.json` says of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from concordant.analysis.calibration import calibration_groups, calibration_table
from concordant.analysis.compare import Candidate, average_seeds, contrasts
from concordant.analysis.decision import decision_curves
from concordant.analysis.gains import gains_over_both
from concordant.config import Study
from concordant.core.files import atomic_path
from concordant.core.survival import Predictions, SurvivalTarget
from concordant.data.cohort import Cohort
from concordant.evaluation import CensoringSource, evaluate, subgroups, tau_days
from concordant.fusion import modalities_used
from concordant.metrics import median_follow_up
from concordant.study.cohorts import Stores, StudyData
from concordant.study.members import MemberPlan, MemberResult
from concordant.study.recalibration import recalibrate, remove_recalibrated


@dataclass(frozen=True, slots=True)
class _Row:
    """A model's predictions for one cohort, and the columns that name it."""

    names: Mapping[str, Any]
    predictions: Predictions


def write_tables(
    study: Study,
    data: StudyData,
    results: Sequence[MemberResult],
    foreign: Mapping[str, Mapping[str, Predictions]],
) -> None:
    """Write results, subgroups, contrasts, gains over both modalities, decision curves and
    calibration.
    """
    judging = _Judging.of(study, data, results, foreign)
    rows = [*_member_rows(results), *_foreign_rows(foreign)]
    _write_results(study, rows, judging)
    candidates = [_candidate(one, results) for one in results]
    _write_comparisons(study, candidates, judging, _test_train_ratio(results))
    _write_probabilities(study, results, [*candidates, *_foreign_candidates(foreign)], judging)


@dataclass(frozen=True, slots=True)
class _Judging:
    """How all tables of a run are computed.

    Attributes:
        horizons_days: Horizons of the study.
        censoring: Whose censoring curve is used.
        train: Outcomes of train.
        tau: Days up to which truncated metrics run, None for each cohort's own support.
        cause: Code of the event with which the others compete, None where they are censored.
    """

    horizons_days: tuple[float, ...]
    censoring: CensoringSource
    train: SurvivalTarget
    tau: float | None
    cause: int | None

    @classmethod
    def of(
        cls,
        study: Study,
        data: StudyData,
        results: Sequence[MemberResult],
        foreign: Mapping[str, Mapping[str, Predictions]],
    ) -> _Judging:
        train, censoring = _train_target(data), study.evaluate.censoring
        cohorts = {
            label: one
            for of_model in (*foreign.values(), *(one.predictions for one in results))
            for label, one in of_model.items()
        }
        tau = tau_days(study.evaluate.tau, cohorts.values(), censoring=censoring, train=train)
        return cls(study.task.horizons_days, censoring, train, tau, study.evaluate.cause)

    @property
    def options(self) -> dict[str, Any]:
        """The arguments of `evaluate`, `subgroups`, `contrasts` and `gains_over_both`."""
        return {**self.at_horizons, "tau": self.tau}

    @property
    def at_horizons(self) -> dict[str, Any]:
        """The arguments of `calibration_table`, which runs to no tau."""
        return {
            "horizons_days": self.horizons_days,
            "censoring": self.censoring,
            "train": self.train,
            "cause": self.cause,
        }


def _write_results(study: Study, rows: Sequence[_Row], judging: _Judging) -> None:
    run, metrics = study.run_folder, study.evaluate.metrics
    whole = pl.concat(
        [
            _named(row, evaluate(row.predictions, metrics=metrics, **judging.options))
            for row in rows
        ],
        how="vertical_relaxed",
    )
    _write(run.results, whole.with_columns(_between_seeds()))
    levels = [
        _named(row, subgroups(row.predictions, column, metrics=metrics, **judging.options))
        for row in rows
        for column in _subgroup_columns(row.predictions)
    ]
    none = _named(
        rows[0], subgroups(rows[0].predictions, "available", metrics=metrics, **judging.options)
    ).clear()
    _write(run.subgroups, pl.concat([none, *levels], how="vertical_relaxed"))


def _between_seeds() -> pl.Expr:
    """The spread of a model's values over training seeds, beside the value of their average.

    It is no part of its standard error.
    """
    key = ["cohort", "ct_encoder", "ehr_encoder", "fusion", "metric", "horizon_days"]
    spread = pl.col("value").filter(pl.col("seed").is_not_null()).std().over(key)
    return pl.when(pl.col("seed").is_null()).then(spread).alias("between_seeds")


def _write_comparisons(
    study: Study, candidates: Sequence[Candidate], judging: _Judging, test_train_ratio: float | None
) -> None:
    run, chosen = study.run_folder, study.evaluate
    table = contrasts(
        candidates,
        metrics=chosen.metrics,
        multiplicity=chosen.multiplicity,
        margin=chosen.margin,
        test_train_ratio=test_train_ratio,
        **judging.options,
    )
    _write(run.contrasts, table)
    tested = candidates if chosen.gain_over_both else []
    _write(
        run.gains_over_both,
        gains_over_both(
            tested, metrics=chosen.metrics, multiplicity=chosen.multiplicity, **judging.options
        ),
    )


def _test_train_ratio(results: Sequence[MemberResult]) -> float | None:
    """Return how large a test part is beside the part that was learned from, over all folds.

    None without folds.
    """
    units = [unit for one in results[:1] for unit in one.plan.units if unit.fold is not None]
    return (
        sum(len(unit.rows["test"]) for unit in units)
        / sum(len(unit.rows["train"]) for unit in units)
        if units
        else None
    )


def _write_probabilities(
    study: Study,
    results: Sequence[MemberResult],
    candidates: Sequence[Candidate],
    judging: _Judging,
) -> None:
    """Write what is told of predicted probabilities.

    What acting on them is worth, whether they are right, and once recalibrated.
    """
    run = study.run_folder
    asked: dict[str, Any] = {"horizons_days": judging.horizons_days, "cause": judging.cause}
    _write(run.decision_curves, decision_curves(candidates, **asked))
    versions = [(False, candidates)]
    if study.evaluate.recalibrate:
        versions.append((True, [_candidate(one, results) for one in recalibrate(results)]))
    else:
        remove_recalibrated(results)
    groups = [
        calibration_groups(models, recalibrated=changed, **asked) for changed, models in versions
    ]
    _write(run.calibration_groups, pl.concat(groups))
    metrics = [
        calibration_table(models, recalibrated=changed, **judging.at_horizons)
        for changed, models in versions
    ]
    _write(run.calibration, pl.concat(metrics))


def _write(path: Path, table: pl.DataFrame) -> None:
    with atomic_path(path) as temporary:
        table.write_parquet(temporary)


def _train_target(data: StudyData) -> SurvivalTarget:
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


def _member_rows(results: Sequence[MemberResult]) -> Iterator[_Row]:
    """Yield every member and cohort and, where a model has several seeds, the mean over seeds
    (seed null).
    """
    groups: dict[tuple[Any, ...], list[MemberResult]] = {}
    for one in results:
        member = one.plan.member
        groups.setdefault((member.label, member.ct_label, member.ehr_label), []).append(one)
    for (label, ct, ehr), seeds in groups.items():
        names = {"ct_encoder": ct, "ehr_encoder": ehr, "fusion": label}
        for cohort in seeds[0].predictions:
            for one in seeds:
                yield _Row(
                    {"cohort": cohort, **names, "seed": one.plan.member.seed},
                    one.predictions[cohort],
                )
            if len(seeds) > 1:
                yield _Row(
                    {"cohort": cohort, **names, "seed": None},
                    average_seeds([one.predictions[cohort] for one in seeds]),
                )


def _foreign_rows(foreign: Mapping[str, Mapping[str, Predictions]]) -> Iterator[_Row]:
    for name, cohorts in foreign.items():
        for cohort, predictions in cohorts.items():
            yield _Row(
                {
                    "cohort": cohort,
                    "ct_encoder": None,
                    "ehr_encoder": None,
                    "fusion": name,
                    "seed": None,
                },
                predictions,
            )


def _foreign_candidates(foreign: Mapping[str, Mapping[str, Predictions]]) -> Iterator[Candidate]:
    """Yield the models of others on the cohorts for which they give survival."""
    for name, cohorts in foreign.items():
        curves = {
            cohort: predictions
            for cohort, predictions in cohorts.items()
            if predictions.survival is not None
        }
        yield Candidate(name, None, None, None, 0, curves, {})


def _named(row: _Row, table: pl.DataFrame) -> pl.DataFrame:
    sites = row.predictions.table["site"].unique()
    kinds = {
        "cohort": pl.String,
        "site": pl.String,
        "ct_encoder": pl.String,
        "ehr_encoder": pl.String,
        "fusion": pl.String,
        "seed": pl.Int64,
    }
    values = {**row.names, "site": sites[0] if len(sites) == 1 else None}
    return table.select(
        [pl.lit(values[name], kind).alias(name) for name, kind in kinds.items()] + [pl.all()]
    )


def _subgroup_columns(predictions: Predictions) -> list[str]:
    columns = ["available"] if predictions.table["available"].null_count() == 0 else []
    return columns + (["site"] if predictions.table["site"].drop_nulls().n_unique() > 1 else [])


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
