"""Which events each OMOP table gives, and the choices a user has."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Literal, get_args

from concordant.core.errors import ConfigError

Prefer = Literal["standard", "source"]
Unmapped = Literal["keep", "drop"]
DateOnly = Literal["end_of_day", "keep_midnight", "start_of_day"]


@dataclass(frozen=True, slots=True)
class OmopOptions:
    """The choices of a conversion.

    Attributes:
        prefer: Which concept gives the code. "standard": the standard concept, the source concept
            where the standard one is 0 or unknown; then sites that code differently meet in one
            vocabulary, the one CLMBR was trained on. "source": the other way round.
        unmapped: What becomes of a row without any concept. "keep": an event `UNMAPPED/<table>`
            without a value, for the patient was in contact then; "drop": left out. Counted either
            way.
        date_only: When an event happened of which only the day is known. "end_of_day": 23:59, so
            that no event looks earlier than it was known, and a timestamp of exactly midnight
            counts as a day; "keep_midnight": the same, but a timestamp of midnight stays;
            "start_of_day": 00:00, which lets a model see the diagnoses of the day it predicts on.
        until: The last day an event may lie on; None = today.
        subjects_per_shard: Number of subjects in one shard; a shard is sorted in memory.

    Raises:
        ConfigError: A word that is not known, or no subject in a shard.
    """

    prefer: Prefer = "standard"
    unmapped: Unmapped = "keep"
    date_only: DateOnly = "end_of_day"
    until: date | None = None
    subjects_per_shard: int = 5000

    def __post_init__(self) -> None:
        """Check the words, which may come from a command line."""
        for name, words in (("prefer", Prefer), ("unmapped", Unmapped), ("date_only", DateOnly)):
            given, known = getattr(self, name), get_args(words)
            if given not in known:
                raise ConfigError(f"{name} is {given!r}; expected one of {', '.join(known)}")
        if self.subjects_per_shard < 1:
            raise ConfigError(
                f"subjects_per_shard is {self.subjects_per_shard}; expected 1 or more"
            )


@dataclass(frozen=True, slots=True)
class When:
    """The columns that say when something happened.

    Attributes:
        moment: Column with a timestamp, used where it is stated.
        day: Column with a date.
        exact: True: what is stated stands, no rule for days applies.
    """

    moment: str
    day: str
    exact: bool = False


@dataclass(frozen=True, slots=True)
class EventKind:
    """One kind of event that a table's rows give.

    Attributes:
        table: The table.
        name: What the table of counts calls the kind.
        when: When it happens; None = a static fact without a time, or a birth, whose time the
            subject has.
        code: The code, where it is not a concept's.
        concept: Column of the standard concept.
        source: Column of the source concept.
        prefix: Stands before the concept's code.
        suffix: Stands after it.
        unmapped: Code of a row without any concept; None = such a row gives no event.
        not_before: The event ends what begins then; it is never put before its beginning.
        rank: Order among events of the same instant.
        has_value: Whether the table has values and units.
    """

    table: str
    name: str
    when: When | None = None
    code: str | None = None
    concept: str | None = None
    source: str | None = None
    prefix: str = ""
    suffix: str = ""
    unmapped: str | None = None
    not_before: When | None = None
    rank: int = 4
    has_value: bool = False


def _demographic(name: str) -> EventKind:
    return EventKind(
        "person",
        f"person: {name}",
        concept=f"{name}_concept_id",
        source=f"{name}_source_concept_id",
        rank=0,
    )


def _clinical(table: str, stem: str, when: str, *, has_value: bool = False) -> EventKind:
    return EventKind(
        table,
        table,
        When(f"{when}_datetime", f"{when}_date"),
        concept=f"{stem}_concept_id",
        source=f"{stem}_source_concept_id",
        unmapped=f"UNMAPPED/{table}",
        has_value=has_value,
    )


_VISIT_START, _VISIT_END = (
    When(f"visit_{side}_datetime", f"visit_{side}_date") for side in ("start", "end")
)
_DEATH = When("death_datetime", "death_date")
_PERIOD = "observation_period"

BIRTH = EventKind("person", "person: birth", code="MEDS_BIRTH", rank=1)
DEATH = EventKind("death", "death", _DEATH, code="MEDS_DEATH", rank=6)
CAUSE = EventKind(
    "death",
    "death: cause",
    _DEATH,
    concept="cause_concept_id",
    source="cause_source_concept_id",
    prefix="MEDS_DEATH//",
    rank=7,
)
KINDS = (
    BIRTH,
    _demographic("gender"),
    _demographic("race"),
    _demographic("ethnicity"),
    DEATH,
    CAUSE,
    EventKind(
        _PERIOD,
        f"{_PERIOD}: start",
        When(f"{_PERIOD}_start_datetime", f"{_PERIOD}_start_date", exact=True),
        code="OBSERVATION_PERIOD_START",
        rank=2,
    ),
    EventKind(
        _PERIOD,
        f"{_PERIOD}: end",
        When(f"{_PERIOD}_end_datetime", f"{_PERIOD}_end_date"),
        code="OBSERVATION_PERIOD_END",
        rank=8,
    ),
    EventKind(
        "visit_occurrence",
        "visit_occurrence: start",
        _VISIT_START,
        concept="visit_concept_id",
        source="visit_source_concept_id",
        unmapped="UNMAPPED/visit_occurrence",
        rank=3,
    ),
    EventKind(
        "visit_occurrence",
        "visit_occurrence: end",
        _VISIT_END,
        concept="visit_concept_id",
        source="visit_source_concept_id",
        suffix="/end",
        unmapped="UNMAPPED/visit_occurrence",
        not_before=_VISIT_START,
        rank=5,
    ),
    _clinical("condition_occurrence", "condition", "condition_start"),
    _clinical("drug_exposure", "drug", "drug_exposure_start"),
    _clinical("procedure_occurrence", "procedure", "procedure"),
    _clinical("measurement", "measurement", "measurement", has_value=True),
    _clinical("observation", "observation", "observation", has_value=True),
    _clinical("device_exposure", "device", "device_exposure_start"),
)
