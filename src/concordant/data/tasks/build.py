"""From a task and a MEDS dataset to a cohort table, shard by shard."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from concordant.core.errors import CohortError, ConfigError
from concordant.core.files import atomic_path, write_json
from concordant.data.cohort import SPLITS, Cohort, read_cohort
from concordant.data.flow import Flow, FlowCounter, events_by_name
from concordant.data.meds import Shard, scan_shards
from concordant.data.tasks.codes import resolve_codes
from concordant.data.tasks.counts import TaskCounts
from concordant.data.tasks.definition import Index, Task
from concordant.data.tasks.files import parse_task, read_task
from concordant.data.tasks.labels import SplitDraw, drawn_splits
from concordant.data.tasks.records import read_shard
from concordant.data.tasks.samples import SampleMaker
from concordant.data.tasks.tables import read_index, read_periods, read_splits

Progress = Callable[[str, int, int], None]
"""Called with the stage, how much of it is done, and how much there is."""

_FIRST = (
    *("sample_id", "subject_id", "prediction_time", "time_days", "event"),
    *("site", "split", "ct_path"),
)
_FLOW = "flow.json"


@dataclass(frozen=True, slots=True)
class BuiltCohort:
    """A cohort and how it came about.

    Attributes:
        table: `sample_id`, `subject_id`, `prediction_time`, `time_days` > 0, `event` (1 = outcome,
            0 = censored, 2.. competing) and, where they are known, `site`, `split`, `ct_path` and
            what else the index table has.
        flow: How many samples each step removed.
        task: The task.
        folder: The folder against which `ct_path` resolves; None = the working directory.
    """

    table: pl.DataFrame
    flow: Flow
    task: Task
    folder: Path | None = None

    def write(self, out: Path | str) -> Cohort:
        """Write the table, and `flow.json` beside it.

        `ct_path` is made relative to where the table lies.

        Returns:
            The cohort as it is read back.

        Raises:
            CohortError: The table breaks an invariant of cohort tables, through a column of the
                index table; nothing is written.
        """
        out, table = Path(out), self.table
        if "ct_path" in table.columns:
            before, now = (self.folder or Path()).absolute(), out.parent.absolute()
            table = table.with_columns(ct_path=_rebased(table["ct_path"], before, now))
        with atomic_path(out) as temporary:
            table.write_parquet(temporary)
            try:
                _read(temporary)
            except CohortError as error:
                raise CohortError(str(error).replace(str(temporary), str(out))) from None
        write_json(out.with_name(_FLOW), self.flow.to_json())
        return _read(out)


def _read(path: Path) -> Cohort:
    return read_cohort(path, splits_required=False, outcome_required=False)


def build_cohort(
    task: Task | Mapping[str, Any] | Path | str,
    meds: Path | str,
    index: Path | str | pl.DataFrame | None = None,
    *,
    vocabulary: Path | str | None = None,
    split: SplitDraw | None = None,
    columns: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> BuiltCohort:
    """Build the cohort of a task: who is predicted from when, and what happened first.

    Only an event strictly after the prediction time is an outcome; one at it is history. At the
    same instant the outcome goes before competing events, and these before censoring. Death ends
    follow-up even where the task does not name it. Who is dead at the index, or has no event after
    it, is left out and counted. Memory is bounded by what one shard holds of the task's codes, and
    the samples.

    Args:
        task: The task, its file, the name of a shipped one, or its content.
        meds: A MEDS dataset.
        index: The index table, in place of the task's `index`.
        vocabulary: A folder with the OMOP tables `concept_ancestor` and `concept`, for code sets
            with descendants.
        split: Splits to draw by subject, where neither the dataset nor the index table has any.
        columns: What the files call a column, by its name in MEDS.
        progress: Called as shards are done.

    Raises:
        ConfigError: The task is wrong, or asks for what is not there.
        RecordError: The dataset cannot be read, or a subject lies in two shards.
        CohortError: The index table is wrong, no sample remains, or no code of the dataset can be
            the outcome.
    """
    meds, vocabulary = Path(meds), None if vocabulary is None else Path(vocabulary)
    index = Path(index) if isinstance(index, str) else index
    task = _with_index(_as_task(task), index)
    shards = scan_shards(meds, columns=columns)
    source = task.index.table if index is None else index
    building = _Building(task, meds, None if source is None else read_index(source), vocabulary)
    progress = progress or (lambda stage, done, total: None)
    for number, shard in enumerate(shards):
        progress("shards", number, len(shards))
        building.add(shard)
    progress("shards", len(shards), len(shards))
    folder = source.parent if isinstance(source, Path) else None
    return BuiltCohort(*building.finished(split), task, folder)


def _as_task(task: Task | Mapping[str, Any] | Path | str) -> Task:
    if isinstance(task, Task):
        return task
    return parse_task(task) if isinstance(task, Mapping) else read_task(task)


def _with_index(task: Task, index: Path | pl.DataFrame | None) -> Task:
    """Put a table in place of the task's own index; one that is not a file has the path `-`."""
    if index is None:
        return task
    path = index.absolute() if isinstance(index, Path) else Path("-")
    return task.model_copy(update={"index": Index(table=path)})


class _Building:
    """A cohort under way."""

    def __init__(
        self, task: Task, meds: Path, table: pl.DataFrame | None, vocabulary: Path | None
    ) -> None:
        self._task = task
        self._meds = meds
        self._table = table
        self._codes = resolve_codes(task, meds, vocabulary)
        path = task.censoring.periods
        periods = None if path is None else read_periods(path)
        self._flow = FlowCounter()
        self._maker = SampleMaker(task, table, periods, self._flow)
        self._counts = TaskCounts(task)
        self._parts: list[pl.DataFrame] = []
        if table is not None:
            self._flow.passed("rows of the index table", table)

    def add(self, shard: Shard) -> None:
        """Take in the samples of one shard."""
        periods = self._task.censoring.at == "observation_end" and self._maker.periods is None
        records = read_shard(shard, self._codes, periods=periods)
        self._counts.add(shard, records)
        self._parts.append(self._maker.samples(records))

    def finished(self, split: SplitDraw | None) -> tuple[pl.DataFrame, Flow]:
        """Put the shards' samples together, give them splits, and check that a cohort remains."""
        self._counts.check_shards()
        stated = read_splits(self._meds)
        table = pl.concat(self._parts)
        if self._table is not None:
            kept = self._table.drop("subject_id", "prediction_time")
            table = table.join(kept, on="sample_id", how="left", maintain_order="left")
        table = self._with_splits(table, stated, split)
        self._check(table)
        first = [name for name in _FIRST if name in table.columns]
        table = table.select(*first, pl.all().exclude(first))
        table = table.sort("subject_id", "prediction_time", "sample_id")
        flow = Flow(
            steps=self._flow.steps(),
            events=events_by_name(table["event"], len(self._task.competing)),
            counts=dict(self._counts.counts + self._flow.counts),
            code_sets=self._counts.code_sets(),
            warnings=(
                *self._codes.notes,
                *self._counts.warnings(),
                *_without_outcome(table),
                *_learned_from(table, stated),
            ),
            made_from={"meds": str(self._meds), "task": self._task.model_dump(mode="json")},
        )
        return table, flow

    def _with_splits(
        self, table: pl.DataFrame, stated: pl.DataFrame | None, split: SplitDraw | None
    ) -> pl.DataFrame:
        given = "split" in table.columns
        if split is not None and (given or stated is not None):
            metadata = self._meds / "metadata" / "subject_splits.parquet"
            raise ConfigError(
                f"splits are to be drawn, but {'the index table' if given else metadata} has them "
                "already, and encoders may be trained on its train; leave out --split"
            )
        if split is not None and table.height:
            stated = drawn_splits(table["subject_id"].to_list(), split)
        if given or stated is None:
            return table
        return self._flow.passed(
            "in a split", table.join(stated, on="subject_id", how="inner", maintain_order="left")
        )

    def _check(self, table: pl.DataFrame) -> None:
        hint = "; ".join((*self._codes.notes, *self._counts.warnings()))
        hint = hint or self._counts.vocabularies()
        if table.is_empty():
            steps = self._flow.steps()
            last = next((step for step in steps if not step.samples), steps[-1])
            raise CohortError(
                f"no sample remains after the step {last.name!r}, which removed "
                f"{last.removed_samples}; {hint}"
            )
        if not (table["event"] == 1).any() and not self._counts.outcome_is_possible():
            raise CohortError(f"no sample of {table.height} has the outcome; {hint}")


def _without_outcome(table: pl.DataFrame) -> Iterator[str]:
    """Say what a study cannot use: the cohort, and each of its splits, needs an outcome."""
    if not (table["event"] == 1).any():
        yield "no sample has the outcome; a study needs one"
    elif "split" in table.columns:
        with_outcome = set(table.filter(pl.col("event") == 1)["split"])
        absent = [name for name in SPLITS if name not in with_outcome]
        if absent:
            yield (
                f"no sample in {', '.join(absent)} has the outcome; a study needs one in each "
                "split, or cross_validation"
            )


def _learned_from(table: pl.DataFrame, stated: pl.DataFrame | None) -> Iterator[str]:
    """Say how many subjects are tested from whom the dataset's splits let an encoder learn."""
    if stated is None:
        return
    learned = stated.filter(pl.col("split") != "held_out")
    held_out = table.filter(pl.col("split").cast(pl.String) == "held_out")
    seen = held_out.join(learned, on="subject_id", how="semi")["subject_id"].n_unique()
    if seen:
        yield (
            f"{seen} subject(s) are held_out in the index table but train or tuning in "
            "metadata/subject_splits.parquet: an encoder trained by the latter has seen them"
        )


def _rebased(paths: pl.Series, before: Path, now: Path) -> pl.Series:
    """Make paths that are relative to one folder relative to another; absolute ones stay."""
    if before == now:
        return paths
    moved = [
        path
        if path is None or Path(path).is_absolute()
        else Path(os.path.relpath(before / path, now)).as_posix()
        for path in paths
    ]
    return pl.Series(paths.name, moved, pl.String)
