"""The instrument: a simulated cohort of real files whose truth is known.

Latent factors set the hazard, the scans and the records of two sites; an oracle per modality set
says how well any model could do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import polars as pl

from concordant.core.errors import ConcordantError, MetricError
from concordant.core.files import atomic_folder, write_json, write_text
from concordant.engines import Engine, Outcome, run_tasks
from concordant.metrics import concordance_index
from concordant.simulation.options import SimulationOptions as SimulationOptions
from concordant.simulation.site_files import Task, tasks, write_tables
from concordant.simulation.study_file import STUDY
from concordant.simulation.subjects import MODALITY_SETS, Site, draw_subjects, sites

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class SimulatedCohort:
    """Where the parts of a simulated cohort lie.

    Attributes:
        folder: The folder that holds all of it.
    """

    folder: Path

    @property
    def study(self) -> Path:
        """A study that is ready to run."""
        return self.folder / "study.yaml"

    @property
    def development(self) -> Path:
        """Cohort table of the development site; its scans and records lie beside it."""
        return self.folder / "development" / "cohort.parquet"

    @property
    def external(self) -> Path:
        """Cohort table of the external site; its scans and records lie beside it."""
        return self.folder / "external" / "cohort.parquet"

    @property
    def truth(self) -> Path:
        """Per sample: latent factors, the true log-hazard, and each oracle's (higher = earlier
        event).
        """
        return self.folder / "truth.parquet"

    @property
    def summary(self) -> Path:
        """Options, and Harrell's C of every oracle per site and split."""
        return self.folder / "truth.json"

    def oracle(self, seen: str) -> Path:
        """Predictions of both sites by the oracle that sees "ct", "ehr" or "both"."""
        return self.folder / "truth" / f"oracle_{seen}.parquet"


def simulate(
    out: Path,
    options: SimulationOptions = SimulationOptions(),  # noqa: B008 - frozen, so one instance serves every call
    *,
    engine: Engine | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> SimulatedCohort:
    """Write a cohort of two sites whose truth is known.

    Scans, records, tables, oracles and a study that is ready to run.

    The folder appears whole or not at all, and is the same for a seed whatever the engine.

    Args:
        out: The folder to write.
        options: What is simulated.
        engine: Where scans and records are made; in this process unless given.
        overwrite: Replace an earlier simulated cohort, and all runs in its folder.
        progress: Called with a stage, the scans and records done, and their total.

    Raises:
        ConcordantError: `out` holds something and may not be replaced.
    """
    cohort = SimulatedCohort(Path(out).resolve())
    _refuse_to_replace(cohort, overwrite=overwrite)
    with atomic_folder(cohort.folder) as temporary:
        _write(SimulatedCohort(temporary), options, engine, progress)
    return cohort


def _refuse_to_replace(cohort: SimulatedCohort, *, overwrite: bool) -> None:
    folder = cohort.folder
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not overwrite:
        raise ConcordantError(
            f"{folder}: exists and is not empty; choose another folder, or --overwrite to replace "
            "it"
        )
    if not cohort.summary.is_file():
        raise ConcordantError(
            f"{folder}: holds something other than a simulated cohort, which is never overwritten; "
            "choose another folder"
        )


def _write(
    cohort: SimulatedCohort,
    options: SimulationOptions,
    engine: Engine | None,
    progress: Progress | None,
) -> None:
    subjects: dict[Site, pl.DataFrame] = {
        site: draw_subjects(site, options) for site in sites(options)
    }
    work: list[Task] = []
    for table, (site, own) in zip(
        (cohort.development, cohort.external), subjects.items(), strict=True
    ):
        write_tables(table.parent, site, own, options)
        work += tasks(table.parent, site, own, options)
    _run(work, engine, progress)
    everyone = pl.concat(subjects.values())
    _write_truth(cohort, everyone)
    write_json(
        cohort.summary,
        {"options": options.model_dump(), "oracle_concordance": _oracle_concordance(everyone)},
    )
    write_text(cohort.study, STUDY)


def _run(work: Sequence[Task], engine: Engine | None, progress: Progress | None) -> None:
    total = sum(task.subjects.height for task in work)
    done = 0

    def count(outcome: Outcome[None]) -> None:
        nonlocal done
        done += work[outcome.index].subjects.height
        if progress is not None:
            progress("simulating scans and records", done, total)

    for outcome in run_tasks(_write_files, work, engine=engine, on_done=count):
        if outcome.failure is not None:
            failure = outcome.failure
            told = failure.message if failure.expected else f"{failure.kind}: {failure.message}"
            raise ConcordantError(f"the simulation failed: {told}")


def _write_files(task: Task) -> None:
    task.write()


def _write_truth(cohort: SimulatedCohort, everyone: pl.DataFrame) -> None:
    available = (
        pl.when(pl.col("has_ct") & pl.col("has_ehr"))
        .then(pl.lit("both"))
        .when("has_ct")
        .then(pl.lit("ct"))
        .when("has_ehr")
        .then(pl.lit("ehr"))
        .otherwise(pl.lit("none"))
        .alias("available")
    )
    columns = (
        pl.selectors.starts_with("factor_")
        | pl.selectors.by_name("log_hazard")
        | pl.selectors.starts_with("oracle_")
    )
    everyone.select("sample_id", "site", "split", available, columns).write_parquet(cohort.truth)
    cohort.oracle("both").parent.mkdir()
    for seen in MODALITY_SETS:
        risk = pl.col(f"oracle_{seen}").alias("risk")
        everyone.select(
            "sample_id", "subject_id", "site", "time_days", "event", risk
        ).write_parquet(cohort.oracle(seen))


def _oracle_concordance(everyone: pl.DataFrame) -> list[dict[str, Any]]:
    """Return Harrell's C per modality set, site and split; split null = the whole site."""
    parts = everyone.select("site", "split").unique(maintain_order=True).rows()
    whole = [(site, None) for site in everyone["site"].unique(maintain_order=True)]
    rows = []
    for (site, split), seen in product(
        sorted({*parts, *whole}, key=lambda part: (part[0], part[1] or "")), MODALITY_SETS
    ):
        own = everyone.filter(pl.col("site") == site)
        own = own if split is None else own.filter(pl.col("split") == split)
        rows.append({"site": site, "split": split, "modalities": seen, **_concordance(own, seen)})
    return rows


def _concordance(own: pl.DataFrame, seen: str) -> dict[str, Any]:
    time, event, risk = (own[name].to_numpy() for name in ("time_days", "event", f"oracle_{seen}"))
    counts = {"n": own.height, "n_events": int((event == 1).sum())}
    try:
        result = concordance_index(time, event, risk)
    except MetricError:  # no comparable pair in so small a part
        return {"concordance_index": None, "standard_error": None, **counts}
    return {"concordance_index": result.estimate, "standard_error": result.standard_error, **counts}
