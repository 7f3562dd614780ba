"""Models of a study without a study: predictions with so much signal, of one cohort or in folds.

For the tests of the analysis.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from concordant.analysis.candidates import Candidate
from concordant.core.survival import Predictions, completed

TIMES = np.array([100.0, 200.0, 400.0])
N = 120
CT, EHR = "unimodal(modality=ct)", "unimodal(modality=ehr)"


def predictions(
    weight: float, seed: int, *, cohort: int = 0, folds: int | None = None, repeats: int = 1
) -> Predictions:
    """Outcomes and folds are the same for every model of a cohort; two samples per subject.

    The rows stand in an order of their own.
    """
    truth, noise = np.random.default_rng(cohort), np.random.default_rng(seed)
    signal = truth.normal(size=N)
    time, censored = truth.exponential(300 * np.exp(-signal)), truth.exponential(600, size=N) + 60
    parts = []
    for repeat in range(repeats):
        risk = weight * signal + noise.normal(size=N)
        part = pl.DataFrame(
            {
                "sample_id": [f"{cohort}-{row}" for row in range(N)],
                "subject_id": np.arange(N) // 2,
                "site": ["here"] * N,
                "time_days": np.minimum(time, censored) + 1,
                "event": (time <= censored).astype(int),
                "risk": risk,
                "survival": np.exp(-np.outer(np.exp(risk), TIMES / 300)).tolist(),
                "available": ["both"] * N,
                "repeat": [repeat if folds else None] * N,
                "fold": truth.permutation(np.arange(N) % folds) if folds else [None] * N,
            }
        ).sample(fraction=1, shuffle=True, seed=100 * seed + repeat)
        parts.append(completed(part))
    return Predictions(pl.concat(parts), TIMES)


def candidates(
    models: Sequence[tuple[str, float, float]], *, folds: int | None = None, repeats: int = 1
) -> list[Candidate]:
    """Return a candidate per label, weight of the signal and tuning concordance.

    They predict `west` as well.
    """
    keys: list[Any] = (
        [(repeat, fold) for repeat in range(repeats) for fold in range(folds)] if folds else [None]
    )
    name = "development" if folds else "held_out"
    modality = {CT: "ct", EHR: "ehr"}
    return [
        Candidate(
            fusion=fusion,
            ct_encoder=None if fusion == EHR else "ctfm",
            ehr_encoder=None if fusion == CT else "one_hot",
            modality=modality.get(fusion),
            seed=0,
            predictions={
                name: predictions(weight, seed, folds=folds, repeats=repeats),
                "west": predictions(weight, seed + 50, cohort=1),
            },
            tuning=dict.fromkeys(keys, tuning),
        )
        for seed, (fusion, weight, tuning) in enumerate(models)
    ]
