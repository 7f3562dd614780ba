"""Health records in MEDS 0.4: what codes, values and visits show of a subject's factors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta

import numpy as np
import polars as pl

from concordant.simulation.codes import BIRTH, DEATH, DIAGNOSES, LABORATORIES, PALLIATIVE

HISTORY_DAYS = 3 * 365
VISITS = 4.0
RESIDUAL = 0.5
"""Standard deviation of a single measurement around the subject's own level, in units of the
laboratory's.
"""

SCHEMA: dict[str, pl.DataType] = {
    "subject_id": pl.Int64(),
    "time": pl.Datetime("us"),
    "code": pl.String(),
    "numeric_value": pl.Float32(),
}


@dataclass(frozen=True, slots=True)
class Person:
    """What a record is made from.

    Attributes:
        subject_id: Its number.
        ehr: The factor that only the record shows.
        shared: The factor that the scan shows too.
        female: True or False.
        birth: Date of birth.
        prediction_time: The index; the record goes on after it.
        time_days: Follow-up.
        died: True where the event was observed.
    """

    subject_id: int
    ehr: float
    shared: float
    female: bool
    birth: date
    prediction_time: datetime
    time_days: float
    died: bool


@dataclass(frozen=True, slots=True)
class _Event:
    time: datetime
    code: str
    value: float | None = None


def record(
    person: Person, coding: Mapping[str, str | None], rng: np.random.Generator
) -> pl.DataFrame:
    """Write a subject's record: the static event first (null time), then by time.

    Args:
        person: The subject.
        coding: How the site writes codes down (`codes.coding_practice`); a code that is not in it
            stays as it is.
        rng: Source of the subject's own history.
    """
    visits = _visits(person, rng)
    events = [
        _Event(datetime.combine(person.birth, time()), BIRTH),
        *_diagnoses(person, visits, rng),
        *_measurements(person, visits, rng),
        *_ending(person, rng),
    ]
    dated = [
        (person.subject_id, event.time, code, event.value)
        for event in sorted(events, key=lambda event: (event.time, event.code))
        if (code := coding.get(event.code, event.code)) is not None
    ]
    static = (person.subject_id, None, "GENDER//F" if person.female else "GENDER//M", None)
    return pl.DataFrame([static, *dated], schema=SCHEMA, orient="row")


def _visits(person: Person, rng: np.random.Generator) -> list[datetime]:
    """Draw visits before (more of them for a high factor), at and after the index, in order."""
    before = rng.uniform(1, HISTORY_DAYS, 1 + rng.poisson(VISITS * np.exp(0.3 * person.ehr)))
    n_after = rng.poisson(VISITS * min(person.time_days / HISTORY_DAYS, 1.0))
    after = rng.uniform(0, person.time_days, n_after)
    days = np.concatenate([-before, [-rng.uniform(0.02, 0.2)], after])
    return [_moment(person.prediction_time, day) for day in np.sort(days)]


def _moment(start: datetime, days: float) -> datetime:
    """Return a time to the minute that rounding never moves across the start."""
    minutes = np.floor(days * 1440) if days < 0 else np.ceil(days * 1440)
    return start + timedelta(minutes=float(minutes))


def _diagnoses(
    person: Person, visits: Sequence[datetime], rng: np.random.Generator
) -> list[_Event]:
    """Write each code at a first visit up to the index, and at some of the later ones."""
    past = sum(visit <= person.prediction_time for visit in visits)
    events = []
    for diagnosis in DIAGNOSES:
        logit = diagnosis.level + diagnosis.ehr * person.ehr + diagnosis.shared * person.shared
        if rng.random() < 1 / (1 + np.exp(-logit)):
            first = int(rng.integers(past))
            again = [visit for visit in visits[first + 1 :] if rng.random() < 0.3]
            events += [_Event(visit, diagnosis.code) for visit in (visits[first], *again)]
    return events


def _measurements(
    person: Person, visits: Sequence[datetime], rng: np.random.Generator
) -> list[_Event]:
    """Measure each value at nearly every index and at some of the other visits."""
    index = max(visit for visit in visits if visit <= person.prediction_time)
    events = []
    for laboratory in LABORATORIES:
        level = laboratory.ehr * person.ehr + laboratory.shared * person.shared
        for visit in visits:
            if rng.random() < (0.9 if visit == index else 0.4):
                value = laboratory.mean + laboratory.sd * (level + RESIDUAL * rng.normal())
                events.append(_Event(visit, laboratory.code, max(round(float(value), 2), 0.01)))
    return events


def _ending(person: Person, rng: np.random.Generator) -> list[_Event]:
    if not person.died:
        return []
    shortly_before = _moment(person.prediction_time, person.time_days * rng.uniform(0.8, 0.99))
    return [
        _Event(shortly_before, PALLIATIVE),
        _Event(person.prediction_time + timedelta(days=person.time_days), DEATH),
    ]
