"""Builds a run folder as a finished study leaves it, from a small simulated cohort.

The input of the report's tests.

Risks are noisy sums of known factors; every number in the tables comes from the project's own
evaluation and comparison.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from concordant.analysis.calibration import calibration_groups, calibration_table
from concordant.analysis.candidates import Candidate
from concordant.analysis.compare import contrasts
from concordant.analysis.decision import decision_curves
from concordant.analysis.gains import gains_over_both
from concordant.analysis.survival_curves import survival_curves
from concordant.core.artifacts import RunFolder, slug
from concordant.core.files import write_json
from concordant.core.survival import Predictions
from concordant.evaluation import average_seeds, evaluate, subgroups, tau_days

METRICS = ("concordance_index", "integrated_brier_score")
HORIZONS = (180.0, 365.0)
MODEL = ("ct_encoder", "ehr_encoder", "fusion", "seed")
RESULTS = (
    "cohort",
    "site",
    *MODEL,
    "metric",
    "horizon_days",
    "value",
    "standard_error",
    "ci_low",
    "ci_high",
    "n",
    "n_events",
    "tau_days",
    "note",
)
SITES = {"held_out": "rochester", "development": "rochester", "mayo_florida": "jacksonville"}

# label: weight of the scan, weight of the record, noise, tuning concordance
STRATEGIES = {
    "unimodal(modality=ct)": (1.0, 0.0, 0.5, 0.701),
    "unimodal(modality=ehr)": (0.0, 1.0, 0.6, 0.684),
    "linear": (1.0, 1.0, 0.7, 0.741),
    "concat": (1.0, 1.0, 0.9, 0.733),
    "late": (1.0, 1.0, 0.8, 0.742),
    "late(combine=mean)": (0.8, 1.0, 0.9, 0.738),
    "contrastive": (1.0, 1.0, 0.5, 0.757),
    "contrastive(regime=two_stage)": (1.0, 1.0, 0.7, 0.749),
    "cross_attention(query=ct)": (1.0, 0.7, 0.9, 0.729),
    "cross_attention(query=ehr)": (0.6, 1.0, 1.0, 0.722),
    "co_attention(guide=ct)": (1.0, 0.8, 0.8, 0.744),
    "co_attention(guide=ehr)": (0.7, 1.0, 0.9, 0.735),
}
ORACLES = {"oracle(ct)": (1.0, 0.0), "oracle(ehr)": (0.0, 1.0), "oracle(both)": (1.0, 1.0)}


@dataclass(frozen=True)
class People:
    """One cohort's outcomes and the factors behind them."""

    label: str
    table: pl.DataFrame
    ct: np.ndarray
    ehr: np.ndarray


def write_run_folder(
    folder: Path,
    *,
    sizes: Mapping[str, int] | None = None,
    strategies: Sequence[str] = tuple(STRATEGIES),
    ehr_encoders: Sequence[str] = ("one_hot",),
    seeds: Sequence[int] = (0,),
    oracle: bool = True,
    folds: int = 0,
    judged: Mapping[str, Any] | None = None,
) -> RunFolder:
    """Write every artifact the report reads.

    `sizes` are samples per cohort label, `judged` are options of `contrasts`.
    """
    rng = np.random.default_rng(7)
    run = RunFolder(folder)
    cohorts = [
        _people(rng, label, n, folds)
        for label, n in (sizes or {"held_out": 420, "mayo_florida": 240}).items()
    ]
    members = _members(strategies, ehr_encoders, seeds)
    candidates = [_candidate(rng, one, cohorts, folds) for one in members]
    for one, candidate in zip(members, candidates, strict=True):
        for cohort, predictions in candidate.predictions.items():
            predictions.write(run.strategy(str(one["folder"])).predictions(cohort))
    foreign = {
        name: {
            one.label: _predictions(one, *_factors(one, weights), noise=0.0, rng=rng)
            for one in cohorts
        }
        for name, weights in ORACLES.items()
    }
    _write_tables(run, candidates, foreign if oracle else {}, judged)
    write_json(run.audit, _audit())
    write_json(run.record, _record(cohorts, members, oracle, folds))
    return run


def identifiers(run: RunFolder) -> set[str]:
    """Return every sample_id and subject_id of the run's predictions."""
    tables = [pl.read_parquet(path) for path in run.path.glob("*/predictions/*.parquet")]
    return {
        str(one)
        for table in tables
        for name in ("sample_id", "subject_id")
        for one in table[name].to_list()
    }


def _people(rng: np.random.Generator, label: str, n: int, folds: int) -> People:
    ct, ehr = rng.normal(size=(2, n))
    ehr = 0.2 * ct + ehr
    event_time = rng.exponential(np.exp(-0.9 * ct - 0.8 * ehr) * 900)
    censoring = rng.uniform(200, 1600, size=n)
    scattered = rng.choice(10**6, size=n, replace=False)
    table = pl.DataFrame(
        {
            "sample_id": [f"sample-{number:06d}-{label[:3]}" for number in scattered],
            "subject_id": 8_100_000_000 + scattered,
            "site": SITES.get(label, label),
            "time_days": np.minimum(event_time, censoring) + 0.5,
            "event": (event_time <= censoring).astype(np.int8),
            "available": rng.choice(["both", "ct", "ehr"], size=n, p=[0.84, 0.06, 0.10]),
            "repeat": np.zeros(n, np.int16) if folds and label == "development" else None,
            "fold": (np.arange(n) % folds).astype(np.int16)
            if folds and label == "development"
            else None,
        }
    )
    return People(label, table, ct, ehr)


def _factors(people: People, weights: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    return weights[0] * 0.9 * people.ct, weights[1] * 0.8 * people.ehr


def _predictions(
    people: People, ct: np.ndarray, ehr: np.ndarray, *, noise: float, rng: np.random.Generator
) -> Predictions:
    """A missing modality leaves the other one; noise is what a model fails to see."""
    available = people.table["available"].to_numpy()
    risk = np.where(available == "ehr", 0, ct + noise * 0.9 * rng.normal(size=len(ct)) * (ct.any()))
    risk = risk + np.where(
        available == "ct", 0, ehr + noise * 0.8 * rng.normal(size=len(ehr)) * (ehr.any())
    )
    times = np.array([30.0, 90.0, 180.0, 270.0, 365.0, 545.0, 730.0])
    survival = np.exp(-np.outer(np.exp(risk), times) / 900)
    table = people.table.with_columns(
        pl.Series("risk", risk), pl.Series("survival", survival.tolist())
    )
    return Predictions(table, times)


def _members(
    strategies: Sequence[str], ehr_encoders: Sequence[str], seeds: Sequence[int]
) -> list[dict[str, object]]:
    members: dict[str, dict[str, object]] = {}
    for fusion in strategies:
        for encoder in ehr_encoders:
            ct = None if "modality=ehr" in fusion else "volume_features"
            ehr = None if "modality=ct" in fusion else encoder
            for seed in seeds:
                name = slug(f"{fusion}-{ct}-{ehr}-{seed}")
                tuning = STRATEGIES[fusion][3] + 0.002 * seed - 0.004 * ehr_encoders.index(encoder)
                members[name] = {
                    "folder": name,
                    "fusion": fusion,
                    "ct_encoder": ct,
                    "ehr_encoder": ehr,
                    "head": "cox",
                    "seed": seed,
                    "status": "done",
                    "reason": None,
                    "n_parameters": 4_000 + 1_000 * len(fusion),
                    "tuning_concordance": tuning,
                    "seconds": 0.3 * len(fusion),
                }
    return list(members.values())


def _candidate(
    rng: np.random.Generator, member: Mapping[str, object], cohorts: Sequence[People], folds: int
) -> Candidate:
    fusion = str(member["fusion"])
    ct, ehr, noise, _ = STRATEGIES[fusion]
    modality = {"unimodal(modality=ct)": "ct", "unimodal(modality=ehr)": "ehr"}.get(fusion)
    keys = [(0, fold) for fold in range(folds)] or [None]
    return Candidate(
        fusion=fusion,
        ct_encoder=member["ct_encoder"],
        ehr_encoder=member["ehr_encoder"],
        modality=modality,
        seed=member["seed"],
        predictions={
            one.label: _predictions(one, *_factors(one, (ct, ehr)), noise=noise, rng=rng)
            for one in cohorts
        },
        tuning={key: member["tuning_concordance"] for key in keys},
    )


def _write_tables(
    run: RunFolder,
    candidates: Sequence[Candidate],
    foreign: Mapping[str, Mapping[str, Predictions]],
    judged: Mapping[str, Any] | None,
) -> None:
    rows: list[tuple[tuple[object, ...], str, Predictions]] = []
    for model in dict.fromkeys((one.ct_encoder, one.ehr_encoder, one.fusion) for one in candidates):
        own = [one for one in candidates if (one.ct_encoder, one.ehr_encoder, one.fusion) == model]
        rows += [
            ((*model, one.seed), cohort, made)
            for one in own
            for cohort, made in one.predictions.items()
        ]
        if len(own) > 1:
            rows += [
                ((*model, None), cohort, average_seeds([one.predictions[cohort] for one in own]))
                for cohort in own[0].predictions
            ]
    rows += [
        ((None, None, name, None), cohort, made)
        for name, cohorts in foreign.items()
        for cohort, made in cohorts.items()
    ]
    run.path.mkdir(parents=True, exist_ok=True)
    tau = tau_days("common", {cohort: made for _, cohort, made in rows}.values())
    whole = [
        _labelled(evaluate(made, metrics=METRICS, tau=tau), model, cohort)
        for model, cohort, made in rows
    ]
    parts = [
        _labelled(subgroups(made, "available", metrics=METRICS[:1]), model, cohort)
        for model, cohort, made in rows
    ]
    pl.concat(whole).select(RESULTS).write_parquet(run.results)
    pl.concat(parts).select(*RESULTS, "subgroup", "level").write_parquet(run.subgroups)
    contrasts(candidates, metrics=METRICS, tau=tau, **(judged or {})).write_parquet(run.contrasts)
    gains_over_both(candidates, metrics=METRICS, tau=tau).write_parquet(run.gains_over_both)
    decision_curves(candidates, horizons_days=HORIZONS).write_parquet(run.decision_curves)
    calibration_groups(candidates, horizons_days=HORIZONS).write_parquet(run.calibration_groups)
    calibration_table(candidates, horizons_days=HORIZONS).write_parquet(run.calibration)
    survival_curves(candidates).write_parquet(run.survival_curves)


def _labelled(table: pl.DataFrame, model: tuple[object, ...], cohort: str) -> pl.DataFrame:
    kinds = (pl.String, pl.String, pl.String, pl.Int64)
    named = [
        pl.lit(value, dtype=kind).alias(name)
        for name, value, kind in zip(MODEL, model, kinds, strict=True)
    ]
    return table.with_columns(
        *named, pl.lit(cohort).alias("cohort"), pl.lit(SITES.get(cohort, cohort)).alias("site")
    )


def _audit() -> dict[str, object]:
    checks = [
        ("subjects_disjoint_across_splits", "0 of 1,060 subjects are in two splits"),
        ("subjects_disjoint_across_cohorts", "0 subjects are in two cohorts"),
        ("events_after_prediction_time", "1,204 events after the prediction time were cut"),
        ("encoders_unaware_of_test_cohorts", "2 encoders, none trained on a test cohort"),
    ]
    return {
        "passed": True,
        "checks": [{"name": name, "passed": True, "detail": detail} for name, detail in checks],
    }


def _record(
    cohorts: Sequence[People], members: Sequence[Mapping[str, object]], oracle: bool, folds: int
) -> dict[str, object]:
    pooled = {
        "folder": "co_attention-pooled",
        "fusion": "co_attention(guide=both)",
        "ct_encoder": "volume_features",
        "ehr_encoder": "pooled",
        "head": "cox",
        "seeds": [0],
        "status": "not_applicable",
        "reason": "attention over a single key ignores the query; give the record as tokens "
        "(one_hot) or use another fusion",
    }
    diverged = {
        **pooled,
        "folder": "late-pooled",
        "fusion": "late",
        "status": "failed",
        "reason": "the loss is NaN at epoch 3",
    }
    return {
        "name": "pe_mortality",
        "task": {"event": "death", "horizons_days": [30, 180, 365]},
        "started": "2026-11-20T09:14:02+00:00",
        "finished": "2026-11-20T09:31:47+00:00",
        "versions": {
            "concordant": "0.1.0",
            "numpy": "2.4.6",
            "polars": "2.1.0",
            "torch": "2.13.0",
            "python": "3.11.9",
        },
        "git_revision": "3f9c2ab",
        "fingerprint": "a41f09c27be35d18",
        "train": {"lr": 0.001, "max_epochs": 200, "patience": 20, "latent_dim": 64},
        "cross_validation": {"folds": folds, "repeats": 1, "group": "subject_id"}
        if folds
        else None,
        "cohorts": [_cohort(one) for one in cohorts],
        "strategies": [*_strategies(members), pooled, diverged],
        "foreign": [{"name": name, "oracle": True} for name in ORACLES] if oracle else [],
        "quarantine": [
            {
                "cohort": "mayo_florida",
                "modality": "ct",
                "encoder": "volume_features",
                "n": 3,
                "n_total": 147,
                "reasons": {"file is truncated": 2, "constant volume": 1},
            }
        ],
        "store": {"root": "embeddings"},
    }


def _strategies(members: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    """Put the seeds of a strategy together, as the study does."""
    found: dict[tuple[object, ...], list[Mapping[str, object]]] = {}
    for one in members:
        found.setdefault((one["fusion"], one["ct_encoder"], one["ehr_encoder"]), []).append(one)
    return [
        {
            **own[0],
            "seeds": [one["seed"] for one in own],
            "tuning_concordance": float(np.mean([one["tuning_concordance"] for one in own])),
        }
        for own in found.values()
    ]


def _cohort(people: People) -> dict[str, object]:
    table, internal = people.table, people.label in ("held_out", "development")
    available = dict(table["available"].value_counts().iter_rows())
    return {
        "label": people.label,
        "role": "internal" if internal else "external",
        "n": table.height,
        "n_subjects": table.height,
        "n_events": int((table["event"] == 1).sum()),
        "n_train": 600 if internal else None,
        "n_tuning": 150 if internal else None,
        "sites": {SITES.get(people.label, people.label): table.height},
        "available": {name: available.get(name, 0) for name in ("both", "ct", "ehr", "none")},
        "median_follow_up_days": 871.0,
        "columns": {"age": "median 63 (quartiles 54, 72)", "sex": "female 48 %, male 52 %"},
    }
