"""Tables of the command line: results, differences, checks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    import polars as pl

    from concordant.data.audit import Audit

_NOTHING = "-"
_METHODS = {"holm": "Holm", "benjamini_hochberg": "Benjamini-Hochberg", "max_t": "max-T"}


def strategies(results: pl.DataFrame, metric: str) -> Table:
    """Lay out one metric of a run.

    A row per strategy, a column per cohort, averages over seeds where there are any.
    """
    import polars as pl

    rows = results.filter(pl.col("metric") == metric).sort(
        "horizon_days", "seed", nulls_last=False, maintain_order=True
    )
    key = [name for name in ("ct_encoder", "ehr_encoder") if rows[name].drop_nulls().n_unique() > 1]
    rows = rows.unique(
        ["fusion", "ct_encoder", "ehr_encoder", "cohort"], keep="first", maintain_order=True
    )
    cohorts = results["cohort"].unique(maintain_order=True).to_list()
    table = _table(f"{metric} with its 95 % interval", ["strategy", *key], cohorts)
    values = {
        (row["fusion"], row["ct_encoder"], row["ehr_encoder"], row["cohort"]): _with_interval(
            row, "value"
        )
        for row in rows.to_dicts()
    }
    order = results.select("fusion", "ct_encoder", "ehr_encoder").unique(maintain_order=True)
    for row in order.to_dicts():
        cells = [
            values.get((row["fusion"], row["ct_encoder"], row["ehr_encoder"], cohort), _NOTHING)
            for cohort in cohorts
        ]
        table.add_row(row["fusion"], *(row[name] or _NOTHING for name in key), *cells)
    return table


def metrics(rows: pl.DataFrame, *, first: Sequence[str] = ()) -> Table:
    """Lay out the rows of `concordant.evaluation.evaluate`.

    Args:
        rows: The rows; columns named in `first` stand before the metric.
        first: Further text columns.
    """
    table = _table("", [*first, "metric"], ["value", "95 % interval", "n", "events"], last="note")
    for row in rows.to_dicts():
        cells = [
            _number(row["value"]),
            _interval(row),
            str(row["n"]),
            str(row["n_events"]),
            row.get("note") or "",
        ]
        table.add_row(*(row[name] for name in first), _measure(row), *cells)
    return table


def differences(rows: pl.DataFrame) -> Table:
    """Lay out paired differences to a reference, with simultaneous intervals where there are
    any.
    """
    method = rows["multiplicity"].drop_nulls()
    adjusted = f"p ({_METHODS.get(method[0], method[0])})" if len(method) else "p (adjusted)"
    jointly = rows["ci_low_simultaneous"].null_count() < rows.height
    numbers = ["difference", "95 % interval", *(["simultaneous"] if jointly else []), "p", adjusted]
    table = _table("", ["file", "reference", "metric"], numbers, last="note")
    for row in rows.to_dicts():
        cells = [_number(row["difference"], "+.3f"), _interval(row, "+.3f")]
        cells += [_interval(row, "+.3f", "_simultaneous")] if jointly else []
        cells += [_p_value(row["p_value"]), _p_value(row["p_adjusted"]), row["note"] or ""]
        table.add_row(row["file"], row["reference"], _measure(row), *cells)
    return table


def margins(rows: pl.DataFrame) -> Table:
    """Lay out the tests of differences against a margin.

    P-values are one-sided, adjusted among themselves.
    """
    numbers = [
        "margin",
        "difference",
        "p not worse",
        "p (adjusted)",
        "p equivalent",
        "p (adjusted)",
    ]
    table = _table(
        "Not worse than the reference by the margin; equivalent to it",
        ["file", "reference", "metric"],
        numbers,
    )
    tests = (
        "p_non_inferiority",
        "p_non_inferiority_adjusted",
        "p_equivalence",
        "p_equivalence_adjusted",
    )
    for row in rows.to_dicts():
        cells = [
            _number(row["margin"], "g"),
            _number(row["difference"], "+.3f"),
            *(_p_value(row[name]) for name in tests),
        ]
        table.add_row(row["file"], row["reference"], _measure(row), *cells)
    return table


def checks(audit: Audit) -> Table:
    """Lay out the checks of an audit, in words and colour."""
    table = _table("", ["check", "result"], [], last="found")
    for check in audit.checks:
        table.add_row(
            check.name,
            Text("passed", "green") if check.passed else Text("FAILED", "bold red"),
            check.detail,
        )
    return table


def _table(
    title: str, texts: Sequence[str], numbers: Sequence[str], *, last: str | None = None
) -> Table:
    table = Table(title=title or None, box=box.SIMPLE, title_justify="left")
    for name in texts:
        table.add_column(name)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    if last is not None:
        table.add_column(last)
    return table


def _measure(row: dict[str, Any]) -> str:
    days = row["horizon_days"]
    return row["metric"] if days is None else f"{row['metric']} at {days:g} days"


def _number(value: float | None, form: str = ".3f") -> str:
    return _NOTHING if value is None else format(value, form)


def _interval(row: dict[str, Any], form: str = ".3f", kind: str = "") -> str:
    """Write an interval; none where both limits are one.

    No variation was seen, which is no certainty.
    """
    low, high = row[f"ci_low{kind}"], row[f"ci_high{kind}"]
    return _NOTHING if low in (None, high) else f"{low:{form}} to {high:{form}}"


def _with_interval(row: dict[str, Any], name: str) -> str:
    if row[name] is None:
        return _NOTHING
    return (
        _number(row[name])
        if _interval(row) == _NOTHING
        else f"{row[name]:.3f} [{row['ci_low']:.3f}, {row['ci_high']:.3f}]"
    )


def _p_value(value: float | None) -> str:
    return _NOTHING if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"
