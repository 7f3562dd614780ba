"""What the run shows, in words, of the strategy with the best tuning concordance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import NamedTuple

from concordant.report.inference import gain_over_both_sentence, method_of
from concordant.report.run_tables import Kind, Model, Row, RunTables
from concordant.report.wording import inside_sentence, interval, listing, number, p_equation, signed

_CHOSEN = "the single modality chosen on tuning"


class Tile(NamedTuple):
    """A key number in print: what it is, the number, and what it rests on."""

    label: str
    value: str
    detail: str


@dataclass(frozen=True, slots=True)
class Headline:
    """The top of the page.

    Attributes:
        featured: The model that the page singles out, None where nothing was fitted or no tuning
            concordance was kept.
        verdict: One sentence without numbers.
        paragraphs: The numbers behind it: the choice, the differences, and how far the truth is
            away.
        tiles: Key numbers.
    """

    featured: Model | None
    verdict: str
    paragraphs: tuple[str, ...]
    tiles: tuple[Tile, ...]


def headline(tables: RunTables) -> Headline:
    """Say what the run shows about the fusion, else the model, with the best tuning concordance."""
    model = featured(tables)
    gains = (
        []
        if model is None
        else [gain for cohort in tables.cohorts if (gain := tables.gain(cohort, model)) is not None]
    )
    both = gain_over_both_sentence(tables)
    shown = [*_differences(tables, gains), *_counts(tables), *([both] if both else [])]
    parts = (_choice(tables, model), shown, _oracle_distances(tables, model))
    paragraphs = tuple(" ".join(sentences) for sentences in parts if sentences)
    return Headline(
        model, _verdict(tables, model, gains), paragraphs, tuple(_tiles(tables, model, gains))
    )


def tuning_concordance(tables: RunTables, model: Model) -> float | None:
    """Return the tuning concordance of a model, None where none was kept."""
    strategy = tables.strategy(model)
    value = None if strategy is None else strategy.tuning_concordance
    return value if value is not None and isfinite(value) else None


def featured(tables: RunTables) -> Model | None:
    """Return the fusion (else the model) with the best tuning concordance; the first of equals."""
    known = [
        (model, value)
        for model in tables.models
        if (value := tuning_concordance(tables, model)) is not None
    ]
    fusions = [pair for pair in known if pair[0].kind is Kind.FUSION]
    return max(fusions or known, key=lambda pair: pair[1])[0] if known else None


def reference_name(tables: RunTables, gain: Row) -> str:
    """Name the model that a gain is held against, as in a sentence."""
    reference = tables.reference(gain)
    return _CHOSEN if reference is None else inside_sentence(reference.title)


def _verdict(tables: RunTables, model: Model | None, gains: Sequence[Row]) -> str:
    if model is None:
        return "No strategy is singled out: the run kept no tuning concordance to choose by."
    if model.kind is not Kind.FUSION:
        return "No fusion was fitted in this study, so it cannot say whether fusing helps."
    if not gains:
        return (
            "No model of one modality alone was fitted beside the fusions, so this study cannot "
            "say whether fusing helps."
        )
    names = {reference_name(tables, gain) for gain in gains}
    name = names.pop() if len(names) == 1 else _CHOSEN
    clauses = [
        f"{words} {{}} on {listing([gain['cohort'] for gain in chosen], last)}"
        for words, last, chosen in (
            ("beats", "and", [gain for gain in gains if gain["better"]]),
            (
                "does worse than",
                "and",
                [gain for gain in gains if gain["shown"] and not gain["better"]],
            ),
            ("was not shown to beat", "or", [gain for gain in gains if not gain["shown"]]),
        )
        if chosen
    ]
    return f"{model.title} {', but '.join(clauses)}.".replace("{}", name, 1).replace("{}", "it")


def _choice(tables: RunTables, model: Model | None) -> list[str]:
    if model is None:
        return []
    estimate = tables.estimate(tables.cohorts[0], model)
    among = "Of the fusions" if model.kind is Kind.FUSION else "Of the models"
    chosen = (
        f"{among}, {inside_sentence(model.title)} ({model.encoders}) has the best concordance on "
        f"the tuning data ({number(tuning_concordance(tables, model))}) and is therefore the one "
        "this page judges; no test result had a part in the choice."
    )
    if estimate is None:
        return [chosen]
    return [
        chosen,
        f"On {estimate['cohort']} its C-index is {number(estimate['value'])} "
        f"{interval(estimate['ci_low'], estimate['ci_high'])}.",
    ]


def _differences(tables: RunTables, gains: Sequence[Row]) -> list[str]:
    return (
        [
            _first_difference(tables, gains[0]),
            *(_further_difference(tables, gain) for gain in gains[1:]),
        ]
        if gains
        else []
    )


def _first_difference(tables: RunTables, gain: Row) -> str:
    name, pause = (
        (f"{reference_name(tables, gain)}, {_CHOSEN}", ",")
        if tables.reference(gain)
        else (f"{_CHOSEN} within each fold", "")
    )
    adjusted = f"{method_of(tables).name}-adjusted {p_equation(gain['p_adjusted'])}"
    numbers = (
        f"{signed(gain['difference'])} {interval(gain['ci_low'], gain['ci_high'])}, {adjusted}"
    )
    if gain["shown"]:
        return (
            f"That is {'better' if gain['better'] else 'worse'} than {name}: difference {numbers}."
        )
    return f"The difference to {name}{pause} is {numbers}: no gain is shown."


def _further_difference(tables: RunTables, gain: Row) -> str:
    word = (
        "shown to be better"
        if gain["better"]
        else "shown to be worse"
        if gain["shown"]
        else "not shown"
    )
    return (
        f"On {gain['cohort']} the difference to {reference_name(tables, gain)} is "
        f"{signed(gain['difference'])} {interval(gain['ci_low'], gain['ci_high'])}, adjusted "
        f"{p_equation(gain['p_adjusted'])}: {word}."
    )


def _counts(tables: RunTables) -> list[str]:
    families = {
        cohort: family for cohort in tables.cohorts if (family := tables.concordance_gains(cohort))
    }
    if not families:
        return []
    if not any(gain["better"] for family in families.values() for gain in family):
        return [
            "No fusion was shown to be better than one modality alone on "
            f"{listing(list(families), 'or')}."
        ]
    parts = [
        f"{sum(gain['better'] for gain in family)} of {len(family)} on {cohort}"
        for cohort, family in families.items()
    ]
    return [f"Fusions shown to be better than one modality alone: {listing(parts)}."]


def _oracle_distances(tables: RunTables, model: Model | None) -> list[str]:
    joint = next(
        (oracle for oracle in tables.of_kind(Kind.ORACLE) if "both" in oracle.fusion), None
    )
    if model is None or joint is None:
        return []
    pairs = (
        (cohort, tables.estimate(cohort, model), tables.estimate(cohort, joint))
        for cohort in tables.cohorts
    )
    known = [
        (cohort, best["value"] - own["value"], best["value"])
        for cohort, own, best in pairs
        if own is not None
        and best is not None
        and own["value"] is not None
        and best["value"] is not None
    ]
    parts = [
        f"{number(abs(gap))} {'below' if gap >= 0 else 'above'} it ({number(best)}) on {cohort}"
        for cohort, gap, best in known
    ]
    return (
        [
            "The data are simulated; against the joint oracle, which knows the true factors, its "
            f"C-index lies {listing(parts)}."
        ]
        if parts
        else []
    )


def _tiles(tables: RunTables, model: Model | None, gains: Sequence[Row]) -> list[Tile]:
    if model is None:
        return []
    estimates = [
        found for cohort in tables.cohorts if (found := tables.estimate(cohort, model)) is not None
    ]
    tiles = [_concordance_tile(model, estimate) for estimate in estimates[:1]]
    tiles += [
        Tile(
            f"Gain over {reference_name(tables, gain)}, {gain['cohort']}",
            signed(gain["difference"]),
            f"{interval(gain['ci_low'], gain['ci_high'])}, adjusted "
            f"{p_equation(gain['p_adjusted'])}",
        )
        for gain in gains[:2]
    ]
    families = [
        (cohort, family)
        for cohort in tables.cohorts
        if (family := tables.concordance_gains(cohort))
    ]
    tiles += [
        Tile(
            f"Fusions shown to be better, {cohort}",
            f"{sum(gain['better'] for gain in family)} of {len(family)}",
            "adjusted p < 0.05",
        )
        for cohort, family in families[:1]
    ]
    if len(tiles) < 3:
        tiles += [_concordance_tile(model, one) for one in estimates[1:3]]
    return tiles


def _concordance_tile(model: Model, row: Row) -> Tile:
    return Tile(
        f"C-index of {inside_sentence(model.title)}, {row['cohort']}",
        number(row["value"]),
        interval(row["ci_low"], row["ci_high"]),
    )
