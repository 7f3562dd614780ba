"""What the run shows, in words, of the strategy with the best tuning concordance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import NamedTuple

from concordant.report.inference import gain_over_both_sentence, method_of, verdict
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
    """The top of the page: a verdict without numbers, the numbers behind it, and key numbers.

    Attributes:
        featured: The model that the page singles out, None where no tuning concordance was kept.
    """

    featured: Model | None
    verdict: str
    paragraphs: tuple[str, ...]
    tiles: tuple[Tile, ...]


def headline(tables: RunTables) -> Headline:
    """Say what the run shows about the fusion, else the model, with the best tuning concordance."""
    model = featured(tables)
    found = [tables.gain(cohort, model) for cohort in tables.cohorts] if model else []
    gains = [gain for gain in found if gain is not None]
    both = gain_over_both_sentence(tables)
    shown = [*_differences(tables, gains), *_counts(tables), *([both] if both else [])]
    parts = (_choice(tables, model), shown, _oracle_distances(tables, model))
    paragraphs = tuple(" ".join(sentences) for sentences in parts if sentences)
    tiles = tuple(_tiles(tables, model, gains))
    return Headline(model, _verdict(tables, model, gains), paragraphs, tiles)


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
        for word, words, last in (
            ("better", "beats", "and"),
            ("worse", "does worse than", "and"),
            ("not shown", "was not shown to beat", "or"),
        )
        if (chosen := [gain for gain in gains if verdict(gain) == word])
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
    value = f"{number(estimate['value'])} {interval(estimate['ci_low'], estimate['ci_high'])}"
    return [chosen, f"On {estimate['cohort']} its C-index is {value}."]


def _differences(tables: RunTables, gains: Sequence[Row]) -> list[str]:
    first = [_first_difference(tables, gain) for gain in gains[:1]]
    return first + [_further_difference(tables, gain) for gain in gains[1:]]


def _first_difference(tables: RunTables, gain: Row) -> str:
    name, pause = (
        (f"{reference_name(tables, gain)}, {_CHOSEN}", ",")
        if tables.reference(gain)
        else (f"{_CHOSEN} within each fold", "")
    )
    adjusted = f"{method_of(tables).name}-adjusted {p_equation(gain['p_adjusted'])}"
    numbers = f"{_with_interval(gain)}, {adjusted}"
    if gain["shown"]:
        return f"That is {verdict(gain)} than {name}: difference {numbers}."
    return f"The difference to {name}{pause} is {numbers}: no gain is shown."


def _further_difference(tables: RunTables, gain: Row) -> str:
    word = f"shown to be {verdict(gain)}" if gain["shown"] else verdict(gain)
    return (
        f"On {gain['cohort']} the difference to {reference_name(tables, gain)} is "
        f"{_with_interval(gain)}, adjusted {p_equation(gain['p_adjusted'])}: {word}."
    )


def _with_interval(gain: Row) -> str:
    return f"{signed(gain['difference'])} {interval(gain['ci_low'], gain['ci_high'])}"


def _families(tables: RunTables) -> dict[str, list[Row]]:
    """Return the declared differences of each cohort that has any."""
    families = {cohort: tables.concordance_gains(cohort) for cohort in tables.cohorts}
    return {cohort: family for cohort, family in families.items() if family}


def _n_better(family: Sequence[Row]) -> str:
    return f"{sum(gain['better'] for gain in family)} of {len(family)}"


def _counts(tables: RunTables) -> list[str]:
    families = _families(tables)
    if not families:
        return []
    if not any(gain["better"] for family in families.values() for gain in family):
        return [
            "No fusion was shown to be better than one modality alone on "
            f"{listing(list(families), 'or')}."
        ]
    parts = [f"{_n_better(family)} on {cohort}" for cohort, family in families.items()]
    return [f"Fusions shown to be better than one modality alone: {listing(parts)}."]


def _oracle_distances(tables: RunTables, model: Model | None) -> list[str]:
    joint = next((one for one in tables.of_kind(Kind.ORACLE) if "both" in one.fusion), None)
    if model is None or joint is None:
        return []
    parts = []
    for cohort in tables.cohorts:
        found = (tables.estimate(cohort, model), tables.estimate(cohort, joint))
        own, best = (None if one is None else one["value"] for one in found)
        if own is not None and best is not None:
            side = "below" if best >= own else "above"
            parts.append(f"{number(abs(best - own))} {side} it ({number(best)}) on {cohort}")
    said = (
        "The data are simulated; against the joint oracle, which knows the true factors, its "
        f"C-index lies {listing(parts)}."
    )
    return [said] if parts else []


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
            f"{limits}, adjusted {p_equation(gain['p_adjusted'])}",
        )
        for gain in gains[:2]
        for limits in [interval(gain["ci_low"], gain["ci_high"])]
    ]
    tiles += [
        Tile(f"Fusions shown to be better, {cohort}", _n_better(family), "adjusted p < 0.05")
        for cohort, family in list(_families(tables).items())[:1]
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
