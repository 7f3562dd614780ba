"""Tables as the page shows them: cells in print, whatever they were computed from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import polars as pl

from concordant.report.run_tables import Row
from concordant.report.wording import NOTHING, count, interval, number, signed


class Cell(NamedTuple):
    """What stands in one place: a text, what it rests on, and its class of the style sheet."""

    text: str
    detail: str = ""
    mark: str = ""


class Column(NamedTuple):
    """A column: its title (none is empty), what that rests on; numbers end at the right."""

    title: str
    detail: str = ""
    number: bool = True


class Line(NamedTuple):
    """A row: what it is about, its cells, what is added to the title, its class."""

    title: str
    cells: tuple[Cell, ...]
    detail: str = ""
    mark: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the page.

    Attributes:
        label: What it is, for a screen reader.
        columns: That of the rows' titles first.
        rows: The rows.
        cohort: Label of the cohort it is about, or empty.
        tag: `internal` or `external`, or empty.
        caption: Further words above it, or empty.
        note: A sentence below it, or empty.
    """

    label: str
    columns: tuple[Column, ...]
    rows: tuple[Line, ...]
    cohort: str = ""
    tag: str = ""
    caption: str = ""
    note: str = ""


def texts(*columns: str) -> tuple[Column, ...]:
    """Return columns of words."""
    return tuple(Column(title, number=False) for title in columns)


def line(title: str, *cells: str | Cell, detail: str = "", mark: str = "") -> Line:
    """Return a row of cells; a text is a cell without a detail."""
    made = (Cell(cell) if isinstance(cell, str) else cell for cell in cells)
    return Line(title, tuple(made), detail, mark)


def estimate_cell(row: Row | None) -> Cell:
    """Return a metric with its interval; a dash without one."""
    if row is None:
        return Cell(NOTHING)
    return Cell(number(row["value"]), interval(row["ci_low"], row["ci_high"]))


def difference_cell(row: Row | None) -> Cell:
    """Return a difference with its interval; a dash without one."""
    if row is None:
        return Cell(NOTHING)
    return Cell(signed(row["difference"]), interval(row["ci_low"], row["ci_high"]))


def table_of(frame: pl.DataFrame, label: str) -> Table:
    """Return a frame as a table: the first column holds what each row is about."""
    columns = [
        Column(name.replace("_", " "), number=kind.is_numeric())
        for name, kind in frame.schema.items()
    ]
    rows = [[_printed(value) for value in row] for row in frame.rows()]
    return Table(label, tuple(columns), tuple(line(*row) for row in rows))


def _printed(value: Any) -> str:
    if value is None:
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value)
    return count(value) if isinstance(value, int) else str(value)
