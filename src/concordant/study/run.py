"""The three things one does with a study: check it, embed its data, run it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from concordant.config import Study
from concordant.core.artifacts import RunFolder
from concordant.core.errors import CohortError, ConcordantError, NotApplicableError
from concordant.core.files import file_digest, fingerprint, read_json, remove_abandoned, write_json
from concordant.core.survival import Predictions
from concordant.data.audit import PRETRAINING, SHARED_SCANS, TRAINING_DATA, Audit, AuditCheck
from concordant.embeddings.extract import Progress
from concordant.engines import Engine, LocalEngine, Outcome, run_tasks
from concordant.report.html import write_report
from concordant.study.cohorts import (
    Stores,
    StudyData,
    audit_data,
    check_inputs,
    counted_records,
    embed_all,
    read_data,
    records_of,
)
from concordant.study.foreign import read_foreign
from concordant.study.members import (
    MemberPlan,
    collect,
    git_revision,
    plan_members,
    refuse_without_events,
    versions,
)
from concordant.study.pictures import refresh_pictures
from concordant.study.tables import cohort_facts, member_facts, quarantine_facts, write_tables
from concordant.study.units import run_unit
from concordant.training.fit import torch_device

TABLES_VERSION = 1
"""Raised when the same predictions would give other tables or another report."""

WARNINGS_ONLY = (TRAINING_DATA, PRETRAINING, SHARED_SCANS)
"""Checks of the audit that are shown but do not stop a run: only the user can judge them."""


def check_study(study: Study) -> Audit:
    """Read a study's cohorts, folds, features and records and check them for leakage, without
    embedding or fitting anything.

    Raises:
        ConcordantError: Anything wrong with the files.
    """
    data = read_data(study)
    found = audit_data(study, data, counted_records(study, data))
    if not _leaks(found):  # a leak comes first: it may be why a file does not fit
        check_inputs(study, data)
        read_foreign(study, data)
    return found


def embed_study(
    study: Study,
    *,
    engine: Engine | None = None,
    retry_quarantined: bool = False,
    progress: Progress | None = None,
) -> Stores:
    """Fill every embedding store of a study, or open those that are there.

    Args:
        study: The study.
        engine: Where shards are made; in this process unless given.
        retry_quarantined: Try again what could not be read before.
        progress: Told what is being done, how much of it is done, and how much there is.
    """
    return embed_all(
        study,
        read_data(study),
        engine=engine or LocalEngine(),
        retry_quarantined=retry_quarantined,
        progress=progress,
    )


def run_study(
    study: Study,
    *,
    engine: Engine | None = None,
    progress: Progress | None = None,
) -> RunFolder:
    """Run a study from its files to its report.

    What is done already is kept as long as nothing it depends on has changed.

    A run may be killed anywhere and started again: shards of a store, fits and tables are written
    whole or not at all.

    Args:
        study: The study.
        engine: Where shards of embeddings and fits are made; in this process unless given.
        progress: Told what is being done, how much of it is done, and how much there is.

    Raises:
        ConcordantError: Wrong input, a leak the audit found, no applicable member, or a fit that
            failed (the others are kept).
    """
    started = datetime.now(UTC)
    for member in study.members():
        torch_device(member.train.device)
    data = read_data(study)
    _refuse_leaks(audit_data(study, data, {}))
    check_inputs(study, data)
    foreign = read_foreign(study, data)
    engine = engine or LocalEngine()
    stores = embed_all(study, data, engine=engine, retry_quarantined=False, progress=progress)
    audit = audit_data(study, data, records_of(stores))
    _refuse_leaks(audit)
    plans = plan_members(study, data, stores)
    refuse_without_events(plans)
    _fit_all(study, plans, engine, progress)
    remove_abandoned(study.run_folder.path)
    facts = _facts(study, data, audit, plans, foreign)
    if not _is_current(study.run_folder, facts):
        for vouching in (
            study.run_folder.study,
            study.run_folder.report,
        ):  # stopped from here on, the run is not current
            vouching.unlink(missing_ok=True)
        write_json(study.run_folder.audit, audit.to_json())
        _judge(study, data, stores, plans, foreign, facts, started, progress)
    return study.run_folder


def _leaks(audit: Audit) -> list[AuditCheck]:
    return [check for check in audit.checks if not check.passed and check.name not in WARNINGS_ONLY]


def _refuse_leaks(audit: Audit) -> None:
    if leaks := _leaks(audit):
        listed = "; ".join(f"{check.name}: {check.detail}" for check in leaks)
        raise CohortError(
            f"the audit found a leak: {listed}. Mend the cohort tables; `concordant check` shows "
            "all checks"
        )


def _fit_all(
    study: Study, plans: Sequence[MemberPlan], engine: Engine, progress: Progress | None
) -> None:
    units = [unit for plan in plans for unit in plan.units]
    if not units:
        raise NotApplicableError(f"no member of the grid can be fitted: {plans[0].reason}")
    waiting = [unit for unit in units if not unit.is_done]
    report = _counter(progress, len(units) - len(waiting), len(units))
    outcomes = run_tasks(
        run_unit,
        waiting,
        engine=engine,
        imports=study.imports,
        on_done=report,
    )
    failed = [
        (unit, outcome.failure)
        for unit, outcome in zip(waiting, outcomes, strict=True)
        if outcome.failure is not None
    ]
    if failed:
        unit, failure = failed[0]
        assert failure is not None  # noqa: S101 # the list holds nothing else; for the type checker
        raise ConcordantError(
            f"{len(failed)} of {len(units)} fits failed, the first in {unit.name}: {failure.kind}: "
            f"{failure.message}. The others are kept; mend the cause and run "
            f"again.{'' if failure.expected else chr(10) + failure.details}"
        )


def _counter(progress: Progress | None, done: int, total: int) -> Callable[[Outcome[None]], None]:
    finished = done

    def report(_: Outcome[None]) -> None:
        nonlocal finished
        finished += 1
        if progress is not None:
            progress("fits", finished, total)

    if progress is not None:
        progress("fits", done, total)
    return report


def _facts(
    study: Study, data: StudyData, audit: Audit, plans: Sequence[MemberPlan], foreign: Any
) -> dict[str, Any]:
    """Return what tables and report depend on."""
    return {
        "tables_version": TABLES_VERSION,
        "name": study.name,
        "task": study.task.model_dump(mode="json"),
        "evaluate": study.evaluate.model_dump(mode="json"),
        "report": study.report.model_dump(mode="json"),
        "cohorts": {cohort.label: file_digest(cohort.path) for cohort in data.cohorts},
        "audit": fingerprint(audit.to_json()),
        "units": [fingerprint(unit.facts) for plan in plans for unit in plan.units],
        "reasons": {plan.member.name: plan.reason for plan in plans},
        "foreign": {
            name: {cohort: _predicted(one) for cohort, one in cohorts.items()}
            for name, cohorts in foreign.items()
        },
    }


def _predicted(predictions: Predictions) -> str:
    risk, survival, times = predictions.risk, predictions.survival, predictions.survival_times_days
    curves = (
        {}
        if survival is None or times is None
        else {"times": times.tolist(), "survival": survival.tolist()}
    )
    return fingerprint({"risk": risk.tolist(), **curves})


def _is_current(run: RunFolder, facts: Any) -> bool:
    paths = (run.study, *run.tables, run.audit, run.report)
    return all(path.is_file() for path in paths) and read_json(run.study).get(
        "fingerprint"
    ) == fingerprint(facts)


def _judge(
    study: Study,
    data: StudyData,
    stores: Stores,
    plans: Sequence[MemberPlan],
    foreign: Any,
    facts: dict[str, Any],
    started: datetime,
    progress: Progress | None,
) -> None:
    """Collect, tabulate, report.

    `study.json`, which vouches for the tables, is written after them, and the report last.
    """
    say = progress or (lambda stage, done, total: None)
    say("tables", 0, 3)
    results = [collect(plan, study) for plan in plans if plan.units]
    say("tables", 1, 3)
    write_tables(study, data, results, foreign)
    say("tables", 2, 3)
    described = {
        "name": study.name,
        "task": study.task,
        "started": started.isoformat(timespec="seconds"),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "git_revision": git_revision(study.folder),
        "fingerprint": fingerprint(facts),
        "train": study.train,
        "cross_validation": study.cross_validation,
        "cause": study.evaluate.cause,
        "cohorts": cohort_facts(study, data, plans),
        "members": member_facts(plans, results),
        "foreign": [{"name": name, "oracle": name.startswith("oracle")} for name in foreign],
        "quarantine": quarantine_facts(stores),
    }
    write_json(study.run_folder.study, described)
    refresh_pictures(study, data)
    write_report(study.run_folder)
    say("tables", 3, 3)
