"""The records of train and tuning subjects as packed tokens, and their pieces in batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from jaxtyping import Float32, Int32, Int64

from concordant.core.errors import RecordError
from concordant.data.meds import read_events, scan_shards
from concordant.encoders.clmbr.batching import Batch, batches_by_length
from concordant.encoders.clmbr.tokenizer import tokenize
from concordant.encoders.clmbr.vocabulary import Vocabulary

_AT_ONCE = 512
_WINDOW = 8192


@dataclass(frozen=True, slots=True)
class Sequences:
    """Tokenised records, packed.

    Attributes:
        tokens: Token of each event.
        age_days: Age at each event, in days.
        offsets: Record i owns rows offsets[i] to offsets[i + 1].
        n_without_birth: Subjects left out: no birth event with a time, or no event with a time at
            all.
        n_short: Records left out: fewer than two events of the vocabulary.
    """

    tokens: Int32[np.ndarray, " row"]
    age_days: Float32[np.ndarray, " row"]
    offsets: Int64[np.ndarray, " record_plus_one"]
    n_without_birth: int
    n_short: int

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self.offsets) - 1


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows of one record that go through the network together.

    Attributes:
        start: First row.
        end: The one after the last.
        record_end: The one after the record's last.
    """

    start: int
    end: int
    record_end: int

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.end - self.start


def read_sequences(
    meds: Path, subjects: pl.Series, vocabulary: Vocabulary, *, columns: Mapping[str, str] | None
) -> Sequences:
    """Read and tokenise whole records.

    Args:
        meds: A MEDS dataset.
        subjects: Whose records.
        vocabulary: A flat one.
        columns: What the files call a column, by its name in MEDS.
    """
    chosen = pl.LazyFrame({"subject_id": subjects})
    shards = scan_shards(meds, columns=columns)
    events = pl.concat([one.frame.join(chosen, on="subject_id", how="semi") for one in shards])
    ends = events.group_by("subject_id").agg(prediction_time=pl.col("time").max()).drop_nulls()
    samples = ends.sort("subject_id").collect()
    samples = samples.with_columns(sample_id=pl.col("subject_id").cast(pl.String))
    records = read_events(meds, samples, columns=columns, text=True)
    tokens, ages, lengths, without_birth, short = [], [], [], len(subjects) - len(records), 0
    for start in range(0, len(records), _AT_ONCE):
        for record in records.packed(start, min(start + _AT_ONCE, len(records))):
            try:
                sequence = tokenize(record, vocabulary)
            except RecordError:
                without_birth += 1
                continue
            if len(sequence) < 2:
                short += 1
                continue
            tokens.append(np.array([bag.tokens[0] for bag in sequence.bags], np.int32))
            ages.append(sequence.age_days)
            lengths.append(len(sequence))
    return Sequences(
        np.concatenate([np.zeros(0, np.int32), *tokens]),
        np.concatenate([np.zeros(0, np.float32), *ages]),
        np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64),
        without_birth,
        short,
    )


def pieces_of(sequences: Sequences, max_length: int) -> list[Piece]:
    """Cut records into pieces of at most `max_length` events, each from the last one's end."""
    return [
        Piece(first, min(first + max_length, int(end)), int(end))
        for start, end in zip(sequences.offsets[:-1], sequences.offsets[1:], strict=True)
        for first in range(int(start), max(int(end) - 1, int(start) + 1), max_length - 1)
    ]


def batches_of(
    pieces: Sequence[Piece], batch_tokens: int, seed: Sequence[int] | None
) -> list[list[Piece]]:
    """Group pieces of like length, in an order that the seed draws, without one by length.

    Batches are formed within a drawn selection of some thousand pieces, so that the same pieces do
    not meet in every epoch.
    """
    if seed is None:
        return [
            [pieces[number] for number in batch]
            for batch in batches_by_length([len(piece) for piece in pieces], batch_tokens)
        ]
    generator = np.random.default_rng(list(seed))
    order = generator.permutation(len(pieces))
    batches = [
        batch
        for first in range(0, len(order), _WINDOW)
        for batch in _grouped(pieces, order[first : first + _WINDOW], batch_tokens)
    ]
    return [batches[number] for number in generator.permutation(len(batches))]


def _grouped(
    pieces: Sequence[Piece], chosen: Int64[np.ndarray, " piece"], batch_tokens: int
) -> Iterator[list[Piece]]:
    lengths = [len(pieces[number]) for number in chosen]
    for batch in batches_by_length(lengths, batch_tokens):
        yield [pieces[chosen[number]] for number in batch]


def padded_pieces(sequences: Sequences, pieces: Sequence[Piece]) -> Batch:
    """Put pieces side by side."""
    shape = (len(pieces), max(map(len, pieces)))
    kinds = (np.int64, np.float32, np.bool_)
    tokens, ages, valid = (np.zeros(shape, kind) for kind in kinds)
    for row, piece in enumerate(pieces):
        rows = slice(piece.start, piece.end)
        tokens[row, : len(piece)] = sequences.tokens[rows]
        ages[row, : len(piece)] = sequences.age_days[rows]
        valid[row, : len(piece)] = True
    return Batch(torch.from_numpy(tokens), torch.from_numpy(ages), torch.from_numpy(valid))
