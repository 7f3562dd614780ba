"""The three things one does with a study: check it, embed its data, run it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from concordant.config import Study
from concordant.core.artifacts import RunFolder
from concordant.core.errors import CohortError, NotApplicableError
from concordant.core.files import (
    file_digest,
    fingerprint,
    read_json,
    remove_abandoned,
    write_json,
)
from concordant.core.records import refuse_earlier_layout, write_record
from concordant.core.survival import Predictions
from concordant.data.audit import PRETRAINING, SHARED_SCANS, TRAINING_DATA, Audit, AuditCheck
from concordant.embeddings.extract import Progress
from concordant.engines import Engine, LocalEngine
from concordant.report.page import write_report
from concordant.study.collect import collect, refuse_if_all_failed
from concordant.study.data import StudyData, read_data
from concordant.study.drivers import driving
from concordant.study.fitting import Crew, discard_altered, failures, fit_all
from concordant.study.foreign import read_foreign
from concordant.study.pictures import refresh_pictures
from concordant.study.plan import Plan, refuse_without_events
from concordant.study.planning import make_plan
from concordant.study.records import run_record
from concordant.study.sources import (
    Sources,
    Stores,
    audit_data,
    check_inputs,
    counted_records,
    embed_all,
    records_of,
)
from concordant.study.tables import ForeignPredictions, judged_of, write_tables
from concordant.training.fit import torch_device

TABLES_VERSION = 2
"""Raised when the same predictions would give other tables or another report."""

WARNINGS_ONLY = (TRAINING_DATA, PRETRAINING, SHARED_SCANS)
"""Checks of the audit that are shown but do not stop a run: only the user can judge them."""


def check_study(study: Study) -> Audit:
    """Check a study's cohorts, folds, features and records for leakage; embeds and fits nothing.

    Raises:
        ConcordantError: Anything wrong with the files.
    """
    data, sources = read_data(study), Sources.of(study)
    found = audit_data(sources, data, counted_records(sources, data))
    if not _leaks(found):  # a leak comes first: it may be why a file does not fit
        check_inputs(sources, data)
        read_foreign(study.foreign, data)
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
        Sources.of(study),
        read_data(study),
        engine=engine or LocalEngine(),
        retry_quarantined=retry_quarantined,
        progress=progress,
    )


def run_study(
    study: Study,
    *,
    engine: Engine | None = None,
    join: bool = False,
    progress: Progress | None = None,
) -> RunFolder:
    """Run a study from its files to its report; what is done and has not changed is kept.

    A run may be killed anywhere and started again: shards of a store, fits and tables are written
    whole or not at all. Strategies that failed are listed in the record and the report.

    Args:
        study: The study.
        engine: Where shards of embeddings and fits are made; in this process unless given.
        join: Share the run with every other driver that was started so.
        progress: Told what is being done, how much of it is done, and how much there is.

    Raises:
        ConcordantError: Wrong input, a leak the audit found, no applicable strategy, none that
            could be fitted, or another driver that does not share the run.
    """
    run, started = study.run_folder, datetime.now(UTC)
    refuse_earlier_layout(run)
    for trial in study.trials():
        torch_device(trial.options.device)
    data, sources = read_data(study), Sources.of(study)
    _refuse_leaks(audit_data(sources, data, {}))
    check_inputs(sources, data)
    foreign = read_foreign(study.foreign, data)
    with driving(run.drivers, join=join) as lease:
        crew = Crew(engine or LocalEngine(), study.imports, lease if join else None)
        with _turn(crew, "embeddings"):
            stores = embed_all(
                sources, data, engine=crew.engine, retry_quarantined=False, progress=progress
            )
        audit = audit_data(sources, data, records_of(stores))
        _refuse_leaks(audit)
        inputs = _Inputs(data, stores, audit, foreign)
        plan = make_plan(study, inputs.data, inputs.stores)
        refuse_without_events(plan, inputs.data.development.target.observed)
        _refuse_nothing_to_fit(plan)
        fit_all(plan, inputs.data, crew, progress)
        if not join:
            remove_abandoned(run.path)
        with _turn(crew, "tables"):
            facts = _facts(study, inputs, plan)
            if not _is_current(run, facts):
                while discard_altered(plan):
                    fit_all(plan, inputs.data, crew, progress)
                _judge(study, inputs, plan, facts, started, progress)
    return run


@dataclass(frozen=True, slots=True)
class _Inputs:
    """All that is read before the first fit."""

    data: StudyData
    stores: Stores
    audit: Audit
    foreign: ForeignPredictions


def _turn(crew: Crew, work: str) -> AbstractContextManager[None]:
    """Let one of the drivers that share a run at a time do some work."""
    return nullcontext() if crew.lease is None else crew.lease.turn(work)


def _leaks(audit: Audit) -> list[AuditCheck]:
    return [check for check in audit.checks if not check.passed and check.name not in WARNINGS_ONLY]


def _refuse_leaks(audit: Audit) -> None:
    if leaks := _leaks(audit):
        listed = "; ".join(f"{check.name}: {check.detail}" for check in leaks)
        raise CohortError(
            f"the audit found a leak: {listed}. Mend the cohort tables; `concordant check` shows "
            "all checks"
        )


def _refuse_nothing_to_fit(plan: Plan) -> None:
    if not plan.fits:
        reason = plan.strategies[0].reason
        raise NotApplicableError(f"no strategy of the grid can be fitted: {reason}")


def _facts(study: Study, inputs: _Inputs, plan: Plan) -> dict[str, Any]:
    """Return what tables and report depend on."""
    return {
        "tables_version": TABLES_VERSION,
        "name": study.name,
        "task": study.task.model_dump(mode="json"),
        "evaluate": study.evaluate.model_dump(mode="json"),
        "report": study.report.model_dump(mode="json"),
        "cohorts": {cohort.label: file_digest(cohort.path) for cohort in inputs.data.cohorts},
        "audit": fingerprint(inputs.audit.to_json()),
        "fits": plan.fingerprint,
        "failed": failures(plan),
        "available": fingerprint(
            {
                one.strategy.name: [cohort.available for cohort in one.cohorts]
                for one in plan.strategies
            }
        ),
        "reasons": {one.strategy.name: one.reason for one in plan.strategies},
        "foreign": {
            name: {cohort: _predicted(one) for cohort, one in cohorts.items()}
            for name, cohorts in inputs.foreign.items()
        },
    }


def _predicted(predictions: Predictions) -> str:
    risk, survival, times = (
        predictions.risk,
        predictions.survival,
        predictions.survival_times_days,
    )
    curves = (
        {}
        if survival is None or times is None
        else {"times": times.tolist(), "survival": survival.tolist()}
    )
    return fingerprint({"risk": risk.tolist(), **curves})


def _is_current(run: RunFolder, facts: Any) -> bool:
    """Return whether tables and report are those of the facts, and as they were written."""
    try:
        told = read_json(run.digests)
        return bool(told["fingerprint"] == fingerprint(facts)) and all(
            file_digest(run.path / name) == digest for name, digest in told["files"].items()
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False


def _judge(
    study: Study,
    inputs: _Inputs,
    plan: Plan,
    facts: dict[str, Any],
    started: datetime,
    progress: Progress | None,
) -> None:
    """Collect, tabulate, report; the digests, which vouch for all of it, are written last."""
    run, say = plan.run, progress or (lambda stage, done, total: None)
    for vouching in (run.digests, run.report):  # stopped from here on, the run is not current
        vouching.unlink(missing_ok=True)
    say("tables", 0, 3)
    recalibrate = study.evaluate.recalibrate
    results = [
        collect(plan, place, inputs.data, recalibrate=recalibrate)
        for place, one in enumerate(plan.strategies)
        if one.reason is None
    ]
    refuse_if_all_failed(results)
    say("tables", 1, 3)
    judged = judged_of(study.evaluate, study.task, inputs.data, plan, results, inputs.foreign)
    write_tables(run, judged, results)
    write_json(run.audit, inputs.audit.to_json())
    say("tables", 2, 3)
    record = run_record(
        study,
        inputs.data,
        inputs.stores,
        plan,
        results,
        inputs.foreign,
        started=started.isoformat(timespec="seconds"),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        fingerprint=fingerprint(facts),
    )
    write_record(run, record)
    refresh_pictures(study, inputs.data)
    write_report(run)
    write_json(run.digests, {"fingerprint": fingerprint(facts), "files": _written(run)})
    say("tables", 3, 3)


def _written(run: RunFolder) -> dict[str, str]:
    """Return the digest of every file of a run but those of its fits, which have their own."""
    files = (path.relative_to(run.path) for path in sorted(run.path.rglob("*")) if path.is_file())
    return {
        path.as_posix(): file_digest(run.path / path)
        for path in files
        if not path.parts[0].startswith(".") and "fits" not in path.parts[:-1]
    }
