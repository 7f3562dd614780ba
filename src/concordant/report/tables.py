"""Reads a run folder: the tables and facts that the page shows, checked once, here."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import polars as pl
import polars.selectors as cs
from pydantic import BaseModel, ValidationError

from concordant.core.artifacts import RunFolder
from concordant.core.errors import ConcordantError
from concordant.core.files import read_json
from concordant.report.facts import AuditFacts, StudyFacts
from concordant.report.rows import INTERNAL_LABELS, Estimate, Gain, Kind, Model, RunTables

_MODEL = ("ct_encoder", "ehr_encoder", "fusion")
_RESULTS = (
    *_MODEL,
    "cohort",
    "seed",
    "metric",
    "horizon_days",
    "value",
    "ci_low",
    "ci_high",
    "n",
    "n_events",
    "tau_days",
)
_SUBGROUPS = (*_RESULTS, "subgroup", "level")
_GAIN = (
    *(
        "difference",
        "ci_low",
        "ci_high",
        "p_value",
        "p_adjusted",
        "family",
        "multiplicity",
        "ci_low_simultaneous",
        "ci_high_simultaneous",
    ),
    *(
        "p_nadeau_bengio",
        "margin",
        "p_non_inferiority_adjusted",
        "p_equivalence_adjusted",
        "tau_days",
    ),
)
_CONTRASTS = (*_MODEL, "cohort", "reference", "metric", "horizon_days", *_GAIN)


def read_run(run: RunFolder) -> RunTables:
    """Read and check everything that the report needs from a run folder.

    Raises:
        ConcordantError: An artifact is missing, damaged or lacks a column.
    """
    study = _facts(run.study, StudyFacts)
    audit = _facts(run.audit, AuditFacts)
    results = read_table(run.results, _RESULTS)
    oracles = {foreign.name for foreign in study.foreign if foreign.oracle}
    gains = tuple(_gains(read_table(run.contrasts, _CONTRASTS), oracles))
    keys = ("cohort", *_MODEL, "metric", "horizon_days")
    return RunTables(
        run=run,
        study=study,
        audit=audit,
        models=_models(results, oracles),
        cohorts=_cohorts(results, study),
        estimates=tuple(_estimates(_over_seeds(results, keys, run.results), oracles)),
        gains=tuple(gain for gain in gains if gain.family is not None),
        other_gains=tuple(gain for gain in gains if gain.family is None),
        subgroups=tuple(
            _estimates(
                _over_seeds(
                    read_table(run.subgroups, _SUBGROUPS),
                    (*keys, "subgroup", "level"),
                    run.subgroups,
                ),
                oracles,
            ),
        ),
    )


_F = TypeVar("_F", bound=BaseModel)


def _facts(path: Path, model: type[_F]) -> _F:
    try:
        return model.model_validate(read_json(path))
    except FileNotFoundError:
        raise _unusable(path, "is missing") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise _unusable(
            path, f"is damaged (at {'.'.join(map(str, first['loc'])) or 'its top'}: {first['msg']})"
        ) from error
    except (OSError, ValueError) as error:
        raise _unusable(path, "is damaged (no JSON can be read from it)") from error


def read_table(path: Path, columns: Sequence[str]) -> pl.DataFrame:
    """Read a table of a run; NaN becomes null.

    Raises:
        ConcordantError: It is missing, damaged or lacks a column.
    """
    if not path.is_file():
        raise _unusable(path, "is missing")
    try:
        table = pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise _unusable(path, "is damaged (no parquet table can be read from it)") from error
    absent = [name for name in columns if name not in table.columns]
    if absent:
        raise _unusable(path, f"lacks the column(s) {', '.join(absent)}")
    return table.with_columns(pl.col("horizon_days").cast(pl.Float64)).with_columns(
        cs.float().fill_nan(None)
    )


def _unusable(path: Path, what: str) -> ConcordantError:
    return ConcordantError(
        f"{path} {what}; the report needs it: run `concordant run` on the study file to write it "
        "again"
    )


def _over_seeds(table: pl.DataFrame, keys: Sequence[str], path: Path) -> pl.DataFrame:
    """Keep the rows averaged over seeds, and those of the one seed where there is no average."""
    averaged = table.filter(pl.col("seed").is_null())
    single = table.filter(pl.col("seed").is_not_null()).join(
        averaged, on=list(keys), how="anti", nulls_equal=True
    )
    if single.select(keys).is_duplicated().any():
        raise _unusable(path, "holds several seeds of a model but no row averaged over them")
    return pl.concat([averaged, single])


def model_of(row: Mapping[str, Any], oracles: Collection[str] = ()) -> Model:
    """Return the model that a row of a table is about."""
    fusion, ct, ehr = str(row["fusion"]), row["ct_encoder"], row["ehr_encoder"]
    if ct is None and ehr is None:
        kind = Kind.ORACLE if fusion in oracles else Kind.FOREIGN
    elif ct is not None and ehr is not None:
        kind = Kind.FUSION
    else:
        kind = Kind.CT if ehr is None else Kind.EHR
    return Model(fusion, ct, ehr, kind)


def _models(results: pl.DataFrame, oracles: set[str]) -> tuple[Model, ...]:
    rows = results.select(_MODEL).unique(maintain_order=True).iter_rows(named=True)
    models = [model_of(row, oracles) for row in rows]
    kinds, pairs = list(Kind), [(model.ct_encoder, model.ehr_encoder) for model in models]
    return tuple(
        sorted(
            models,
            key=lambda model: (
                kinds.index(model.kind),
                pairs.index((model.ct_encoder, model.ehr_encoder)),
            ),
        )
    )


def _cohorts(results: pl.DataFrame, study: StudyFacts) -> tuple[str, ...]:
    labels = results["cohort"].unique(maintain_order=True).to_list()
    known = [facts.label for facts in study.cohorts if facts.label in labels]
    rest = [label for label in labels if label not in known]
    internal = [label for label in rest if label in INTERNAL_LABELS]
    return (*internal, *known, *(label for label in rest if label not in internal))


def _estimates(table: pl.DataFrame, oracles: set[str]) -> Iterator[Estimate]:
    for row in table.iter_rows(named=True):
        yield Estimate(
            cohort=row["cohort"],
            model=model_of(row, oracles),
            metric=row["metric"],
            horizon_days=row["horizon_days"],
            value=row["value"],
            ci_low=row["ci_low"],
            ci_high=row["ci_high"],
            n=row["n"],
            n_events=row["n_events"],
            subgroup=row.get("subgroup"),
            level=None if row.get("level") is None else str(row["level"]),
            tau_days=row["tau_days"],
        )


def _gains(table: pl.DataFrame, oracles: set[str]) -> Iterator[Gain]:
    for row in table.iter_rows(named=True):
        tested = {name: row[name] for name in _GAIN}
        yield Gain(
            row["cohort"],
            model_of(row, oracles),
            row["reference"],
            row["metric"],
            row["horizon_days"],
            **tested,
        )
