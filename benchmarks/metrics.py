"""Times the metrics beside other libraries, in one run and on one thread; writes metrics.csv beside this file.

Medians of five after one call to compile; a peer that takes longer than ten seconds is timed once (`repeats`). A loop of a thousand
bootstrap replicates is not waited for: a few are timed and multiplied (`note`).
"""

from __future__ import annotations

import csv
import importlib.metadata
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from lifelines.utils import concordance_index as lifelines_index
from sksurv.metrics import brier_score as sksurv_brier
from sksurv.metrics import concordance_index_censored
from sksurv.metrics import cumulative_dynamic_auc as sksurv_auc
from sksurv.util import Surv

from concordant.metrics import (
    bootstrap_concordance,
    brier_score,
    compare_concordance,
    concordance_index,
    concordance_index_antolini,
    cumulative_dynamic_auc,
)

COLUMNS = ["task", "package", "version", "n", "seconds", "repeats", "ratio_to_concordant", "note", "python", "processor"]
SLOW = 10.0


def cohort(n: int, models: int = 1, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw times, events (about half of them observed) and risks of shape (subject, model)."""
    generator = np.random.default_rng(seed)
    signal = generator.normal(size=n)
    death, censored = generator.exponential(np.exp(-signal)), generator.exponential(1.0, n)
    risks = signal[:, None] + generator.normal(size=(n, models))
    return np.minimum(death, censored), (death <= censored).astype(np.int64), risks


def median_seconds(call: Callable[[], object]) -> tuple[float, int]:
    """Time a call five times, once if it is slow."""
    times: list[float] = []
    while len(times) < 5:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
        if times[0] > SLOW:
            break
    return statistics.median(times), len(times)


class Table:
    """Collects the rows; a peer's ratio is to our time of the same task."""

    def __init__(self) -> None:
        """Start empty."""
        self.rows: list[dict[str, object]] = []

    def add(self, task: str, package: str, n: int, call: Callable[[], object], *, times: float = 1.0, note: str = "") -> None:
        """Time a call and keep its row; `times` multiplies the time of a part to that of the whole."""
        if package == "concordant":
            call()  # compiles
        seconds, repeats = median_seconds(call)
        seconds *= times
        ours = next((row["seconds"] for row in self.rows if row["task"] == task and row["package"] == "concordant"), seconds)
        ratio = seconds / float(str(ours))
        row = dict(zip(COLUMNS, (task, package, importlib.metadata.version(package), n, seconds, repeats, ratio, note), strict=False))
        self.rows.append({**row, "python": platform.python_version(), "processor": f"{platform.machine()}, {os.cpu_count()} processors"})
        print(f"{task:55} {package:18} {seconds:9.4f} s  x {ratio:8.1f}  {note}", flush=True)

    def write(self, path: Path) -> None:
        """Write the rows as CSV."""
        with path.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)


def discrimination(table: Table) -> None:
    """Harrell's C, paired differences and the bootstrap."""
    t, e, r = cohort(100_000)
    table.add("Harrell's C with standard error", "concordant", len(t), lambda: concordance_index(t, e, r[:, 0]))
    table.add("Harrell's C with standard error", "lifelines", len(t), lambda: lifelines_index(t, -r[:, 0], e), note="C alone")
    table.add(
        "Harrell's C with standard error", "scikit-survival", len(t), lambda: concordance_index_censored(e == 1, t, r[:, 0]), note="C alone"
    )
    t, e, r = cohort(10_000, 2)
    table.add("paired difference of two C with p", "concordant", len(t), lambda: compare_concordance(t, e, r[:, 0], r[:, 1]))
    table.add("1,000 paired bootstrap replicates", "concordant", len(t), lambda: bootstrap_concordance(t, e, r, replicates=1000))
    rows = np.random.default_rng(1).integers(0, len(t), len(t))

    def one_replicate() -> None:
        for column in (0, 1):
            concordance_index_censored(e[rows] == 1, t[rows], r[rows, column])

    table.add("1,000 paired bootstrap replicates", "scikit-survival", len(t), one_replicate, times=1000, note="one replicate times 1,000")


def over_time(table: Table) -> None:
    """Brier score, AUC(t) and Antolini's C."""
    t, e, r = cohort(100_000)
    times = np.quantile(t, np.linspace(0.05, 0.9, 100))
    survival = np.exp(-np.outer(np.exp(r[:, 0] / 2), times))
    target = Surv.from_arrays(e == 1, t)
    table.add("Brier score at 100 times", "concordant", len(t), lambda: brier_score(t, e, survival, times), note="with standard errors")
    table.add("Brier score at 100 times", "scikit-survival", len(t), lambda: sksurv_brier(target, target, survival, times))
    table.add("AUC at 100 times", "concordant", len(t), lambda: cumulative_dynamic_auc(t, e, r[:, 0], times), note="with standard errors")
    table.add("AUC at 100 times", "scikit-survival", len(t), lambda: sksurv_auc(target, target, r[:, 0], times))
    t, e, r = cohort(30_000)
    times = np.quantile(t, np.linspace(0.02, 0.98, 50))
    survival = np.exp(-np.outer(np.exp(r[:, 0] / 2), times))
    table.add(
        "Antolini's C, 50 times",
        "concordant",
        len(t),
        lambda: concordance_index_antolini(t, e, survival, times),
        note="with standard error",
    )


def growth(table: Table) -> None:
    """From a hundred thousand subjects to a million, and what the process has needed at most by then."""
    for n in (100_000, 1_000_000):
        t, e, r = cohort(n)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        call = lambda t=t, e=e, r=r[:, 0]: concordance_index(t, e, r)  # noqa: E731 - bound to this size
        table.add(f"growth: Harrell's C with standard error, n = {n:,}", "concordant", n, call)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        table.rows[-1]["note"] = f"peak of the process {peak / 2**20:.2f} GB, {(peak - before) / 2**20:.2f} GB above what stood before"


def main() -> None:
    """Run all and write the table."""
    table = Table()
    growth(table)
    start = [sys.executable, "-c", "import concordant.metrics"]
    table.add("import of concordant.metrics, fresh process", "concordant", 0, lambda: subprocess.run(start, check=True))  # noqa: S603 - this interpreter, a fixed command
    over_time(table)
    discrimination(table)
    table.write(Path(__file__).with_suffix(".csv"))


if __name__ == "__main__":
    main()
