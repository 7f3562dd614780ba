"""Where the defaults of training come from.

C-index on new subjects of simulated cohorts with few and with many events.

Usage: python benchmarks/defaults.py [--cohorts 20] [--sizes few some many] [--out
benchmarks/defaults.csv]

Each cohort has 20 correlated scan features and a record of 21 codes and 4 values; the log-hazard is
linear in some of them. Every setting is fitted on the same cohorts and judged on 1,000 new subjects
each; the linear model, fitted by the same code, stands beside them.
"""

from __future__ import annotations

import argparse
import csv
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from concordant.core.embedding import CodeTable, TokenTable
from concordant.core.modality import Modality
from concordant.core.survival import Outcomes
from concordant.metrics import concordance_index
from concordant.model import ModelSpec
from concordant.training.batches import Samples
from concordant.training.fit import fit
from concordant.training.options import TrainOptions

SIZES = {"few": (238, 0.14), "some": (1000, 0.4), "many": (3000, 0.3)}
STRATEGIES: dict[str, tuple[str, dict[str, Any]]] = {
    "unimodal ct": ("unimodal", {"modality": "ct"}),
    "unimodal ehr": ("unimodal", {"modality": "ehr"}),
    "concat": ("concat", {}),
    "late": ("late", {}),
    "contrastive": ("contrastive", {}),
}
LINEAR = {
    "unimodal ct": {"modality": "ct"},
    "unimodal ehr": {"modality": "ehr"},
    "concat": {"modality": "both"},
}
SETTINGS: tuple[dict[str, Any], ...] = (
    {},
    {"min_epochs": 0},
    {"width": 32},
    {"width": 128},
    {"dropout": 0.25},
    {"dropout": 0.1},
    {"weight_decay": 0.1},
    {"weight_decay": 10.0},
    {"lr": 3e-3},
)
NEW_SUBJECTS = 1000


@dataclass(frozen=True, slots=True)
class Cohort:
    """A simulated cohort: four fifths train, one fifth tuning, and new subjects."""

    train: Samples
    tuning: Samples
    new: Samples


def simulate(seed: int, size: int, event_share: float) -> Cohort:
    """Draw scan features, a record and survival times with about the wanted share of events."""
    rng = np.random.default_rng(seed)
    total = size + NEW_SUBJECTS
    scan = rng.normal(size=(total, 6)) @ rng.normal(size=(6, 20)) * 0.6 + rng.normal(
        size=(total, 20)
    )
    codes = (rng.random((total, 21)) < rng.uniform(0.02, 0.4, 21)).astype(float)
    record = np.concatenate([codes, rng.normal(size=(total, 4))], axis=1)
    hazard = sum(
        _standardised(part @ (rng.normal(size=part.shape[1]) * (rng.random(part.shape[1]) < 0.45)))
        for part in (scan, record)
    )
    time_to_event = rng.exponential(np.exp(-0.64 * hazard))
    censored = rng.uniform(0, 1, total)
    scale = next(
        s
        for s in np.geomspace(0.01, 1000, 400)
        if (time_to_event <= censored * s).mean() >= event_share
    )
    event = (time_to_event <= censored * scale).astype(np.int64)
    samples = Samples(
        {
            Modality.CT: TokenTable(scan.astype(np.float32), np.arange(total + 1)),
            Modality.EHR: _codes(record),
        },
        Outcomes(np.minimum(time_to_event, censored * scale) + 1e-9, event),
    )
    split = int(size * 0.8)
    return Cohort(
        *(samples.take(np.arange(*bounds)) for bounds in ((0, split), (split, size), (size, total)))
    )


def _standardised(values: np.ndarray) -> np.ndarray:
    spread = values.std()
    return np.asarray((values - values.mean()) / (spread if spread > 0 else 1.0))


def _codes(record: np.ndarray) -> CodeTable:
    rows, columns = np.nonzero(record)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(record)))])
    names = tuple(f"code{place:02d}" for place in range(record.shape[1]))
    return CodeTable(
        names,
        np.arange(record.shape[1]) >= 21,
        columns,
        record[rows, columns].astype(np.float32),
        offsets,
    )


def judge(cohort: Cohort, spec: ModelSpec, options: Mapping[str, Any], seed: int) -> float:
    """Fit and return the C-index on the new subjects."""
    fitted = fit(cohort.train, cohort.tuning, spec, TrainOptions(**options), seed=seed)
    target = cohort.new.target
    return concordance_index(
        target.time, target.event, fitted.predict(cohort.new.inputs).risk
    ).estimate


def rows(cohorts: int, sizes: list[str]) -> list[dict[str, Any]]:
    """Judge every setting and the linear model, on the same cohorts."""
    found = []
    for name in sizes:
        size, share = SIZES[name]
        drawn = [
            simulate(seed, size, share)
            for seed in range(cohorts if size < 1000 else max(cohorts // 4, 2))
        ]
        tried = [
            (f"{key}", ModelSpec("linear", options), {}, "linear")
            for key, options in LINEAR.items()
        ]
        for options in SETTINGS:
            label = ", ".join(f"{key}={value}" for key, value in options.items()) or "defaults"
            tried += [(key, ModelSpec(*spec), options, label) for key, spec in STRATEGIES.items()]
        for strategy, spec, options, label in tried:
            started = time.monotonic()
            values = np.array(
                [judge(cohort, spec, options, seed) for seed, cohort in enumerate(drawn)]
            )
            found.append(
                {
                    "events": name,
                    "train_events": round(
                        float(np.mean([one.train.target.observed.sum() for one in drawn]))
                    ),
                    "strategy": strategy,
                    "setting": label,
                    "concordance": round(float(values.mean()), 4),
                    "standard_error": round(float(values.std(ddof=1) / np.sqrt(len(values))), 4),
                    "cohorts": len(values),
                    "seconds_per_fit": round((time.monotonic() - started) / len(values), 2),
                    "torch": version("torch"),
                    "machine": f"{platform.machine()}, {torch.get_num_threads()} thread(s)",
                }
            )
            print(found[-1])
    return found


def main() -> None:
    """Run and write the CSV."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cohorts", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".csv"))
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    given = parser.parse_args()
    torch.set_num_threads(1)
    table = rows(given.cohorts, given.sizes)
    with given.out.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(table[0]))
        writer.writeheader()
        writer.writerows(table)


if __name__ == "__main__":
    main()
