"""How differences were judged, in words, and every test of them in one table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from concordant.report.run_tables import ALPHA, Model, Row, RunTables
from concordant.report.table import Cell, Column, Table, difference_cell, line, texts
from concordant.report.wording import (
    count,
    days,
    inside_sentence,
    interval,
    listing,
    metric_name,
    number,
    p_equation,
    p_value,
    signed,
)

_METHODS = {
    "holm": ("Holm", "corrected (Holm) for testing several strategies at once"),
    "benjamini_hochberg": (
        "Benjamini-Hochberg",
        "corrected (Benjamini-Hochberg) so that of the differences called shown about 1 in 20 is "
        "not real",
    ),
    "max_t": (
        "max-T",
        "corrected (max-T, by the joint distribution of all comparisons) for testing several "
        "strategies at once",
    ),
}


class Method(NamedTuple):
    """How p-values were adjusted: its name, and what was done, as the end of a sentence."""

    name: str
    explanation: str


@dataclass(frozen=True, slots=True)
class FurtherTests:
    """All tests of the run.

    Attributes:
        tables: One per cohort, empty where there is no more to show than the figure shows.
        margin: The declared margin in print, empty where none was.
        simultaneous: True where there are simultaneous intervals.
        over_folds: True where there are tests with folds as the units.
    """

    tables: tuple[Table, ...]
    margin: str
    simultaneous: bool
    over_folds: bool


def method_of(tables: RunTables) -> Method:
    """Return how the p-values of the declared families were adjusted."""
    chosen = next((row["multiplicity"] for row in tables.gains if row["multiplicity"]), "holm")
    unknown = (chosen, f"corrected ({chosen}) for testing several strategies at once")
    return Method(*_METHODS.get(chosen, unknown))


def verdict(gain: Row) -> str:
    """Say in one or two words what the adjusted p-value shows."""
    if not gain["shown"]:
        return "not shown"
    return "better" if gain["better"] else "worse"


def further_tests(tables: RunTables, *, encoders: bool = False) -> FurtherTests:
    """Return every test of the differences of the concordance index.

    Args:
        tables: The run.
        encoders: Whether the models' encoders are told.
    """
    gains = tables.concordance_gains()
    margins = [row["margin"] for row in gains if row["margin"] is not None]
    told = FurtherTests(
        tables=(),
        margin=number(margins[0]) if margins else "",
        simultaneous=any(row["ci_low_simultaneous"] is not None for row in gains),
        over_folds=any(row["p_nadeau_bengio"] is not None for row in gains),
    )
    if not (told.margin or told.simultaneous or told.over_folds):
        return told
    own = ((cohort, tables.concordance_gains(cohort)) for cohort in tables.cohorts)
    found = tuple(_test_table(cohort, rows, told, encoders) for cohort, rows in own if rows)
    return replace(told, tables=found)


def _test_table(cohort: str, gains: list[Row], told: FurtherTests, encoders: bool) -> Table:
    shown: dict[Column, Callable[[Row], str | Cell]] = {Column("Difference"): difference_cell}
    if told.simultaneous:
        shown[Column("Simultaneous interval")] = _simultaneous
    shown[Column("Adjusted p")] = lambda row: p_value(row["p_adjusted"])
    if told.over_folds:
        shown[Column("p over folds")] = lambda row: p_value(row["p_nadeau_bengio"])
    if told.margin:
        worse, same = texts(f"Not worse by {told.margin}", f"Equivalent within {told.margin}")
        shown[worse] = lambda row: _answer(row["p_non_inferiority_adjusted"])
        shown[same] = lambda row: _answer(row["p_equivalence_adjusted"])
    lines = tuple(
        line(
            row["model"].title,
            *(cell(row) for cell in shown.values()),
            detail=row["model"].encoders if encoders else "",
        )
        for row in gains
    )
    return Table(f"Further tests on {cohort}", (*texts("Strategy"), *shown), lines, cohort)


def _simultaneous(row: Row) -> Cell:
    return Cell("", interval(row["ci_low_simultaneous"], row["ci_high_simultaneous"]))


def _answer(p: float | None) -> str:
    return p_value(p) if p is None else f"{'yes' if p < ALPHA else 'not shown'}, {p_equation(p)}"


def gain_over_both_sentence(tables: RunTables) -> str:
    """Say which fusions beat both single modalities at once, by cohort; empty if not asked."""
    rows = _gains_over_both(tables)
    parts = []
    for cohort in tables.cohorts:
        own = [row for row in rows if row["cohort"] == cohort]
        winners = [
            inside_sentence(row["model"].title)
            for row in own
            if row["p_adjusted"] is not None and row["p_adjusted"] < ALPHA
        ]
        if own:
            parts.append(f"{listing(winners) if winners else f'none of {len(own)}'} on {cohort}")
    said = "Shown to be better than CT alone and than the record alone, both at once: "
    return f"{said}{'; '.join(parts)}." if parts else ""


def gain_over_both_details(tables: RunTables, featured: Model | None) -> str:
    """Say what the chosen fusion gains over both single modalities; empty if unknown."""
    rows = _gains_over_both(tables)
    parts = [
        f"{signed(row['gain'])} on {row['cohort']} (above {signed(row['lower_limit'])} with 95% "
        f"confidence, adjusted {p_equation(row['p_adjusted'])})"
        for row in rows
        if row["model"] == featured and row["gain"] is not None
    ]
    if featured is None or not parts:
        return ""
    return (
        "Held against both single modalities at once, whichever of them is the better one, "
        f"{inside_sentence(featured.title)} gains {listing(parts)}; here nothing was chosen, on "
        "tuning or elsewhere, that could have been chosen wrongly."
    )


def _gains_over_both(tables: RunTables) -> list[Row]:
    return [row for row in tables.gains_over_both if row["metric"] == tables.concordance]


def competing_sentence(tables: RunTables) -> str:
    """Say how other events were counted and what that makes of a probability; empty without any."""
    found = [(one.label, one.n_competing) for one in tables.record.cohorts if one.n_competing]
    if not found:
        return ""
    counts = listing([f"{count(n)} on {label}" for label, n in found])
    event = tables.record.task.event.replace("_", " ")
    if tables.record.cause is None:
        return (
            f"Patients with another event ({counts}) count as censored when it came: every number "
            f"is about the hazard of {event} alone."
        )
    return (
        f"Other events compete with {event} ({counts}): whoever had one is known never to have "
        f"this one. The models were fitted to the hazard of {event} alone, other events censored, "
        f"so one minus their predicted survival overstates the probability of {event}; Brier "
        "score, calibration and net benefit judge it as it stands."
    )


def tau_sentence(tables: RunTables) -> str:
    """Say up to which time truncated metrics run, in each cohort; empty where there is none."""
    ending = [row for row in tables.estimates if row["tau_days"] is not None]
    found = {row["cohort"]: row["tau_days"] for row in ending}
    if not found:
        return ""
    names = dict.fromkeys(inside_sentence(metric_name(row["metric"])) for row in ending)
    metrics = listing(list(names))
    verb = "run" if len(names) > 1 else "runs"
    subject = f"{metrics[:1].upper()}{metrics[1:]} {verb} over the first"
    different = set(found.values())
    if len(different) > 1:
        parts = [f"{count(tau)} days on {cohort}" for cohort, tau in found.items()]
        return f"{subject} {listing(parts)}: values on different cohorts do not mean the same."
    (tau,) = different
    every = "all" if len(found) > 2 else "both"
    same = f", the same period in {every} cohorts" if len(found) > 1 else ""
    return f"{subject} {days(tau)} ({count(tau)} days){same}."
