"""What a fitted model attends to in scans, for pictures.

Attention says what a model mixed, not why it predicts what it predicts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from concordant.core.embedding import EmbeddingTable
from concordant.core.errors import NotApplicableError
from concordant.core.modality import Modality
from concordant.core.tokens import CodeTokens, Tokens
from concordant.training.fitted import FittedModel

Source = Literal["record", "pooling"]

_MAPS: Mapping[str, Source] = {"ehr->ct": "record", "pool->ct": "pooling"}
"""Maps whose keys are the scan's tokens, the one that is read where there are several first."""


@dataclass(frozen=True, slots=True)
class ScanAttention:
    """How much weight a model gives each token of some scans.

    Attributes:
        source: "record": the record's tokens (and the learned one that asks with them) attend to
            the scan's; "pooling": the scan's tokens are the ones that ask, and this is their share
            when they are pooled.
        weights: Per sample one weight per token, summing to 1; empty where the scan is missing.
    """

    source: Source
    weights: tuple[Float[np.ndarray, " token"], ...]


def scan_attention(fitted: FittedModel, inputs: Mapping[Modality, EmbeddingTable]) -> ScanAttention:
    """Return the attention that a model gives the tokens of scans.

    Predictions are what they are without it.

    Weights are averaged over heads and over the sample's queries: the learned token, which is there
    in every sample, and each code or event of the record. Pooling has one query and no heads; what
    fell to the learned token is left out, and the rest sums to 1.

    Args:
        fitted: A model with cross-attention or co-attention.
        inputs: Embeddings of the samples, as for `FittedModel.predict`.

    Raises:
        NotApplicableError: The model attends to no token of a scan.

    Source:
        Attention weights are no explanation: Jain and Wallace, Attention is not Explanation, NAACL
        2019.
    """
    pair = fitted.pair(inputs).to(fitted.model.mean_risk.device)
    fitted.model.eval()
    with torch.no_grad():
        maps = fitted.model(pair).attention or {}
    name = next((name for name in _MAPS if name in maps), None)
    if name is None:
        raise NotApplicableError(
            f"fusion {fitted.spec.fusion!r} with options {dict(fitted.spec.fusion_options)} "
            "attends to no token of a scan; pictures need cross_attention or co_attention"
        )
    source = _MAPS[name]
    queries = _queries(pair.ehr) if source == "record" else torch.ones_like(pair.ct.valid[:, :1])
    return ScanAttention(source, _averaged(maps[name], queries, pair.ct.valid))


def _queries(record: Tokens | CodeTokens) -> Bool[Tensor, "batch query"]:
    """Return which queries there are: the learned token, and the record's own."""
    return torch.cat([torch.ones_like(record.present)[:, None], record.valid], 1)


def _averaged(
    weights: Float[Tensor, "batch query key"],
    queries: Bool[Tensor, "batch query"],
    keys: Bool[Tensor, "batch key"],
) -> tuple[Float[np.ndarray, " token"], ...]:
    asked = queries.to(weights.dtype)[..., None]
    mean = ((weights * asked).sum(1) / asked.sum(1)).double().cpu().numpy()
    there = keys.cpu().numpy()
    return tuple(_to_one(row[valid]) for row, valid in zip(mean, there, strict=True))


def _to_one(weights: Float[np.ndarray, " token"]) -> Float[np.ndarray, " token"]:
    return weights / weights.sum() if len(weights) else weights
