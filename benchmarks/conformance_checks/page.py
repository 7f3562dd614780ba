"""The page that says what was found."""

from __future__ import annotations

import csv
import inspect
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, get_args

import numpy as np
from sksurv import metrics as sksurv

from concordant import metrics
from concordant.metrics.censoring import Convention
from conformance_checks.cohorts import ROOT, SETS, golden
from conformance_checks.peers import (
    curve_that_competing_events_lower,
    stored_versions,
    without_controls_censored_at_the_case,
)
from conformance_checks.registry import CHECKS, Check

LARGE, TICK = 1_000_000, 0.25  # of the cohort that shows what ties do


@dataclass(frozen=True, slots=True)
class Finding:
    """A comparison that was made."""

    check: Check
    count: int
    largest: float

    @property
    def passed(self) -> bool:
        """True where no difference is above the tolerance."""
        return self.count > 0 and self.largest <= self.check.tolerance


def findings() -> list[Finding]:
    """Make all comparisons."""
    made = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the other libraries, about ties and dtypes
        for one in CHECKS:
            differences = list(one.differences())
            made.append(Finding(one, len(differences), max(differences, default=np.inf)))
            print(
                *one.functions,
                one.against,
                one.quantity,
                f"{made[-1].largest:.1e}",
                "" if made[-1].passed else "ABOVE",
                flush=True,
            )
    return made


def uncovered() -> list[str]:
    """Return the functions of `concordant.metrics` that no comparison names."""
    named = {name for one in CHECKS for name in one.functions}
    return sorted(
        name
        for name in metrics.__all__
        if inspect.isfunction(getattr(metrics, name)) and name not in named
    )


def table(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """Return a table in Markdown."""
    header = list(header)
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def comparison_table(made: list[Finding]) -> str:
    """Return the comparisons, in the order of the functions' names."""
    return table(
        ["function", "against", "what", "comparisons", "largest difference", "allowed"],
        (
            [
                ", ".join(f"`{name}`" for name in one.check.functions),
                one.check.against,
                one.check.quantity,
                one.count,
                ("0" if one.largest == 0 else f"{one.largest:.1e}")
                if one.passed
                else f"**{one.largest:.1e}**",
                f"{one.check.tolerance:g}",
            ]
            for one in sorted(made, key=lambda one: one.check.functions[0])
        ),
    )


def tie_bias() -> str:
    """Return how far G(T-) and G(T) are from Uno's C without censoring, in one large cohort with
    tied times.
    """
    generator = np.random.default_rng(11)
    signal = generator.normal(size=LARGE)
    event_time, risk = (
        np.ceil(generator.exponential(np.exp(-signal)) / TICK) * TICK,
        signal + generator.normal(size=LARGE),
    )
    rows = []
    for last in (
        12,
        6,
        3,
        # censoring is uniform on the first so many ticks, so that more of those left are censored
        # later
        # on
    ):
        end = generator.integers(1, last + 1, LARGE) * TICK
        time, event, tau = np.minimum(event_time, end), event_time <= end, last * TICK
        truth = metrics.concordance_index(event_time, event_time < tau, risk).estimate
        errors = [
            metrics.concordance_index_ipcw(
                time, event, risk, tau=tau, convention=convention
            ).estimate
            - truth
            for convention in get_args(Convention)
        ]
        rows.append(
            [f"{1 - event.mean():.0%}", f"{truth:.4f}", *(f"{error:+.4f}" for error in errors)]
        )
    return table(
        ["censored", "C without censoring", *(f"error with {read}" for read in ("G(T-)", "G(T)"))],
        rows,
    )


def cause_bias() -> str:
    """Return how far three readings of Uno's C of a cause are from its value without censoring,
    in one large cohort each.
    """
    rows, tau = [], 1.0
    for tick, last in ((None, 6), (None, 2), (TICK, 6), (TICK, 2)):
        event_time, cause, end, risk = cohort_of_two_causes(tick, last)
        is_case = (cause == 1) & (
            event_time < tau
        )  # without censoring everyone else is a control of every case
        truth = metrics.concordance_index(
            np.where(is_case, event_time, tau), is_case, risk
        ).estimate
        time, event = np.minimum(event_time, end), np.where(event_time <= end, cause, 0)
        low = curve_that_competing_events_lower(time, event)
        found = [
            metrics.concordance_index_ipcw(time, event, risk, tau=tau, cause=1).estimate,
            without_controls_censored_at_the_case(time, event, risk, tau=tau, cause=1),
            metrics.concordance_index_ipcw(
                time, event, risk, tau=tau, cause=1, censoring=low
            ).estimate,
        ]
        times = "all different" if tick is None else f"rounded up to {tick:g}"
        rows.append(
            [
                times,
                f"{(event == 0).mean():.0%}",
                f"{truth:.4f}",
                *(f"{one - truth:+.4f}" for one in found),
            ]
        )
    heads = [
        "error of ours",
        "without controls censored at the case's time",
        "competing events counted as censored",
    ]
    return table(["times", "censored", "C without censoring", *heads], rows)


def cohort_of_two_causes(
    tick: float | None, last: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return times and codes of the first event, ends of follow-up (uniform until `last`) and a
    risk of the first cause.
    """
    generator = np.random.default_rng(13)
    signal, other = generator.normal(size=(2, LARGE))
    first, second = (
        generator.exponential(np.exp(-signal)),
        generator.exponential(np.exp(-0.5 * signal - other)),
    )
    event_time, end = np.minimum(first, second), generator.uniform(0, last, LARGE)
    if tick is not None:
        event_time, end = np.ceil(event_time / tick) * tick, np.ceil(end / tick) * tick
    return event_time, np.where(first <= second, 1, 2), end, signal + generator.normal(size=LARGE)


def read_csv(name: str) -> list[dict[str, str]]:
    """Return the rows of a table in benchmarks/, none where it is not there."""
    path = ROOT / "benchmarks" / name
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def study_tables(rows: list[dict[str, str]]) -> str:
    """Return the simulation study.

    One line per quantity and design, one column per censoring and ties.
    """
    if not rows:
        return "Not run yet: `python benchmarks/inference_study.py`."
    cells = sorted({(row["censoring"], row["ties"]) for row in rows})
    lines: dict[tuple[str, str], dict[tuple[str, str], dict[str, str]]] = {}
    for row in rows:
        lines.setdefault((row["quantity"], row["design"]), {})[row["censoring"], row["ties"]] = row
    wide = [
        cell for cell in cells if sum(cell in found for found in lines.values()) > len(lines) / 2
    ]
    several = {key: found for key, found in lines.items() if len(found) > 1}
    single = [
        found_row for found in lines.values() if len(found) == 1 for found_row in found.values()
    ]
    heads = [f"{censoring} censored{', ties' if ties == 'yes' else ''}" for censoring, ties in wide]
    first = table(
        ["quantity", "design", "replicates", *heads, "bounds"],
        (
            [
                *key,
                shared(found, "replicates"),
                *(value_cell(found.get(cell)) for cell in wide),
                bounds_cell(found),
            ]
            for key, found in several.items()
        ),
    )
    second = table(
        ["quantity", "design", "censored", "replicates", "value", "bounds"],
        (
            [
                row["quantity"],
                row["design"],
                row["censoring"],
                row["replicates"],
                value_cell(row),
                bounds_text(float(row["bound_low"]), float(row["bound_high"])),
            ]
            for row in single
        ),
    )
    return f"{first}\n\nWhere the censoring curve's own uncertainty matters most:\n\n{second}"


def value_cell(row: dict[str, str] | None) -> str:
    """Return a value with its Monte Carlo error, bold where it is outside its bounds."""
    if row is None:
        return ""
    text = f"{float(row['value']):.4f} ± {float(row['monte_carlo_error']):.2g}"
    return text if row["passed"] == "yes" else f"**{text}**"


def shared(found: dict[tuple[str, str], dict[str, str]], column: str) -> str:
    """Return what the cells of a line have in a column."""
    return ", ".join(sorted({row[column] for row in found.values()}, key=float))


def bounds_cell(found: dict[tuple[str, str], dict[str, str]]) -> str:
    """Return the bounds of a line, cell by cell where they differ."""
    bounds = dict.fromkeys(
        (float(row["bound_low"]), float(row["bound_high"])) for row in found.values()
    )
    return "; ".join(bounds_text(low, high) for low, high in bounds)


def bounds_text(low: float, high: float) -> str:
    """Return bounds in words."""
    if not np.isfinite(high):
        return f"at least {low:g}"
    return f"at most {high:g}" if low == 0 else f"{low:.3g} to {high:.3g}"


def benchmark_table(rows: list[dict[str, str]]) -> str:
    """Return the benchmark as it was written."""
    return (
        table(rows[0], (row.values() for row in rows))
        if rows
        else "Not run yet: `python benchmarks/metrics.py`."
    )


def page(made: list[Finding]) -> str:
    """Return the whole page."""
    study = read_csv("inference_study.csv")
    outside = sum(row["passed"] != "yes" for row in study)
    above = [one for one in made if not one.passed]
    packages = ", ".join(
        f"{name} {version(name)}" for name in ("numpy", "scikit-survival", "lifelines", "scipy")
    )
    r = golden()["meta"]
    missing = ", ".join(f"`{name}`" for name in uncovered()) or "none"
    return PAGE.format(
        packages=packages,
        r=", ".join(f"{name} {number}" for name, number in r.items()).replace("R R version", "R"),
        n_sets=len(SETS),
        n_checks=len(made),
        n_numbers=sum(one.count for one in made),
        verdict="All are within what is allowed."
        if not above
        else f"**Above what is allowed (bold): {len(above)}.**",
        missing=missing,
        comparisons=comparison_table(made),
        tie_bias=tie_bias(),
        cause_bias=cause_bias(),
        peers=stored_versions(),
        tied_tol=inspect.signature(sksurv.concordance_index_censored)
        .parameters["tied_tol"]
        .default,
        study=study_tables(study),
        n_study=len(study),
        study_verdict="All are within their bounds."
        if not outside
        else f"**Outside their bounds (bold): {outside}.**",
        benchmark=benchmark_table(read_csv("metrics.csv")),
    )


PAGE = """# Conformance

Written by `python benchmarks/conformance.py`; every number is computed by it or read from a table in `benchmarks/`. Do not edit.

## Functions against other software

Every function of `concordant.metrics` is compared with independent software where such software exists, and with a plain loop over its
definition. {n_checks} rows, {n_numbers} comparisons. {verdict} Functions without a comparison: {missing}.

* **R** ({r}): values stored with the {n_sets} public data sets they were computed on.
* **Libraries**: {packages}. Compared on those data sets and on simulated cohorts, with and without ties; Harrell's C and Uno's C also with
  all times and risks rounded to create more ties.
* **Other packages** ({peers}): values stored in `benchmarks/conformance_peers.csv`.
* **Plain loop**: the definition, one pair or one subject after the other, on small simulated cohorts full of ties.
* **Numerical derivative**: a standard error is the root of the summed squares of influences, and the influence of a subject is the
  derivative of the estimate by its weight. It is compared with a central difference, which is itself only that exact.

Differences are absolute unless "relative" is said. Two rows are not meant to be zero: R has another estimate of the standard error of
the area under the ROC curve and of the Brier score.

{comparisons}

## Tied times

Where event times, censoring times and horizons coincide, tools follow different conventions. Ours:

| quantity | default | R | scikit-survival |
|---|---|---|---|
| comparable pair, Harrell's C | a case and everyone with a later time, or censored at the same time | same | same |
| censoring curve G (Kaplan-Meier) | at a tied time events leave before censorings | same | same |
| Uno's C | case weight 1/G(T-)², cases with T < tau | G(T-), cases with T ≤ tau: `tau=np.nextafter(tau, np.inf)` | G(T), T < tau |
| area under the ROC curve at t | cases T ≤ t weigh 1/G(T-), controls T > t | same | cases 1/G(T) |
| Brier score at t | cases T ≤ t weigh 1/G(T-), controls 1/G(t) | same | cases 1/G(T), weight 0 where G = 0 |
| equal risks | tied only where they are equal | same | tied where they differ by {tied_tol:g} or less |

Someone censored exactly at t is neither case nor control; means run over all subjects. `convention="sksurv"` follows scikit-survival.

**Why G(T-).** A subject whose event is at T was not censored before T. Whether it would have been censored at T does not matter, since
at a tied time the event is seen first. So the probability that its event was seen is G(T-). With G(T) a case at a time at which others are
censored weighs too much, and the estimate tends to a wrong value however large the cohort. Uno's C of one large cohort, all times
rounded up to a coarse grid and everyone's follow-up ending at a random one of them, minus its value without censoring:

{tie_bias}

**Equal risks.** A tolerance would make C depend on the unit of the risk: a risk in very small units would be all ties. Round the risk if
its last digits mean nothing.

**Antolini's C.** With curves as steps, an event at T reads S at the last grid time ≤ T (`steps="post"`); for discrete-time models, at the
first grid time ≥ T (`steps="pre"`). Equal curves earn one half; `method="antolini"` gives them nothing, as the paper and pycox do, and
`method="adj_antolini"` follows pycox's adjusted rule.

## Competing events

**Uno's C of a cause.** Following Wolbers et al. (2014), a case at T and someone still followed weigh 1/G(T-)² (theirs 1/(G(T-) G(T)), which
differs at tied times); a case at T and someone who had a competing event at an earlier S weigh 1/(G(T-) G(S-)). G is the probability not to
be censored: a competing event ends a follow-up, but it is no censoring. Who is censored at the very time of a case was followed that long.

* **greenwood** gives the same where no times are tied. At a tied time it leaves out who was censored at the time of the case, although
  it is known that their event was not earlier, so too few controls are counted for the weight they have. Its codes are the levels of a
  categorical; the numbers 0, 1, 2 it reads in the manner of R, 1 as censored and 2 as the event.
* **comprisk** lets G fall at competing events too (at every code but 1, whichever the cause), and yet keeps who had one as a control for
  ever. With `tau` it also leaves out controls that are followed beyond it, and it counts two cases at one time as a pair. By default it
  gives late cases next to no weight (`gmin`); it is compared without that.

With its pairs and its curve our function gives the number of each. Which of them tends to the C without censoring is seen in large cohorts,
with censoring that depends on nothing and cases before a fixed tau:

{cause_bias}

## Simulation study

`python benchmarks/inference_study.py`; designs in its first lines, the table in `benchmarks/inference_study.csv`. A value stands with
its Monte Carlo standard error. Paired tests of near-identical models are conservative, and are listed apart. The bounds of the power
are those of a normal test that knows the true standard error of the difference, with a margin. {n_study} numbers. {study_verdict}

{study}

## Speed

{benchmark}
"""
