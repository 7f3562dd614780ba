"""`concordant evaluate` and `concordant compare`: anyone's predictions, judged by the library."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from concordant.cli.console import open_console

if TYPE_CHECKING:
    from concordant.core.survival import Outcomes
    from concordant.evaluation import EvaluationProtocol

_MULTIPLICITY = (
    "holm, benjamini_hochberg or max_t (joint distribution, with simultaneous intervals)"
)

Metrics = Annotated[
    list[str] | None,
    typer.Option("--metric", metavar="NAME", help="A metric to compute. Repeatable."),
]
Horizons = Annotated[
    list[float] | None,
    typer.Option(
        "--horizon", metavar="DAYS", help="A horizon for the metrics that have one. Repeatable."
    ),
]
Train = Annotated[
    Path | None,
    typer.Option(
        metavar="TRAIN.parquet",
        help="Outcomes of train (time_days, event) for the censoring curve.",
    ),
]
Censoring = Annotated[
    str | None,
    typer.Option(
        metavar="SOURCE",
        help="Where the censoring curve comes from: cohort, train or pooled.",
        show_default="train with --train, else cohort",
    ),
]
Tau = Annotated[
    float | None,
    typer.Option(
        metavar="DAYS",
        help="Uno's C and the integrated Brier score run up to here.",
        show_default="all that is supported",
    ),
]
Cause = Annotated[
    int | None,
    typer.Option(
        metavar="CODE",
        help="Code of the event of interest; every other code above 0 competes with it, and 1 - "
        "survival is its cumulative incidence.",
        show_default="event 1, every other code censored",
    ),
]
Cluster = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN",
        help="Column whose values name independent units; their rows are one cluster.",
        show_default="subject_id, else cluster, else every row",
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN",
        help="Column of weights; 2 equals two copies of the subject.",
        show_default="every row counts once",
    ),
]
Out = Annotated[
    Path | None, typer.Option(metavar="TABLE.parquet", help="Write the table here as well.")
]


class PredictionsCommand(TyperCommand):
    """A command whose --metric lists the registered metrics.

    They are loaded only when the command is used.
    """

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the options, the names of all metrics in the help of --metric."""
        params: list[Any] = list(super().get_params(ctx))
        for option in params:
            if option.name == "metric":
                option.help = _metric_help(str(option.help).partition(" Names: ")[0])
        return params


def _metric_help(text: str) -> str:
    from concordant.metrics import METRICS

    plain = [name for name in METRICS if not METRICS.get(name).at_horizons]
    at_horizons = [name for name in METRICS if METRICS.get(name).at_horizons]
    return f"{text} Names: {', '.join(plain)}; with --horizon: {', '.join(at_horizons)}."


def evaluate(
    predictions: Annotated[
        Path,
        typer.Argument(
            metavar="PREDICTIONS.parquet",
            help="Columns sample_id, time_days, event, risk and optionally survival.",
        ),
    ],
    metric: Metrics = None,
    horizon: Horizons = None,
    train: Train = None,
    censoring: Censoring = None,
    tau: Tau = None,
    cause: Cause = None,
    cluster: Cluster = None,
    weights: Weights = None,
    variant: Annotated[
        str,
        typer.Option(metavar="NAME", help="Which variant to judge, of a file that holds several."),
    ] = "as_is",
    seed: Annotated[
        int | None,
        typer.Option(
            metavar="SEED",
            help="Which seed to judge, of a file that holds several.",
            show_default="their average",
        ),
    ] = None,
    out: Out = None,
) -> None:
    """Judge the predictions in a file, ours or another group's.

    Metrics with standard errors and 95 % intervals.

    Higher risk means an earlier event; event 1 was observed, any other code censored (but see
    --cause). Without --metric: concordance_index and integrated_brier_score.
    """
    from concordant.cli import tables
    from concordant.evaluation import evaluate as judge
    from concordant.evaluation import read_judged

    protocol = _protocol(metric, horizon, censoring, train, tau, cause)
    given = read_judged(
        predictions, cluster=cluster, weights=weights, cause=cause, variant=variant, seed=seed
    )
    rows = judge(given, protocol)
    _write(rows, out)
    open_console().print(tables.metrics(rows))


def compare(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="A.parquet B.parquet ...", help="Two or more predictions files."),
    ],
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="The file the others are compared with, by path or stem.",
            show_default="the first",
        ),
    ] = None,
    metric: Metrics = None,
    horizon: Horizons = None,
    multiplicity: Annotated[
        str,
        typer.Option(
            metavar="METHOD", help=f"How the p values of each metric are adjusted: {_MULTIPLICITY}."
        ),
    ] = "holm",
    margin: Annotated[
        float | None,
        typer.Option(
            metavar="DIFFERENCE",
            help="The smallest difference that would matter, in the units of the metric: tests of "
            "non-inferiority and equivalence.",
        ),
    ] = None,
    train: Train = None,
    censoring: Censoring = None,
    tau: Tau = None,
    cause: Cause = None,
    cluster: Cluster = None,
    weights: Weights = None,
    out: Out = None,
) -> None:
    """Compare predictions of the same samples.

    Paired differences to a reference, with intervals and adjusted p values.

    Without --metric: concordance_index.
    """
    from concordant.analysis.compare import compare_files
    from concordant.cli import tables

    protocol = _protocol(
        metric or ["concordance_index"],
        horizon,
        censoring,
        train,
        tau,
        cause,
        multiplicity=multiplicity,
        margin=margin,
    )
    comparison = compare_files(files, reference, protocol, cluster=cluster, weights=weights)
    _write(comparison.differences, out)
    screen = open_console()
    screen.print(f"{comparison.n_shared} samples are in all files")
    screen.print(tables.metrics(comparison.files, first=("file",)))
    screen.print(tables.differences(comparison.differences))
    if margin is not None:
        screen.print(tables.margins(comparison.differences))


def _protocol(
    metric: list[str] | None,
    horizon: list[float] | None,
    censoring: str | None,
    train: Path | None,
    tau: float | None,
    cause: int | None,
    **compared: Any,
) -> EvaluationProtocol:
    """Return how predictions are judged.

    The censoring curve comes from train where it is given and nothing else is asked for.
    """
    from concordant.evaluation import EvaluationProtocol

    if metric:
        compared["metrics"] = tuple(metric)
    if censoring or train is not None:
        compared["censoring"] = censoring or "train"
    return EvaluationProtocol(
        horizons_days=tuple(horizon or ()),
        train=None if train is None else _outcomes(train),
        tau=tau,
        cause=cause,
        **compared,
    )


def _write(table: Any, out: Path | None) -> None:
    from concordant.core.files import atomic_path

    if out is not None:
        with atomic_path(out) as temporary:
            table.write_parquet(temporary)


def _outcomes(path: Path) -> Outcomes:
    """Read the outcomes of train.

    The rows whose split is train, or all where the table has no splits.
    """
    import polars as pl

    from concordant.core.errors import CohortError
    from concordant.core.survival import Outcomes

    try:
        table = pl.read_parquet(path)
        rows = table.filter(pl.col("split") == "train") if "split" in table.columns else table
        return Outcomes(
            rows["time_days"].cast(pl.Float64).to_numpy(), rows["event"].cast(pl.Int64).to_numpy()
        )
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise CohortError(
            f"{path}: {reason}; expected parquet with columns time_days (days) and event (1 = "
            "observed)"
        ) from None
