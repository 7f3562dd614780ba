"""Cohorts beside a slow reference that walks through one subject's records at a time, as the
rules of a task read.
"""

from __future__ import annotations

import random
import tempfile
from collections import defaultdict
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from concordant.core.errors import CohortError
from concordant.data.tasks import build_cohort
from meds_tasks_fixture import START, index_table, write_meds

HALF_DAY = timedelta(hours=12)
YEAR = timedelta(days=365.25)
PERIOD = ("OBSERVATION_PERIOD_START", "OBSERVATION_PERIOD_END")
CODE_SETS = {
    "a": {"codes": ["A/1", "A/2*"]},
    "b": {"codes": ["B*"]},
    "ab": {"codes": ["A*", "B/1"]},
    "cause": {"codes": ["C/*"]},
}
BELONGS = {
    "a": lambda code: code == "A/1" or code.startswith("A/2"),
    "b": lambda code: code.startswith("B"),
    "ab": lambda code: code.startswith("A") or code == "B/1",
    "cause": lambda code: code.startswith("C/"),
}
CODES = (
    "A/1",
    "A/11",
    "A/20",
    "B/1",
    "B/2",
    "C/1",
    "OTHER",
    "Visit/IP",
    "Visit/IP",
    "Visit/IP/end",
    "Visit/IP/end",
)
DEATHS = ("MEDS_DEATH", "MEDS_DEATH//C/1", "MEDS_DEATH//D")


# The reference: rows are (time or None, code), all of one subject


def is_death(code):
    return code == "MEDS_DEATH" or code.startswith("MEDS_DEATH//")


def walk_visits(rows, start, end):
    """Go through the instants in order.

    Where an ending and a starting event meet, the ending one closes a visit under way.
    """
    instants = defaultdict(set)
    for time, code in rows:
        if time is not None and code in (start, end):
            instants[time].add(code)
    visits, open_since = [], []
    for time in sorted(instants):
        starts, ends = start in instants[time], end in instants[time]
        if ends and open_since:
            visits += [(since, time) for since in open_since]
            open_since, ends = [], False
        if starts:
            open_since.append(time)
        if ends and open_since:
            visits += [(since, time) for since in open_since]
            open_since = []
    return visits + [(since, since) for since in open_since]


def in_a_visit(rows, time):
    return any(start <= time <= end for start, end in walk_visits(rows, "Visit/IP", "Visit/IP/end"))


def events_of(rows, names, within):
    found = [(time, code) for time, code in rows if any(BELONGS[name](code) for name in names)]
    if within:
        found = [
            (time, code) for time, code in found if time is not None and in_a_visit(rows, time)
        ]
    return [time for time, _ in found]


def criterion_holds(criterion, rows, index, look_back):
    if "age_years" in criterion:
        births = [time for time, code in rows if code == "MEDS_BIRTH" and time is not None]
        low, high = criterion["age_years"]
        if not births:
            return False
        age = index - min(births)
        return (low is None or age >= low * YEAR) and (high is None or age <= high * YEAR)
    if "history_days" in criterion:
        others = [time for time, code in rows if code != "MEDS_BIRTH" and time is not None]
        return bool(others) and index - min(others) >= timedelta(days=criterion["history_days"])
    low, high = criterion.get("window_days", [None, 0])
    for time in events_of(rows, criterion["codes"], criterion.get("within")):
        if time is None:
            if low is None:
                return True
            continue
        after_low = low is None or time >= index + timedelta(days=low)
        seen = look_back is None or time >= index - timedelta(days=look_back)
        before_high = high is None or time <= index + timedelta(days=high)
        if after_low and seen and before_high:
            return True
    return False


def times_of(endpoint, rows, index, death):
    times = []
    if endpoint.get("codes"):
        times += [
            time
            for time in events_of(rows, endpoint["codes"], endpoint.get("within"))
            if time is not None and time > index
        ]
    wanted = endpoint.get("death", False)
    if death is not None and wanted is True:
        times.append(death)
    if death is not None and isinstance(wanted, dict):
        causes = [
            code.removeprefix("MEDS_DEATH//") for _, code in rows if code.startswith("MEDS_DEATH//")
        ]
        if any(BELONGS[name](cause) for name in wanted["causes"] for cause in causes):
            times.append(death)
    for part in endpoint.get("any_of", []):
        times += times_of(part, rows, index, death)
    return times


def takes_part(task, rows, index):
    look_back = task.get("look_back_days")
    included = all(criterion_holds(one, rows, index, look_back) for one in task.get("include", []))
    return included and not any(
        criterion_holds(one, rows, index, look_back) for one in task.get("exclude", [])
    )


def end_of_follow_up(censoring, rows, index):
    """Return when follow-up ends if nothing happens, None where there is none."""
    timed = [time for time, _ in rows if time is not None]
    if censoring.get("require_event", True) and not any(time > index for time in timed):
        return None
    if censoring["at"] == "last_event":
        return max(timed)
    if censoring["at"] == "observation_end":
        ends = [end for start, end in walk_visits(rows, *PERIOD) if start <= index <= end]
        return max(ends, default=None)
    return datetime.fromisoformat(censoring["at"])


def outcome_of(task, rows, index):
    """Return (days, event) of one sample, or None where it takes no part."""
    death = min((time for time, code in rows if is_death(code) and time is not None), default=None)
    if (death is not None and death <= index) or not takes_part(task, rows, index):
        return None
    end = end_of_follow_up(task["censoring"], rows, index)
    if end is None or end <= index:
        return None
    candidates = []
    for number, endpoint in enumerate([task["outcome"], *task.get("competing", [])]):
        candidates += [
            (time, number, number + 1) for time in times_of(endpoint, rows, index, death)
        ]
    ends = [end] + ([death] if death is not None else [])
    if task["censoring"].get("horizon_days") is not None:
        ends.append(index + timedelta(days=task["censoring"]["horizon_days"]))
    time, _, event = min(candidates + [(time, 99, 0) for time in ends])
    return (time - index) / timedelta(days=1), event


def outcome_is_possible(endpoint, subjects):
    """Tell whether the dataset has a death, or any code, that could be the outcome."""
    if endpoint.get("death") is True:
        return True
    codes = {code for rows in subjects.values() for _, code in rows}
    causes = {
        code.removeprefix("MEDS_DEATH//") for code in codes if code.startswith("MEDS_DEATH//")
    }
    of_death = endpoint["death"]["causes"] if endpoint.get("death") else []
    found = any(
        BELONGS[name](code) for name in endpoint.get("codes", []) for code in codes | causes
    )
    found |= any(BELONGS[name](code) for name in of_death for code in codes | causes)
    return found or any(outcome_is_possible(part, subjects) for part in endpoint.get("any_of", []))


def reference(task, subjects, indices):
    """Return {(subject, prediction time): (time_days, event)}."""
    result = {}
    for subject, rows in subjects.items():
        if indices is None:
            offset = timedelta(days=task["index"]["offset_days"])
            times = events_of(rows, task["index"]["codes"], task["index"].get("within"))
            found = sorted({time + offset for time in times if time is not None})
            chosen = {"first": found[:1], "last": found[-1:], "all": found}[
                task["index"]["occurrence"]
            ]
        else:
            chosen = [time for owner, time in indices if owner == subject]
        for index in chosen:
            outcome = outcome_of(task, rows, index) if rows else None
            if outcome is not None:
                result[subject, index] = outcome
    return result


# What is drawn


def draw_rows(rng):
    """Draw one subject: few instants, so that ties abound.

    Now and then no event at all, no birth, no period, an event without a time.
    """
    if rng.random() < 0.05:
        return []
    slots = [
        None if rng.random() < 0.05 else rng.randrange(15) for _ in range(rng.randrange(1, 16))
    ]
    rows = [
        (None if slot is None else START + slot * HALF_DAY, rng.choice(CODES)) for slot in slots
    ]
    if rng.random() < 0.3:
        rows.append((START + rng.randrange(15) * HALF_DAY, rng.choice(DEATHS)))
    if rng.random() < 0.9:
        rows.append((START + rng.randrange(12) * HALF_DAY - 18 * YEAR, "MEDS_BIRTH"))
    for _ in range(rng.randrange(3)):
        rows += [
            (START + slot * HALF_DAY, code)
            for slot, code in zip(sorted(rng.choices(range(15), k=2)), PERIOD, strict=True)
        ]
    rng.shuffle(rows)
    return rows


def draw_subjects(rng):
    return {number: draw_rows(rng) for number in range(1, rng.randrange(20, 40))}


seeds = st.integers(0, 2**32).map(random.Random)
names = st.lists(st.sampled_from(["a", "b", "ab"]), min_size=1, max_size=2, unique=True)
inside = st.sampled_from([None, ["inpatient"]])
bound = st.sampled_from([None, -5, -2, -0.5, 0])


@st.composite
def windows(draw):
    low, high = draw(bound), draw(st.sampled_from([None, -1, 0, 1.5]))
    return [low, high] if low is None or high is None or low <= high else [high, low]


def without_nothing(mapping):
    return {key: value for key, value in mapping.items() if value is not None}


code_criterion = st.fixed_dictionaries(
    {"codes": names, "window_days": windows(), "within": inside}
).map(without_nothing)
plain_criterion = st.sampled_from(
    [
        {"age_years": [18, None]},
        {"age_years": [None, 18]},
        {"age_years": [17.99, 18.01]},
        {"history_days": 2},
    ]
)
criteria = st.one_of(
    st.just([]), st.lists(st.one_of(code_criterion, plain_criterion), min_size=1, max_size=2)
)
deaths = st.sampled_from([False, True, {"causes": ["cause"]}])
code_endpoint = st.fixed_dictionaries({"codes": names, "within": inside, "death": deaths}).map(
    without_nothing
)
endpoint = st.one_of(
    code_endpoint, st.sampled_from([{"death": True}, {"death": {"causes": ["cause"]}}])
)
outcomes = st.one_of(
    endpoint, st.lists(endpoint, min_size=1, max_size=2).map(lambda parts: {"any_of": parts})
)
known_ends = st.sampled_from(
    ["observation_end", "observation_end", "2020-01-06", "2020-01-04T12:00:00"]
)
ends = st.one_of(
    st.just({"at": "last_event"}),
    st.fixed_dictionaries({"at": known_ends, "require_event": st.booleans()}),
)


index_events = st.fixed_dictionaries(
    {
        "codes": names,
        "occurrence": st.sampled_from(["first", "last", "all"]),
        "within": st.sampled_from([None, None, ["inpatient"]]),
        "offset_days": st.sampled_from([0, 0, 0.5, 2]),
    }
).map(without_nothing)


@st.composite
def tasks(draw, by_codes):
    index = draw(index_events) if by_codes else {"table": "index.parquet"}
    return without_nothing(
        {
            "name": "drawn",
            "code_sets": CODE_SETS,
            "index": index,
            "include": draw(criteria),
            "exclude": draw(criteria),
            "outcome": draw(outcomes),
            "competing": draw(st.one_of(st.just([]), st.lists(endpoint, min_size=1, max_size=2))),
            "censoring": {**draw(ends), "horizon_days": draw(st.sampled_from([None, 1, 2.5, 5]))},
            "look_back_days": draw(st.sampled_from([None, None, 1, 3])),
        }
    )


def check(task, subjects, indices):
    expected = reference(task, subjects, indices)
    shards = [
        [
            (subject, *row)
            for subject, rows in subjects.items()
            if subject % 2 == half
            for row in rows
        ]
        for half in (0, 1)
    ]
    with tempfile.TemporaryDirectory() as folder:
        meds = write_meds(Path(folder), *shards)
        table = None if indices is None else index_table(*indices)
        if not expected or not (
            outcome_is_possible(task["outcome"], subjects)
            or any(event == 1 for _, event in expected.values())
        ):
            with pytest.raises(CohortError, match="no sample"):
                build_cohort(task, meds, index=table)
            return
        cohort = build_cohort(task, meds, index=table)
        read = cohort.write(Path(folder) / "out" / "cohort.parquet").table
    built = {
        row[:2]: row[2:]
        for row in read.select("subject_id", "prediction_time", "time_days", "event").iter_rows()
    }
    assert {key: event for key, (_, event) in built.items()} == {
        key: event for key, (_, event) in expected.items()
    }
    assert all(
        built[key][0] == pytest.approx(days, rel=1e-12) for key, (days, _) in expected.items()
    )
    assert cohort.flow.steps[-1].samples == len(expected)
    removed = sum(step.removed_samples for step in cohort.flow.steps)
    assert cohort.flow.steps[0].samples == len(expected) + removed


quick = settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow])


@quick
@given(task=tasks(by_codes=False), rng=seeds)
def test_a_cohort_from_an_index_table_agrees_with_the_reference(task, rng):
    subjects = draw_subjects(rng)
    indices = [
        (subject, START + slot * HALF_DAY)
        for subject in subjects
        for slot in rng.sample(range(-1, 13), k=rng.randrange(1, 3))
    ]
    check(task, subjects, indices)


@quick
@given(task=tasks(by_codes=True), rng=seeds)
def test_a_cohort_from_events_agrees_with_the_reference(task, rng):
    check(task, draw_subjects(rng), None)


def test_the_drawn_names_are_those_of_the_code_sets():
    assert set(BELONGS) == set(CODE_SETS)
    table = pl.Series("code", CODES)
    assert {name for name, belongs in BELONGS.items() if any(map(belongs, table))} == set(CODE_SETS)
