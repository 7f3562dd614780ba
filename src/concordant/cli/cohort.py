"""The command `concordant cohort`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from concordant.cli.columns import Columns, renamed_columns
from concordant.cli.console import progress
from concordant.cli.flows import show_flow
from concordant.core.errors import ConfigError

if TYPE_CHECKING:
    from concordant.data.tasks import BuiltCohort, HorizonLabels, SplitDraw

EPILOG = (
    "Example: concordant cohort mace --meds data/meds --index scans.parquet --out "
    "data/mace/cohort.parquet"
)


def cohort(
    task: Annotated[
        str,
        typer.Argument(
            metavar="TASK.yaml",
            help="The task file, or the name of a shipped task: mace, pe_mortality.",
        ),
    ],
    meds: Annotated[
        Path,
        typer.Option(
            metavar="DIR", help="The MEDS dataset: a folder with data/**/*.parquet, or one file."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="COHORT.parquet",
            help="The cohort table to write; flow.json is written beside it.",
        ),
    ],
    index: Annotated[
        Path | None,
        typer.Option(
            metavar="INDEX.parquet",
            help="Samples: subject_id, prediction_time, columns to keep.",
            show_default="the task's",
        ),
    ] = None,
    vocabulary: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="OMOP tables concept_ancestor and concept, for code sets with descendants.",
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,C",
            help="Draw train, tuning and held_out by subject in these shares.",
            show_default="as the data says",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draw of splits.")] = 0,
    labels_at: Annotated[
        str | None,
        typer.Option(
            metavar="DAYS",
            help="Also write MEDS labels at these horizons, for example 30,365.",
            show_default=False,
        ),
    ] = None,
    labels_out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the labels go.", show_default=False)
    ] = None,
    column: Columns = None,
) -> None:
    """Build a cohort table from a time-to-event task and a MEDS dataset, and count whom each step
    removed.

    The table is what a study's `cohorts` take. Only an event strictly after the prediction time is
    an outcome; death ends follow-up.
    """
    horizons = _horizons(labels_at, labels_out)
    from concordant.data.tasks import build_cohort

    with progress() as report:
        built = build_cohort(
            task,
            meds,
            index=index,
            vocabulary=vocabulary,
            split=_draw(split, seed),
            columns=renamed_columns(column),
            progress=report,
        )
    built, labels = _with_labels(built, horizons)
    built.write(out)
    _write_labels(built, labels, labels_out)
    show_flow(built.flow)
    typer.echo(f"cohort: {out}")


def _draw(split: str | None, seed: int) -> SplitDraw | None:
    from concordant.data.tasks import SplitDraw

    return None if split is None else SplitDraw(_numbers("--split", split, "0.7,0.15,0.15"), seed)


def _horizons(labels_at: str | None, labels_out: Path | None) -> tuple[float, ...]:
    if (labels_at is None) != (labels_out is None):
        raise ConfigError(
            "--labels-at and --labels-out belong together: --labels-at 30,365 --labels-out labels"
        )
    return () if labels_at is None else _numbers("--labels-at", labels_at, "30,365")


def _numbers(option: str, text: str, example: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(
            f"{option}: given {text!r}, expected numbers with commas between them, such as "
            f"{example}"
        ) from None


def _with_labels(
    built: BuiltCohort, horizons: tuple[float, ...]
) -> tuple[BuiltCohort, tuple[HorizonLabels, ...]]:
    """Make the labels, and count in the flow whom they leave out."""
    from concordant.data.tasks import horizon_labels

    labels = horizon_labels(built.table, horizons, followed_days=built.task.censoring.horizon_days)
    left_out = {
        f"no label at {one.horizon_days:g} days, follow-up ends before": one.n_censored
        for one in labels
    }
    return replace(built, flow=replace(built.flow, counts=built.flow.counts | left_out)), labels


def _write_labels(
    built: BuiltCohort, labels: tuple[HorizonLabels, ...], folder: Path | None
) -> None:
    from concordant.data.tasks import write_labels

    if folder is not None:
        for path, one in zip(write_labels(labels, folder, built.task.name), labels, strict=True):
            typer.echo(f"labels: {path} ({one.n_true} true of {one.table.height})")
