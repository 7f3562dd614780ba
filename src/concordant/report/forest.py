"""Forest plots: one row per model, its estimate and interval, as places on a shared axis."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from concordant.report.axes import Axis, axis_over
from concordant.report.rows import Estimate, Gain, Kind, Model, RunTables
from concordant.report.wording import (
    count,
    inside_sentence,
    interval,
    number,
    p_equation,
    signed,
    strategy_name,
)


class Mark(StrEnum):
    """The shape that tells what a row is; never the colour alone."""

    UNIMODAL = "unimodal"
    FUSION = "fusion"
    FEATURED = "featured"
    FOREIGN = "foreign"
    ORACLE = "oracle"


_MARKS = {Kind.FUSION: Mark.FUSION, Kind.FOREIGN: Mark.FOREIGN, Kind.ORACLE: Mark.ORACLE}


@dataclass(frozen=True, slots=True)
class ForestRow:
    """One row.

    Attributes:
        label: The model in words.
        detail: Its encoders, where the group does not tell them.
        mark: Shape of its point.
        place: Percent of the axis at which the point lies, None where there is no estimate.
        low: Percent of the axis at which the interval starts, None where there is no interval.
        high: Percent of the axis at which the interval ends, None where there is no interval.
        value: The estimate in print.
        interval: The interval in print.
        note: The verdict in print, or empty.
        filled: False draws the point hollow.
    """

    label: str
    detail: str
    mark: Mark
    place: float | None
    low: float | None
    high: float | None
    value: str
    interval: str
    note: str = ""
    filled: bool = True


@dataclass(frozen=True, slots=True)
class ForestGroup:
    """Rows that belong together.

    Attributes:
        title: What joins them.
        rows: The rows.
        line: Percent of the axis at which the reference line stands, None for no line.
        line_label: What the line is.
    """

    title: str
    rows: tuple[ForestRow, ...]
    line: float | None
    line_label: str = ""


@dataclass(frozen=True, slots=True)
class ForestPanel:
    """One cohort's rows.

    Attributes:
        cohort: Label of the cohort.
        internal: True for (part of) the development cohort.
        axis: The axis, the same in every panel of a figure.
        groups: The rows.
        size: What the estimates rest on, in print.
    """

    cohort: str
    internal: bool
    axis: Axis
    groups: tuple[ForestGroup, ...]
    size: str


def concordance_panels(tables: RunTables, featured: Model | None) -> tuple[ForestPanel, ...]:
    """Return one panel per cohort.

    One modality alone first, then each pair of encoders, then predictions made elsewhere.
    """
    estimates = [
        estimate for cohort in tables.cohorts for estimate in _concordances(tables, cohort)
    ]
    axis = axis_over(
        limit
        for estimate in estimates
        for limit in (estimate.ci_low, estimate.value, estimate.ci_high)
        if limit is not None
    )
    return tuple(
        ForestPanel(
            cohort,
            tables.internal(cohort),
            axis,
            tuple(_concordance_groups(tables, cohort, axis, featured)),
            _size(tables, cohort),
        )
        for cohort in tables.cohorts
    )


def gain_panels(tables: RunTables, featured: Model | None) -> tuple[ForestPanel, ...]:
    """Return one panel per cohort with the differences to the reference, around a line at zero.

    None where the study has no contrast.
    """
    gains = [gain for gain in tables.gains if gain.metric == tables.concordance]
    if not gains:
        return ()
    limits = (
        limit
        for gain in gains
        for limit in (gain.ci_low, gain.difference, gain.ci_high)
        if limit is not None
    )
    axis = axis_over([0.0, *limits], signed=True)
    panels = (
        (cohort, [gain for gain in gains if gain.cohort == cohort]) for cohort in tables.cohorts
    )
    return tuple(
        ForestPanel(
            cohort,
            tables.internal(cohort),
            axis,
            tuple(_gain_groups(tables, own, axis, featured)),
            _size(tables, cohort),
        )
        for cohort, own in panels
        if own
    )


def reference_value(tables: RunTables, gain: Gain) -> float | None:
    """Return the C of the model a gain is held against.

    Its own row, or, chosen per fold, what the fusion's C leaves of it.
    """
    reference = tables.reference(gain)
    if reference is not None:
        own = tables.estimate(gain.cohort, reference)
        return None if own is None else own.value
    fused = tables.estimate(gain.cohort, gain.model)
    return (
        None
        if fused is None or fused.value is None or gain.difference is None
        else fused.value - gain.difference
    )


def _concordances(tables: RunTables, cohort: str) -> Iterable[Estimate]:
    return (
        found for model in tables.models if (found := tables.estimate(cohort, model)) is not None
    )


def _size(tables: RunTables, cohort: str) -> str:
    sizes = {(one.n, one.n_events) for one in _concordances(tables, cohort) if one.n is not None}
    if not sizes:
        return ""
    n, n_events = max(sizes, key=lambda size: size[0] or 0)
    return f"n = {count(n)}" if n_events is None else f"n = {count(n)}, {count(n_events)} events"


def _concordance_groups(
    tables: RunTables, cohort: str, axis: Axis, featured: Model | None
) -> Iterable[ForestGroup]:
    several = (
        len(_pairs(tables.of_kind(Kind.FUSION))) > 1 or len(tables.of_kind(Kind.CT, Kind.EHR)) > 2
    )
    lines = {
        pair: _line(tables, cohort, pair, axis) for pair in _pairs(tables.of_kind(Kind.FUSION))
    }
    common = next(iter(lines.values())) if len(set(lines.values())) == 1 else (None, "")
    for title, models, line in (
        ("One modality alone", tables.of_kind(Kind.CT, Kind.EHR), common),
        *(
            (_pair_title(pair, len(lines)), _of_pair(tables, pair), line)
            for pair, line in lines.items()
        ),
        ("For comparison", tables.of_kind(Kind.FOREIGN, Kind.ORACLE), common),
    ):
        found = [(model, tables.estimate(cohort, model)) for model in models]
        rows = tuple(
            _concordance_row(model, estimate, axis, featured, several)
            for model, estimate in found
            if estimate is not None
        )
        if rows:
            yield ForestGroup(title, rows, *line)


def _concordance_row(
    model: Model, estimate: Estimate, axis: Axis, featured: Model | None, several: bool
) -> ForestRow:
    return ForestRow(
        label=model.title,
        detail=model.encoders if several and model.unimodal else "",
        mark=_mark(model, featured),
        place=_place(axis, estimate.value),
        low=_place(axis, estimate.ci_low),
        high=_place(axis, estimate.ci_high),
        value=number(estimate.value),
        interval=interval(estimate.ci_low, estimate.ci_high),
    )


def _gain_groups(
    tables: RunTables, gains: Sequence[Gain], axis: Axis, featured: Model | None
) -> Iterable[ForestGroup]:
    pairs = _pairs(tuple(gain.model for gain in gains))
    for pair in pairs:
        own = [gain for gain in gains if (gain.model.ct_encoder, gain.model.ehr_encoder) == pair]
        references = " / ".join(
            dict.fromkeys(inside_sentence(strategy_name(gain.reference)) for gain in own)
        )
        title = f"{_pair_title(pair, len(pairs))}, against {references}"
        yield ForestGroup(
            title,
            tuple(_gain_row(gain, axis, featured) for gain in own),
            axis.place(0.0),
            "no difference",
        )


def _gain_row(gain: Gain, axis: Axis, featured: Model | None) -> ForestRow:
    return ForestRow(
        label=gain.model.title,
        detail="",
        mark=_mark(gain.model, featured),
        place=_place(axis, gain.difference),
        low=_place(axis, gain.ci_low),
        high=_place(axis, gain.ci_high),
        value=signed(gain.difference),
        interval=interval(gain.ci_low, gain.ci_high),
        note=f"{verdict(gain)}, {p_equation(gain.p_adjusted)}",
        filled=gain.shown,
    )


def verdict(gain: Gain) -> str:
    """Say in one or two words what the adjusted p-value shows."""
    if not gain.shown:
        return "not shown"
    return "better" if gain.better else "worse"


def _mark(model: Model, featured: Model | None) -> Mark:
    return Mark.FEATURED if model == featured else _MARKS.get(model.kind, Mark.UNIMODAL)


def _place(axis: Axis, value: float | None) -> float | None:
    return None if value is None else axis.place(value)


def _pairs(models: Sequence[Model]) -> tuple[tuple[str | None, str | None], ...]:
    return tuple(dict.fromkeys((model.ct_encoder, model.ehr_encoder) for model in models))


def _of_pair(tables: RunTables, pair: tuple[str | None, str | None]) -> tuple[Model, ...]:
    return tuple(
        model
        for model in tables.of_kind(Kind.FUSION)
        if (model.ct_encoder, model.ehr_encoder) == pair
    )


def _pair_title(pair: tuple[str | None, str | None], n_pairs: int) -> str:
    return "Both modalities, fused" if n_pairs == 1 else f"Fused: {pair[0]} + {pair[1]}"


def _line(
    tables: RunTables, cohort: str, pair: tuple[str | None, str | None], axis: Axis
) -> tuple[float | None, str]:
    gains = (tables.gain(cohort, model) for model in _of_pair(tables, pair))
    gain = next((gain for gain in gains if gain is not None), None)
    value = None if gain is None else reference_value(tables, gain)
    return (
        (None, "")
        if gain is None or value is None
        else (axis.place(value), strategy_name(gain.reference))
    )
