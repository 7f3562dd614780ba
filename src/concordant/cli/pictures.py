"""The command `concordant pictures`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

EPILOG = "Example: concordant pictures runs/pe_mortality --samples 5 --out attention/"


def pictures(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="RUN_FOLDER|STUDY.yaml",
            help="The folder runs/NAME of a finished run, or its study file.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(metavar="DIR", help="The folder to write; it must not exist, or be empty."),
    ],
    strategy: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The strategy's folder name, or its label in tables.",
            show_default="the attention model that is best on tuning",
        ),
    ] = None,
    samples: Annotated[
        int,
        typer.Option(
            min=1, help="So many of the samples with the highest risk, and so many with the lowest."
        ),
    ] = 3,
    window: Annotated[
        tuple[float, float],
        typer.Option(metavar="LOW HIGH", help="Hounsfield units that are black and white."),
    ] = (
        -1000.0,
        400.0,
    ),
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="As it was given to `run`, with a study file. Repeatable.",
        ),
    ] = None,
    imports: Annotated[
        list[str] | None,
        typer.Option(
            "--import",
            metavar="MODULE",
            help="Import a module that registers components. Repeatable.",
        ),
    ] = None,
) -> None:
    """Draw what a strategy attends to in the scans it ranks highest and lowest.

    PNG files, named by rank.

    The folder's index.parquet says which sample each one is. Pictures show patients: treat them as
    you treat the scans.
    """
    from concordant.config import read_study
    from concordant.core.errors import ConfigError
    from concordant.study.pictures import PictureOptions, study_of_run, write_pictures

    if window[0] >= window[1]:
        raise ConfigError(
            f"--window: given {window[0]:g} {window[1]:g}, expected the lower number of Hounsfield "
            "units first"
        )
    if imports and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    study = (
        study_of_run(source, imports or ())
        if source.is_dir()
        else read_study(source, overrides or (), imports or ())
    )
    count = write_pictures(
        study, out, strategy=strategy, options=PictureOptions(samples, samples, window)
    )
    typer.echo(f"pictures: {count} in {out}")
