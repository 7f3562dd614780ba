"""Time and memory of building cohorts from generated MEDS datasets of growing size.

Writes cohort.csv beside this file.

Usage: python benchmarks/cohort.py [--sizes 1e6 1e7] [--out benchmarks/cohort.csv]

Every cohort is the shipped task `mace` (code lists, visits, exclusions, competing deaths) with
labels at two horizons, built by the command line in a process of its own: what is measured is
everything from the start of the process to the files written. Shards hold 5,000 subjects of about
100 events each; at 10^7 events one dataset is also written as a single file.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path

import numpy as np
import polars as pl

EVENTS_PER_SUBJECT = 100
SUBJECTS_PER_SHARD = 5_000
OUTCOMES = ["ICD10CM/I21.4", "ICD10CM/I63.9", "ICD10CM/I50.9", "SNOMED/57054005", "ICD9CM/428.0"]
DIAGNOSES = 0.02
"""Share of events that the task looks for, beside visits and deaths: two per subject."""
EPOCH = datetime(2000, 1, 1)
DAY_US = 86_400_000_000
COLUMNS = [
    "events",
    "subjects",
    "layout",
    "seconds",
    "cpu_seconds",
    "peak_mib",
    "samples",
    "threads",
    "concordant",
    "polars",
    "python",
    "processor",
    "date",
]


def code_names() -> pl.Series:
    """Return 5,000 codes, those that the task looks for first."""
    return pl.Series(
        "code",
        OUTCOMES + [f"LOINC/{number:05d}-{number % 10}" for number in range(5_000 - len(OUTCOMES))],
    )


def shard(subjects: np.ndarray, codes: pl.Series, generator: np.random.Generator) -> pl.DataFrame:
    """Draw the records of some subjects.

    Birth, stays, events of a skewed mix of codes, and death for some.
    """
    n = len(subjects)
    plain = EVENTS_PER_SUBJECT - 8
    owner = np.repeat(subjects, plain)
    when = generator.integers(0, 15 * 365 * 24, n * plain) * (DAY_US // 24)
    which = np.minimum(
        (generator.pareto(0.7, n * plain) * 8).astype(np.int64) + len(OUTCOMES), len(codes) - 1
    )
    diagnosis = generator.random(len(which)) < DIAGNOSES
    which[diagnosis] = generator.integers(0, len(OUTCOMES), diagnosis.sum())
    events = pl.DataFrame({"subject_id": owner, "time": when, "code": codes.gather(which)})
    starts = generator.integers(0, 15 * 365, (n, 3)).ravel() * DAY_US
    stays = [
        pl.DataFrame({"subject_id": np.repeat(subjects, 3), "time": starts + length, "code": code})
        for code, length in (("Visit/IP", 0), ("Visit/IP/end", 5 * DAY_US))
    ]
    births = pl.DataFrame(
        {
            "subject_id": subjects,
            "time": -generator.integers(20, 80, n) * 365 * DAY_US,
            "code": "MEDS_BIRTH",
        }
    )
    dying = subjects[generator.random(n) < 0.3]
    deaths = pl.DataFrame(
        {
            "subject_id": dying,
            "time": (15 * 365 + generator.integers(-3_000, 30, len(dying))) * DAY_US,
            "code": "MEDS_DEATH",
        }
    )
    whole = pl.concat([births, events, *stays, deaths]).sort("subject_id", "time")
    value = pl.Series("numeric_value", generator.normal(size=whole.height).astype(np.float32))
    return whole.with_columns(value, time=pl.lit(EPOCH) + pl.duration(microseconds="time"))


def generate(folder: Path, n_events: int, *, single: bool) -> int:
    """Write a dataset and its index table, and return the number of events."""
    generator = np.random.default_rng(0)
    n_subjects, codes, total = n_events // EVENTS_PER_SUBJECT, code_names(), 0
    data = folder / "data"
    data.mkdir(parents=True)
    for number, first in enumerate(range(0, n_subjects, SUBJECTS_PER_SHARD)):
        frame = shard(
            np.arange(first, min(first + SUBJECTS_PER_SHARD, n_subjects)) + 1, codes, generator
        )
        frame.write_parquet(data / f"{number:05d}.parquet")
        total += frame.height
    if single:
        pl.scan_parquet(data / "*.parquet").sink_parquet(folder / "whole.parquet")
        for path in data.glob("*.parquet"):
            path.unlink()
        (folder / "whole.parquet").rename(data / "whole.parquet")
    index = EPOCH + timedelta(days=5 * 365)
    pl.DataFrame({"subject_id": np.arange(1, n_subjects + 1)}).with_columns(
        prediction_time=pl.lit(index)
    ).write_parquet(folder / "index.parquet")
    return total


def measure(folder: Path) -> dict[str, object]:
    """Build the cohort in a process of its own.

    Seconds on the clock and of processor time, peak memory in MiB, samples.
    """
    out = folder / "out" / "cohort.parquet"
    arguments = [
        "cohort",
        "mace",
        "--meds",
        folder,
        "--index",
        folder / "index.parquet",
        "--out",
        out,
    ]
    arguments += [
        "--labels-at",
        "365,1825",
        "--labels-out",
        folder / "labels",
        "--split",
        "0.7,0.15,0.15",
    ]
    script = (
        "import resource, sys; from concordant.cli import app; app(sys.argv[1:], "
        "standalone_mode=False); used = resource.getrusage(resource.RUSAGE_SELF); "
        "print(used.ru_utime + used.ru_stime, used.ru_maxrss, file=sys.stderr)"
    )
    start = time.perf_counter()
    done = subprocess.run(  # noqa: S603  # our own command line, with fixed arguments
        [sys.executable, "-c", script, *map(str, arguments)],
        check=True,
        capture_output=True,
        text=True,
    )
    seconds = time.perf_counter() - start
    cpu_seconds, kib = done.stderr.split()[-2:]
    samples = pl.scan_parquet(out).select(pl.len()).collect().item()
    return {
        "seconds": round(seconds, 2),
        "cpu_seconds": round(float(cpu_seconds), 2),
        "peak_mib": int(kib) // 1024,
        "samples": samples,
    }


def main() -> None:
    """Run and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", type=float, default=[1e6, 1e7])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".csv"))
    given = parser.parse_args()
    where = {
        "threads": pl.thread_pool_size(),
        **{name: version(name) for name in ("concordant", "polars")},
        "python": platform.python_version(),
        "processor": f"{platform.machine()}, {os.cpu_count()} processors",
        "date": datetime.now(UTC).date().isoformat(),
    }
    rows = []
    for size in given.sizes:
        for layout in ("shards", "one file") if size <= 1e7 else ("shards",):
            with tempfile.TemporaryDirectory() as folder:
                events = generate(Path(folder), int(size), single=layout == "one file")
                found = measure(Path(folder))
            rows.append(
                {
                    "events": events,
                    "subjects": int(size) // EVENTS_PER_SUBJECT,
                    "layout": layout,
                    **found,
                    **where,
                }
            )
            print(rows[-1], flush=True)
    with given.out.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
