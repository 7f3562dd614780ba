"""The commands that build cohorts: `concordant cohort` and `concordant inspect`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from concordant.cli.console import open_console, progress
from concordant.core.errors import ConfigError

if TYPE_CHECKING:
    pass

Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        metavar="NAME=NAME",
        help="What the files call a MEDS column: time=when. Repeatable.",
    ),
]

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
    if (labels_at is None) != (labels_out is None):
        raise ConfigError(
            "--labels-at and --labels-out belong together: --labels-at 30,365 --labels-out labels"
        )
    horizons = () if labels_at is None else _numbers("--labels-at", labels_at, "30,365")
    from concordant.data.tasks import SplitDraw, build_cohort, horizon_labels, write_labels

    shares = None if split is None else _numbers("--split", split, "0.7,0.15,0.15")
    with progress() as report:
        built = build_cohort(
            task,
            meds,
            index=index,
            vocabulary=vocabulary,
            split=None if shares is None else SplitDraw(shares, seed),
            columns=renamed_columns(column),
            progress=report,
        )
    labels = horizon_labels(built.table, horizons, followed_days=built.task.censoring.horizon_days)
    left_out = {
        f"no label at {one.horizon_days:g} days, follow-up ends before": one.n_censored
        for one in labels
    }
    flow = replace(built.flow, counts=built.flow.counts | left_out)
    replace(built, flow=flow).write(out)
    if labels_out is not None:
        paths = write_labels(labels, labels_out, built.task.name)
        for path, one in zip(paths, labels, strict=True):
            typer.echo(f"labels: {path} ({one.n_true} true of {one.table.height})")
    show_flow(flow)
    typer.echo(f"cohort: {out}")


def _numbers(option: str, text: str, example: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(
            f"{option}: given {text!r}, expected numbers with commas between them, such as "
            f"{example}"
        ) from None


INSPECT_EPILOG = (
    "Example: concordant inspect inspect/full --meds inspect/meds_omop_inspect --out "
    "inspect/cohort.parquet"
)


def inspect(
    aimi_dir: Annotated[
        Path,
        typer.Argument(
            metavar="AIMI_DIR", help="Folder with the label, mapping and split files, and CTPA/."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="COHORT.parquet", help="The cohort table to write; flow.json goes beside it."
        ),
    ],
    meds: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The MEDS records, to check that they fit.")
    ] = None,
    ctpa: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of the scans.", show_default="CTPA in AIMI_DIR"),
    ] = None,
    outcome: Annotated[
        str, typer.Option(metavar="NAME", help="What is predicted: mortality, readmission or PH.")
    ] = "mortality",
    embolism: Annotated[
        str,
        typer.Option(metavar="WHO", help="all exams, or those positive for pulmonary embolism."),
    ] = "all",
    exams: Annotated[
        str, typer.Option(metavar="WHICH", help="all exams of a patient, or the first.")
    ] = "all",
    time_unit: Annotated[
        str | None,
        typer.Option(
            metavar="UNIT",
            help="Unit of the label file's times: minutes, seconds, hours, days.",
            show_default="found",
        ),
    ] = None,
) -> None:
    """Build a cohort from INSPECT (Stanford AIMI); count every exam that is left out."""
    from concordant.data.inspect import InspectOptions, inspect_cohort

    # the options refuse another word
    options = InspectOptions(outcome, embolism, exams, time_unit)  # type: ignore[arg-type]
    cohort = inspect_cohort(aimi_dir, out, meds=meds, ctpa=ctpa, options=options)
    show_flow(cohort.flow)
    typer.echo(f"cohort: {out}")


def renamed_columns(given: list[str] | None) -> dict[str, str]:
    """Read the values of --column: the name in the files of each MEDS column called otherwise.

    Raises:
        ConfigError: A value that is no pair of names.
    """
    pairs = [one.partition("=") for one in given or ()]
    for name, equals, stored in pairs:
        if not (name and equals and stored):
            raise ConfigError(
                f"--column: given {name + equals + stored!r}, expected MEDS_NAME=NAME_IN_THE_FILE, "
                "such as numeric_value=value"
            )
    return {name: stored for name, _, stored in pairs}


if TYPE_CHECKING:
    from concordant.data.flow import Flow


def show_flow(flow: Flow) -> None:
    """Print a flow: its steps, events and counts; what to look at goes to standard error."""
    screen = open_console()
    screen.print(_steps(flow))
    screen.print(", ".join(f"{count} {name}" for name, count in flow.events.items()))
    for name, count in flow.counts.items():
        screen.print(f"{name}: {count}", soft_wrap=True)
    errors = open_console(errors=True)
    for warning in flow.warnings:
        errors.print(f"note: {warning}", soft_wrap=True)


def _steps(flow: Flow) -> Any:
    """Lay out the flow: a row per step."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE)
    table.add_column("step")
    for name in ("samples removed", "subjects removed", "samples", "subjects"):
        table.add_column(name, justify="right")
    for one in flow.steps:
        counts = (one.removed_samples, one.removed_subjects, one.samples, one.subjects)
        table.add_row(one.name, *map(str, counts))
    return table
