"""Inputs to embeddings, shard by shard: records and given features here, scans in `scans`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
from jaxtyping import Bool

from concordant.core.embedding import CodeEmbedding, CodeTable, TokenEmbedding
from concordant.core.errors import RecordError
from concordant.core.events import Events, pack_events
from concordant.embeddings.shards import Encoded, EncodedShard, Layout
from concordant.embeddings.store import Place
from concordant.encoders.base import EncoderCard, RecordEncoder

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


@dataclass(frozen=True)
class Encoding(ABC):
    """Turns the inputs of shards into embeddings; it can be sent to another process.

    Attributes:
        layout: What the embeddings keep to.
        reads_ahead: Whether processes beside this one help with a shard, and with the next ones; if
            not, whole shards are made in several processes.
    """

    layout: Layout
    reads_ahead: ClassVar[bool] = False

    @property
    @abstractmethod
    def device(self) -> str:
        """Where it works in this process, "cpu" or "cuda": their digits differ."""

    @abstractmethod
    def encode(
        self, tasks: Iterable[ShardTask], *, processes: int, count: Count
    ) -> Generator[tuple[ShardTask, EncodedShard]]:
        """Yield every shard with what became of its samples, in order.

        Args:
            tasks: The shards; taken as they are needed.
            processes: Processes that may help; 0 = none but this one.
            count: Told how many samples were done, as they are.
        """


@dataclass(frozen=True)
class FeatureEncoding(Encoding):
    """Takes embeddings as they were given."""

    @property
    def device(self) -> str:
        """No encoder's."""
        return "cpu"

    def encode(
        self, tasks: Iterable[ShardTask], *, processes: int, count: Count
    ) -> Generator[tuple[ShardTask, EncodedShard]]:
        """Yield every shard with its embeddings."""
        for task in tasks:
            count(len(task))
            yield task, EncodedShard.of(map(Encoded, task.inputs))


@dataclass(frozen=True)
class RecordEncoding(Encoding):
    """Encodes the records of a shard together."""

    encoder: RecordEncoder

    @property
    def device(self) -> str:
        """Where the encoder works in this process."""
        return self.encoder.device

    def encode(
        self, tasks: Iterable[ShardTask], *, processes: int, count: Count
    ) -> Generator[tuple[ShardTask, EncodedShard]]:
        """Yield every shard with what became of its records."""
        for task in tasks:
            encoded = _encode_records(self.encoder, task.inputs)
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
