"""What the processes of a run share on disk: the plan, the outcomes, the prepared inputs.

A task names a fit by its number; what the fit needs a process reads from here, prepared inputs over
memory maps that all processes of a machine share. The folder holds nothing that cannot be made
again.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from concordant.core.embedding import EmbeddingTable
from concordant.core.files import atomic_folder, read_json
from concordant.core.modality import Modality
from concordant.core.survival import Outcomes
from concordant.embeddings.store import EmbeddingStore
from concordant.model import ModelSpec
from concordant.study.data import StudyData
from concordant.study.plan import Plan
from concordant.training.options import TrainOptions
from concordant.training.prepare import FoldData, PreparedModality, prepare_modality

LEARNED = ("train", "tuning")
"""Parts of a fold with outcomes; what else there is, is only predicted."""

_FOLDS_IN_MEMORY = 2


@dataclass(frozen=True, slots=True)
class Work:
    """One fit as a process sees it.

    Attributes:
        folder: Where it writes.
        fingerprint: Of all that it depends on.
        facts: What it depends on.
        spec: The model.
        options: Options of training.
        seed: Seed of initialisation and dropout.
        fold: Position of the fold.
        stores: Per modality that is used, the name of its inputs.
    """

    folder: Path
    fingerprint: str
    facts: Mapping[str, Any]
    spec: ModelSpec
    options: TrainOptions
    seed: int
    fold: int
    stores: Mapping[Modality, tuple[str, ...]]


@dataclass(frozen=True)
class Workspace:
    """The folder that the processes of a run share.

    Attributes:
        folder: Where it lies.
        written: The plan in plain values.
    """

    folder: Path
    written: Mapping[str, Any]

    def work(self, number: int) -> Work:
        """Return a fit by its number in the plan."""
        fit = self.written["fits"][number]
        strategy = self.written["strategies"][fit["strategy"]]
        options = strategy["trials"][fit["trial"]]
        return Work(
            folder=Path(fit["folder"]),
            fingerprint=fit["fingerprint"],
            facts={**self.written["facts"], **strategy["facts"], "train": options}
            | {"rows": self.written["folds"][fit["fold"]], "seed": fit["seed"]},
            spec=ModelSpec(**strategy["spec"]),
            options=TrainOptions.model_validate(options),
            seed=fit["seed"],
            fold=fit["fold"],
            stores={Modality(name): tuple(places) for name, places in strategy["stores"].items()},
        )

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels of the predicted cohorts, the internal one first."""
        return tuple(self.written["labels"])

    @cached_property
    def times(self) -> Float[np.ndarray, " time"]:
        """Days at which survival is predicted."""
        return np.array(self.written["times"])

    def rows(self, fold: int) -> Mapping[str, Int[np.ndarray, " row"]]:
        """Return the rows of each part of a fold."""
        with np.load(self.folder / "rows.npz") as rows:
            return {part: rows[f"{fold}.{part}"] for part in (*LEARNED, "test")}

    @cached_property
    def cohorts(self) -> tuple[pl.DataFrame, ...]:
        """Outcomes of each cohort: `sample_id`, `subject_id`, `time_days`, `event`."""
        places = range(len(self.labels))
        return tuple(pl.read_parquet(self.folder / f"cohort-{place}.parquet") for place in places)

    def data(self, work: Work) -> FoldData:
        """Return what the fits of some encoders on a fold share; made once, by whoever needs it."""
        least = work.options.min_code_samples
        return _fold_data(self.folder, work.fold, tuple(work.stores.items()), least)

    def forget(self, fold: int) -> None:
        """Remove the inputs of a fold whose fits are all done."""
        shutil.rmtree(self.folder / "inputs" / str(fold), ignore_errors=True)


def write_workspace(plan: Plan, data: StudyData) -> Path:
    """Write what the processes of a run share, unless it is there, and return the folder."""
    folder = plan.run.work / plan.fingerprint
    if (folder / "plan.json").is_file():
        return folder
    with atomic_folder(folder, fsync=[]) as temporary:
        (temporary / "plan.json").write_text(json.dumps(_plain(plan)), encoding="utf-8")
        rows = {
            f"{place}.{part}": numbers
            for place, fold in enumerate(plan.folds)
            for part, numbers in fold.rows.items()
        }
        np.savez(temporary / "rows.npz", **rows)  # type: ignore[arg-type] # names are free
        for place, cohort in enumerate(data.cohorts):
            columns = cohort.table.select("sample_id", "subject_id", "time_days", "event")
            columns.write_parquet(temporary / f"cohort-{place}.parquet")
    return folder


@lru_cache(maxsize=2)
def open_workspace(folder: Path) -> Workspace:
    """Open what a run's processes share; once per process."""
    return Workspace(folder, read_json(folder / "plan.json"))


def release_memory() -> None:
    """Let go of the inputs that this process has in memory; the memory maps of a removed folder."""
    for remembered in (open_workspace, _fold_data, _prepared):
        remembered.cache_clear()


def part_of(cohort: int) -> str:
    """Return what the rows of a cohort are called as a part of a fold: the first is tested."""
    return "test" if cohort == 0 else f"external.{cohort}"


def _plain(plan: Plan) -> dict[str, Any]:
    strategies = [
        {
            "spec": {
                "fusion": one.strategy.fusion.name,
                "fusion_options": one.strategy.fusion.options,
                "head": one.strategy.head.name,
                "head_options": one.strategy.head.options,
            },
            "trials": [trial.options.model_dump(mode="json") for trial in one.trials],
            "stores": {
                modality: [str(cohort.stores[modality]) for cohort in one.cohorts]
                for modality in one.cohorts[0].stores
            },
            "facts": one.facts,
        }
        for one in plan.strategies
    ]
    fits = [
        {
            "folder": str(fit.folder.path),
            "strategy": fit.strategy,
            "trial": fit.trial,
            "fold": fit.fold,
            "seed": fit.seed,
            "fingerprint": fit.fingerprint,
        }
        for fit in plan.fits
    ]
    return {
        "labels": plan.labels,
        "times": plan.times.tolist(),
        "facts": plan.shared_facts,
        "folds": plan.row_digests,
        "strategies": strategies,
        "fits": fits,
    }


@lru_cache(maxsize=4 * _FOLDS_IN_MEMORY)
def _fold_data(
    folder: Path, fold: int, stores: tuple[tuple[Modality, tuple[str, ...]], ...], least: int
) -> FoldData:
    space = open_workspace(folder)
    rows = space.rows(fold)
    table = space.cohorts[0]
    target = Outcomes(table["time_days"].to_numpy(), table["event"].cast(pl.Int64).to_numpy())
    subjects = table["subject_id"].to_numpy()
    return FoldData(
        {modality: _prepared(folder, fold, places, least) for modality, places in stores},
        {part: target.take(rows[part]) for part in LEARNED},
        {part: subjects[rows[part]] for part in LEARNED},
    )


@lru_cache(maxsize=4 * _FOLDS_IN_MEMORY)
def _prepared(folder: Path, fold: int, places: tuple[str, ...], least: int) -> PreparedModality:
    """Return one encoder's inputs on a fold, over memory maps; the first to ask prepares them."""
    name = f"{Path(places[0]).name}-{least}"
    target = folder / "inputs" / str(fold) / name
    with _alone(folder / "locks", f"{fold}-{name}"):
        if not target.is_dir():
            tables = _tables(open_workspace(folder), fold, places)
            prepared = prepare_modality(tables, minimum_samples=least)
            with atomic_folder(target, fsync=[]) as temporary:
                prepared.write(temporary)
    return PreparedModality.open(target)


def _tables(space: Workspace, fold: int, places: tuple[str, ...]) -> dict[str, EmbeddingTable]:
    """Read each part's embeddings, unfitted."""
    read = [
        EmbeddingStore.open(Path(place)).read(cohort["sample_id"].to_list())
        for place, cohort in zip(places, space.cohorts, strict=True)
    ]
    parts = {part: read[0].take(rows) for part, rows in space.rows(fold).items()}
    return parts | {part_of(number): read[number] for number in range(1, len(read))}


@contextmanager
def _alone(folder: Path, name: str) -> Iterator[None]:
    """Keep other processes, on any machine that shares the folder, from doing the same."""
    folder.mkdir(exist_ok=True)
    with (folder / name).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
