"""The forest plot as a drawing of its own: all cohorts side by side behind one column of labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from concordant.report.forest import ForestPanel, ForestRow

LETTER = 6.9
"""Width of a letter of the labels, on the safe side: a file has no means to measure its text."""

TRACK = 190
VALUES = 146
GAP = 26
ROW = 26
TOP = 34


@dataclass(frozen=True, slots=True)
class PlacedCell:
    """What one cohort shows in a row.

    Attributes:
        left: Pixels from the left to its axis.
        row: The estimate.
        line: Percent of the axis at which the reference line stands, None for no line.
    """

    left: int
    row: ForestRow
    line: float | None


@dataclass(frozen=True, slots=True)
class PlacedRow:
    """A row with its height on the drawing.

    Attributes:
        y: Pixels from the top to its upper edge.
        label: The model in words, or the title of a group.
        cells: One per cohort that has the row; empty for a group's title.
    """

    y: int
    label: str
    cells: tuple[PlacedCell, ...] = ()


@dataclass(frozen=True, slots=True)
class StandaloneForest:
    """The drawing.

    Attributes:
        panels: The cohorts.
        lefts: Pixels from the left to each cohort's axis.
        rows: The rows.
        width: Pixels.
        height: Pixels.
    """

    panels: tuple[ForestPanel, ...]
    lefts: tuple[int, ...]
    rows: tuple[PlacedRow, ...]
    width: int
    height: int


def standalone_forest(panels: Sequence[ForestPanel]) -> StandaloneForest:
    """Lay out the panels; a row that one cohort lacks stays empty there."""
    labels = LETTER * max(
        (
            len(row.label) + len(row.detail)
            for panel in panels
            for group in panel.groups
            for row in group.rows
        ),
        default=0,
    )
    lefts = tuple(
        round(labels) + GAP + number * (TRACK + VALUES + GAP) for number in range(len(panels))
    )
    lines: list[tuple[str, tuple[PlacedCell, ...]]] = []
    for title in dict.fromkeys(group.title for panel in panels for group in panel.groups):
        lines.append((title, ()))
        lines += _lines(panels, lefts, title)
    rows = tuple(PlacedRow(TOP + number * ROW, *line) for number, line in enumerate(lines))
    return StandaloneForest(
        tuple(panels),
        lefts,
        rows,
        round(labels) + GAP + len(panels) * (TRACK + VALUES + GAP),
        TOP + (len(rows) + 1) * ROW,
    )


def _lines(
    panels: Sequence[ForestPanel], lefts: Sequence[int], title: str
) -> Iterator[tuple[str, tuple[PlacedCell, ...]]]:
    placed = [
        (
            f"{row.label}, {row.detail}" if row.detail else row.label,
            PlacedCell(left, row, group.line),
        )
        for panel, left in zip(panels, lefts, strict=True)
        for group in panel.groups
        if group.title == title
        for row in group.rows
    ]
    for label in dict.fromkeys(label for label, _ in placed):
        yield label, tuple(cell for own, cell in placed if own == label)
