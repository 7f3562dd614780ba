"""Embeddings that stores made before hold already.

Found by what they were made of, checked, and taken over instead of made again.

The key of an embedding covers the encoder (its code, options and weights) and the scans of its
batch: in other company a network's sums may differ in their last bit, and what is taken over has
the bytes that encoding it again would give.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from concordant.core.embedding import TokenEmbedding, TokenTable
from concordant.core.errors import StoreError
from concordant.core.files import fingerprint
from concordant.embeddings.pipeline import is_of_the_bytes
from concordant.embeddings.shards import Encoded, Layout, read_index_part, read_shard, token_digests

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Place:
    """Where the embedding of a sample lies.

    Attributes:
        folder: The store, complete or not.
        shard: A shard of it that is whole.
        position: The sample's position there.
        device: Where it was made.
    """

    folder: Path
    shard: int
    position: int
    device: str


def embedding_keys(
    encoder: Mapping[str, Any], digests: Sequence[str | None], batches: Iterable[range]
) -> list[str | None]:
    """Return what tells each sample's embedding from every other.

    None for a sample whose scan has no digest.

    Args:
        encoder: All that decides what the encoder returns for a scan.
        digests: Of each sample's scan.
        batches: The samples that are encoded together.
    """
    keys: list[str | None] = [None] * len(digests)
    for batch in batches:
        made_of = fingerprint({"encoder": encoder, "batch": [digests[sample] for sample in batch]})
        for place, sample in enumerate(batch):
            if digests[sample] is not None:
                keys[sample] = f"{made_of}-{place}"
    return keys


def find_embeddings(folder: Path, keys: Collection[str], *, quarantined: bool) -> dict[str, Place]:
    """Look for embeddings in the whole shards of the stores beside one.

    Args:
        folder: The store that is to be filled.
        keys: What is looked for.
        quarantined: Whether a sample that was quarantined there for what its scan's bytes are
            counts as found.
    """
    found: dict[str, Place] = {}
    for store in _stores_beside(folder):
        for shard in _shards(store):
            if len(found) == len(keys):
                return found
            part = read_index_part(store, shard)
            if part is None or "device" not in part.columns:  # of a version that knew no keys
                continue
            for position, (key, reason, device) in enumerate(
                part.select("key", "reason", "device").iter_rows()
            ):
                if key in keys and (reason is None or (quarantined and is_of_the_bytes(reason))):
                    found.setdefault(key, Place(store, shard, position, device))
    return found


def _stores_beside(folder: Path) -> list[Path]:
    """Return the other stores of the same encoder, the newest first."""
    encoder, _, _ = folder.name.rpartition("-")
    stores = [
        path for path in folder.parent.glob(f"{encoder}-*") if path != folder and path.is_dir()
    ]
    return sorted(stores, key=lambda path: path.stat().st_mtime, reverse=True)


def _shards(store: Path) -> list[int]:
    return sorted(
        int(path.stem.removeprefix("index-"))
        for path in store.glob("index-" + 5 * "[0-9]" + "*.parquet")
    )


def take_over(
    inputs: Sequence[Any],
    places: Sequence[Place | None],
    batch_size: int,
    layout: Layout,
    device: str,
) -> Sequence[Any]:
    """Put embeddings in the place of inputs that need not be encoded any more.

    Whole batches, or what is left would have other company.

    Args:
        inputs: Of the samples of a shard.
        places: Where a sample's embedding lies, as far as it was found.
        batch_size: Samples that are encoded together.
        layout: What the embeddings have to keep to; a shard that is missing, damaged or different
            gives none.
        device: Where the encoder works here; what was made elsewhere has other digits and is made
            again.
    """
    elsewhere = {place.device for place in places if place is not None} - {device}
    if elsewhere:
        _LOG.warning(
            "what was encoded on %s is encoded again, as the encoder works on %s here",
            ", ".join(sorted(elsewhere)),
            device,
        )
        places = [None if place is None or place.device != device else place for place in places]
    if not any(places):
        return inputs
    taken = _read(places, layout)
    for start in range(0, len(inputs), batch_size):
        batch = range(start, min(start + batch_size, len(inputs)))
        if any(taken[row] is None and inputs[row] is not None for row in batch):
            for row in batch:
                taken[row] = None
    return [own if encoded is None else encoded for own, encoded in zip(inputs, taken, strict=True)]


def _read(places: Sequence[Place | None], layout: Layout) -> list[Encoded | None]:
    """Return what lies at each place; None where nothing sound does."""
    rows_of: dict[tuple[Path, int], list[tuple[int, int]]] = {}
    for row, place in enumerate(places):
        if place is not None:
            rows_of.setdefault((place.folder, place.shard), []).append((row, place.position))
    taken: list[Encoded | None] = [None] * len(places)
    for (folder, shard), rows in rows_of.items():
        sound = list(_read_sound(folder, shard, [position for _, position in rows], layout))
        if None in sound:
            _LOG.warning(
                "%s: shard %05d is missing or damaged; what it held is encoded again",
                folder.name,
                shard,
            )
        for (row, _), encoded in zip(rows, sound, strict=True):
            taken[row] = encoded
    return taken


def _read_sound(
    folder: Path, shard: int, positions: Sequence[int], layout: Layout
) -> Iterator[Encoded | None]:
    """Read samples of a shard; None for one whose bytes are not those that were written."""
    part = read_index_part(folder, shard)
    table = (
        None
        if part is None
        else _table(folder, shard, part["n_tokens"].to_numpy(), positions, layout)
    )
    if part is None or table is None:
        yield from [None] * len(positions)
        return
    reasons, written = part["reason"], part["digest"]
    for row, (position, digest) in enumerate(zip(positions, token_digests(table), strict=True)):
        yield (
            Encoded(_embedding(table, row), reasons[position])
            if digest == written[position]
            else None
        )


def _table(
    folder: Path, shard: int, lengths: Any, positions: Sequence[int], layout: Layout
) -> TokenTable | None:
    try:
        table = read_shard(folder, shard, lengths, layout).take(np.array(positions, np.int64))
    except StoreError:
        return None
    return table if isinstance(table, TokenTable) else None


def _embedding(table: TokenTable, row: int) -> TokenEmbedding | None:
    start, end = table.offsets[row], table.offsets[row + 1]
    return (
        TokenEmbedding(table.values[start:end], None if table.pooled is None else table.pooled[row])
        if end > start
        else None
    )
