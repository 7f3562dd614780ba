"""MEDS records, cut at each sample's prediction time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any
from weakref import finalize

import numpy as np
import polars as pl
from jaxtyping import Int

from concordant.core.errors import RecordError
from concordant.core.events import Events, PackedEvents, Texts
from concordant.data.meds.quality import RecordCounts, total
from concordant.data.meds.shards import scan_shards
from concordant.data.meds.stream import stream_events

IN_MEMORY = 20_000_000
"""Events that a record set keeps in memory.

Those beyond lie in a temporary folder and are read as they are needed.
"""


@dataclass(frozen=True)
class RecordSet:
    """The records of a cohort's samples; iterate over it to get the sample ids.

    Attributes:
        sample_ids: The samples, in the order they were asked for.
        counts: What reading met.
        n_events: Number of events of each sample.
    """

    sample_ids: tuple[str, ...]
    counts: RecordCounts
    n_events: Int[np.ndarray, " sample"]
    _parts: tuple[PackedEvents, ...] = field(repr=False)
    _part: Int[np.ndarray, " sample"] = field(repr=False)
    _place: Int[np.ndarray, " sample"] = field(repr=False)

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.sample_ids)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the sample ids."""
        return iter(self.sample_ids)

    def events(self, sample_id: str) -> Events:
        """Return a sample's record; one without any event is empty.

        Raises:
            KeyError: A sample that was not asked for.
        """
        row = self._rows[sample_id]
        return self.packed(row, row + 1)[0]

    def packed(self, start: int, end: int) -> PackedEvents:
        """Return the records of the samples from one row up to another."""
        part, place = self._part[start:end], self._place[start:end]
        numbers = np.unique(part[part >= 0])
        taken = [
            (part == number, _take(self._parts[number], place[part == number]))
            for number in numbers
        ]
        return _merge(taken, len(part))

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {sample_id: row for row, sample_id in enumerate(self.sample_ids)}


def read_events(
    meds: Path | str,
    samples: pl.DataFrame,
    *,
    look_back_days: float | None = None,
    columns: Mapping[str, str] | None = None,
    text: bool = False,
) -> RecordSet:
    """Read each sample's events up to and at its prediction time.

    Args:
        meds: A MEDS dataset (`data/**/*.parquet`), a folder of parquet shards, or one parquet file,
            of any version.
        samples: `sample_id` (unique), `subject_id` and `prediction_time` (datetime[us]).
        look_back_days: Leave out events longer ago than this; static events and the birth stay.
            None = the whole history.
        columns: What the files call a column, by its name in MEDS: `{"numeric_value": "value"}`.
        text: Read `text_value` too.

    Returns:
        The records. An event exactly at the prediction time is history, a later one is cut and
        counted. The same event stated twice (subject, time, code, value and text) is one event.
        Rows out of order are sorted, and counted.

    Raises:
        RecordError: No parquet file, an unknown version, a missing or ill-typed column, a subject
            in two shards, an event without a code.
    """
    needed = ("sample_id", "subject_id", "prediction_time")
    absent = ", ".join(name for name in needed if name not in samples.columns)
    if absent:
        found = ", ".join(samples.columns)
        raise RecordError(f"{meds}: the table of samples lacks {absent}; found {found}")
    part_of, place_of = np.full(samples.height, -1, np.int64), np.zeros(samples.height, np.int64)
    n_events = np.zeros(samples.height, np.int64)
    parts, counts, in_memory, spilled = [], [], 0, None
    read = stream_events(meds, samples, look_back_days=look_back_days, columns=columns, text=text)
    for number, part in enumerate(read):
        part_of[part.samples], place_of[part.samples] = number, np.arange(len(part.samples))
        n_events[part.samples] = np.diff(part.records.offsets)
        counts.append(part.counts)
        in_memory += len(part.records.code)
        if in_memory > IN_MEMORY:
            spilled = spilled or mkdtemp(prefix="concordant-records-")
            parts.append(_spill(part.records, Path(spilled) / str(number)))
        else:
            parts.append(part.records)
    met = _total(counts, samples, part_of >= 0)
    ids = tuple(samples["sample_id"].to_list())
    records = RecordSet(ids, met, n_events, tuple(parts), part_of, place_of)
    if spilled is not None:
        finalize(records, rmtree, spilled, ignore_errors=True)
    return records


def count_events(
    meds: Path | str, samples: pl.DataFrame, *, columns: Mapping[str, str] | None = None
) -> RecordCounts:
    """Count what `read_events` meets, without keeping an event; arguments and errors as there."""
    found, counts = np.zeros(samples.height, bool), []
    for part in stream_events(meds, samples, columns=columns):
        found[part.samples] = True
        counts.append(part.counts)
    return _total(counts, samples, found)


def _total(counts: list[RecordCounts], samples: pl.DataFrame, found: Any) -> RecordCounts:
    without = samples.filter(pl.Series(~found))["subject_id"].n_unique()
    return replace(total(counts), n_subjects_without_record=without)


def data_quality(meds: Path | str, *, columns: Mapping[str, str] | None = None) -> RecordCounts:
    """Count what a whole dataset holds, each of its subjects once and nothing cut.

    Raises:
        RecordError: As for `read_events`.
    """
    shards = scan_shards(meds, columns=columns)
    ids = [shard.frame.select("subject_id").drop_nulls().unique().collect() for shard in shards]
    forever = pl.lit(2**62).cast(pl.Datetime("us"))
    subjects = pl.concat(ids).unique().with_columns(prediction_time=forever)
    parts = stream_events(meds, subjects, columns=columns)
    return replace(total(part.counts for part in parts), latest_days_before=None)


def _spill(records: PackedEvents, folder: Path) -> PackedEvents:
    """Move the rows of a part to files, which are read where and when they are touched."""
    folder.mkdir()

    def mapped(name: str, values: Any) -> Any:
        path = folder / f"{name}.npy"
        np.save(path, values, allow_pickle=False)
        return np.load(path, mmap_mode="r", allow_pickle=False) if len(values) else values

    text = records.text
    text = None if text is None else Texts(text.texts, mapped("text", text.index))
    return PackedEvents(
        records.codes,
        mapped("code", records.code),
        mapped("days", records.days_before),
        mapped("value", records.numeric_value),
        records.offsets,
        text,
    )


def _take(records: PackedEvents, places: Int[np.ndarray, " chosen"]) -> PackedEvents:
    lengths = np.diff(records.offsets)[places]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    if (np.diff(places) == 1).all():  # they lie together: nothing is copied
        rows: Any = slice(records.offsets[places[0]], records.offsets[places[-1] + 1])
    else:
        moved = records.offsets[:-1][places] - offsets[:-1]
        rows = np.arange(offsets[-1]) + np.repeat(moved, lengths)
    text = None if records.text is None else Texts(records.text.texts, records.text.index[rows])
    return PackedEvents(
        records.codes,
        records.code[rows],
        records.days_before[rows],
        records.numeric_value[rows],
        offsets,
        text,
    )


def _merge(parts: Sequence[tuple[Any, PackedEvents]], n_records: int) -> PackedEvents:
    """Bring the records of several parts, each with the mask of its places, into one order."""
    # with texts, those of others would go along to another process
    if len(parts) == 1 and parts[0][0].all() and parts[0][1].text is None:
        return parts[0][1]
    lengths = np.zeros(n_records, np.int64)
    for mask, records in parts:
        lengths[mask] = np.diff(records.offsets)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    codes, index = _join([(records.codes, records.code) for _, records in parts])
    texts = [records.text for _, records in parts if records.text is not None]
    joined = _join([(one.texts, one.index) for one in texts]) if texts else None
    before = [np.zeros(0, np.int64), *(_rows_of(mask, offsets) for mask, _ in parts)]
    order = np.argsort(np.concatenate(before))
    return PackedEvents(
        codes,
        index[order],
        np.concatenate([np.zeros(0), *(records.days_before for _, records in parts)])[order],
        np.concatenate([np.zeros(0), *(records.numeric_value for _, records in parts)])[order],
        offsets,
        None if joined is None else Texts(joined[0], joined[1][order]),
    )


def _rows_of(mask: Any, offsets: Int[np.ndarray, " record_plus_one"]) -> Int[np.ndarray, " row"]:
    """Return the rows of the records that a mask names, one record after the other."""
    lengths = np.where(mask, np.diff(offsets), 0)
    starts = np.concatenate([[0], np.cumsum(lengths)])[:-1]
    return np.asarray(np.arange(lengths.sum()) + np.repeat(offsets[:-1] - starts, lengths))


def _join(
    parts: Sequence[tuple[tuple[str, ...], Any]],
) -> tuple[tuple[str, ...], Int[np.ndarray, " row"]]:
    """Put indices into several sorted vocabularies after each other, under one of them all."""
    places = [np.flatnonzero(np.bincount(index[index >= 0])) for _, index in parts]
    pairs = zip(parts, places, strict=True)
    used = [[names[place] for place in found.tolist()] for (names, _), found in pairs]
    codes = tuple(sorted(set().union(*used)))
    position = {code: place for place, code in enumerate(codes)}
    joined = [np.zeros(0, np.int32)]
    for (names, index), found, known in zip(parts, places, used, strict=True):
        place = np.full(len(names) + 1, -1, np.int32)  # the last is for -1: no text
        place[found] = [position[code] for code in known]
        joined.append(place[index])
    return codes, np.concatenate(joined)
