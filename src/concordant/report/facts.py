"""What a run says about itself: `study.json` and `audit.json` as validated, tolerant models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class _Facts(BaseModel):
    """Base of all facts: frozen, and deaf to keys that a later version may add."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class TaskFacts(_Facts):
    """What is predicted.

    Attributes:
        event: Name of the event of interest.
        horizons_days: Times at which horizon-bound metrics are read.
    """

    event: str = "event"
    horizons_days: tuple[float, ...] = ()


class CohortFacts(_Facts):
    """Who was studied.

    Attributes:
        label: Label of the cohort in every table.
        role: `internal` (the development cohort) or `external`.
        n: Samples.
        n_subjects: Distinct subjects.
        n_events: Samples whose event of interest was observed.
        n_competing: Samples with another event.
        n_train: Samples that models learned from.
        n_tuning: Samples that models were chosen on.
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


class MemberFacts(_Facts):
    """One member of the grid.

    Attributes:
        folder: Its folder inside the run folder.
        fusion: Label of the fusion strategy.
        ct_encoder: Label of the scan's encoder, None where the member does not use it.
        ehr_encoder: Label of the record's encoder, None where the member does not use it.
        head: Label of the head.
        seed: Seed of the fit.
        status: `done` or `not_applicable`.
        reason: Why it is not applicable.
        n_parameters: Trainable parameters.
        tuning_concordance: Concordance index on tuning, the only number by which a member may be
            chosen.
        seconds: Time of the fit.
    """

    folder: str
    fusion: str
    ct_encoder: str | None = None
    ehr_encoder: str | None = None
    head: str | None = None
    seed: int | None = None
    status: str = "done"
    reason: str | None = None
    n_parameters: int | None = None
    tuning_concordance: float | None = None
    seconds: float | None = None


class ForeignFacts(_Facts):
    """Predictions that were made elsewhere.

    Attributes:
        name: Label in the tables.
        oracle: True where they come from the truth of a simulated cohort.
    """

    name: str
    oracle: bool = False


class QuarantineFacts(_Facts):
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


class StudyFacts(_Facts):
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
        members: What was fitted.
        foreign: Predictions made elsewhere.
        quarantine: Inputs that could not be read.
    """

    name: str
    task: TaskFacts = TaskFacts()
    started: str | None = None
    finished: str | None = None
    versions: Mapping[str, str | None] = {}
    git_revision: str | None = None
    fingerprint: str | None = None
    train: Mapping[str, Any] = {}
    cross_validation: Mapping[str, Any] | None = None
    cause: int | None = None
    cohorts: tuple[CohortFacts, ...] = ()
    members: tuple[MemberFacts, ...] = ()
    foreign: tuple[ForeignFacts, ...] = ()
    quarantine: tuple[QuarantineFacts, ...] = ()


class CheckFacts(_Facts):
    """One check against leakage.

    Attributes:
        name: What was checked.
        passed: Whether it holds.
        detail: What was found, in counts.
    """

    name: str
    passed: bool
    detail: str = ""


class AuditFacts(_Facts):
    """All checks against leakage.

    Attributes:
        passed: Whether all of them hold.
        checks: The checks.
    """

    passed: bool
    checks: tuple[CheckFacts, ...] = ()
