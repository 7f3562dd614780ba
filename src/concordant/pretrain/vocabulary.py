"""A flat vocabulary from the records of train subjects: codes, texts, and tenths of numbers.

A token's place follows how much it tells who has it: by the entropy of the share of subjects in
whose records it occurs, as in CLMBR.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import polars as pl

from concordant.core.errors import RecordError
from concordant.core.events import BIRTH_CODES
from concordant.data.meds import Shard

_TENTHS = 10
_BIRTH = BIRTH_CODES[0]


def build_vocabulary(
    shards: Sequence[Shard], train: pl.Series, *, size: int, min_subjects: int
) -> list[dict[str, Any]]:
    """Return the entries of a `dictionary.msgpack`, most telling first, the birth before all.

    Args:
        shards: A MEDS dataset.
        train: Ids of the train subjects; no event of another subject is read.
        size: Most entries.
        min_subjects: An entry has to occur in the records of so many train subjects.

    Raises:
        RecordError: No entry occurs often enough.
    """
    chosen = pl.LazyFrame({"subject_id": train})
    events = pl.concat([shard.frame.join(chosen, on="subject_id", how="semi") for shard in shards])
    entries = [*_codes(events), *_texts(events), *_numbers(events)]
    kept = [
        (count, entry)
        for count, entry in entries
        if count >= min_subjects and entry["code_string"] not in BIRTH_CODES
    ]
    if not kept:
        raise RecordError(
            f"no code, text or number occurs in the records of {min_subjects} train subjects (of "
            f"{len(train)}); lower min_subjects, or give more records"
        )
    weighed = [entry | {"weight": _weight(count / len(train))} for count, entry in kept]
    weighed.sort(key=_place)
    return [{"type": "code", "code_string": _BIRTH, "weight": -1.0}, *weighed[: size - 1]]


def _place(entry: Mapping[str, Any]) -> tuple[float, str, str, float]:
    text, start = str(entry.get("text_string")), entry.get("val_start", 0.0)
    return entry["weight"], entry["code_string"], text, start


def _weight(share: float) -> float:
    """Return minus the entropy of an event of this probability, in nats."""
    return sum(p * math.log(p) for p in (share, 1 - share) if p > 0)


def _codes(events: pl.LazyFrame) -> Iterator[tuple[float, dict[str, Any]]]:
    plain = events.filter(pl.col("numeric_value").is_null() & pl.col("text_value").is_null())
    for code, count in _subjects(plain, "code").iter_rows():
        yield count, {"type": "code", "code_string": code}


def _texts(events: pl.LazyFrame) -> Iterator[tuple[float, dict[str, Any]]]:
    written = events.filter(pl.col("numeric_value").is_null() & pl.col("text_value").is_not_null())
    for code, text, count in _subjects(written, "code", "text_value").iter_rows():
        yield count, {"type": "text", "code_string": code, "text_string": text}


def _subjects(events: pl.LazyFrame, *by: str) -> pl.DataFrame:
    return events.group_by(*by).agg(pl.col("subject_id").n_unique()).sort(*by).collect()


def _numbers(events: pl.LazyFrame) -> Iterator[tuple[float, dict[str, Any]]]:
    """Yield ranges between tenths of each code's numbers, each with its share of the subjects."""
    number = pl.col("numeric_value")
    tenths = [
        number.quantile(place / _TENTHS, "nearest").alias(str(place)) for place in range(1, _TENTHS)
    ]
    measured = (
        events.filter(number.is_not_null())
        .group_by("code")
        .agg(pl.col("subject_id").n_unique(), number.min().alias("least"), *tenths)
    )
    for row in measured.sort("code").collect().iter_rows(named=True):
        yield from _ranges(row)


def _ranges(row: Mapping[str, Any]) -> Iterator[tuple[float, dict[str, Any]]]:
    # a cut at the least number leaves a range empty
    cuts = sorted({row[str(place)] for place in range(1, _TENTHS)} - {row["least"]})
    edges = [-math.inf, *cuts, math.inf]
    for start, end in pairwise(edges):
        entry = {"type": "numeric", "code_string": row["code"], "val_start": start, "val_end": end}
        yield row["subject_id"] / (len(edges) - 1), entry
