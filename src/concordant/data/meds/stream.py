"""Records shard by shard: no more than a few shards of a dataset are in memory at once."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from concordant.core.errors import RecordError
from concordant.core.events import LifeCodes, PackedEvents, Texts
from concordant.data.meds import cutting
from concordant.data.meds.quality import RecordCounts
from concordant.data.meds.shards import Shard, scan_shards, unreadable

READERS = min(2, os.cpu_count() or 1)
"""Shards that are read at the same time."""

_NEVER = np.iinfo(np.int64).min + 1


@dataclass(frozen=True, slots=True)
class RecordPart:
    """The records that one shard of a dataset holds.

    Attributes:
        path: The shard.
        samples: Rows of the samples table whose subjects lie in the shard, in that order.
        records: Their records, cut at their prediction times.
        counts: What reading them met; `n_subjects_without_record` is 0.
    """

    path: Path
    samples: Int[np.ndarray, " sample"]
    records: PackedEvents
    counts: RecordCounts


def stream_events(
    meds: Path | str,
    samples: pl.DataFrame,
    *,
    look_back_days: float | None = None,
    columns: Mapping[str, str] | None = None,
    text: bool = False,
) -> Iterator[RecordPart]:
    """Read records shard by shard; arguments and errors as for `read_events`.

    Yields:
        Each shard's part, in the order of the shards.
    """
    if look_back_days is not None and not look_back_days > 0:
        raise RecordError(
            f"look_back_days is {look_back_days}; expected days > 0, or None for the whole history"
        )
    asked = _Asked.of(samples, look_back_days)
    shards = scan_shards(meds, columns=columns)
    owner = np.full(samples.height, -1)
    for number, part in enumerate(_in_threads(shards, asked, text)):
        _refuse_second_shard(part, owner, shards)
        owner[part.samples] = number
        yield part


def _refuse_second_shard(
    part: RecordPart, owner: Int[np.ndarray, " sample"], shards: Sequence[Shard]
) -> None:
    before = owner[part.samples]
    if (before >= 0).any():
        raise RecordError(
            f"{part.path}: column subject_id: the subjects of {(before >= 0).sum()} sample(s) lie "
            f"in {shards[before.max()].path} too; MEDS keeps a subject in one shard. Rewrite the "
            "dataset so that all events of a subject lie in one file"
        )


def _in_threads(shards: Iterable[Shard], asked: _Asked, text: bool) -> Iterator[RecordPart]:
    remaining = iter(shards)
    with ThreadPoolExecutor(READERS) as pool:
        waiting: deque[Future[RecordPart]] = deque(
            pool.submit(_read, shard, asked, text) for shard in islice(remaining, READERS)
        )
        try:
            while waiting:
                part = waiting.popleft().result()
                waiting.extend(
                    pool.submit(_read, shard, asked, text) for shard in islice(remaining, 1)
                )
                yield part
                del part
        finally:
            for future in waiting:
                future.cancel()


@dataclass(frozen=True, slots=True)
class _Asked:
    """The samples as arrays in order, and by subject; times are microseconds since 1970."""

    prediction: Int[np.ndarray, " sample"]
    earliest: Int[np.ndarray, " sample"]
    by_subject: Int[np.ndarray, " sample"]
    ordered: Int[np.ndarray, " sample"]

    @classmethod
    def of(cls, samples: pl.DataFrame, look_back_days: float | None) -> _Asked:
        subject = samples["subject_id"].cast(pl.Int64).to_numpy()
        prediction = samples["prediction_time"].cast(pl.Datetime("us")).cast(pl.Int64).to_numpy()
        look_back = None if look_back_days is None else int(look_back_days * cutting.DAY_US)
        earliest = np.full(len(subject), _NEVER) if look_back is None else prediction - look_back
        by_subject = np.argsort(subject, kind="stable")
        return cls(prediction, earliest, by_subject, subject[by_subject])

    def in_blocks(
        self, subjects: Int[np.ndarray, " block"]
    ) -> tuple[Int[np.ndarray, " sample"], Int[np.ndarray, " sample"]]:
        """Return the samples of these subjects, in table order, and each one's subject's place."""
        first, end = (np.searchsorted(self.ordered, subjects, side) for side in ("left", "right"))
        place = np.repeat(np.arange(len(subjects)), end - first)
        before = np.concatenate([[0], np.cumsum(end - first)])[:-1]
        found = self.by_subject[np.arange(len(place)) + (first - before)[place]]
        order = np.argsort(found)
        return found[order], place[order]


@dataclass(frozen=True, slots=True)
class _Blocks:
    """The subjects of a shard, each a block of rows.

    Attributes:
        subject: The subject of each block.
        starts: Where each block starts, then the number of rows.
        out_of_order: Per block, rows that had to be sorted.
    """

    subject: Any
    starts: Any
    out_of_order: Any


@dataclass(frozen=True, slots=True)
class _ShardEvents:
    """A shard's rows as arrays, sorted by subject and time.

    Attributes:
        blocks: Where each subject's rows lie.
        code: Number of the code of each row; `rank` tells its place in `codes`.
        codes: Distinct codes, sorted.
        text: Text of each row, -1 = none; it points into `texts`.
        texts: Distinct texts, sorted, where they were asked for.
    """

    blocks: _Blocks
    time: Any
    code: Any
    rank: Any
    value: Any
    text: Any
    codes: tuple[str, ...]
    texts: tuple[str, ...] | None


def _read(shard: Shard, asked: _Asked, text: bool) -> RecordPart:
    rows = _shard_events(shard, text)
    life = LifeCodes.among(rows.codes)
    birth, death = life.birth[rows.rank], life.death[rows.rank]
    starts = rows.blocks.starts
    samples, block = asked.in_blocks(rows.blocks.subject)
    prediction, latest = asked.prediction[samples], np.full(len(starts) - 1, cutting.STATIC)
    np.maximum.at(latest, block, prediction)
    repeated = cutting.mark_repeats(
        starts, latest, rows.time, rows.code, rows.value, rows.text, len(rows.codes)
    )
    earliest = asked.earliest[samples]
    given = (starts, block, prediction, earliest, rows.time, rows.code, repeated, birth)
    counted = cutting.count_visible(*given)
    offsets = np.concatenate([[0], np.cumsum(counted[:, 0])]).astype(np.int64)
    days, value, code = *np.empty((2, offsets[-1])), np.empty(offsets[-1], np.int32)
    index = np.empty(0 if rows.texts is None else offsets[-1], np.int32)
    cutting.visible_rows(*given, rows.rank, rows.value, rows.text, days, code, value, index)
    after_death = np.zeros(len(starts) - 1)
    if death.any():
        after_death = cutting.count_after_death(starts, rows.time, death, rows.code)
    texts = None if rows.texts is None else Texts(rows.texts, index)
    records = PackedEvents(rows.codes, code, days, value, offsets, texts)
    return RecordPart(
        shard.path,
        samples,
        records,
        RecordCounts(
            n_events_read=int(np.diff(starts)[block].sum()),
            n_duplicates=int(counted[:, 1].sum()),
            n_after_prediction=int(counted[:, 2].sum()),
            n_before_look_back=int(counted[:, 3].sum()),
            n_null_time=int(counted[:, 4].sum()),
            n_subjects_without_record=0,
            latest_days_before=_least(days[offsets[1:][np.diff(offsets) > 0] - 1]),
            n_out_of_order=int(rows.blocks.out_of_order[block].sum()),
            n_after_death=int(after_death[block].sum()),
            n_without_birth=int(cutting.count_lacking(offsets, code, life.birth)),
        ),
    )


def _least(days: Float[np.ndarray, " record"]) -> float | None:
    """Return the least days from a record's last event to its prediction, None without time."""
    return None if np.isnan(days).all() else float(np.nanmin(days))


def _shard_events(shard: Shard, text: bool) -> _ShardEvents:
    frame, time, blocks = _sorted(_collect(shard))
    code, rank, codes = _distinct(frame, "code")
    place, texts = np.full(frame.height, -1, np.int32), tuple[str, ...]()
    if "text_value" in shard.present:
        number, text_rank, texts = _distinct(frame, "text_value")
        place = text_rank.take(number)
    value = frame["numeric_value"].to_numpy()
    return _ShardEvents(blocks, time, code, rank, value, place, codes, texts if text else None)


def _collect(shard: Shard) -> pl.DataFrame:
    """Read a shard's rows, with the 64-bit hashes of codes and texts.

    Two of a million codes share one in 3 of 10^8 datasets.

    A null time is `STATIC`, a null number NaN.
    """
    texts = [name for name in ("code", "text_value") if name in shard.present]
    wanted = [
        "subject_id",
        pl.col("time").cast(pl.Int64).fill_null(cutting.STATIC),
        pl.col("numeric_value").fill_null(np.nan),
        *texts,
        *(pl.col(name).hash().alias(f"{name}_hash") for name in texts),
    ]
    try:
        frame = shard.frame.select(wanted).collect()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise unreadable(shard.path, error) from None
    for name in ("code", "subject_id"):
        if frame[name].null_count():
            raise RecordError(
                f"{shard.path}: column {name} is null in {frame[name].null_count()} row(s); every "
                "MEDS event needs one. Mend or leave out these rows"
            )
    return frame


def _sorted(frame: pl.DataFrame) -> tuple[pl.DataFrame, Any, _Blocks]:
    """Sort rows by subject and time, equal ones as they came; return times and blocks too."""
    subject, time = frame["subject_id"].to_numpy(), frame["time"].to_numpy()
    marked = np.zeros(frame.height, bool)
    starts = cutting.subject_starts(subject, time, marked)
    owners = subject[starts[:-1]]
    again = np.ones(len(owners), bool)
    again[np.unique(owners, return_index=True)[1]] = False
    for run in np.flatnonzero(again):
        marked[starts[run] : starts[run + 1]] = True
    if not marked.any():
        return frame, time, _Blocks(owners, starts, np.zeros(len(owners), np.int64))
    ordered = frame.sort("subject_id", "time", maintain_order=True)
    sorted_subject, sorted_time = ordered["subject_id"].to_numpy(), ordered["time"].to_numpy()
    starts = cutting.subject_starts(sorted_subject, sorted_time, np.zeros(frame.height, bool))
    owners = sorted_subject[starts[:-1]]  # ascending
    out_of_order = np.bincount(np.searchsorted(owners, subject[marked]), minlength=len(owners))
    return ordered, sorted_time, _Blocks(owners, starts, out_of_order)


def _distinct(frame: pl.DataFrame, name: str) -> tuple[Any, Any, tuple[str, ...]]:
    """Number a column's values: each row's number, each number's rank (null -1), the values."""
    number, first = cutting.number_distinct(frame[f"{name}_hash"].to_numpy())
    values = frame[name].gather(first)
    order = values.arg_sort(nulls_last=True).head(len(values) - values.null_count())
    rank = np.full(len(values), -1, np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    return number, rank, tuple(values.gather(order).to_list())
