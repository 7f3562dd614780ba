"""Inputs to embeddings, shard by shard: records and given features here, scans in `scans`."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Bool

from concordant.core.embedding import CodeEmbedding, CodeTable, TokenEmbedding
from concordant.core.errors import RecordError
from concordant.core.events import Events, pack_events
from concordant.embeddings.shards import Encoded, EncodedShard, Layout
from concordant.embeddings.store import Place
from concordant.encoders.base import Encoder, EncoderCard, RecordEncoder

Value = TypeVar("Value")

NOT_FINITE = "the encoder returned values that are not finite"
"""Reason for quarantine."""

Count = Callable[[int], None]
"""Called with a number of samples that are done."""


@dataclass(frozen=True, slots=True)
class ShardTask:
    """One shard to make.

    Attributes:
        folder: The store.
        shard: Number of the shard.
        sample_ids: Its samples.
        inputs: What is encoded for each of them; None where it has none.
        keys: What each embedding is made of, or None.
        places: Where a store made before holds it already, or None.
    """

    folder: Path
    shard: int
    sample_ids: tuple[str, ...]
    inputs: Sequence[Any]
    keys: Sequence[str | None]
    places: Sequence[Place | None]

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.sample_ids)


Shards = Generator[tuple[ShardTask, EncodedShard]]
"""Shards in order, each with what became of its samples."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """How the inputs of shards become embeddings; it can be sent to another process.

    Attributes:
        layout: What the embeddings keep to.
        encode: Takes shards as it needs them, the number of processes that may help (0 = none but
            this one), and whom to tell of samples that are done.
        encoder: The encoder; None where embeddings are given.
        reads_ahead: Whether the processes that help read ahead, also for the next shards; if not,
            whole shards are made in several processes.
    """

    layout: Layout
    encode: Callable[[Iterable[ShardTask], int, Count], Shards]
    encoder: Encoder | None = None
    reads_ahead: bool = False

    @property
    def device(self) -> str:
        """Where the encoder works in this process, "cpu" or "cuda": their digits differ."""
        return "cpu" if self.encoder is None else self.encoder.device


def take_features(tasks: Iterable[ShardTask], processes: int, count: Count) -> Shards:
    """Take embeddings as they were given."""
    for task in tasks:
        count(len(task))
        yield task, EncodedShard.of(map(Encoded, task.inputs))


def encode_records(
    encoder: RecordEncoder, tasks: Iterable[ShardTask], processes: int, count: Count
) -> Shards:
    """Encode the records of each shard together."""
    for task in tasks:
        encoded = _encode_records(encoder, task.inputs)
        count(len(task))
        yield task, encoded


def layout_of(card: EncoderCard) -> Layout:
    """Return what an encoder's embeddings keep to."""
    return Layout(card.kind, card.token_dim, card.pooled_dim, card.max_tokens, card.dtype)


def sound(embedding: TokenEmbedding | CodeEmbedding) -> Encoded:
    """Quarantine what is not finite; nothing at all (no code, no token) is a missing modality."""
    if isinstance(embedding, CodeEmbedding):
        numbers = [embedding.weights]
    else:
        numbers = [embedding.tokens, *([] if embedding.pooled is None else [embedding.pooled])]
    if not all(np.isfinite(values).all() for values in numbers):
        return Encoded(None, NOT_FINITE)
    return Encoded(embedding if len(numbers[0]) else None)


def _encode_records(encoder: RecordEncoder, records: Sequence[Events]) -> EncodedShard:
    """Encode those that hold an event; an empty record is a missing modality."""
    packed = pack_events(records)
    n_events = np.diff(packed.offsets)
    present = n_events > 0
    held = packed if present.all() else packed.holding(present)
    encoded = _encode_held(encoder, held)
    embeddings = encoded.embeddings
    if isinstance(embeddings, CodeTable):
        embeddings = embeddings.among(present)
    else:
        embeddings = _among(embeddings, present)
    quarantine = encoded.quarantine and _among(encoded.quarantine, present)
    if not encoder.has_vocabulary:
        return EncodedShard(embeddings, quarantine)
    n_known = _among([encoder.known_events(record) for record in held], present)
    return EncodedShard(embeddings, quarantine, [n or None for n in n_events.tolist()], n_known)


def _among(
    values: Sequence[Value | None], present: Bool[np.ndarray, " sample"]
) -> list[Value | None]:
    """Return the values where `present` is true, and None elsewhere."""
    given = iter(values)
    return [next(given) if there else None for there in present.tolist()]


def _encode_held(encoder: RecordEncoder, records: Sequence[Events]) -> EncodedShard:
    """Encode records; where refused, one by one, so that a bad record harms no other."""
    try:
        embeddings = encoder.encode(records)
    except RecordError:
        return EncodedShard.of(_encode_one(encoder, record) for record in records)
    if isinstance(embeddings, CodeTable) and np.isfinite(embeddings.weight).all():
        return EncodedShard(embeddings)
    return EncodedShard.of(map(sound, embeddings))


def _encode_one(encoder: RecordEncoder, record: Events) -> Encoded:
    try:
        return sound(encoder.encode([record])[0])
    except RecordError as error:
        return Encoded(None, str(error))
