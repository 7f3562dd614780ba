"""The metrics of every model: of whole cohorts, and of the levels of a column."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import polars as pl

from concordant.analysis.base import ANALYSES, Analysis, Judged
from concordant.analysis.candidates import Candidate, by_model
from concordant.core.survival import Predictions
from concordant.evaluation import RESULT_SCHEMA, SUBGROUP_SCHEMA, evaluate, subgroups

_NAMES: dict[str, type[pl.DataType]] = {
    "cohort": pl.String,
    "site": pl.String,
    "ct_encoder": pl.String,
    "ehr_encoder": pl.String,
    "fusion": pl.String,
    "seed": pl.Int64,
}

RESULTS_SCHEMA: dict[str, type[pl.DataType]] = {
    **_NAMES,
    **RESULT_SCHEMA,
    "between_seeds": pl.Float64,
}

SUBGROUPS_SCHEMA: dict[str, type[pl.DataType]] = {**_NAMES, **SUBGROUP_SCHEMA}


@ANALYSES.register("results")
class Results(Analysis):
    """The metrics of every model and seed and, where there are several, of the mean over seeds.

    `seed` is null for the mean, whose `between_seeds` is the spread of the values of the seeds; it
    is no part of the standard error.
    """

    schema = RESULTS_SCHEMA

    def compute(self, judged: Judged) -> pl.DataFrame:
        """Compute the metrics on whole cohorts."""
        tables = [_named(row, evaluate(row.predictions, judged.protocol)) for row in _rows(judged)]
        empty = pl.DataFrame(schema={**_NAMES, **RESULT_SCHEMA})
        return pl.concat([empty, *tables]).with_columns(_between_seeds())


@ANALYSES.register("subgroups")
class Subgroups(Analysis):
    """The same by which modalities a sample has, and by site where a cohort has several."""

    schema = SUBGROUPS_SCHEMA

    def compute(self, judged: Judged) -> pl.DataFrame:
        """Compute the metrics within each level."""
        tables = [
            _named(row, subgroups(row.predictions, column, judged.protocol))
            for row in _rows(judged)
            for column in _subgroup_columns(row.predictions)
        ]
        return pl.concat([pl.DataFrame(schema=self.schema), *tables])


class _Row(NamedTuple):
    model: Candidate
    cohort: str
    predictions: Predictions


def _rows(judged: Judged) -> Iterator[_Row]:
    for seeds, mean in zip(by_model(judged.candidates()), judged.models(), strict=True):
        for cohort in mean.predictions:
            for one in seeds if len(seeds) == 1 else [*seeds, mean]:
                if cohort in one.predictions:
                    yield _Row(one, cohort, one.predictions[cohort])


def _named(row: _Row, table: pl.DataFrame) -> pl.DataFrame:
    sites = row.predictions.table["site"].unique()
    values = {
        **row.model.names(row.cohort),
        "site": sites[0] if len(sites) == 1 else None,
        "seed": row.model.seed,
    }
    names = [pl.lit(values[name], kind).alias(name) for name, kind in _NAMES.items()]
    return table.select(*names, pl.all())


def _subgroup_columns(predictions: Predictions) -> list[str]:
    columns = ["available"] if predictions.table["available"].null_count() == 0 else []
    return columns + (["site"] if predictions.table["site"].drop_nulls().n_unique() > 1 else [])


def _between_seeds() -> pl.Expr:
    key = ["cohort", "ct_encoder", "ehr_encoder", "fusion", "metric", "horizon_days"]
    spread = pl.col("value").filter(pl.col("seed").is_not_null()).std().over(key)
    return pl.when(pl.col("seed").is_null()).then(spread).alias("between_seeds")
