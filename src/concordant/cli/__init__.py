"""The command line `concordant`: the functions of the Python API as commands.

Heavy modules are loaded by the command that needs them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from concordant.cli import cohort as _cohort
from concordant.cli import omop as _omop
from concordant.cli import pictures as _pictures
from concordant.cli import pretrain as _pretrain
from concordant.cli import scans as _scans
from concordant.cli.console import Group, open_console, progress
from concordant.cli.engines import Address, EngineName, Workers
from concordant.cli.options import PretrainCommand, SimulateCommand, simulation_options
from concordant.cli.predictions import PredictionsCommand, compare, evaluate

if TYPE_CHECKING:
    from concordant.config import Study

app = typer.Typer(
    name="concordant",
    cls=Group,
    help="Fuse CT scans and health records for time-to-event prediction, and say with honest "
    "statistics whether fusing helped.",
    epilog="Start with: concordant simulate demo, then concordant run demo/study.yaml",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

StudyFile = Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="The study file.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Replace a value of the study file, for example train.lr=3e-4. Repeatable.",
    ),
]
Imports = Annotated[
    list[str] | None,
    typer.Option(
        "--import",
        metavar="MODULE",
        help="Import a module that registers components of your own. Repeatable.",
    ),
]


def main() -> None:
    """Run the command line."""
    app()


def _print_version(wanted: bool) -> None:
    if wanted:
        import concordant

        typer.echo(concordant.__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    pass


@app.command(
    cls=SimulateCommand,
    epilog="Example: concordant simulate demo --n-development 1000 --missing-ct 0.2",
)
def simulate(
    context: typer.Context,
    out: Annotated[
        Path,
        typer.Argument(metavar="OUT", help="The folder to write; it must not exist, or be empty."),
    ],
    workers: Workers = None,
    engine: EngineName = "local",
    address: Address = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the folder if it exists.")
    ] = False,
) -> None:
    """Simulate a cohort with known truth.

    Real files of scans and records at two hospitals, and a study ready to run.

    How much only the scan shows, only the record, and both are options: what fusion gains can be
    read against the truth.
    """
    options = simulation_options(context.obj)
    from concordant.engines import make_engine
    from concordant.simulate import simulate as simulate_cohort

    chosen = make_engine(engine, workers, address)
    with progress() as report:
        simulate_cohort(out, options, engine=chosen, overwrite=overwrite, progress=report)
    typer.echo(f"study: {out / 'study.yaml'}")


@app.command(epilog="Example: concordant check study.yaml")
def check(study: StudyFile, overrides: Overrides = None, imports: Imports = None) -> None:
    """Check a study for leaks before it is run.

    Who is in which split, what was known when, what an encoder was trained on.

    Exit code 2 if a check fails.
    """
    chosen = _read(study, overrides, imports)
    from concordant.cli import tables
    from concordant.study import check_study

    audit = check_study(chosen)
    open_console().print(tables.checks(audit))
    if not audit.passed:
        raise typer.Exit(2)


@app.command(
    epilog="Example: concordant embed study.yaml --workers 8, or on a cluster: --engine ray "
    "--address auto"
)
def embed(
    study: StudyFile,
    overrides: Overrides = None,
    imports: Imports = None,
    workers: Workers = None,
    retry_quarantined: Annotated[
        bool, typer.Option("--retry-quarantined", help="Try again what could not be read before.")
    ] = False,
    engine: EngineName = "local",
    address: Address = None,
) -> None:
    """Encode the scans and records of a study.

    Nothing is learned from the cohort, and what is there already is kept.

    `concordant run` does this as well; on its own it serves to use many processes or machines, or
    to do the slow part first. With the engine ray, all machines must see the same folders.
    """
    chosen = _read(study, overrides, imports)
    from concordant.engines import make_engine
    from concordant.study import embed_study

    with progress() as report:
        embed_study(
            chosen,
            engine=make_engine(engine, workers, address),
            retry_quarantined=retry_quarantined,
            progress=report,
        )
    typer.echo(f"embeddings: {chosen.embeddings_root}")


@app.command(
    epilog="Example: concordant run study.yaml --set train.lr=3e-4 --workers 4, or on a cluster: "
    "--engine ray --address auto, or in every job of an array: --join"
)
def run(
    study: StudyFile,
    overrides: Overrides = None,
    imports: Imports = None,
    workers: Workers = None,
    engine: EngineName = "local",
    address: Address = None,
    join: Annotated[
        bool,
        typer.Option(
            "--join", help="Share the run folder with every other command that was given --join."
        ),
    ] = False,
) -> None:
    """Run a study: check, encode, fit every strategy, predict every cohort, compare, report.

    A run that was stopped continues where it was; what is done already is kept as long as nothing
    it depends on has changed.

    Exit code 3 if a strategy could not be fitted; the others are judged.
    """
    chosen = _read(study, overrides, imports)
    import polars as pl

    from concordant.cli import tables
    from concordant.core.records import read_run_record
    from concordant.engines import make_engine
    from concordant.study import run_study

    with progress() as report:
        folder = run_study(
            chosen, engine=make_engine(engine, workers, address), join=join, progress=report
        )
    open_console().print(
        tables.strategies(pl.read_parquet(folder.results), chosen.evaluate.metrics[0])
    )
    typer.echo(f"report: {folder.report}")
    failed = [one for one in read_run_record(folder).strategies if one.status == "failed"]
    for one in failed:
        typer.echo(f"failed: {one.folder}: {one.reason}", err=True)
    if failed:
        raise typer.Exit(3)


app.command(
    cls=PredictionsCommand,
    epilog="Example: concordant evaluate predictions.parquet --metric concordance_index --metric "
    "brier_score --horizon 365",
)(evaluate)
app.command(
    cls=PredictionsCommand,
    epilog="Example: concordant compare ours.parquet theirs.parquet pesi.parquet --reference pesi",
)(compare)


@app.command(epilog="Example: concordant report runs/pe_mortality")
def report(
    folder: Annotated[
        Path, typer.Argument(metavar="RUN_FOLDER", help="The folder runs/NAME of a finished run.")
    ],
) -> None:
    """Write the report of a run again, from its tables: one HTML file that needs no network."""
    from concordant.core.artifacts import RunFolder
    from concordant.report.page import write_report

    typer.echo(f"report: {write_report(RunFolder(folder))}")


app.command(epilog=_omop.EPILOG)(_omop.omop)
app.command(epilog=_cohort.EPILOG)(_cohort.cohort)
app.command(cls=PretrainCommand, epilog=_pretrain.EPILOG)(_pretrain.pretrain)
app.command(epilog=_scans.EPILOG)(_scans.scans)
app.command(epilog=_cohort.INSPECT_EPILOG)(_cohort.inspect)
app.command(epilog=_pictures.EPILOG)(_pictures.pictures)


def _read(path: Path, overrides: list[str] | None, imports: list[str] | None) -> Study:
    from concordant.config import read_study

    if imports and str(Path.cwd()) not in sys.path:
        sys.path.insert(
            0, str(Path.cwd())
        )  # as for `python -m`: a module of the working folder is found
    return read_study(path, overrides or (), imports or ())
