"""From events to terms: a code, its ancestors in an ontology, and the bin of its value."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int

from concordant.core.errors import RecordError
from concordant.core.events import LifeCodes, PackedEvents

_SERIES = (1, 2, 5)
_SMALLEST, _GREATEST = -6, 9


def features_among(codes: Sequence[str]) -> Bool[np.ndarray, " code"]:
    """Tell which sorted codes say something: not births (the age does) and not deaths."""
    life = LifeCodes.among(codes)
    return np.asarray(~(life.birth | life.death))


def round_numbers() -> tuple[float, ...]:
    """Return cut points for any unit: 0 and plus and minus 1, 2, 5 times powers of ten."""
    powers = range(_SMALLEST, _GREATEST + 1)
    positive = [float(f"{digit}e{power}") for power in powers for digit in _SERIES]
    return (*(-value for value in reversed(positive)), 0.0, *positive)


ROUND_NUMBERS = round_numbers()


@dataclass(frozen=True, slots=True)
class Ontology:
    """The parents of codes.

    Attributes:
        parents: Per code the codes above it.
        depth: How many steps up a code counts; None = all.
    """

    parents: Mapping[str, tuple[str, ...]]
    depth: int | None = None

    def ancestors(self, code: str) -> list[str]:
        """Return every code above one, nearest first, each once; a circle ends where it began."""
        found: dict[str, None] = {}
        level, steps = [code], 0
        while level and (self.depth is None or steps < self.depth):
            above = [up for one in level for up in self.parents.get(one, ())]
            level = [up for up in above if up != code and up not in found]
            found |= dict.fromkeys(level)
            level, steps = list(dict.fromkeys(level)), steps + 1
        return list(found)


def read_ontology(path: Path, depth: int | None) -> Ontology:
    """Read `metadata/codes.parquet` of a MEDS dataset.

    Raises:
        RecordError: Not readable, or without `code` and `parent_codes`.
    """
    return Ontology(_parents(path, path.stat().st_mtime_ns if path.exists() else 0), depth)


@lru_cache(maxsize=4)
def _parents(path: Path, made: int) -> Mapping[str, tuple[str, ...]]:
    try:
        table = pl.read_parquet(path, hive_partitioning=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise RecordError(
            f"{path}: not readable ({reason}); ontology expects metadata/codes.parquet of MEDS"
        ) from None
    schema, lists = table.schema, (pl.List(pl.String), pl.List(pl.Null))
    if schema.get("code") != pl.String or schema.get("parent_codes") not in lists:
        found = ", ".join(f"{name} {kind}" for name, kind in schema.items())
        raise RecordError(
            f"{path}: expected code (text) and parent_codes (list of text), as in "
            f"metadata/codes.parquet of MEDS; found {found}"
        )
    rows = table.select("code", "parent_codes").drop_nulls().iter_rows()
    parents: dict[str, tuple[str, ...]] = {}
    for code, above in rows:
        parents[code] = (*parents.get(code, ()), *(one for one in above if one is not None))
    return parents


@dataclass(frozen=True, slots=True)
class Terms:
    """What occurs: one row per event and term.

    Attributes:
        names: The terms.
        index: Term of each row, -1 = none.
        days_before: As in `Events`.
        offsets: Record i owns rows offsets[i] to offsets[i + 1].
    """

    names: Sequence[str]
    index: Int[np.ndarray, " row"]
    days_before: Float[np.ndarray, " row"]
    offsets: Int[np.ndarray, " record_plus_one"]


def terms_of(
    records: PackedEvents,
    ontology: Ontology | None,
    cut_points: Callable[[str], Sequence[float]] | None,
) -> Terms:
    """Return the terms of every event: the code, then its ancestors, then the bin of its value."""
    features = features_among(records.codes)
    own = np.where(features, np.arange(len(features)), -1).astype(np.int32)
    index = records.code if features.all() else own.take(records.code)
    if ontology is None and cut_points is None:
        return Terms(records.codes, index, records.days_before, records.offsets)
    number, columns = {code: place for place, code in enumerate(records.codes)}, []
    if ontology is not None:
        kept = [records.codes[place] for place in np.flatnonzero(features)]
        columns += _ancestors(kept, ontology, number, index)
    if cut_points is not None:
        columns.append(_bins(records, cut_points, number, index))
    width = 1 + len(columns)
    return Terms(
        list(number),
        np.stack([index, *columns], 1).ravel(),
        np.repeat(records.days_before, width),
        np.asarray(records.offsets) * width,
    )


def _ancestors(
    codes: Sequence[str], ontology: Ontology, number: dict[str, int], index: Int[np.ndarray, " row"]
) -> list[Int[np.ndarray, " row"]]:
    above = {number[code]: ontology.ancestors(code) for code in codes}
    width = max(map(len, above.values()), default=0)
    table = np.full((len(number) + 1, width), -1, np.int32)  # the last row is for no term
    for place, ancestors in above.items():
        numbers = [number.setdefault(code, len(number)) for code in ancestors]
        table[place, : len(ancestors)] = numbers
    return list(table[index].T)


def _bins(
    records: PackedEvents,
    cut_points: Callable[[str], Sequence[float]],
    number: dict[str, int],
    index: Int[np.ndarray, " row"],
) -> Int[np.ndarray, " row"]:
    terms = np.full(len(index), -1, np.int32)
    rows = np.flatnonzero(np.isfinite(records.numeric_value) & (index >= 0))
    rows = rows[np.argsort(index[rows], kind="stable")]
    for group in np.split(rows, np.flatnonzero(np.diff(index[rows])) + 1) if len(rows) else []:
        code = records.codes[index[group[0]]]
        points = np.asarray(cut_points(code), np.float64)
        places = np.searchsorted(points, records.numeric_value[group], side="right")
        place, inverse = np.unique(places, return_inverse=True)
        names = [f"{code}//{interval(points, int(one))}" for one in place]
        numbers = [number.setdefault(name, len(number)) for name in names]
        terms[group] = np.array(numbers, np.int32)[inverse]
    return terms


def interval(points: Float[np.ndarray, " point"], place: int) -> str:
    """Name the interval before the cut point at a place; its lower end belongs to it."""
    low = float(points[place - 1]) if place else -math.inf
    high = float(points[place]) if place < len(points) else math.inf
    return f"{'(' if place == 0 else '['}{low:.10g},{high:.10g})"
