"""Reads a run folder: its record and tables, checked once, here, and how rows are looked up."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import polars as pl
import polars.selectors as cs

from concordant.analysis import ANALYSES, Analysis, Shown
from concordant.analysis.calibration import GROUP_SCHEMA
from concordant.analysis.compare import CONTRAST_SCHEMA
from concordant.analysis.decision import DECISION_SCHEMA
from concordant.analysis.gains import GAIN_SCHEMA
from concordant.analysis.survival_curves import SURVIVAL_CURVES_SCHEMA
from concordant.core.artifacts import RunFolder
from concordant.core.errors import ConcordantError
from concordant.core.records import (
    AuditRecord,
    RunRecord,
    StrategyRecord,
    read_audit_record,
    read_run_record,
    unusable,
)
from concordant.evaluation import RESULT_SCHEMA
from concordant.report.wording import strategy_name

ALPHA = 0.05
"""Level at which an adjusted p-value counts as shown; it matches the tables' 95% intervals."""

INTERNAL_LABELS = ("held_out", "development")
_CONCORDANCES = ("concordance_index", "concordance_index_ipcw")
_MODEL = ("ct_encoder", "ehr_encoder", "fusion")
_ROW = ("cohort", *_MODEL, "metric", "horizon_days")
_RESULTS = (*_MODEL, "cohort", "seed", *RESULT_SCHEMA)

Row = Mapping[str, Any]
"""A row of a table, by column; `model` holds the `Model` that it is about."""


class Kind(StrEnum):
    """What a row of the tables is."""

    CT = "ct"
    EHR = "ehr"
    FUSION = "fusion"
    FOREIGN = "foreign"
    ORACLE = "oracle"


@dataclass(frozen=True, slots=True)
class Model:
    """One row of the comparison.

    Attributes:
        fusion: Label of the strategy, or name of foreign predictions.
        ct_encoder: Label of the scan's encoder, None where it is not used.
        ehr_encoder: Label of the record's encoder, None where it is not used.
        kind: One modality alone, a fusion, foreign predictions or an oracle.
    """

    fusion: str
    ct_encoder: str | None
    ehr_encoder: str | None
    kind: Kind

    @property
    def title(self) -> str:
        """The strategy in words; another group's name is left as it is."""
        return self.fusion if self.kind is Kind.FOREIGN else strategy_name(self.fusion)

    @property
    def encoders(self) -> str:
        """The encoders in words; empty for foreign predictions."""
        return " + ".join(name for name in (self.ct_encoder, self.ehr_encoder) if name is not None)

    @property
    def unimodal(self) -> bool:
        """True where the model sees one modality only."""
        return self.kind in (Kind.CT, Kind.EHR)

    def rows(self, table: pl.DataFrame) -> pl.DataFrame:
        """Return the model's own rows of a table."""
        return table.filter(pl.col(name).eq_missing(getattr(self, name)) for name in _MODEL)


@dataclass(frozen=True, slots=True)
class RunTables:
    """All that the page is made from; seeds are averaged, and no number is NaN.

    Attributes:
        run: The run folder.
        record: What was run on what.
        audit: The checks against leakage.
        models: The rows of the comparison: one modality alone, fusions, foreign predictions,
            oracles; inside each in the study's order.
        cohorts: Labels of the cohorts with results, internal first.
        estimates: Whole-cohort metrics.
        subgroups: Metrics by level of a subgroup.
        gains: Differences of the declared families; `shown` where the adjusted p-value is below
            `ALPHA`, `better` where the fusion is also the higher one.
        other_gains: Differences to the other unimodal model, outside any family.
        gains_over_both: Differences to both unimodal models at once.
        decision_curves: Net benefits.
        calibration: Metrics of calibration.
        calibration_groups: Predicted and observed probabilities by group.
        survival_curves: Kaplan-Meier curves by third of risk.
    """

    run: RunFolder
    record: RunRecord
    audit: AuditRecord
    models: tuple[Model, ...]
    cohorts: tuple[str, ...]
    estimates: tuple[Row, ...]
    subgroups: tuple[Row, ...]
    gains: tuple[Row, ...]
    other_gains: tuple[Row, ...]
    gains_over_both: tuple[Row, ...]
    decision_curves: pl.DataFrame
    calibration: pl.DataFrame
    calibration_groups: pl.DataFrame
    survival_curves: pl.DataFrame

    @property
    def concordance(self) -> str:
        """Name of the concordance index that the page is built around."""
        names = {row["metric"] for row in self.estimates}
        for name in _CONCORDANCES:
            if name in names:
                return name
        raise ConcordantError(
            f"{self.run.results} holds no concordance index (found: "
            f"{', '.join(sorted(names)) or 'no rows'}), and the report is built around it; add "
            "concordance_index to evaluate.metrics and run `concordant run` again"
        )

    def internal(self, cohort: str) -> bool:
        """Tell whether a cohort is (part of) the development cohort."""
        named = [one.role for one in self.record.cohorts if one.label == cohort]
        return named[0] == "internal" if named else cohort in INTERNAL_LABELS

    def tag(self, cohort: str) -> str:
        """Return "internal" or "external"."""
        return "internal" if self.internal(cohort) else "external"

    def estimate(
        self,
        cohort: str,
        model: Model,
        metric: str | None = None,
        horizon_days: float | None = None,
    ) -> Row | None:
        """Return a whole-cohort metric; without a horizon, the row without one, else the first."""
        rows = _matching(self.estimates, cohort, model, metric or self.concordance)
        return next(
            (row for row in rows if row["horizon_days"] == horizon_days),
            rows[0] if rows and horizon_days is None else None,
        )

    def gain(self, cohort: str, model: Model) -> Row | None:
        """Return the difference of the concordance index to the reference, or None without one."""
        return next(iter(_matching(self.gains, cohort, model, self.concordance)), None)

    def concordance_gains(self, cohort: str | None = None) -> list[Row]:
        """Return the declared differences of the concordance index, of one cohort or of all."""
        own = [row for row in self.gains if row["metric"] == self.concordance]
        return own if cohort is None else [row for row in own if row["cohort"] == cohort]

    def of_kind(self, *kinds: Kind) -> tuple[Model, ...]:
        """Return the models of these kinds, in the order of the page."""
        return tuple(model for model in self.models if model.kind in kinds)

    def reference(self, gain: Row) -> Model | None:
        """Return the unimodal model a gain is held against, None where chosen per fold."""
        fused: Model = gain["model"]
        same = (
            one
            for one in self.of_kind(Kind.CT, Kind.EHR)
            if one.fusion == gain["reference"]
            and (one.ct_encoder == fused.ct_encoder or one.ehr_encoder == fused.ehr_encoder)
        )
        return next(same, None)

    def strategy(self, model: Model) -> StrategyRecord | None:
        """Return what the record says of a model, None where it says nothing."""
        return next(
            (
                one
                for one in self.record.strategies
                if one.status == "done"
                and all(getattr(one, name) == getattr(model, name) for name in _MODEL)
            ),
            None,
        )


def _matching(rows: Sequence[Row], cohort: str, model: Model, metric: str) -> list[Row]:
    wanted = (cohort, model, metric)
    return [row for row in rows if (row["cohort"], row["model"], row["metric"]) == wanted]


def read_run(run: RunFolder) -> RunTables:
    """Read and check everything that the report needs from a run folder.

    Raises:
        ConcordantError: An artifact is missing, damaged or lacks a column, or an earlier version
            has written the folder.
    """
    record, audit = read_run_record(run), read_audit_record(run)
    results = _read(run.results, _RESULTS)
    oracles = {one.name for one in record.foreign if one.oracle}
    gains = _rows(_judged(_read(run.contrasts, CONTRAST_SCHEMA)), oracles)
    subgroups = _read(run.subgroups, (*_RESULTS, "subgroup", "level")).cast({"level": pl.String})
    return RunTables(
        run=run,
        record=record,
        audit=audit,
        models=_models(results, oracles),
        cohorts=_cohorts(results, record),
        estimates=_rows(_over_seeds(results, _ROW, run.results), oracles),
        subgroups=_rows(
            _over_seeds(subgroups, (*_ROW, "subgroup", "level"), run.subgroups), oracles
        ),
        gains=tuple(row for row in gains if row["family"] is not None),
        other_gains=tuple(row for row in gains if row["family"] is None),
        gains_over_both=_rows(_read(run.gains_over_both, GAIN_SCHEMA), oracles),
        decision_curves=_read(run.decision_curves, DECISION_SCHEMA),
        calibration=_read(run.calibration, ("cohort", *_MODEL, "recalibrated", *RESULT_SCHEMA)),
        calibration_groups=_read(run.calibration_groups, GROUP_SCHEMA),
        survival_curves=_read(run.survival_curves, SURVIVAL_CURVES_SCHEMA),
    )


def shown_by_analyses(run: RunFolder) -> tuple[Shown, ...]:
    """Return what analyses show of their tables, where they have no section made for them.

    Raises:
        ConcordantError: A table is missing, damaged or lacks a column.
    """
    shown = []
    for name in ANALYSES:
        if ANALYSES.get(name).show is not Analysis.show:
            analysis = ANALYSES.create(name)
            shown.append(analysis.show(_read(run.table(name), analysis.schema)))
    return tuple(one for one in shown if one is not None)


def _read(path: Path, columns: Collection[str]) -> pl.DataFrame:
    """Read a table of a run; NaN becomes null."""
    if not path.is_file():
        raise unusable(path, "is missing")
    try:
        table = pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise unusable(path, "is damaged (no parquet table can be read from it)") from error
    absent = [name for name in columns if name not in table.columns]
    if absent:
        raise unusable(path, f"lacks the column(s) {', '.join(absent)}")
    return table.with_columns(cs.matches("^horizon_days$").cast(pl.Float64)).with_columns(
        cs.float().fill_nan(None)
    )


def _judged(table: pl.DataFrame) -> pl.DataFrame:
    shown = (pl.col("p_adjusted") < ALPHA).fill_null(value=False)
    better = shown & (pl.col("difference") > 0).fill_null(value=False)
    return table.with_columns(shown=shown, better=better)


def _over_seeds(table: pl.DataFrame, keys: Sequence[str], path: Path) -> pl.DataFrame:
    """Keep the rows averaged over seeds, and those of the one seed where there is no average."""
    averaged = table.filter(pl.col("seed").is_null())
    single = table.filter(pl.col("seed").is_not_null()).join(
        averaged, on=list(keys), how="anti", nulls_equal=True
    )
    if single.select(keys).is_duplicated().any():
        raise unusable(path, "holds several seeds of a model but no row averaged over them")
    return pl.concat([averaged, single])


def _rows(table: pl.DataFrame, oracles: Collection[str]) -> tuple[Row, ...]:
    return tuple({**row, "model": model_of(row, oracles)} for row in table.iter_rows(named=True))


def model_of(row: Row, oracles: Collection[str] = ()) -> Model:
    """Return the model that a row of a table is about."""
    fusion, ct, ehr = str(row["fusion"]), row["ct_encoder"], row["ehr_encoder"]
    if ct is None and ehr is None:
        kind = Kind.ORACLE if fusion in oracles else Kind.FOREIGN
    elif ct is not None and ehr is not None:
        kind = Kind.FUSION
    else:
        kind = Kind.CT if ehr is None else Kind.EHR
    return Model(fusion, ct, ehr, kind)


def _models(results: pl.DataFrame, oracles: Collection[str]) -> tuple[Model, ...]:
    rows = results.select(_MODEL).unique(maintain_order=True).iter_rows(named=True)
    models = [model_of(row, oracles) for row in rows]
    kinds, pairs = list(Kind), [(model.ct_encoder, model.ehr_encoder) for model in models]

    def place(model: Model) -> tuple[int, int]:
        return kinds.index(model.kind), pairs.index((model.ct_encoder, model.ehr_encoder))

    return tuple(sorted(models, key=place))


def _cohorts(results: pl.DataFrame, record: RunRecord) -> tuple[str, ...]:
    labels = results["cohort"].unique(maintain_order=True).to_list()
    known = [one.label for one in record.cohorts if one.label in labels]
    rest = [label for label in labels if label not in known]
    internal = [label for label in rest if label in INTERNAL_LABELS]
    return (*internal, *known, *(label for label in rest if label not in internal))
