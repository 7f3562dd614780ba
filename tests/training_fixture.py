"""Small cohorts with a known signal, quick options, and the Cox likelihood written plainly.

For the tests of model and training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from scipy.special import logsumexp

from concordant.core.embedding import (
    CodeEmbedding,
    EmbeddingTable,
    TokenEmbedding,
    pack_codes,
    pack_tokens,
)
from concordant.core.modality import Modality
from concordant.core.survival import Outcomes
from concordant.core.tokens import Pair
from concordant.training.batches import Batch, Samples
from concordant.training.options import TrainOptions
from concordant.training.prepare import FoldData, prepare_modality
from concordant.training.scaling import Scaling

CT_DIM, POOLED_DIM = 4, 3


def quick(**changes: Any) -> TrainOptions:
    """A fit of a few epochs without noise."""
    plain = {
        "lr": 1e-2,
        "max_epochs": 12,
        "min_epochs": 2,
        "patience": 4,
        "width": 8,
        "dropout": 0.0,
        "weight_decay": 0.0,
        "device": "cpu",
    }
    return TrainOptions(**(plain | changes))


def make_samples(
    n: int = 80, *, ehr: str = "codes", missing: float = 0.2, pooled: bool = False, seed: int = 0
) -> Samples:
    """Draw a cohort whose hazard lies half in the scan, half in the record.

    Each is missing in a share of it, sometimes both.
    """
    rng = np.random.default_rng(seed)
    severity = rng.normal(size=(n, 2))
    there = rng.random((n, 2)) >= missing
    scans = [
        _scan(rng, value, pooled) if here else None
        for value, here in zip(severity[:, 0], there[:, 0], strict=True)
    ]
    ct = pack_tokens(scans, dim=CT_DIM, pooled_dim=POOLED_DIM if pooled else None)
    time = rng.exponential(200 * np.exp(-severity.sum(1))) + 1
    censored = rng.exponential(600, n) + 1
    target = Outcomes(np.minimum(time, censored), (time <= censored).astype(np.int64))
    return Samples(
        {Modality.CT: ct, Modality.EHR: _records(rng, severity[:, 1], there[:, 1], ehr)},
        target,
        np.arange(n),
    )


def _scan(rng: np.random.Generator, severity: float, pooled: bool) -> TokenEmbedding:
    tokens = rng.normal(size=(int(rng.integers(2, 5)), CT_DIM)).astype(np.float32)
    tokens[:, 0] += severity
    return TokenEmbedding(
        tokens, (severity + rng.normal(size=POOLED_DIM)).astype(np.float32) if pooled else None
    )


def _records(
    rng: np.random.Generator, severity: np.ndarray, there: np.ndarray, kind: str
) -> EmbeddingTable:
    if kind == "tokens":
        vectors = [
            rng.normal(size=(3, 5)).astype(np.float32) + np.float32(value) for value in severity
        ]
        return pack_tokens(
            [
                TokenEmbedding(one) if here else None
                for one, here in zip(vectors, there, strict=True)
            ],
            dim=5,
            pooled_dim=None,
        )
    return pack_codes(
        [_record(rng, value) if here else None for value, here in zip(severity, there, strict=True)]
    )


def _record(rng: np.random.Generator, severity: float) -> CodeEmbedding:
    chance = 1 / (1 + np.exp(-severity * np.array([2, -2, 0, 0])))
    codes = sorted(f"D{place}" for place in range(4) if rng.random() < chance[place])
    numeric = np.array([False] * len(codes) + [True])
    return CodeEmbedding(
        (*codes, "LAB"), np.array([1.0] * len(codes) + [50 + 10 * severity], np.float32), numeric
    )


def split(samples: Samples, *sizes: int) -> list[Samples]:
    """Cut a cohort into parts of these sizes, in order."""
    edges = np.cumsum([0, *sizes])
    return [samples.take(np.arange(start, stop)) for start, stop in pairwise(edges)]


def with_inputs(samples: Samples, inputs: Mapping[Modality, EmbeddingTable]) -> Samples:
    """Return the samples with some of their tables replaced."""
    return Samples({**samples.inputs, **inputs}, samples.target, samples.subject)


def make_batch(samples: Samples, scaling: Mapping[Modality, Scaling]) -> Batch:
    """Return all samples as a model takes them, those without any modality included."""
    ct, ehr = (scaling[modality].apply(samples.table(modality)) for modality in Modality)
    subject = None if samples.subject is None else torch.from_numpy(samples.subject)
    time, event = torch.from_numpy(samples.target.time), torch.from_numpy(samples.target.event)
    return Batch(Pair(ct, ehr, subject), time, event)


def prepared(least: int = 2, **parts: Samples) -> FoldData:
    """Return parts as the data of a fold, fitted on the one called train."""
    modalities = {
        modality: prepare_modality(
            {part: samples.table(modality) for part, samples in parts.items()},
            minimum_samples=least,
        )
        for modality in Modality
    }
    targets = {part: samples.target for part, samples in parts.items()}
    return FoldData(modalities, targets, {part: one.subject for part, one in parts.items()})


@dataclass(frozen=True, slots=True)
class SlowCox:
    """Value of the negative log partial likelihood, summed over events, and its gradient in the
    log-hazards.
    """

    value: float
    gradient: np.ndarray


def slow_cox(
    hazard: np.ndarray,
    time: np.ndarray,
    event: np.ndarray,
    ties: str = "efron",
    valid: np.ndarray | None = None,
) -> SlowCox:
    """The definition, event after event, each risk set summed afresh.

    In log space, so that it holds at any size of the hazards.
    """
    there = np.ones(len(time), bool) if valid is None else np.asarray(valid)
    gradient, value = np.zeros(len(time)), 0.0
    for now in np.unique(time[(event == 1) & there]):
        tied = np.flatnonzero((time == now) & (event == 1) & there)
        at_risk = np.flatnonzero((time >= now) & there)
        for place, one in enumerate(tied):
            seen = 1.0 - np.isin(at_risk, tied) * (place / len(tied) if ties == "efron" else 0.0)
            log_sum = logsumexp(hazard[at_risk], b=seen)
            value += float(log_sum - hazard[one])
            gradient[at_risk] += seen * np.exp(hazard[at_risk] - log_sum)
            gradient[one] -= 1.0
    return SlowCox(value, gradient)
