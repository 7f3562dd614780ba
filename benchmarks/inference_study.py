"""Do the tests keep their level, do the intervals cover, are the standard errors right? A
simulation study of `concordant.metrics`.

Usage: python benchmarks/inference_study.py [--replicates 10000] [--jackknife 400] [--draws 1024]
[--out benchmarks/inference_study.csv]

The designs are those of the tests: tests/simulation_fixture.py. Times beyond tau, where 10 % of the
population are still at risk, do not count in Uno's C and in the Brier score. A row of the table is
a rate or a ratio with its Monte Carlo standard error and the bounds a correct implementation keeps.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from scipy.special import ndtr

from concordant.metrics import (
    Difference,
    Estimate,
    brier_score_at,
    compare_concordance,
    concordance_covariance,
    concordance_index,
    concordance_index_ipcw,
    holm,
    integrated_brier_score,
    simultaneous_differences,
)

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from simulation_fixture import (
    AGAINST_FIRST,
    ALPHA,
    CELLS,
    CONTRASTS,
    COVERAGE,
    LEVEL,
    Cell,
    N,
    Sample,
    known_curve_error,
    noisy,
    reversing,
)

POPULATION = 2_000_000  # subjects of the cohort whose value stands for the limit
ERROR_RATIO, JACKKNIFE_RATIO = (0.95, 1.05), (0.95, 1.03)
CLEARLY_TOO_LARGE = (1.05, np.inf)
POWER_SLACK = 0.05  # around the power of a normal test that knows the true standard error


@dataclass(frozen=True, slots=True)
class Row:
    """One number of the study."""

    quantity: str
    design: str
    censoring: str
    ties: str
    replicates: int
    value: float
    monte_carlo_error: float
    bound_low: float
    bound_high: float

    @property
    def passed(self) -> bool:
        """True where the value is within its bounds."""
        return self.bound_low <= self.value <= self.bound_high


@dataclass(frozen=True, slots=True)
class Place:
    """Where a number belongs in the table."""

    design: str
    censoring: str
    ties: str

    def row(
        self,
        quantity: str,
        replicates: int,
        value: float,
        error: float,
        bounds: tuple[float, float],
    ) -> Row:
        """Return a row of the table."""
        low, high = bounds
        return Row(
            quantity,
            self.design,
            self.censoring,
            self.ties,
            replicates,
            float(value),
            float(error),
            float(low),
            float(high),
        )

    def rate(self, quantity: str, hits: np.ndarray, bounds: tuple[float, float]) -> Row:
        """Return how often something happened, with its binomial error."""
        share = hits.mean()
        return self.row(
            quantity, len(hits), share, np.sqrt(share * (1 - share) / len(hits)), bounds
        )

    def mean(self, quantity: str, values: np.ndarray, bounds: tuple[float, float]) -> Row:
        """Return the mean of a value per replicate."""
        return self.row(
            quantity, len(values), values.mean(), values.std(ddof=1) / np.sqrt(len(values)), bounds
        )

    def against_spread(self, quantity: str, estimates: np.ndarray, errors: np.ndarray) -> Row:
        """Return the mean standard error over the standard deviation of the estimates, which is
        known to 1 / sqrt(2 n).
        """
        ratio = errors.mean() / estimates.std(ddof=1)
        return self.row(quantity, len(errors), ratio, ratio / np.sqrt(2 * len(errors)), ERROR_RATIO)


def place(cell: Cell, design: str) -> Place:
    """Return where the numbers of a cell belong."""
    return Place(design, f"{cell.censored:.0%}", "yes" if cell.ties else "no")


def covers(result: Estimate, truth: float) -> bool:
    """Return whether the 95 % interval holds the true value."""
    low, high = result.interval()
    return low < truth < high


# --- two models on the same subjects ---


def paired(
    cell: Cell,
    generator: np.random.Generator,
    replicates: int,
    make: Callable[[np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray]],
) -> np.ndarray:
    """Return per replicate p-value, difference and standard error.

    `make` turns the log-hazard into two risks.
    """
    found = np.empty((replicates, 3))
    for row in found:
        sample = cell.cohort(generator)
        result = compare_concordance(sample.time, sample.event, *make(sample.signal, generator))
        row[:] = result.p_value, result.difference, result.standard_error
    return found


def equal_models(
    signal: np.ndarray, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return the risks of two models with one true concordance."""
    return noisy(signal, generator), noisy(signal, generator)


def near_identical_models(
    signal: np.ndarray, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return two risks that share all but a twentieth of their noise."""
    shared = noisy(signal, generator)
    return noisy(shared, generator, 0.05), noisy(shared, generator, 0.05)


def unequal_models(
    signal: np.ndarray, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return a better and a worse model's risk."""
    return noisy(signal, generator), noisy(signal, generator, 2.5)


def paired_rows(cell: Cell, generator: np.random.Generator, replicates: int) -> Iterator[Row]:
    """Yield level and power of the paired test."""
    equal = paired(cell, generator, replicates, equal_models)
    here = place(cell, "two equal models")
    yield here.rate("type-I error of the paired test", equal[:, 0] < ALPHA, LEVEL)
    yield here.against_spread(
        "standard error of the difference / its standard deviation", equal[:, 1], equal[:, 2]
    )
    close = paired(cell, generator, replicates, near_identical_models)
    yield place(cell, "two near-identical models").rate(
        "type-I error of the paired test", close[:, 0] < ALPHA, (0.0, LEVEL[1])
    )
    unequal = paired(cell, generator, replicates, unequal_models)
    effect = unequal[:, 1].mean() / unequal[:, 1].std(ddof=1)
    known = ndtr(effect - 1.959964) + ndtr(-effect - 1.959964)
    bounds = (known - POWER_SLACK, known + POWER_SLACK)
    yield place(cell, "noise of standard deviation 1 against 2.5").rate(
        "power of the paired test", unequal[:, 0] < ALPHA, bounds
    )


# --- coverage ---


@dataclass(frozen=True, slots=True)
class Limits:
    """What the estimates of a cell tend to; `curve_times` up to tau."""

    harrell: float
    uno: float
    brier: float
    tau: float
    curve_times: np.ndarray


def curves(risk: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Return survival curves of a model that is too timid about x: the hazard is exp(risk / 2)."""
    return np.exp(-np.outer(np.exp(risk / 2), times))


def limits(cell: Cell, generator: np.random.Generator) -> Limits:
    """Compute the limits on cohorts so large that their own error does not count."""
    seen, whole = cell.cohort(generator, POPULATION), cell.uncensored(generator, POPULATION)
    harrell = concordance_index(seen.time, seen.event, noisy(seen.signal, generator)).estimate
    tau = float(np.quantile(seen.time, 0.9))
    risk = noisy(whole.signal, generator)
    uno = concordance_index(whole.time, whole.time < tau, risk).estimate
    times = np.unique(np.quantile(seen.time, np.linspace(0.1, 0.9, 9)))
    losses = [
        np.mean((curves(risk, np.array([at]))[:, 0] - (whole.time > at)) ** 2) for at in times
    ]
    return Limits(
        harrell, uno, float(np.trapezoid(losses, times) / (times[-1] - times[0])), tau, times
    )


def coverage_rows(cell: Cell, generator: np.random.Generator, replicates: int) -> Iterator[Row]:
    """Yield how often intervals hold their limit, and standard errors against the spread of the
    estimates.
    """
    truth = limits(cell, generator)
    names = {
        "Harrell's C": truth.harrell,
        "Uno's C, own censoring curve": truth.uno,
        "Uno's C, external censoring curve": truth.uno,
        "integrated Brier score, own censoring curve": truth.brier,
        "integrated Brier score, external censoring curve": truth.brier,
    }
    inside = np.empty((replicates, len(names)), bool)
    values = np.empty((replicates, len(names), 2))
    for number in range(replicates):
        results = cohort_results(cell, generator, truth)
        inside[number] = [
            covers(result, limit) for result, limit in zip(results, names.values(), strict=True)
        ]
        values[number] = [(result.estimate, result.standard_error) for result in results]
    here = place(cell, "one model")
    for column, name in enumerate(names):
        yield here.rate(f"coverage of the 95 % interval: {name}", inside[:, column], COVERAGE)
    for column, name in enumerate(names):
        yield here.against_spread(
            f"standard error / standard deviation: {name}", *values[:, column].T
        )


def cohort_results(cell: Cell, generator: np.random.Generator, truth: Limits) -> list[Estimate]:
    """Compute the estimates of one cohort, in the order of `coverage_rows`.

    The external curve has as many subjects.
    """
    sample, other = cell.cohort(generator), cell.cohort(generator)
    risk, external = noisy(sample.signal, generator), (other.time, other.event)
    outcome, survival = (sample.time, sample.event), curves(risk, truth.curve_times)
    return [
        concordance_index(*outcome, risk),
        concordance_index_ipcw(*outcome, risk, tau=truth.tau),
        concordance_index_ipcw(*outcome, risk, tau=truth.tau, censoring=external),
        integrated_brier_score(*outcome, survival, truth.curve_times),
        integrated_brier_score(*outcome, survival, truth.curve_times, censoring=external),
    ]


# --- families of contrasts ---


def family_rows(
    cell: Cell, generator: np.random.Generator, replicates: int, draws: int
) -> Iterator[Row]:
    """Yield how often any of the contrasts is claimed where none is true."""
    claims = np.empty((replicates, 3), bool)
    for number in range(replicates):
        contrasts = shared_reference(cell, generator)
        p_values = np.array([contrast.p_value for contrast in contrasts])
        joint = simultaneous_differences(contrasts, seed=number, draws=draws)
        independent = np.array([one_p_value(cell, generator) for _ in range(CONTRASTS)])
        claims[number] = [
            family.min() < ALPHA for family in (holm(p_values), joint.p_value, holm(independent))
        ]
    shared = place(cell, f"{CONTRASTS} equal models against one equal reference")
    yield shared.rate("family-wise error: Holm", claims[:, 0], (0.0, 0.055))
    yield shared.rate(f"family-wise error: max-T, {draws} draws", claims[:, 1], (0.0, 0.065))
    yield place(cell, f"two equal models in each of {CONTRASTS} cohorts").rate(
        "family-wise error: Holm", claims[:, 2], (0.0, 0.06)
    )


def shared_reference(cell: Cell, generator: np.random.Generator) -> list[Difference]:
    """Return the contrasts of equal models to one of them."""
    sample = cell.cohort(generator)
    risks = sample.signal[:, None] + generator.normal(size=(N, CONTRASTS + 1))
    joint = concordance_covariance(sample.time, sample.event, risks)
    return [joint.contrast(coefficients) for coefficients in AGAINST_FIRST]


def one_p_value(cell: Cell, generator: np.random.Generator) -> float:
    """Return the p-value of two equal models in a cohort of their own."""
    sample = cell.cohort(generator)
    return compare_concordance(
        sample.time, sample.event, *equal_models(sample.signal, generator)
    ).p_value


# --- standard errors and the censoring curve ---


def jackknife_rows(cell: Cell, generator: np.random.Generator, cohorts: int) -> Iterator[Row]:
    """Yield the standard error against the jackknife, cohort by cohort."""
    tau = float(np.quantile(cell.cohort(generator, POPULATION).time, 0.9))
    ratios = np.empty(cohorts)
    for number in range(cohorts):
        sample = cell.cohort(generator)
        risk = noisy(sample.signal, generator)
        whole = concordance_index_ipcw(sample.time, sample.event, risk, tau=tau).standard_error
        ratios[number] = whole / jackknife_error(sample, risk, tau)
    yield place(cell, "one model").mean(
        "Uno's standard error / leave-one-out jackknife, curve recomputed", ratios, JACKKNIFE_RATIO
    )


def jackknife_error(sample: Sample, risk: np.ndarray, tau: float) -> float:
    """Return the leave-one-out standard error of Uno's C."""
    kept = ~np.eye(N, dtype=bool)
    values = np.array(
        [
            concordance_index_ipcw(
                sample.time[rows], sample.event[rows], risk[rows], tau=tau
            ).estimate
            for rows in kept
        ]
    )
    return float(np.sqrt((N - 1) / N * np.square(values - values.mean()).sum()))


def reversing_rows(
    generator: np.random.Generator, replicates: int, tau: float = 2.0
) -> Iterator[Row]:
    """Yield what the censoring curve's part of the standard error is worth where an effect
    reverses.
    """
    large = reversing(generator, POPULATION, uncensored=True)
    truth = concordance_index(large.time, large.time < tau, large.signal).estimate
    found, inside, censored = np.empty((replicates, 3)), np.empty(replicates, bool), 0.0
    for number in range(replicates):
        sample = reversing(generator)
        whole = concordance_index_ipcw(sample.time, sample.event, sample.signal, tau=tau)
        fixed = concordance_index_ipcw(
            sample.time, sample.event, sample.signal, tau=tau, censoring=(sample.time, sample.event)
        )
        found[number] = whole.estimate, whole.standard_error, known_curve_error(fixed)
        inside[number] = covers(whole, truth)
        censored += 1 - sample.event.mean()
    here = Place("one model whose effect reverses at 0.5", f"{censored / replicates:.0%}", "no")
    yield here.rate("coverage of the 95 % interval: Uno's C, own censoring curve", inside, COVERAGE)
    yield here.against_spread(
        "standard error / standard deviation: Uno's C, own censoring curve", *found[:, :2].T
    )
    yield here.mean(
        "Uno's standard error with the curve taken as known / whole",
        found[:, 2] / found[:, 1],
        CLEARLY_TOO_LARGE,
    )


def brier_rows(
    cell: Cell, generator: np.random.Generator, replicates: int, horizon: float = 0.7
) -> Iterator[Row]:
    """Yield what the censoring curve's part is worth in the Brier score."""
    found = np.empty((replicates, 3))
    for row in found:
        sample = cell.cohort(generator)
        survival = np.exp(-np.exp(sample.signal) * horizon)
        whole = brier_score_at(sample.time, sample.event, survival, horizon)
        fixed = brier_score_at(
            sample.time, sample.event, survival, horizon, censoring=(sample.time, sample.event)
        )
        row[:] = whole.estimate, whole.standard_error, known_curve_error(fixed)
    here = place(cell, f"the true survival at {horizon}")
    yield here.against_spread(
        "standard error / standard deviation: Brier score, own censoring curve", *found[:, :2].T
    )
    yield here.mean(
        "Brier score's standard error with the curve taken as known / whole",
        found[:, 2] / found[:, 1],
        CLEARLY_TOO_LARGE,
    )


# --- all of it ---


def study(replicates: int, cohorts: int, draws: int) -> Iterator[Row]:
    """Yield all rows; every part has random numbers of its own."""
    generators = iter(np.random.default_rng(2026).spawn(4 * len(CELLS) + 2))
    yield from reversing_rows(next(generators), replicates)
    yield from brier_rows(Cell(0.6, ties=False), next(generators), replicates)
    for cell in CELLS:
        yield from paired_rows(cell, next(generators), replicates)
        yield from coverage_rows(cell, next(generators), replicates)
        yield from jackknife_rows(cell, next(generators), cohorts)
        yield from family_rows(cell, next(generators), replicates, draws)


def main() -> None:
    """Run the study and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--replicates", type=int, default=10_000)
    parser.add_argument(
        "--jackknife",
        type=int,
        default=400,
        help="cohorts whose standard error is compared with the jackknife",
    )
    parser.add_argument(
        "--draws", type=int, default=1024, help="simulated directions per max-T quantile"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".csv"))
    options = parser.parse_args()
    rows = []
    for row in study(options.replicates, options.jackknife, options.draws):
        rows.append(asdict(row) | {"passed": "yes" if row.passed else "no"})
        print(
            row.quantity,
            row.design,
            row.censoring,
            row.ties,
            f"{row.value:.4f}",
            rows[-1]["passed"],
            flush=True,
        )
    with options.out.open("w", newline="") as file:
        writer = csv.DictWriter(
            file, [field.name for field in fields(Row)] + ["passed"], lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows(
            {
                name: f"{value:.5g}" if isinstance(value, float) else value
                for name, value in row.items()
            }
            for row in rows
        )


if __name__ == "__main__":
    main()
