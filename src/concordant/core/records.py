"""What a run says about itself: one typed record that the study writes and the report reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from concordant.core.artifacts import RunFolder
from concordant.core.errors import ConcordantError, StoreError
from concordant.core.files import read_json, write_json


class Record(BaseModel):
    """Base of all records: frozen, and deaf to keys that a later version may add."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class TaskRecord(Record):
    """What is predicted.

    Attributes:
        event: Name of the event of interest.
        horizons_days: Times at which horizon-bound metrics are read.
    """

    event: str = "event"
    horizons_days: tuple[float, ...] = ()


class CohortRecord(Record):
    """Who was studied.

    Attributes:
        label: Label of the cohort in every table.
        role: `internal` (the development cohort) or `external`.
        n: Samples.
        n_subjects: Distinct subjects.
        n_events: Samples whose event of interest was observed.
        n_competing: Samples with another event.
        n_train: Samples that models learned from; None under cross-validation and outside.
        n_tuning: Samples that models were chosen on; None where `n_train` is.
        sites: Samples per site.
        available: Samples per pattern of modalities (`both`, `ct`, `ehr`, `none`).
        median_follow_up_days: By the reverse Kaplan-Meier estimate.
        columns: Further columns, each with a summary in words.
    """

    label: str
    role: Literal["internal", "external"] = "external"
    n: int
    n_subjects: int | None = None
    n_events: int | None = None
    n_competing: int | None = None
    n_train: int | None = None
    n_tuning: int | None = None
    sites: Mapping[str, int] = {}
    available: Mapping[str, int] = {}
    median_follow_up_days: float | None = None
    columns: Mapping[str, str] = {}


class StrategyRecord(Record):
    """One row of the comparison: encoders, fusion and head, fitted with one seed or several.

    Attributes:
        folder: Its folder inside the run folder.
        fusion: Label of the fusion strategy.
        ct_encoder: Label of the scan's encoder, None where the strategy does not use it.
        ehr_encoder: Label of the record's encoder, None where the strategy does not use it.
        head: Label of the head.
        seeds: Seeds of the fits.
        status: `done`, `not_applicable` (it cannot be fitted on these inputs) or `failed`.
        reason: Why it is not applicable or failed.
        n_parameters: Trainable parameters.
        n_trials: Sets of options that were tried.
        tuning_concordance: Concordance index on tuning, mean over folds and seeds: the only number
            that a strategy may be chosen by.
        seconds: Time of all its fits.
    """

    folder: str
    fusion: str
    ct_encoder: str | None = None
    ehr_encoder: str | None = None
    head: str | None = None
    seeds: tuple[int, ...] = ()
    status: Literal["done", "not_applicable", "failed"] = "done"
    reason: str | None = None
    n_parameters: int | None = None
    n_trials: int = 1
    tuning_concordance: float | None = None
    seconds: float | None = None


class ForeignRecord(Record):
    """Predictions that were made elsewhere.

    Attributes:
        name: Label in the tables.
        oracle: True where they come from the truth of a simulated cohort.
    """

    name: str
    oracle: bool = False


class QuarantineRecord(Record):
    """Inputs of one modality that could not be read.

    Attributes:
        cohort: Label of the cohort.
        modality: `ct` or `ehr`.
        encoder: Label of the encoder that was to read them.
        n: Inputs set aside.
        n_total: Inputs that were there.
        reasons: Inputs per reason.
    """

    cohort: str
    modality: str
    encoder: str
    n: int
    n_total: int | None = None
    reasons: Mapping[str, int] = {}


class RunRecord(Record):
    """What was run on what.

    Attributes:
        name: Name of the study.
        task: What is predicted.
        started: ISO time.
        finished: ISO time.
        versions: Version per package.
        git_revision: Revision of the code.
        fingerprint: Fingerprint of options and inputs.
        train: Options of the fit.
        cross_validation: Its options, or None where the cohort has splits.
        cause: Code of the event with which the others compete, None where they are censored.
        cohorts: Who was studied.
        strategies: What was fitted.
        foreign: Predictions made elsewhere.
        quarantine: Inputs that could not be read.
    """

    name: str
    task: TaskRecord = TaskRecord()
    started: str | None = None
    finished: str | None = None
    versions: Mapping[str, str | None] = {}
    git_revision: str | None = None
    fingerprint: str | None = None
    train: Mapping[str, Any] = {}
    cross_validation: Mapping[str, Any] | None = None
    cause: int | None = None
    cohorts: tuple[CohortRecord, ...] = ()
    strategies: tuple[StrategyRecord, ...] = ()
    foreign: tuple[ForeignRecord, ...] = ()
    quarantine: tuple[QuarantineRecord, ...] = ()


class CheckRecord(Record):
    """One check against leakage.

    Attributes:
        name: What was checked.
        passed: Whether it holds.
        detail: What was found, in counts.
    """

    name: str
    passed: bool
    detail: str = ""


class AuditRecord(Record):
    """All checks against leakage.

    Attributes:
        passed: Whether all of them hold.
        checks: The checks.
    """

    passed: bool
    checks: tuple[CheckRecord, ...] = ()


def write_record(run: RunFolder, record: RunRecord) -> None:
    """Write the record of a run, whole or not at all."""
    write_json(run.record, record.model_dump(mode="json"))


def read_run_record(run: RunFolder) -> RunRecord:
    """Read the record of a run.

    Raises:
        StoreError: The folder was written by an earlier version.
        ConcordantError: The record is missing or damaged.
    """
    refuse_earlier_layout(run)
    return _read(run.record, RunRecord)


def read_audit_record(run: RunFolder) -> AuditRecord:
    """Read the checks of a run.

    Raises:
        ConcordantError: They are missing or damaged.
    """
    return _read(run.audit, AuditRecord)


def refuse_earlier_layout(run: RunFolder) -> None:
    """Refuse a run folder that an earlier version has written.

    Raises:
        StoreError: It holds `study.json` and no `run.json`.
    """
    if (run.path / "study.json").is_file() and not run.record.is_file():
        raise StoreError(
            f"{run.path} was written by an earlier version (it holds study.json and no run.json); "
            "move it away and run `concordant run` on the study file again"
        )


def unusable(path: Path, what: str) -> ConcordantError:
    """Return the error for an artifact of a run that cannot be used, with the way out."""
    return ConcordantError(
        f"{path} {what}; the report needs it: run `concordant run` on the study file to write it "
        "again"
    )


_R = TypeVar("_R", bound=Record)


def _read(path: Path, kind: type[_R]) -> _R:
    try:
        return kind.model_validate(read_json(path))
    except FileNotFoundError:
        raise unusable(path, "is missing") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "its top"
        raise unusable(path, f"is damaged (at {place}: {first['msg']})") from error
    except (OSError, ValueError) as error:
        raise unusable(path, "is damaged (no JSON can be read from it)") from error
