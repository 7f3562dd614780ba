"""How differences were judged, in words, and every test of them in one table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from concordant.analysis.gains import GAIN_SCHEMA
from concordant.report.rows import ALPHA, Gain, Model, RunTables
from concordant.report.tables import model_of, read_table
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


@dataclass(frozen=True, slots=True)
class Method:
    """How p-values were adjusted.

    Attributes:
        name: Its name.
        explanation: What was done, as the end of a sentence.
    """

    name: str
    explanation: str


@dataclass(frozen=True, slots=True)
class DifferenceRow:
    """All tests of one difference.

    Attributes:
        model: The fusion.
        difference: In print.
        interval: Its 95% interval in print.
        simultaneous: The interval that holds for the family at once, in print.
        p_adjusted: In print.
        p_folds: With folds as the units, in print.
        not_worse: Verdict on "not worse by the margin", with its p-value.
        equivalent: Verdict on "within the margin", with its p-value.
    """

    model: Model
    difference: str
    interval: str
    simultaneous: str
    p_adjusted: str
    p_folds: str
    not_worse: str
    equivalent: str


@dataclass(frozen=True, slots=True)
class DifferenceTable:
    """All tests on one cohort.

    Attributes:
        cohort: Label of the cohort.
        rows: One per fusion.
    """

    cohort: str
    rows: tuple[DifferenceRow, ...]


@dataclass(frozen=True, slots=True)
class FurtherTests:
    """All tests of the run.

    Attributes:
        tables: One per cohort.
        margin: The declared margin in print, empty where none was.
        simultaneous: True where there are simultaneous intervals.
        over_folds: True where there are tests with folds as the units.
    """

    tables: tuple[DifferenceTable, ...]
    margin: str
    simultaneous: bool
    over_folds: bool

    @property
    def any(self) -> bool:
        """Tell whether there is more to show than the figure shows."""
        return bool(self.margin) or self.simultaneous or self.over_folds


def method_of(tables: RunTables) -> Method:
    """Return how the p-values of the declared families were adjusted."""
    chosen = next((gain.multiplicity for gain in tables.gains if gain.multiplicity), "holm")
    return Method(
        *_METHODS.get(
            chosen, (chosen, f"corrected ({chosen}) for testing several strategies at once")
        )
    )


def further_tests(tables: RunTables) -> FurtherTests:
    """Return every test of the differences of the concordance index."""
    gains = [gain for gain in tables.gains if gain.metric == tables.concordance]
    margins = [gain.margin for gain in gains if gain.margin is not None]
    by_cohort = (
        (cohort, tuple(_row(gain) for gain in gains if gain.cohort == cohort))
        for cohort in tables.cohorts
    )
    return FurtherTests(
        tables=tuple(DifferenceTable(cohort, rows) for cohort, rows in by_cohort if rows),
        margin=number(margins[0]) if margins else "",
        simultaneous=any(gain.ci_low_simultaneous is not None for gain in gains),
        over_folds=any(gain.p_nadeau_bengio is not None for gain in gains),
    )


def _row(gain: Gain) -> DifferenceRow:
    return DifferenceRow(
        model=gain.model,
        difference=signed(gain.difference),
        interval=interval(gain.ci_low, gain.ci_high),
        simultaneous=interval(gain.ci_low_simultaneous, gain.ci_high_simultaneous),
        p_adjusted=p_value(gain.p_adjusted),
        p_folds=p_value(gain.p_nadeau_bengio),
        not_worse=_verdict(gain.p_non_inferiority_adjusted),
        equivalent=_verdict(gain.p_equivalence_adjusted),
    )


def _verdict(p: float | None) -> str:
    return p_value(p) if p is None else f"{'yes' if p < ALPHA else 'not shown'}, {p_equation(p)}"


def gain_over_both_sentence(tables: RunTables) -> str:
    """Say which fusions beat both single modalities at once, cohort by cohort.

    Empty where that was not asked.
    """
    rows = _gains_over_both(tables)
    parts = []
    for cohort in tables.cohorts:
        own = [row for row in rows if row["cohort"] == cohort]
        winners = [
            inside_sentence(model_of(row).title)
            for row in own
            if row["p_adjusted"] is not None and row["p_adjusted"] < ALPHA
        ]
        if own:
            parts.append(f"{listing(winners) if winners else f'none of {len(own)}'} on {cohort}")
    return (
        "Shown to be better than CT alone and than the record alone, both at once: "
        f"{'; '.join(parts)}."
        if parts
        else ""
    )


def gain_over_both_details(tables: RunTables, featured: Model | None) -> str:
    """Say how large the gain of the singled-out fusion over the better of both single modalities
    is; empty where there is none.
    """
    own = [
        row
        for row in _gains_over_both(tables)
        if model_of(row) == featured and row["gain"] is not None
    ]
    if featured is None or not own:
        return ""
    parts = [
        f"{signed(row['gain'])} on {row['cohort']} (above {signed(row['lower_limit'])} with 95% "
        f"confidence, adjusted {p_equation(row['p_adjusted'])})"
        for row in own
    ]
    return (
        "Held against both single modalities at once, whichever of them is the better one, "
        f"{inside_sentence(featured.title)} gains {listing(parts)}; here nothing was chosen, on "
        "tuning or elsewhere, that could have been chosen wrongly."
    )


def _gains_over_both(tables: RunTables) -> list[dict[str, Any]]:
    table = read_table(tables.run.gains_over_both, list(GAIN_SCHEMA))
    return [row for row in table.to_dicts() if row["metric"] == tables.concordance]


def competing_sentence(tables: RunTables) -> str:
    """Say how other events were counted, and what that makes of a predicted probability.

    Empty where nobody had another event.
    """
    found = [(one.label, one.n_competing) for one in tables.study.cohorts if one.n_competing]
    if not found:
        return ""
    counts = listing([f"{count(n)} on {label}" for label, n in found])
    event = tables.study.task.event.replace("_", " ")
    if tables.study.cause is None:
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
    """Say up to which time the truncated metrics run, and whether that is the same in all cohorts.

    Empty where there is none.
    """
    ending = [one for one in tables.estimates if one.tau_days is not None]
    found = {one.cohort: one.tau_days for one in ending}
    if not found:
        return ""
    metrics = listing(
        list(dict.fromkeys(inside_sentence(metric_name(one.metric)) for one in ending))
    )
    subject = (
        f"{metrics[:1].upper()}{metrics[1:]} {'run' if ' and ' in metrics else 'runs'} over the "
        "first"
    )
    different = set(found.values())
    if len(different) > 1:
        parts = [f"{count(tau)} days on {cohort}" for cohort, tau in found.items()]
        return f"{subject} {listing(parts)}: values on different cohorts do not mean the same."
    (tau,) = different
    same = (
        f", the same period in {'all' if len(found) > 2 else 'both'} cohorts"
        if len(found) > 1
        else ""
    )
    return f"{subject} {days(tau)} ({count(tau)} days){same}."
