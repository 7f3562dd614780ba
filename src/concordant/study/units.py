"""One unit of work: a member fitted once, on its split or on one fold, and everything it predicts.

Runs in any process.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from concordant.config import Member
from concordant.core.artifacts import MemberFolder
from concordant.core.embedding import EmbeddingTable
from concordant.core.errors import MetricError
from concordant.core.files import atomic_folder, fingerprint, read_json, write_json
from concordant.core.modality import Modality
from concordant.core.survival import AS_IS, COLUMNS, Predictions, SurvivalTarget
from concordant.embeddings.store import EmbeddingStore
from concordant.metrics import concordance_index
from concordant.model import ModelSpec
from concordant.training.batches import Samples, absent_table
from concordant.training.checkpoint import load_fitted, save_fitted
from concordant.training.fit import FittedModel, fit

FIT_VERSION = 1
"""Raised when the same options and inputs would give another fit."""


@dataclass(frozen=True)
class CohortPart:
    """A cohort as a unit sees it.

    Attributes:
        label: Label of the predicted rows in tables.
        table: `sample_id`, `subject_id`, `site`, `time_days`, `event` of all samples.
        stores: Folder of the store of each modality the member uses.
        available: Per sample "both", "ct", "ehr" or "none".
    """

    label: str
    table: pl.DataFrame
    stores: Mapping[Modality, Path]
    available: pl.Series

    @cached_property
    def fingerprints(self) -> Mapping[str, str]:
        """What stands for the outcomes and for who has what; the folds of a member share it."""
        rows = self.table.select("sample_id", "subject_id", "site", "time_days", "event").rows()
        return {
            "cohorts": fingerprint({"rows": rows}),
            "available": fingerprint({"available": self.available.to_list()}),
        }


@dataclass(frozen=True)
class Unit:
    """A member on one split or fold.

    Attributes:
        folder: Where it writes.
        member: What is fitted.
        development: The cohort it is fitted on; `rows` of it are predicted.
        external: Cohorts that are predicted whole.
        rows: Row numbers of development per role: train, tuning, test.
        repeat: Repeat of cross-validation, or None.
        fold: Fold of cross-validation, or None.
        times: Days at which survival is predicted, ascending.
    """

    folder: Path
    member: Member
    development: CohortPart
    external: tuple[CohortPart, ...]
    rows: Mapping[str, Int[np.ndarray, " row"]]
    repeat: int | None
    fold: int | None
    times: Float[np.ndarray, " time"]

    @property
    def name(self) -> str:
        """What messages call it."""
        fold = "" if self.fold is None else f", repeat {self.repeat}, fold {self.fold}"
        return f"{self.member.name}{fold}"

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What the result depends on, apart from the stores' content, which their folder names
        fingerprint.
        """
        parts = (self.development, *self.external)
        return {
            "fit_version": FIT_VERSION,
            "member": self.member.resolved(),
            "cohorts": {part.label: part.fingerprints["cohorts"] for part in parts},
            "stores": {
                part.label: {str(modality): folder.name for modality, folder in part.stores.items()}
                for part in parts
            },
            "available": {part.label: part.fingerprints["available"] for part in parts},
            "rows": fingerprint({role: rows.tolist() for role, rows in self.rows.items()}),
            "times": self.times.tolist(),
        }

    @property
    def is_done(self) -> bool:
        """Whether the folder holds the result of exactly this unit."""
        path = self.folder / "unit.json"
        return path.is_file() and read_json(path).get("fingerprint") == fingerprint(self.facts)


def run_unit(unit: Unit) -> None:
    """Fit, predict and write a unit's folder whole; do nothing where it is done."""
    if unit.is_done:
        return
    started = time.monotonic()
    samples = _samples(unit.development, unit.member)
    tuning = samples.take(unit.rows["tuning"])
    spec = ModelSpec(
        unit.member.fusion.name,
        unit.member.fusion.options,
        unit.member.head.name,
        unit.member.head.options,
    )
    fitted = fit(
        samples.take(unit.rows["train"]), tuning, spec, unit.member.train, seed=unit.member.seed
    )
    with atomic_folder(unit.folder) as temporary:
        save_fitted(fitted, temporary)
        test = unit.rows["test"]
        _predict(fitted, unit, samples.take(test), unit.development, test).write(
            MemberFolder(temporary).predictions(unit.development.label)
        )
        for part in unit.external:
            everyone = np.arange(part.table.height)
            _predict(fitted, unit, _samples(part, unit.member), part, everyone).write(
                MemberFolder(temporary).predictions(part.label)
            )
        write_json(
            temporary / "unit.json", _account(fitted, tuning, unit, time.monotonic() - started)
        )


def tuning_predictions(unit: Unit) -> Predictions:
    """Return what the saved model of a finished unit predicts for its own tuning part.

    Raises:
        StoreError: The model cannot be read.
    """
    tuning = unit.rows["tuning"]
    return _predict(
        load_fitted(unit.folder),
        unit,
        _samples(unit.development, unit.member).take(tuning),
        unit.development,
        tuning,
    )


def _account(fitted: FittedModel, tuning: Samples, unit: Unit, seconds: float) -> dict[str, Any]:
    risk = fitted.predict(tuning.inputs).risk
    try:
        concordance: float | None = concordance_index(
            tuning.target.time, tuning.target.event, risk
        ).estimate
    except MetricError:  # no comparable pair in a small tuning part: it recommends nothing
        concordance = None
    return {
        "fingerprint": fingerprint(unit.facts),
        "facts": unit.facts,
        "repeat": unit.repeat,
        "fold": unit.fold,
        "tuning_concordance": concordance,
        "train_mean_risk": float(fitted.model.mean_risk),
        "n_parameters": fitted.n_parameters,
        "n": {role: len(rows) for role, rows in unit.rows.items()},
        "n_events_train": fitted.events,
        "device": str(fitted.model.mean_risk.device),
        "seconds": round(seconds, 3),
    }


def _predict(
    fitted: FittedModel,
    unit: Unit,
    samples: Samples,
    part: CohortPart,
    rows: Int[np.ndarray, " row"],
) -> Predictions:
    predicted = fitted.predict(samples.inputs)
    survival = fitted.survival(predicted.risk, unit.times)
    table = part.table.select("sample_id", "subject_id", "site", "time_days", "event")[
        rows
    ].with_columns(
        pl.Series("risk", predicted.risk),
        pl.Series("survival", survival.tolist(), dtype=pl.List(pl.Float64)),
        part.available[rows].alias("available"),
        pl.lit(unit.repeat, pl.Int16).alias("repeat"),
        pl.lit(unit.fold, pl.Int16).alias("fold"),
        pl.lit(None, pl.Int16).alias("trial"),
        pl.lit(unit.member.seed, pl.Int64).alias("seed"),
        pl.lit(AS_IS).alias("variant"),
    )
    return Predictions(
        table.select([pl.col(name).cast(kind) for name, kind in COLUMNS.items()]), unit.times
    )


def _samples(part: CohortPart, member: Member) -> Samples:
    ids = tuple(part.table["sample_id"])
    inputs = {
        modality: _read(folder, ids, (folder / "manifest.json").stat().st_mtime_ns)
        for modality, folder in part.stores.items()
    }
    target = SurvivalTarget(
        part.table["time_days"].to_numpy(), part.table["event"].cast(pl.Int64).to_numpy()
    )
    return Samples(
        inputs or {Modality.CT: absent_table(len(ids))}, target, part.table["subject_id"].to_numpy()
    )


@lru_cache(maxsize=8)
def _read(folder: Path, sample_ids: tuple[str, ...], made: int) -> EmbeddingTable:
    """Read a cohort's embeddings once per process.

    The units of a study share them, and a store that was `made` anew is read anew.
    """
    return EmbeddingStore.open(folder).read(sample_ids)


def availability(present: Mapping[Modality, Sequence[bool] | np.ndarray], n: int) -> pl.Series:
    """Return per sample which modalities there are: "both", "ct", "ehr" or "none"."""
    ct = np.asarray(present.get(Modality.CT, np.zeros(n, bool)))
    ehr = np.asarray(present.get(Modality.EHR, np.zeros(n, bool)))
    return pl.Series("available", np.select([ct & ehr, ct, ehr], ["both", "ct", "ehr"], "none"))
