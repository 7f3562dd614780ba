"""A task: who is predicted from when, what counts as the outcome, and when follow-up ends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    model_validator,
)

from concordant.core.errors import did_you_mean
from concordant.core.events import BIRTH_CODES, DEATH_CODE, OLD_DEATH_CODE
from concordant.core.messages import complaint

DEATH_CODES = (DEATH_CODE, f"{DEATH_CODE}//*", OLD_DEATH_CODE)
"""Codes of death in MEDS 0.3 and later (with or without its cause) and before."""
ENTRY = ("entry", "entry_days", "entry_time", "delayed_entry", "left_truncation")
"""Keys and columns by which a user would ask for left truncation."""


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _pattern(code: str) -> str:
    if not code or "*" in code[:-1]:
        raise complaint(
            f"given {code!r}, expected a code, or the beginning of codes with * at its end"
        )
    return code


def _ordered(ends: tuple[float | None, float | None]) -> tuple[float | None, float | None]:
    low, high = ends
    if low is not None and high is not None and low > high:
        raise complaint(
            f"given {list(ends)}, expected [from, to] with from <= to, null where there is no bound"
        )
    return ends


Text = Annotated[str, Field(min_length=1)]
Pattern = Annotated[str, AfterValidator(_pattern)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Range = Annotated[tuple[Finite | None, Finite | None], AfterValidator(_ordered)]
Patterns = Annotated[tuple[Pattern, ...], Field(min_length=1)]
Names = Annotated[tuple[Text, ...], Field(min_length=1)]
Days = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]


class CodeSet(_Frozen):
    """Codes that mean one thing.

    Attributes:
        codes: Codes as they stand in the records; `*` at the end: all that begin so.
        descendants: Whether what an ontology puts below them counts too; true is an error where
            there is no ontology, `where_known` is not.
        without: Codes that do not count all the same, written like `codes`; under `descendants`,
            nor does what lies below them.
    """

    codes: Patterns
    descendants: StrictBool | Literal["where_known"] = False
    without: tuple[Pattern, ...] = ()


class Visits(_Frozen):
    """How visits of one kind show in the records.

    Attributes:
        start: Codes of the event that begins one.
        end: Codes of the event that ends one; a code that matches both ends it, and so does a
            starting code with `/end` after it.
    """

    start: Patterns
    end: tuple[Pattern, ...] = ()


INPATIENT = Visits(
    start=(
        *("Visit/IP", "Visit/ERIP", "VISIT//9201*", "VISIT//262*"),
        *("HOSPITAL_ADMISSION//*", "HOSPITAL_ADMISSION"),
    ),
    end=(
        *("Visit/IP/end", "Visit/ERIP/end", "VISIT//9201//end*", "VISIT//9201/end*"),
        *("VISIT//262//end*", "VISIT//262/end*", "VISIT_END//9201*", "VISIT_END//262*"),
        *("HOSPITAL_DISCHARGE//*", "HOSPITAL_DISCHARGE"),
    ),
)
"""Inpatient visits in OMOP (9201 inpatient, 262 emergency and inpatient) and in MIMIC."""
_INPATIENT = "inpatient"


class Index(_Frozen):
    """Where prediction starts: a table of samples, or events.

    Attributes:
        table: Parquet with `subject_id`, `prediction_time` and columns to keep (`ct_path`, `site`,
            ...).
        codes: Names of code sets; the time of such an event is the prediction time.
        occurrence: Which event of a subject: its first, its last, or all of them (one sample each).
        within: Kinds of visits of which the event must be part, any of them.
        offset_days: Prediction starts so long after the event: at the first day of a stay, say.
    """

    table: Path | None = None
    codes: Names | None = None
    occurrence: Literal["first", "last", "all"] = "first"
    within: Names | None = None
    offset_days: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)] = 0.0

    @model_validator(mode="after")
    def _one_of_two(self) -> Index:
        if (self.table is None) == (self.codes is None):
            raise complaint("expected either table: index.parquet or codes: [a code set, ...]")
        beside = sorted(self.model_fields_set - {"table", "codes"})
        if self.table is not None and beside:
            given = ", ".join(beside)
            raise complaint(
                f"{given} stand(s) beside table, whose rows are all samples; leave it out"
            )
        return self

    def __str__(self) -> str:
        """Return the index in words."""
        if self.codes is None:
            return "the rows of a table"
        event = f"{self.occurrence} event of {' or '.join(self.codes)}{_within(self.within)}"
        return f"{event}, {self.offset_days:g} days later" if self.offset_days else event


class Criterion(_Frozen):
    """One thing by which samples are included or excluded; window ends are inclusive.

    Attributes:
        age_years: Least and greatest age at the index; a year has 365.25 days.
        history_days: Least number of days from the first event other than birth to the index.
        codes: Names of code sets of which an event must lie in the window.
        window_days: The window, in days after the prediction time (before it: negative).
        within: Kinds of visits of which the event must be part, any of them.
    """

    age_years: Range | None = None
    history_days: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    codes: Names | None = None
    window_days: Range = (None, 0.0)
    within: Names | None = None

    @model_validator(mode="after")
    def _one_thing(self) -> Criterion:
        if sum(value is not None for value in (self.age_years, self.history_days, self.codes)) != 1:
            raise complaint(
                "expected one of age_years, history_days, codes; give each its own item of the list"
            )
        if self.codes is None and self.model_fields_set & {"window_days", "within"}:
            raise complaint("window_days and within belong to codes, which this item does not give")
        return self

    @property
    def looks_ahead(self) -> bool:
        """Whether the window reaches beyond the prediction time."""
        return self.codes is not None and (self.window_days[1] is None or self.window_days[1] > 0)

    def __str__(self) -> str:
        """Return the criterion in words."""
        if self.age_years is not None:
            return f"age {_span(self.age_years)} years"
        if self.history_days is not None:
            return f"at least {self.history_days:g} days of history"
        events = f"{' or '.join(self.codes or ())}{_within(self.within)}"
        return f"{events}, days {_span(self.window_days)} from the index"


class Causes(_Frozen):
    """Causes of death.

    Attributes:
        causes: Names of code sets.
    """

    causes: Names


class Endpoint(_Frozen):
    """What can happen: an event of a code set, a death, or any of several such things.

    Attributes:
        codes: Names of code sets.
        within: Kinds of visits of which an event of `codes` must be part, any of them.
        death: Whether death counts, or by which causes it does.
        any_of: Further things of this form, each with its own `codes`, `within` and `death`.
    """

    codes: Names | None = None
    within: Names | None = None
    death: StrictBool | Causes = False
    any_of: tuple[Endpoint, ...] = ()

    @model_validator(mode="after")
    def _something(self) -> Endpoint:
        if self.codes is None and self.death is False and not self.any_of:
            raise complaint(
                "expected codes: [a code set, ...], death: true, death: {causes: [a code set, "
                "...]} or any_of: [...]"
            )
        if self.codes is None and self.within is not None:
            raise complaint("within belongs to codes, which are not given")
        return self

    def parts(self, place: str) -> Iterator[tuple[str, Endpoint]]:
        """Walk through this endpoint and those in `any_of`, each with the keys that lead to it."""
        yield place, self
        for number, part in enumerate(self.any_of):
            yield from part.parts(f"{place}.any_of.{number}")


def _instant(given: Any) -> Any:
    words = ("last_event", "observation_end")
    if isinstance(given, str) and given not in words:
        try:
            given = datetime.fromisoformat(given)
        except ValueError:
            raise complaint(
                f"given {given!r}, expected {', '.join(words)} or a date such as "
                f"2020-12-31.{did_you_mean(given, words)}"
            ) from None
    if isinstance(given, datetime) and given.tzinfo is not None:
        raise complaint(f"given {given}, expected a date without time zone, as MEDS times are")
    return given


class Censoring(_Frozen):
    """Where follow-up ends for those to whom nothing happens.

    Attributes:
        at: The subject's last event, the end of the observation period that holds the index, or an
            instant (a date: its midnight).
        horizon_days: No follow-up beyond this; None = without bound.
        periods: Parquet with `subject_id`, `start` and `end`, in place of the events
            OBSERVATION_PERIOD_START and OBSERVATION_PERIOD_END.
        require_event: Whether samples without any event after the index are left out; where `at` is
            `last_event` they always are.
    """

    at: Annotated[
        Literal["last_event", "observation_end"] | datetime, BeforeValidator(_instant)
    ] = "last_event"
    horizon_days: Days | None = None
    periods: Path | None = None
    require_event: StrictBool = True

    @model_validator(mode="after")
    def _consistent(self) -> Censoring:
        if self.periods is not None and self.at != "observation_end":
            raise complaint("periods belongs to at: observation_end")
        if not self.require_event and self.at == "last_event":
            raise complaint(
                "require_event: false needs at: observation_end or a date; after the last event "
                "nothing is known"
            )
        return self


class Task(_Frozen):
    """A time-to-event task.

    Attributes:
        name: What it is called.
        code_sets: Codes by name.
        visits: Kinds of visits by name, beyond `inpatient` or in its place. A code set may stand
            for one too: its codes begin a visit.
        index: Where prediction starts.
        include: Who takes part: all of these must hold.
        exclude: Who does not: any of these.
        outcome: Event 1.
        competing: Events 2, 3, ... in this order.
        censoring: Where follow-up ends.
        look_back_days: No criterion looks at codes longer ago than this; None = the whole history.
        birth_codes: Codes of the birth event.
        death_codes: Codes of the death event; what follows the beginning that `*` ends is the
            cause.
    """

    name: Text
    code_sets: dict[Text, CodeSet] = {}
    visits: dict[Text, Visits] = {}
    index: Index
    include: tuple[Criterion, ...] = ()
    exclude: tuple[Criterion, ...] = ()
    outcome: Endpoint
    competing: tuple[Endpoint, ...] = ()
    censoring: Censoring = Censoring()
    look_back_days: Days | None = None
    birth_codes: Patterns = BIRTH_CODES
    death_codes: Patterns = DEATH_CODES

    @model_validator(mode="before")
    @classmethod
    def _no_entry_times(cls, given: Any) -> Any:
        found = [key for key in ENTRY if isinstance(given, Mapping) and key in given]
        if found:
            raise complaint(f"{found[0]}: {NO_ENTRY_TIMES}")
        return given

    @model_validator(mode="after")
    def _names_are_known(self) -> Task:
        for place, names, known in self._references():
            for name in names or ():
                if name not in known:
                    what = "kind of visit" if place.endswith("within") else "code set"
                    raise complaint(
                        f"{place}: no {what} is called "
                        f"{name!r}.{did_you_mean(name, known) or ' Define it under code_sets'}"
                    )
        return self

    def _references(self) -> Iterator[tuple[str, tuple[str, ...] | None, Mapping[str, Any]]]:
        """List every place that names code sets or visits, with the names and what is defined."""
        visits = self.all_visits
        yield "index.codes", self.index.codes, self.code_sets
        yield "index.within", self.index.within, visits
        for part in ("include", "exclude"):
            for number, criterion in enumerate(getattr(self, part)):
                yield f"{part}.{number}.codes", criterion.codes, self.code_sets
                yield f"{part}.{number}.within", criterion.within, visits
        for place, end in self._endpoints():
            yield f"{place}.codes", end.codes, self.code_sets
            yield f"{place}.within", end.within, visits
            if isinstance(end.death, Causes):
                yield f"{place}.death.causes", end.death.causes, self.code_sets

    def _endpoints(self) -> Iterator[tuple[str, Endpoint]]:
        yield from self.outcome.parts("outcome")
        for number, one in enumerate(self.competing):
            yield from one.parts(f"competing.{number}")

    @property
    def all_visits(self) -> dict[str, Visits]:
        """Every kind of visit by name: `inpatient`, the code sets, the visits; the last wins."""
        as_visits = {
            name: Visits(start=one.codes, end=INPATIENT.end if name == _INPATIENT else ())
            for name, one in self.code_sets.items()
        }
        return {_INPATIENT: INPATIENT} | as_visits | self.visits

    @property
    def visits_used(self) -> dict[str, Visits]:
        """The kinds of visits that a criterion or an event asks for."""
        used = self._named(within=True)
        return {name: visits for name, visits in self.all_visits.items() if name in used}

    @property
    def sets_as_visits(self) -> tuple[str, ...]:
        """The code sets that stand for a kind of visit."""
        used = self._named(within=True) - set(self.visits)
        return tuple(name for name in self.code_sets if name in used)

    @property
    def sets_used(self) -> tuple[str, ...]:
        """The code sets that anything names, in the order of definition."""
        used = self._named(within=False) | set(self.sets_as_visits)
        return tuple(name for name in self.code_sets if name in used)

    def _named(self, *, within: bool) -> set[str]:
        """List the names of visits (`within`), or those of code sets, that anything asks for."""
        return {
            name
            for place, names, _ in self._references()
            if place.endswith("within") == within
            for name in names or ()
        }

    @property
    def asks_causes(self) -> bool:
        """Whether an event asks for a cause of death."""
        return any(isinstance(end.death, Causes) for _, end in self._endpoints())


NO_ENTRY_TIMES = (
    "entry times (left truncation) are not supported: no metric here corrects for them; let "
    "follow-up begin at prediction_time, and take as the index the moment from which the subject "
    "is observed"
)


def _span(ends: tuple[float | None, float | None]) -> str:
    low, high = ("any" if end is None else f"{end:g}" for end in ends)
    return f"{low} to {high}"


def _within(kinds: tuple[str, ...] | None) -> str:
    return "" if kinds is None else f" within {' or '.join(kinds)}"
