"""Samples as they leave the store, and as they enter the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from concordant.core.embedding import EmbeddingTable, TokenTable
from concordant.core.modality import Modality
from concordant.core.survival import SurvivalTarget
from concordant.core.tokens import CodeTokens, Pair, Tokens
from concordant.fusion import BOTH
from concordant.training.scaling import Scaling


@dataclass(frozen=True, slots=True)
class Samples:
    """Unfitted embeddings of some samples with their outcome.

    Attributes:
        inputs: One table per modality; a modality the study does not have may be left out.
        target: Time in days and event.
        subject: Number of the subject of each sample, or None = all different.
    """

    inputs: Mapping[Modality, EmbeddingTable]
    target: SurvivalTarget
    subject: Int[np.ndarray, " sample"] | None = None

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.target)

    def table(self, modality: Modality) -> EmbeddingTable:
        """Return one modality's table; all missing where the study does not have it."""
        return self.inputs.get(modality, absent_table(len(self)))

    def present(self, modality: Modality) -> Bool[np.ndarray, " sample"]:
        """True where a sample has the modality."""
        return np.asarray(self.table(modality).lengths > 0)

    def take(self, rows: Int[np.ndarray, " chosen"]) -> Samples:
        """Return the chosen samples, in that order."""
        inputs = {modality: table.take(rows) for modality, table in self.inputs.items()}
        return Samples(
            inputs, self.target.take(rows), None if self.subject is None else self.subject[rows]
        )


def absent_table(samples: int) -> TokenTable:
    """Return a table in which every sample has the modality missing."""
    return TokenTable(np.zeros((0, 1), np.float32), np.zeros(samples + 1, np.int64))


@dataclass(frozen=True, slots=True)
class Batch:
    """Scaled samples as tensors.

    Attributes:
        pair: Scaled, padded, unprojected tokens of both modalities.
        time: Days, float64.
        event: 1 = observed.
    """

    pair: Pair
    time: Float[Tensor, " batch"]
    event: Int[Tensor, " batch"]

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.time)


def make_pair(
    inputs: Mapping[Modality, EmbeddingTable],
    scaling: Mapping[Modality, Scaling],
    device: torch.device,
) -> Pair:
    """Scale the tables of both modalities and pad them."""
    ct, ehr = (_to_device(scaling[modality].apply(inputs[modality]), device) for modality in BOTH)
    return Pair(ct, ehr)


def make_batch(
    samples: Samples, scaling: Mapping[Modality, Scaling], device: torch.device
) -> Batch:
    """Scale samples and put them on a device."""
    pair = make_pair({modality: samples.table(modality) for modality in BOTH}, scaling, device)
    if samples.subject is not None:
        pair = replace(
            pair, subject=torch.from_numpy(np.asarray(samples.subject, np.int64)).to(device)
        )
    time = torch.tensor(samples.target.time, dtype=torch.float64, device=device)
    return Batch(pair, time, torch.tensor(samples.target.event, dtype=torch.int64, device=device))


def chunk_of(pair: Pair, rows: slice) -> Pair:
    """Return some rows of a batch."""
    return Pair(
        _rows(pair.ct, rows),
        _rows(pair.ehr, rows),
        None if pair.subject is None else pair.subject[rows],
    )


def _rows(tokens: Tokens | CodeTokens, rows: slice) -> Tokens | CodeTokens:
    if isinstance(tokens, CodeTokens):
        return CodeTokens(tokens.index[rows], tokens.weight[rows], tokens.valid[rows])
    return Tokens(
        tokens.values[rows],
        tokens.valid[rows],
        None if tokens.pooled is None else tokens.pooled[rows],
    )


def _to_device(tokens: Tokens | CodeTokens, device: torch.device) -> Tokens | CodeTokens:
    if isinstance(tokens, CodeTokens):
        return CodeTokens(
            tokens.index.to(device), tokens.weight.to(device), tokens.valid.to(device)
        )
    pooled = None if tokens.pooled is None else tokens.pooled.to(device)
    return Tokens(tokens.values.to(device), tokens.valid.to(device), pooled)
