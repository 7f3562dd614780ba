"""The tables of the page, row by row; every number is one that a table of the run holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from concordant.report.facts import CohortFacts, MemberFacts
from concordant.report.forest import verdict
from concordant.report.headline import tuning_concordance
from concordant.report.rows import Estimate, Gain, Kind, Model, RunTables
from concordant.report.wording import (
    count,
    days,
    interval,
    metric_name,
    number,
    p_value,
    share,
    signed,
    strategy_name,
)

AVAILABLE = "available"
_LEVELS = {"both": "CT and record", "ct": "CT only", "ehr": "Record only", "none": "Neither"}


@dataclass(frozen=True, slots=True)
class Cell:
    """A number with what it rests on.

    Attributes:
        text: The number in print.
        detail: Its interval or size in print, or empty.
    """

    text: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class StrategyRow:
    """One model in the table of strategies.

    Attributes:
        model: The model.
        featured: True for the model that the page singles out.
        metrics: Concordance first, then the other metrics.
        gain: Difference to the reference.
        p_value: Unadjusted, in print.
        p_adjusted: Adjusted, in print.
        verdict: `better`, `worse`, `not shown`, or empty where there is no contrast.
        parameters: Trainable parameters in print.
        tuning: Tuning concordance in print.
    """

    model: Model
    featured: bool
    metrics: tuple[Cell, ...]
    gain: Cell
    p_value: str
    p_adjusted: str
    verdict: str
    parameters: str
    tuning: str


@dataclass(frozen=True, slots=True)
class StrategyTable:
    """All models on one cohort.

    Attributes:
        cohort: Label of the cohort.
        internal: True for (part of) the development cohort.
        metrics: Titles of the metric columns.
        rows: The models.
    """

    cohort: str
    internal: bool
    metrics: tuple[str, ...]
    rows: tuple[StrategyRow, ...]


@dataclass(frozen=True, slots=True)
class SubgroupRow:
    """One model in a table of subgroups.

    Attributes:
        title: The model in words.
        detail: Its encoders.
        cells: One per level.
    """

    title: str
    detail: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class SubgroupTable:
    """Concordance by level of one subgroup on one cohort.

    Attributes:
        cohort: Label of the cohort.
        subgroup: The column that defines the subgroup.
        levels: Titles of the levels, with their size.
        rows: The models.
    """

    cohort: str
    subgroup: str
    levels: tuple[Cell, ...]
    rows: tuple[SubgroupRow, ...]


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Members that could not be fitted, for one reason.

    Attributes:
        title: The strategy in words.
        encoders: Its encoders.
        n: Members.
        reason: Why.
    """

    title: str
    encoders: str
    n: int
    reason: str


def strategy_tables(tables: RunTables, featured: Model | None) -> tuple[StrategyTable, ...]:
    """Return one table per cohort with every model that has a result on it."""
    further = [key for key in _metrics(tables) if key[0] != tables.concordance]
    titles = (metric_name(tables.concordance), *(metric_name(*key) for key in further))
    return tuple(
        StrategyTable(
            cohort,
            tables.internal(cohort),
            titles,
            tuple(_strategy_rows(tables, cohort, further, featured)),
        )
        for cohort in tables.cohorts
    )


def _metrics(tables: RunTables) -> list[tuple[str, float | None]]:
    return list(dict.fromkeys((one.metric, one.horizon_days) for one in tables.estimates))


def _strategy_rows(
    tables: RunTables,
    cohort: str,
    further: Sequence[tuple[str, float | None]],
    featured: Model | None,
) -> Iterator[StrategyRow]:
    for model in tables.models:
        found = [
            tables.estimate(cohort, model),
            *(tables.estimate(cohort, model, *key) for key in further),
        ]
        if any(found):
            gain = tables.gain(cohort, model)
            yield StrategyRow(
                model=model,
                featured=model == featured,
                metrics=tuple(_estimate_cell(one) for one in found),
                gain=_gain_cell(gain),
                p_value=p_value(gain.p_value if gain else None),
                p_adjusted=p_value(gain.p_adjusted if gain else None),
                verdict=verdict(gain) if gain else "",
                parameters=count(_parameters(tables, model)),
                tuning=number(tuning_concordance(tables, model)),
            )


def _estimate_cell(one: Estimate | None) -> Cell:
    return (
        Cell(number(None))
        if one is None
        else Cell(number(one.value), interval(one.ci_low, one.ci_high))
    )


def _gain_cell(gain: Gain | None) -> Cell:
    return (
        Cell(number(None))
        if gain is None
        else Cell(signed(gain.difference), interval(gain.ci_low, gain.ci_high))
    )


def _parameters(tables: RunTables, model: Model) -> int | None:
    key = (model.fusion, model.ct_encoder, model.ehr_encoder)
    members = (
        one for one in tables.study.members if (one.fusion, one.ct_encoder, one.ehr_encoder) == key
    )
    return next((one.n_parameters for one in members if one.n_parameters is not None), None)


def subgroup_tables(tables: RunTables, featured: Model | None) -> tuple[SubgroupTable, ...]:
    """Return one table per cohort and subgroup.

    Every model by available modalities, the chief ones by everything else.
    """
    own = [one for one in tables.subgroups if one.metric == tables.concordance]
    keys = dict.fromkeys((str(one.subgroup), one.cohort) for one in own)
    order = sorted(
        keys,
        key=lambda key: (
            key[0] != AVAILABLE,
            key[0],
            tables.cohorts.index(key[1]) if key[1] in tables.cohorts else 0,
        ),
    )
    return tuple(
        _subgroup_table(
            [one for one in own if (one.subgroup, one.cohort) == key],
            tables.models if key[0] == AVAILABLE else _chief(tables, featured),
        )
        for key in order
    )


def _chief(tables: RunTables, featured: Model | None) -> tuple[Model, ...]:
    """The singled-out model and the unimodal models of its encoders."""
    encoders = () if featured is None else (featured.ct_encoder, featured.ehr_encoder)
    alone = (
        model
        for model in tables.of_kind(Kind.CT, Kind.EHR)
        if (model.ct_encoder or model.ehr_encoder) in encoders
    )
    return tuple(dict.fromkeys([*alone, *([] if featured is None else [featured])]))


def _subgroup_table(rows: Sequence[Estimate], models: Sequence[Model]) -> SubgroupTable:
    found = {(one.model, one.level): one for one in rows}
    present = list(dict.fromkeys(one.level for one in rows))
    levels = [level for level in _LEVELS if level in present] + [
        level for level in present if level not in _LEVELS
    ]
    return SubgroupTable(
        rows[0].cohort,
        str(rows[0].subgroup),
        tuple(_level_cell([one for one in rows if one.level == level], level) for level in levels),
        tuple(
            SubgroupRow(
                model.title,
                model.encoders,
                tuple(_estimate_cell(found.get((model, level))) for level in levels),
            )
            for model in models
            if any((model, level) in found for level in levels)
        ),
    )


def _level_cell(rows: Sequence[Estimate], level: str | None) -> Cell:
    largest = max(rows, key=lambda one: one.n or 0)
    return Cell(
        _LEVELS.get(level or "", level or number(None)),
        f"n = {count(largest.n)}, {count(largest.n_events)} events",
    )


def cohort_rows(cohorts: Sequence[CohortFacts]) -> Iterator[tuple[str, tuple[Cell, ...]]]:
    """Yield the rows of the cohort table, one cell per cohort.

    Rows that no cohort fills are left out.
    """
    columns = dict.fromkeys(name for one in cohorts for name in one.columns)
    sites = any(one.sites for one in cohorts)
    rows: list[tuple[str, list[Cell]]] = [
        ("Samples", [Cell(count(one.n)) for one in cohorts]),
        ("Subjects", [Cell(count(one.n_subjects)) for one in cohorts]),
        ("Events", [_part(one.n_events, one.n) for one in cohorts]),
        *(
            [("Competing events", [_part(one.n_competing, one.n) for one in cohorts])]
            if any(one.n_competing for one in cohorts)
            else []
        ),
        ("Training and tuning", [Cell(_learned(one)) for one in cohorts]),
        ("Median follow-up", [Cell(days(one.median_follow_up_days)) for one in cohorts]),
        *(
            (title, [_part(one.available.get(key), one.n) for one in cohorts])
            for key, title in _LEVELS.items()
        ),
        *([("Sites", [Cell(_sites(one)) for one in cohorts])] if sites else []),
        *(
            (
                name.replace("_", " ").capitalize(),
                [Cell(one.columns.get(name, number(None))) for one in cohorts],
            )
            for name in columns
        ),
    ]
    for title, cells in rows:
        if any(cell.text != number(None) for cell in cells):
            yield title, tuple(cells)


def _part(n: int | None, whole: int) -> Cell:
    return Cell(count(n), "" if n is None else f"({share(n, whole)})")


def _learned(cohort: CohortFacts) -> str:
    if cohort.n_train or cohort.n_tuning:
        return f"{count(cohort.n_train)} and {count(cohort.n_tuning)}"
    return "none" if cohort.role == "external" else number(None)


def _sites(cohort: CohortFacts) -> str:
    return ", ".join(f"{site} ({count(n)})" for site, n in cohort.sites.items()) or number(None)


def left_out(members: Sequence[MemberFacts]) -> tuple[LeftOut, ...]:
    """Return the members that could not be fitted, seeds counted together."""
    groups: dict[tuple[str, str, str], int] = {}
    for one in members:
        if one.status != "done":
            encoders = " + ".join(
                name for name in (one.ct_encoder, one.ehr_encoder) if name is not None
            )
            key = (strategy_name(one.fusion), encoders, one.reason or one.status.replace("_", " "))
            groups[key] = groups.get(key, 0) + 1
    return tuple(
        LeftOut(title, encoders, n, reason) for (title, encoders, reason), n in groups.items()
    )


def flat(options: Mapping[str, Any], *, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield nested options as dotted key and value."""
    for key, value in options.items():
        if isinstance(value, Mapping):
            yield from flat(value, prefix=f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", "none" if value is None else str(value)
