"""The members of a study.

Which can be fitted, the units each consists of, and its predictions put together.
"""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml
from jaxtyping import Float, Int

from concordant.config import Member, Study
from concordant.core.artifacts import MemberFolder
from concordant.core.errors import CohortError, NotApplicableError, StoreError
from concordant.core.files import read_json, write_json, write_text
from concordant.core.modality import Modality
from concordant.core.survival import (
    AS_IS,
    Predictions,
    join_predictions,
    read_predictions,
)
from concordant.fusion import BOTH, FUSIONS, FusionDims, modalities_used
from concordant.study.cohorts import Stores, StudyData
from concordant.study.units import CohortPart, Unit, availability
from concordant.training.fit import refuse_single_key
from concordant.training.folds import draw_folds, group_numbers

SURVIVAL_QUANTILES = 100
TUNING_FOLDS = 5
"""Under cross-validation one fifth of a fold's training part serves as tuning."""


@dataclass(frozen=True, slots=True)
class MemberPlan:
    """A member and what it takes to have its predictions.

    Attributes:
        member: The member.
        folder: Its folder.
        units: Its fits; empty where it is not applicable.
        reason: Why it is not applicable, or None.
    """

    member: Member
    folder: MemberFolder
    units: tuple[Unit, ...]
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class MemberResult:
    """A fitted member.

    Attributes:
        plan: What was fitted.
        predictions: Per cohort label.
        tuning: Tuning concordance per (repeat, fold), key None without cross-validation; NaN where
            a tuning part has no pair.
        n_parameters: Trained parameters.
        seconds: Time of all fits.
    """

    plan: MemberPlan
    predictions: Mapping[str, Predictions]
    tuning: Mapping[tuple[int, int] | None, float]
    n_parameters: int
    seconds: float


def plan_members(study: Study, data: StudyData, stores: Stores) -> tuple[MemberPlan, ...]:
    """Lay out every member's units.

    One that attends over a single key is planned without any, with its reason.
    """
    times = survival_times(study, data)
    splits = _splits(study, data)
    plans = []
    for member in study.members():
        folder = study.run_folder.member(member.name)
        reason = _refusal(member, stores, data)
        units = () if reason else _units(study, data, stores, member, folder, splits, times)
        plans.append(MemberPlan(member, folder, units, reason))
    return tuple(plans)


def _refusal(member: Member, stores: Stores, data: StudyData) -> str | None:
    dims = FusionDims(member.train.width, 0.0, dict.fromkeys(BOTH, 1))
    fusion = FUSIONS.create(member.fusion.name, dims, **member.fusion.options)
    encoders = {modality: member.encoder(modality) for modality in BOTH}
    most = {
        modality: 0
        if encoder is None
        else stores[modality, encoder.label][data.development.label].max_tokens
        for modality, encoder in encoders.items()
    }
    try:
        refuse_single_key(fusion, most)
    except NotApplicableError as error:
        return str(error)
    return None


@dataclass(frozen=True, slots=True)
class _Split:
    rows: Mapping[str, Int[np.ndarray, " row"]]
    repeat: int | None = None
    fold: int | None = None


def _splits(study: Study, data: StudyData) -> list[_Split]:
    if data.assignment is None:
        roles = {"train": "train", "tuning": "tuning", "test": "held_out"}
        return [_Split({role: data.development.rows(split) for role, split in roles.items()})]
    pairs = data.assignment.select("repeat", "fold").unique().sort("repeat", "fold").rows()
    return [_fold_split(study, data, repeat, fold) for repeat, fold in pairs]


def _fold_split(study: Study, data: StudyData, repeat: int, fold: int) -> _Split:
    # the caller has just asked; for the type checker
    assert data.assignment is not None  # noqa: S101
    options = study.cross_validation
    group, seed = ("subject_id", 0) if options is None else (options.group, options.seed)
    table = data.development.table.with_row_index("row")
    here = data.assignment.filter(pl.col("repeat") == repeat)
    test = table.join(here.filter(pl.col("fold") == fold), on="sample_id", how="semi")[
        "row"
    ].to_numpy()
    rest = table.join(here.filter(pl.col("fold") != fold), on="sample_id", how="semi")
    inner_seed = int(np.random.SeedSequence([seed, repeat, fold]).generate_state(1)[0])
    inner = draw_folds(
        rest["event"].to_numpy(), group_numbers(rest, group), folds=TUNING_FOLDS, seed=inner_seed
    )
    rows = rest["row"].to_numpy()
    return _Split(
        {"train": rows[inner != 0], "tuning": rows[inner == 0], "test": test}, repeat, fold
    )


def _units(
    study: Study,
    data: StudyData,
    stores: Stores,
    member: Member,
    folder: MemberFolder,
    splits: Sequence[_Split],
    times: Float[np.ndarray, " time"],
) -> tuple[Unit, ...]:
    development = _part(study, data, stores, member, data.development.label, data.internal_label)
    external = tuple(
        _part(study, data, stores, member, cohort.label, cohort.label) for cohort in data.external
    )
    return tuple(
        Unit(
            _place(folder, split),
            member,
            development,
            external,
            split.rows,
            split.repeat,
            split.fold,
            times,
        )
        for split in splits
    )


def _place(folder: MemberFolder, split: _Split) -> Path:
    return (
        folder.path
        if split.fold is None
        else folder.path / "folds" / f"r{split.repeat}-f{split.fold}"
    )


def _part(
    study: Study, data: StudyData, stores: Stores, member: Member, cohort: str, label: str
) -> CohortPart:
    table = next(one.table for one in data.cohorts if one.label == cohort)
    used = {
        modality: encoder
        for modality in Modality
        if (encoder := member.encoder(modality)) is not None
    }
    # which modalities a sample has is asked of the study's encoders also where this member leaves
    # one unused
    asked = {
        modality: used.get(modality) or next(iter(study.encoder_choices(modality)), None)
        for modality in Modality
    }
    present = {
        modality: stores[modality, choice.label][cohort].present(tuple(table["sample_id"]))
        for modality, choice in asked.items()
        if choice is not None
    }
    folders = {
        modality: stores[modality, choice.label][cohort].folder for modality, choice in used.items()
    }
    keys = table.select("sample_id", "subject_id", "site", "time_days", "event")
    return CohortPart(label, keys, folders, availability(present, table.height))


def refuse_without_events(plans: Sequence[MemberPlan]) -> None:
    """Refuse, before the first fit, what no member could be fitted on or stopped by.

    Nobody with its modalities had the event.

    Raises:
        CohortError: The message names the member, the fold and the part.
    """
    for plan in plans:
        used = modalities_used(plan.member.fusion.name, plan.member.fusion.options)
        for unit in plan.units:
            known = unit.development.available.is_in(["both", *used]).to_numpy()
            observed = (unit.development.table["event"] == 1).to_numpy()
            for part in ("train", "tuning"):
                rows = unit.rows[part]
                if not (known & observed)[rows].any():
                    raise CohortError(
                        f"{unit.name}: {part} has no observed event (event = 1) among its "
                        f"{known[rows].sum()} samples with {' or '.join(used)}; a model cannot be "
                        "fitted. Check the events, and who has the modality in which split or fold"
                    )


def survival_times(study: Study, data: StudyData) -> Float[np.ndarray, " time"]:
    """Return 100 quantiles of the event times of train (under cross-validation, of all rows that
    take part), and the horizons.
    """
    folded = data.assignment
    table = data.development.table
    learned = (
        table.filter(pl.col("split") == "train")
        if folded is None
        else table.join(folded, on="sample_id", how="semi")
    )
    events = learned.filter(pl.col("event") == 1)["time_days"].to_numpy()
    quantiles = np.quantile(events, np.linspace(0, 1, SURVIVAL_QUANTILES), method="nearest")
    return np.unique(
        np.concatenate([quantiles, np.array(study.task.horizons_days, dtype=np.float64)])
    )


def collect(plan: MemberPlan, study: Study) -> MemberResult:
    """Read the units of a finished member, put its predictions together and write the member's
    own files.
    """
    accounts = [_read_account(unit.folder) for unit in plan.units]
    labels = [plan.units[0].development.label, *(part.label for part in plan.units[0].external)]
    predictions = {label: _joined(plan, accounts, label) for label in labels}
    if plan.units[0].fold is not None:
        for label, joined in predictions.items():
            joined.write(plan.folder.predictions(label))
    result = MemberResult(
        plan=plan,
        predictions=predictions,
        tuning={
            _fold_key(one): np.nan
            if one["tuning_concordance"] is None
            else one["tuning_concordance"]
            for one in accounts
        },
        n_parameters=int(accounts[0]["n_parameters"]),
        seconds=float(sum(one["seconds"] for one in accounts)),
    )
    _write_account(result, accounts, study)
    return result


def _read_account(folder: Path) -> dict[str, Any]:
    try:
        account: dict[str, Any] = read_json(folder / "unit.json")
    except (OSError, ValueError) as error:
        raise StoreError(
            f"{folder}: the fit is not there or damaged ({error}); run the study again"
        ) from None
    return account


def _fold_key(account: Mapping[str, Any]) -> tuple[int, int] | None:
    return None if account["fold"] is None else (account["repeat"], account["fold"])


def _joined(plan: MemberPlan, accounts: Sequence[Mapping[str, Any]], label: str) -> Predictions:
    """Return a member's predictions for a cohort, as its models predict."""
    tables = [
        read_predictions(MemberFolder(unit.folder).predictions(label)).of_variant(AS_IS)
        for unit in plan.units
    ]
    return joined_folds(plan, tables, label, [float(one["train_mean_risk"]) for one in accounts])


def joined_folds(
    plan: MemberPlan, tables: Sequence[Predictions], label: str, centres: Sequence[float]
) -> Predictions:
    """Put the predictions of a member's fits together.

    Its folds' test rows one after the other, or the mean of the fold models.
    """
    if len(tables) == 1:
        return tables[0]
    if label == plan.units[0].development.label:
        return join_predictions(tables)
    return _mean_of_folds(tables, centres)


def _mean_of_folds(tables: Sequence[Predictions], centres: Sequence[float]) -> Predictions:
    """Average an external cohort over fold models.

    Risks each centred on the mean of its train, and survival.
    """
    risk = np.mean([one.risk - centre for one, centre in zip(tables, centres, strict=True)], axis=0)
    curves = [one.survival for one in tables if one.survival is not None]
    survival = (
        np.mean(curves, axis=0).tolist() if len(curves) == len(tables) else [None] * len(risk)
    )
    table = tables[0].table.with_columns(
        pl.Series("risk", risk),
        pl.Series("survival", survival, dtype=pl.List(pl.Float64)),
        pl.lit(None, pl.Int16).alias("repeat"),
        pl.lit(None, pl.Int16).alias("fold"),
    )
    return Predictions(table, tables[0].survival_times_days)


def _write_account(
    result: MemberResult, accounts: Sequence[Mapping[str, Any]], study: Study
) -> None:
    member, folder = result.plan.member, result.plan.folder
    write_text(
        folder.config, yaml.safe_dump(member.resolved(), sort_keys=False, allow_unicode=True)
    )
    write_json(
        folder.run,
        {
            "given": study.given,
            "resolved": member.resolved(),
            "seed": member.seed,
            "n_parameters": result.n_parameters,
            "units": [
                {key: value for key, value in one.items() if key != "facts"} for one in accounts
            ],
            "seconds": round(result.seconds, 3),
            "versions": versions(),
            "git_revision": git_revision(study.folder),
        },
    )


def versions() -> dict[str, str]:
    """Return the versions of what numbers depend on."""
    packages = ("concordant", "torch", "numpy", "scipy", "polars", "numba")
    return {"python": platform.python_version()} | {
        package: version(package) for package in packages
    }


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
