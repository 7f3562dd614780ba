"""The tables of the page, row by row; every number is one that a table of the run holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

from concordant.core.records import CheckRecord, CohortRecord, QuarantineRecord, StrategyRecord
from concordant.report.headline import tuning_concordance
from concordant.report.inference import verdict
from concordant.report.run_tables import Kind, Model, Row, RunTables
from concordant.report.table import Cell, Column, Table, difference_cell, estimate_cell, line, texts
from concordant.report.wording import (
    NOTHING,
    count,
    days,
    metric_name,
    number,
    p_value,
    seconds,
    share,
    strategy_name,
)

AVAILABLE = "available"
_LEVELS = {"both": "CT and record", "ct": "CT only", "ehr": "Record only", "none": "Neither"}
_STRATEGY = Column("Strategy", number=False)
_GAIN_COLUMNS = (Column("Gain"), Column("p"), Column("Adjusted p"), Column("Verdict", number=False))


def strategy_tables(
    tables: RunTables, featured: Model | None, *, encoders: bool = False
) -> tuple[Table, ...]:
    """Return one table per cohort with every model that has a result on it."""
    return tuple(_strategy_table(tables, cohort, featured, encoders) for cohort in tables.cohorts)


def _strategy_table(
    tables: RunTables, cohort: str, featured: Model | None, encoders: bool
) -> Table:
    asked = dict.fromkeys((row["metric"], row["horizon_days"]) for row in tables.estimates)
    further = [key for key in asked if key[0] != tables.concordance]
    keys: list[tuple[str | None, float | None]] = [(None, None), *further]
    found = [
        (model, estimates)
        for model in tables.models
        if any(estimates := [tables.estimate(cohort, model, *key) for key in keys])
    ]
    gained = any(tables.gain(cohort, model) for model, _ in found)
    rows = tuple(
        line(
            model.title,
            *map(estimate_cell, estimates),
            *(_gain_cells(tables.gain(cohort, model)) if gained else ()),
            number(tuning_concordance(tables, model)),
            count(one.n_parameters if (one := tables.strategy(model)) else None),
            detail=model.encoders if encoders else "",
            mark=" ".join(["featured"] * (model == featured) + ["kind"] * starts),
        )
        for (model, estimates), starts in zip(found, _starts(found), strict=True)
    )
    columns = (
        _STRATEGY,
        Column(metric_name(tables.concordance)),
        *(Column(metric_name(*key)) for key in further),
        *(_GAIN_COLUMNS if gained else ()),
        Column("Tuning C"),
        Column("Parameters"),
    )
    return Table(f"Strategies on {cohort}", columns, rows, cohort, tables.tag(cohort))


def _starts(found: Sequence[tuple[Model, Any]]) -> Iterator[bool]:
    """Yield for every model whether another kind of model starts with it."""
    yield False
    for (before, _), (model, _) in pairwise(found):
        yield before.unimodal != model.unimodal


def _gain_cells(gain: Row | None) -> tuple[str | Cell, ...]:
    if gain is None:
        return (NOTHING, NOTHING, NOTHING, "")
    said = Cell(verdict(gain), mark=f"verdict-{verdict(gain).replace(' ', '-')}")
    return difference_cell(gain), p_value(gain["p_value"]), p_value(gain["p_adjusted"]), said


def other_gains(tables: RunTables, *, encoders: bool = False) -> Table | None:
    """Return the differences to the other unimodal model, None without one."""
    rows = tuple(
        line(
            row["model"].title,
            row["cohort"],
            strategy_name(row["reference"]),
            difference_cell(row),
            p_value(row["p_value"]),
            detail=row["model"].encoders if encoders else "",
        )
        for row in tables.other_gains
        if row["metric"] == tables.concordance
    )
    numbers = (Column("Difference"), Column("Unadjusted p"))
    columns = (*texts("Strategy", "Cohort", "Against"), *numbers)
    return Table("Differences to the other single modality", columns, rows) if rows else None


def subgroup_tables(
    tables: RunTables, featured: Model | None, *, encoders: bool = False
) -> dict[str, list[Table]]:
    """Return the tables of every subgroup, one per cohort; availability comes first.

    Every model by available modalities, the chief ones by everything else.
    """
    own = [row for row in tables.subgroups if row["metric"] == tables.concordance]
    names = sorted({row["subgroup"] for row in own}, key=lambda name: (name != AVAILABLE, name))
    return {
        name: [
            _subgroup_table(
                rows, tables.models if name == AVAILABLE else _chief(tables, featured), encoders
            )
            for cohort in tables.cohorts
            if (rows := [row for row in own if (row["subgroup"], row["cohort"]) == (name, cohort)])
        ]
        for name in names
    }


def _chief(tables: RunTables, featured: Model | None) -> tuple[Model, ...]:
    """The singled-out model and the unimodal models of its encoders."""
    if featured is None:
        return ()
    encoders = (featured.ct_encoder, featured.ehr_encoder)
    alone = (
        model
        for model in tables.of_kind(Kind.CT, Kind.EHR)
        if (model.ct_encoder or model.ehr_encoder) in encoders
    )
    return tuple(dict.fromkeys([*alone, featured]))


def _subgroup_table(rows: Sequence[Row], models: Sequence[Model], encoders: bool) -> Table:
    cohort, subgroup = rows[0]["cohort"], rows[0]["subgroup"]
    found = {(row["model"], row["level"]): row for row in rows}
    present = dict.fromkeys(row["level"] for row in rows)
    levels = [level for level in dict.fromkeys([*_LEVELS, *present]) if level in present]
    lines = tuple(
        line(
            model.title,
            *(estimate_cell(found.get((model, level))) for level in levels),
            detail=model.encoders if encoders else "",
        )
        for model in models
        if any((model, level) in found for level in levels)
    )
    columns = [_level([row for row in rows if row["level"] == level], level) for level in levels]
    caption = "" if subgroup == AVAILABLE else subgroup.replace("_", " ").capitalize()
    label = f"Concordance by {subgroup} on {cohort}"
    return Table(label, (_STRATEGY, *columns), lines, cohort, caption=caption)


def _level(rows: Sequence[Row], level: str | None) -> Column:
    largest = max(rows, key=lambda row: row["n"] or 0)
    size = f"n = {count(largest['n'])}, {count(largest['n_events'])} events"
    return Column(_LEVELS.get(level or "", level or NOTHING), size)


def cohort_table(cohorts: Sequence[CohortRecord]) -> Table | None:
    """Return what is known of every cohort, without rows that none fills; None without cohorts."""
    further = dict.fromkeys(name for one in cohorts for name in one.columns)
    competing = any(one.n_competing for one in cohorts)
    named: dict[str, Callable[[CohortRecord], str | Cell]] = {
        "Samples": lambda one: count(one.n),
        "Subjects": lambda one: count(one.n_subjects),
        "Events": lambda one: _part(one.n_events, one.n),
        "Competing events": lambda one: _part(one.n_competing if competing else None, one.n),
        "Training and tuning": _learned,
        "Median follow-up": lambda one: days(one.median_follow_up_days),
        **{
            title: partial(lambda key, one: _part(one.available.get(key), one.n), key)
            for key, title in _LEVELS.items()
        },
        "Sites": _sites,
        **{name.replace("_", " ").capitalize(): partial(_column, name) for name in further},
    }
    lines = [line(title, *map(cell, cohorts)) for title, cell in named.items()]
    rows = tuple(one for one in lines if any(cell.text != NOTHING for cell in one.cells))
    columns = (Column(one.label, one.role, number=False) for one in cohorts)
    return Table("Cohorts", (*texts("Characteristic"), *columns), rows) if cohorts else None


def _column(name: str, cohort: CohortRecord) -> str:
    return cohort.columns.get(name, NOTHING)


def _part(n: int | None, whole: int) -> Cell:
    return Cell(count(n), "" if n is None else f"({share(n, whole)})")


def _learned(cohort: CohortRecord) -> str:
    if cohort.n_train or cohort.n_tuning:
        return f"{count(cohort.n_train)} and {count(cohort.n_tuning)}"
    return "none" if cohort.role == "external" else NOTHING


def _sites(cohort: CohortRecord) -> str:
    return ", ".join(f"{site} ({count(n)})" for site, n in cohort.sites.items()) or NOTHING


def left_out(strategies: Sequence[StrategyRecord]) -> Table | None:
    """Return the strategies that could not be fitted and those that failed, None without one."""
    rows = tuple(
        line(strategy_name(one.fusion), _encoders(one), _status(one), one.reason or NOTHING)
        for one in strategies
        if one.status != "done"
    )
    columns = texts("Strategy", "Encoders", "Status", "Reason")
    caption = "Strategies that do not apply to these inputs, or failed"
    return Table("Strategies that were left out", columns, rows, caption=caption) if rows else None


def quarantine_table(quarantine: Sequence[QuarantineRecord]) -> Table | None:
    """Return the inputs that could not be read, None without one."""
    rows = tuple(
        line(
            one.cohort,
            "CT" if one.modality == "ct" else "Record",
            one.encoder,
            count(one.n) + (f" of {count(one.n_total)}" if one.n_total else ""),
            ", ".join(f"{reason} ({count(n)})" for reason, n in one.reasons.items()),
        )
        for one in quarantine
        if one.n
    )
    columns = (*texts("Cohort", "Modality", "Encoder"), Column("Set aside"), *texts("Reasons"))
    caption = "Inputs that could not be read; these patients count as having the modality missing"
    return Table("Quarantine", columns, rows, caption=caption) if rows else None


def audit_table(checks: Sequence[CheckRecord]) -> Table | None:
    """Return the checks against leakage, None without one."""
    rows = []
    for one in checks:
        title = f"{one.name[:1].upper()}{one.name[1:]}".replace("_", " ")
        result = "passed" if one.passed else "failed"
        rows.append(line(title, Cell(result, mark=result), one.detail))
    return (
        Table("Checks", texts("Check", "Result", "What was found"), tuple(rows)) if rows else None
    )


def grid_table(strategies: Sequence[StrategyRecord]) -> Table | None:
    """Return every strategy of the grid with what its fits took, None without one."""
    rows = tuple(
        line(
            strategy_name(one.fusion),
            _encoders(one),
            one.head or "",
            ", ".join(map(str, one.seeds)),
            _status(one),
            count(one.n_trials),
            number(one.tuning_concordance),
            count(one.n_parameters),
            seconds(one.seconds),
        )
        for one in strategies
    )
    numbers = map(Column, ("Trials", "Tuning C", "Parameters", "Time"))
    columns = (*texts("Strategy", "Encoders", "Head", "Seeds", "Status"), *numbers)
    return Table("Strategies of the grid", columns, rows) if rows else None


def _encoders(strategy: StrategyRecord) -> str:
    return " + ".join(filter(None, (strategy.ct_encoder, strategy.ehr_encoder)))


def _status(strategy: StrategyRecord) -> str:
    return strategy.status.replace("_", " ")


def flat(options: Mapping[str, Any], *, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield nested options as dotted key and value."""
    for key, value in options.items():
        if isinstance(value, Mapping):
            yield from flat(value, prefix=f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", "none" if value is None else str(value)
