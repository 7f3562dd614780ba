"""Times the metrics beside other libraries, in one run and on one thread.

Writes metrics.csv beside this file.

Usage: python benchmarks/metrics.py [--peers DIR] [--out benchmarks/metrics.csv] [--overwrite]

`--peers` is a folder filled by `pip install --no-deps --target DIR fast-cindex comprisk greenwood
compare-concordance survival pycox torchtuples h5py feather-format`; a peer that is not there gets a
row that says so. A table that has times of such a peer is kept as it is (its rows are of one run
and cannot be mixed with those of another), unless `--overwrite` is given. Medians of five; what
takes longer than ten seconds is timed once (`repeats`). Seconds are those of the processor, so that
other work on the machine counts little. A loop of a thousand bootstrap replicates is not waited
for: a few are timed and multiplied (`note`). `peak_mb` is what a call allocates through numpy at
most.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import importlib
import importlib.metadata
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

try:
    from lifelines.utils import concordance_index as lifelines_index
    from sksurv.metrics import brier_score as sksurv_brier
    from sksurv.metrics import concordance_index_censored
    from sksurv.metrics import cumulative_dynamic_auc as sksurv_auc
    from sksurv.util import Surv
except ModuleNotFoundError as missing:
    sys.exit(f"not here: {missing.name}; run: pip install -e '.[bench]'")

from concordant.metrics import (
    bootstrap_concordance,
    brier_score,
    compare_concordance,
    compare_concordance_ipcw,
    concordance_index,
    concordance_index_antolini,
    cumulative_dynamic_auc,
)

COLUMNS = [
    "task",
    "package",
    "version",
    "n",
    "seconds",
    "repeats",
    "ratio_to_concordant",
    "peak_mb",
    "note",
    "date",
    "python",
    "processor",
]
ONE_THREAD = dict.fromkeys(
    [
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
        "NUMBA_NUM_THREADS",
        "RAYON_NUM_THREADS",
    ],
    "1",
)
SLOW = 10.0


def cohort(n: int, models: int = 1, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw times, events (about half of them observed) and risks of shape (subject, model)."""
    generator = np.random.default_rng(seed)
    signal = generator.normal(size=n)
    death, censored = generator.exponential(np.exp(-signal)), generator.exponential(1.0, n)
    risks = signal[:, None] + generator.normal(size=(n, models))
    return np.minimum(death, censored), (death <= censored).astype(np.int64), risks


def processor() -> str:
    """Return the processor's model, where the system says it."""
    info = Path("/proc/cpuinfo")
    names = (
        [
            line.partition(":")[2].strip()
            for line in info.read_text().splitlines()
            if line.startswith("model name")
        ]
        if info.exists()
        else []
    )
    return names[0] if names else platform.processor() or platform.machine()


def median_seconds(
    call: Callable[[], object], clock: Callable[[], float] = time.process_time
) -> tuple[float, int]:
    """Time a call five times, once if it is slow."""
    times: list[float] = []
    while len(times) < 5:
        start = clock()
        call()
        times.append(clock() - start)
        if times[0] > SLOW:
            break
    return statistics.median(times), len(times)


def child_seconds() -> float:
    """Return the processor's seconds in finished child processes so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def peak_megabytes(call: Callable[[], object]) -> float:
    """Return the most memory that a call holds at once, beside its arguments."""
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 1e6


class Table:
    """Collects the rows; a peer's ratio is to our time of the same task."""

    def __init__(self) -> None:
        """Start empty."""
        self.rows: list[dict[str, object]] = []
        self.about = {
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "python": platform.python_version(),
            "processor": processor(),
        }

    def ours(
        self,
        task: str,
        n: int,
        call: Callable[[], object],
        *,
        note: str = "",
        memory: bool = False,
        clock: Callable[[], float] = time.process_time,
    ) -> None:
        """Time our own call, after one to compile."""
        call()
        seconds, repeats = median_seconds(call, clock)
        self._keep(
            task,
            "concordant",
            n,
            seconds,
            repeats,
            note,
            f"{peak_megabytes(call):.1f}" if memory else "",
        )

    def peer(
        self,
        task: str,
        package: str,
        n: int,
        call: Callable[[], object],
        *,
        times: float = 1.0,
        note: str = "",
    ) -> None:
        """Time a peer's call, which imports its package.

        `times` multiplies the time of a part to that of the whole.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other libraries
            try:
                seconds, repeats = median_seconds(call)
            except ModuleNotFoundError as missing:
                self._keep(task, package, n, None, 0, f"not installed: {missing.name}", "")
            else:
                self._keep(task, package, n, seconds * times, repeats, note, "")

    def _keep(
        self,
        task: str,
        package: str,
        n: int,
        seconds: float | None,
        repeats: int,
        note: str,
        peak: str,
    ) -> None:
        row: dict[str, object] = dict.fromkeys(COLUMNS, "") | self.about
        row |= {
            "task": task,
            "package": package,
            "n": n,
            "repeats": repeats,
            "peak_mb": peak,
            "note": note,
        }
        if seconds is not None:
            first = next(
                (float(str(one["seconds"])) for one in self.rows if one["task"] == task), seconds
            )
            row |= {
                "version": importlib.metadata.version(package),
                "seconds": f"{seconds:.4g}",
                "ratio_to_concordant": f"{seconds / first:.3g}",
            }
        self.rows.append(row)
        print(
            f"{task:55} {package:20} {row['seconds'] or '-':>10} s  x "
            f"{row['ratio_to_concordant'] or '-':>8}  {note}",
            flush=True,
        )

    def lost_from(self, path: Path) -> list[str]:
        """Return the packages that the table at `path` has times of where the new rows have
        none.
        """
        if not path.exists():
            return []
        with path.open(newline="") as stream:
            before = {
                (row["task"], row["package"]) for row in csv.DictReader(stream) if row["seconds"]
            }
        return sorted(
            {
                package
                for _, package in before
                - {(row["task"], row["package"]) for row in self.rows if row["seconds"]}
            }
        )

    def write(self, path: Path) -> None:
        """Write the rows as CSV."""
        with path.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)


def discrimination(table: Table) -> None:
    """Harrell's C with its standard error."""
    t, e, r = cohort(100_000)
    risk, n, task = r[:, 0], len(t), "Harrell's C with standard error"
    table.ours(task, n, lambda: concordance_index(t, e, risk))
    table.peer(task, "lifelines", n, lambda: lifelines_index(t, -risk, e), note="C alone")
    table.peer(
        task,
        "scikit-survival",
        n,
        lambda: concordance_index_censored(e == 1, t, risk),
        note="C alone",
    )
    table.peer(
        task,
        "fast-cindex",
        n,
        lambda: importlib.import_module("fast_cindex").cindex(t, risk, e),
        note="C alone",
    )

    def survival() -> None:
        peer = importlib.import_module("survival")
        peer.concordance(peer.Surv(t, e), scores=risk)

    table.peer(task, "survival", n, survival)


def differences(table: Table) -> None:
    """Paired differences of two models."""
    t, e, r = cohort(10_000, 2)
    a, b, n = *r.T, len(t)
    task, uno = "paired difference of two C with p", "paired difference of two IPCW C with p"
    table.ours(task, n, lambda: compare_concordance(t, e, a, b))
    compare = "compare_concordance"
    table.peer(
        task,
        "compare-concordance",
        n,
        lambda: importlib.import_module(compare).compare_concordance(t, e, a, b),
    )
    table.ours(uno, n, lambda: compare_concordance_ipcw(t, e, a, b))
    table.peer(
        uno,
        "comprisk",
        n,
        lambda: importlib.import_module("comprisk").concordance_index_delta_ci(e, t, a, b),
    )

    def greenwood() -> None:
        peer = importlib.import_module("greenwood")
        peer.concordance_index_compare(peer.Surv(t, event=e), a, b)

    table.peer(uno, "greenwood", n, greenwood)


def resampling(table: Table) -> None:
    """A thousand paired bootstrap replicates."""
    t, e, r = cohort(10_000, 2)
    n, task = len(t), "1,000 paired bootstrap replicates"
    table.ours(task, n, lambda: bootstrap_concordance(t, e, r, replicates=1000), memory=True)
    rows = np.random.default_rng(1).integers(0, n, n)

    def one_replicate() -> None:
        for column in (0, 1):
            concordance_index_censored(e[rows] == 1, t[rows], r[rows, column])

    table.peer(
        task, "scikit-survival", n, one_replicate, times=1000, note="one replicate times 1,000"
    )

    def fast() -> None:
        importlib.import_module("fast_cindex").compare_cindex(t, e, *r.T, n_bootstraps=100)

    table.peer(task, "fast-cindex", n, fast, times=10, note="100 replicates times 10")


def over_time(table: Table) -> None:
    """Brier score, AUC(t) and Antolini's C."""
    t, e, r = cohort(100_000)
    risk, n, times = r[:, 0], len(t), np.quantile(t, np.linspace(0.05, 0.9, 100))
    survival = np.exp(-np.outer(np.exp(risk / 2), times))
    target = Surv.from_arrays(e == 1, t)
    brier, auc, antolini = "Brier score at 100 times", "AUC at 100 times", "Antolini's C, 50 times"
    table.ours(
        brier,
        n,
        lambda: brier_score(t, e, survival, times),
        note="with standard errors",
        memory=True,
    )
    table.peer(brier, "scikit-survival", n, lambda: sksurv_brier(target, target, survival, times))
    table.ours(
        auc,
        n,
        lambda: cumulative_dynamic_auc(t, e, risk, times),
        note="with standard errors",
        memory=True,
    )
    table.peer(auc, "scikit-survival", n, lambda: sksurv_auc(target, target, risk, times))
    few, n, places = slice(30_000), 30_000, np.quantile(t[:30_000], np.linspace(0.02, 0.98, 50))
    t, e, survival = t[few], e[few], np.exp(-np.outer(np.exp(risk[few] / 2), places))
    table.ours(
        antolini,
        n,
        lambda: concordance_index_antolini(t, e, survival, places),
        note="with standard error",
    )
    columns = np.maximum(np.searchsorted(places, t, side="right") - 1, 0)

    def pycox() -> None:
        importlib.import_module("pycox.evaluation.concordance").concordance_td(
            t, e, survival.T, columns, "antolini"
        )

    table.peer(antolini, "pycox", n, pycox)


def growth(table: Table) -> None:
    """From a hundred thousand subjects to a million."""
    for n in (100_000, 1_000_000):
        t, e, r = cohort(n)
        call = lambda t=t, e=e, r=r[:, 0]: concordance_index(t, e, r)  # noqa: E731 - bound to this size
        table.ours(f"growth: Harrell's C with standard error, n = {n:,}", n, call, memory=True)


def start(table: Table) -> None:
    """A fresh process."""
    command = [sys.executable, "-c", "import concordant.metrics"]
    call = lambda: subprocess.run(command, check=True)  # noqa: E731, S603 - this interpreter, a fixed command
    table.ours("import of concordant.metrics, fresh process", 0, call, clock=child_seconds)


def main() -> None:
    """Run all and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--peers", type=Path, help="folder with more peers, as filled by pip --target"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".csv"))
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="write the table even where it has times of a peer that is not here now",
    )
    options = parser.parse_args()
    if (
        not ONE_THREAD.items() <= os.environ.items()
    ):  # libraries read them as they are imported: start again
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ONE_THREAD)  # noqa: S606 - this interpreter, this script
    if options.peers:
        sys.path.append(str(options.peers))
    table = Table()
    for part in (growth, start, over_time, discrimination, differences, resampling):
        part(table)
    lost = table.lost_from(options.out)
    if lost and not options.overwrite:
        print(
            f"{options.out} is kept: it has times of {', '.join(lost)}, not measured now; give "
            "--peers DIR with them, or --overwrite"
        )
    else:
        table.write(options.out)


if __name__ == "__main__":
    main()
