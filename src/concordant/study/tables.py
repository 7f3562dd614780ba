"""The tables of a run: results, subgroups, comparisons, utility, calibration and survival."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from concordant.analysis.calibration import calibration_groups, calibration_table
from concordant.analysis.compare import Candidate, average_seeds, contrasts
from concordant.analysis.decision import decision_curves
from concordant.analysis.gains import gains_over_both
from concordant.analysis.survival_curves import survival_curves
from concordant.config import Study
from concordant.core.files import atomic_path
from concordant.core.survival import Predictions, SurvivalTarget
from concordant.evaluation import CensoringSource, evaluate, subgroups, tau_days
from concordant.fusion import modalities_used
from concordant.study.cohorts import StudyData
from concordant.study.members import MemberResult
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
    """Write results, subgroups, contrasts, gains over both modalities, decision curves,
    calibration and survival curves.
    """
    judging = _Judging.of(study, data, results, foreign)
    rows = [*_member_rows(results), *_foreign_rows(foreign)]
    _write_results(study, rows, judging)
    candidates = [_candidate(one, results) for one in results]
    _write_comparisons(study, candidates, judging, _test_train_ratio(results))
    _write(study.run_folder.survival_curves, survival_curves(candidates))
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
