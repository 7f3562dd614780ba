"""The command line `concordant`: the functions of the Python API as commands. Heavy modules are loaded by the command that needs them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from concordant.cli.console import Group, open_console, progress
from concordant.cli.simulation import SimulateCommand, simulation_options

if TYPE_CHECKING:
    from concordant.config import Study
    from concordant.core.survival import SurvivalTarget

app = typer.Typer(
    name="concordant",
    cls=Group,
    help="Fuse CT scans and health records for time-to-event prediction, and say with honest statistics whether fusing helped.",
    epilog="Start with: concordant simulate demo, then concordant run demo/study.yaml",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

StudyFile = Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="The study file.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Replace a value of the study file, for example train.lr=3e-4. Repeatable."),
]
Imports = Annotated[
    list[str] | None, typer.Option("--import", metavar="MODULE", help="Import a module that registers components of your own. Repeatable.")
]
Workers = Annotated[int | None, typer.Option(min=1, help="Number of processes; one per processor unless given.", show_default=False)]
Metrics = Annotated[
    list[str] | None,
    typer.Option(
        "--metric", metavar="NAME", help="A metric to compute. Repeatable.", show_default="concordance_index, integrated_brier_score"
    ),
]
Horizons = Annotated[
    list[float] | None, typer.Option("--horizon", metavar="DAYS", help="A horizon for the metrics that have one. Repeatable.")
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
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")] = False,
) -> None:
    pass


@app.command(cls=SimulateCommand, epilog="Example: concordant simulate demo --n-development 1000 --missing-ct 0.2")
def simulate(
    context: typer.Context,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write; it must not exist, or be empty.")],
    workers: Workers = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the folder if it exists.")] = False,
) -> None:
    """Simulate a cohort with known truth: real files of scans and records at two hospitals, and a study ready to run.

    How much only the scan shows, only the record, and both are options: what fusion gains can be read against the truth.
    """
    options = simulation_options(context.obj)
    from concordant.simulate import simulate as simulate_cohort

    with progress() as report:
        simulate_cohort(out, options, workers=_processes(workers), overwrite=overwrite, progress=report)
    typer.echo(f"study: {out / 'study.yaml'}")


@app.command(epilog="Example: concordant check study.yaml")
def check(study: StudyFile, overrides: Overrides = None, imports: Imports = None) -> None:
    """Check a study for leaks before it is run: who is in which split, what was known when, what an encoder was trained on.

    Exit code 2 if a check fails.
    """
    chosen = _read(study, overrides, imports)
    from concordant.cli import tables
    from concordant.study import check_study

    audit = check_study(chosen)
    open_console().print(tables.checks(audit))
    if not audit.passed:
        raise typer.Exit(2)


@app.command(epilog="Example: concordant embed study.yaml --workers 8")
def embed(
    study: StudyFile,
    overrides: Overrides = None,
    imports: Imports = None,
    workers: Workers = None,
    retry_quarantined: Annotated[bool, typer.Option("--retry-quarantined", help="Try again what could not be read before.")] = False,
) -> None:
    """Encode the scans and records of a study. Nothing is learned from the cohort, and what is there already is kept.

    `concordant run` does this as well; on its own it serves to use many processes, or to do the slow part first.
    """
    chosen = _read(study, overrides, imports)
    from concordant.study import embed_study

    with progress() as report:
        embed_study(chosen, workers=_processes(workers), retry_quarantined=retry_quarantined, progress=report)
    typer.echo(f"embeddings: {chosen.embeddings_root}")


@app.command(epilog="Example: concordant run study.yaml --set train.lr=3e-4 --workers 4")
def run(study: StudyFile, overrides: Overrides = None, imports: Imports = None, workers: Workers = None) -> None:
    """Run a study: check, encode, fit every member of the grid, predict every cohort, compare, write the report.

    A run that was stopped continues where it was; what is done already is kept as long as nothing it depends on has changed.
    """
    chosen = _read(study, overrides, imports)
    import polars as pl

    from concordant.cli import tables
    from concordant.study import run_study

    with progress() as report:
        folder = run_study(chosen, workers=_processes(workers), progress=report)
    open_console().print(tables.strategies(pl.read_parquet(folder.results), chosen.evaluate.metrics[0]))
    typer.echo(f"report: {folder.report}")


@app.command(epilog="Example: concordant evaluate predictions.parquet --metric concordance_index --metric brier_score --horizon 365")
def evaluate(
    predictions: Annotated[
        Path, typer.Argument(metavar="PREDICTIONS.parquet", help="Columns sample_id, time_days, event, risk and optionally survival.")
    ],
    metric: Metrics = None,
    horizon: Horizons = None,
    train: Annotated[
        Path | None, typer.Option(metavar="TRAIN.parquet", help="Outcomes of train (time_days, event) for the censoring curve.")
    ] = None,
    censoring: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="Where the censoring curve comes from: cohort, train or pooled.",
            show_default="train with --train, else cohort",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="RESULTS.parquet", help="Write the table here as well.")] = None,
) -> None:
    """Judge the predictions in a file, ours or another group's: metrics with standard errors and 95 % intervals.

    Higher risk means an earlier event; event 1 was observed, 0 censored.
    """
    from concordant.cli import tables
    from concordant.core.files import atomic_path
    from concordant.core.survival import read_predictions
    from concordant.evaluation import evaluate as evaluate_predictions

    given: dict[str, Any] = {"metrics": tuple(metric)} if metric else {}
    rows = evaluate_predictions(
        read_predictions(predictions),
        horizons_days=tuple(horizon or ()),
        censoring=censoring or ("cohort" if train is None else "train"),  # type: ignore[arg-type]  # evaluate refuses another word
        train=None if train is None else _outcomes(train),
        **given,
    )
    if out is not None:
        with atomic_path(out) as temporary:
            rows.write_parquet(temporary)
    open_console().print(tables.metrics(rows))


@app.command(epilog="Example: concordant compare ours.parquet theirs.parquet pesi.parquet --reference pesi")
def compare(
    files: Annotated[list[Path], typer.Argument(metavar="A.parquet B.parquet ...", help="Two or more predictions files.")],
    reference: Annotated[
        str | None, typer.Option(metavar="FILE", help="The file the others are compared with, by path or stem.", show_default="the first")
    ] = None,
    metric: Metrics = None,
    horizon: Horizons = None,
) -> None:
    """Compare predictions of the same samples: paired differences with intervals, p values and Holm's correction."""
    from concordant.analysis.compare import compare_files
    from concordant.cli import tables

    given: dict[str, Any] = {"metrics": tuple(metric)} if metric else {}
    comparison = compare_files(files, reference, horizons_days=tuple(horizon or ()), **given)
    screen = open_console()
    screen.print(f"{comparison.n_shared} samples are in all files")
    screen.print(tables.metrics(comparison.files, first=("file",)))
    screen.print(tables.differences(comparison.differences))


@app.command(epilog="Example: concordant report runs/pe_mortality")
def report(folder: Annotated[Path, typer.Argument(metavar="RUN_FOLDER", help="The folder runs/NAME of a finished run.")]) -> None:
    """Write the report of a run again, from its tables: one HTML file that needs no network."""
    from concordant.core.artifacts import RunFolder
    from concordant.report.html import write_report

    typer.echo(f"report: {write_report(RunFolder(folder))}")


def _read(path: Path, overrides: list[str] | None, imports: list[str] | None) -> Study:
    from concordant.config import read_study

    if imports and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # as for `python -m`: a module of the working folder is found
    return read_study(path, overrides or (), imports or ())


def _processes(workers: int | None) -> int:
    from concordant.engine import default_workers

    return default_workers() if workers is None else workers


def _outcomes(path: Path) -> SurvivalTarget:
    """Read the outcomes of train: the rows whose split is train, or all where the table has no splits."""
    import polars as pl

    from concordant.core.errors import CohortError
    from concordant.core.survival import SurvivalTarget

    try:
        table = pl.read_parquet(path)
        rows = table.filter(pl.col("split") == "train") if "split" in table.columns else table
        return SurvivalTarget(rows["time_days"].cast(pl.Float64).to_numpy(), rows["event"].cast(pl.Int64).to_numpy())
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise CohortError(f"{path}: {reason}; expected parquet with columns time_days (days) and event (1 = observed)") from None
