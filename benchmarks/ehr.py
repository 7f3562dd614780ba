"""Times the record side beside other libraries on generated data; writes ehr.csv beside this file.

Every package runs in a process of its own, which also tells its peak memory; one call to warm up, then the median of three. Beside the
seconds stand those of the processor, which tell more where the machine has other work. All read the same sharded parquet files with two
threads. One section per task; `--events` sets the size, `--growth` adds two more. Cohorts with labels are timed by cohort.py.
"""

from __future__ import annotations

import argparse
import csv
import importlib.metadata
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

THREADS = 2
for variable in ("POLARS_MAX_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS", "ARROW_NUM_THREADS"):
    os.environ[variable] = str(THREADS)

import numpy as np  # noqa: E402 - the threads are set before
import polars as pl  # noqa: E402
from scipy.sparse import csr_matrix, load_npz, save_npz  # noqa: E402

COLUMNS = [
    "task",
    "package",
    "version",
    "n_events",
    "n_subjects",
    "seconds",
    "cpu_seconds",
    "ratio_to_concordant",
    "cpu_ratio_to_concordant",
    "peak_gb",
    "threads",
    "date",
    "processor",
]
EVENTS_PER_SUBJECT = 100
CODES = 5000
SHARD_EVENTS = 1_000_000
YEARS_2010_TO_2020 = (1_262_304_000_000_000, 1_577_836_800_000_000)


# --- the data ---------------------------------------------------------------------------------------------------------------------------


def generate(folder: Path, n_events: int) -> None:
    """Write a MEDS dataset without duplicates and `samples.parquet`, with a prediction time for every subject."""
    generator = np.random.default_rng(0)
    codes = pl.Series([f"{('DIAGNOSIS//ICD10CM', 'LAB', 'MEDICATION', 'PROCEDURE')[place % 4]}//{place:05d}" for place in range(CODES)])
    share = 1 / np.arange(1, CODES + 1)
    n_shards = max(1, n_events // SHARD_EVENTS)
    per_shard = n_events // EVENTS_PER_SUBJECT // n_shards
    (folder / "data").mkdir(parents=True)
    samples = []
    for shard in range(n_shards):
        weight = generator.gamma(1.0, size=per_shard)
        lengths = np.maximum(1, weight / weight.sum() * n_events / n_shards * 1.02).astype(np.int64)
        subject = np.repeat(np.arange(per_shard) + shard * per_shard, lengths)
        visit = generator.integers(0, np.repeat(lengths // 5 + 1, lengths))
        moment = (visit * 7_919 + subject * 104_729) % (3650 * 24 * 60) * 60_000_000 + YEARS_2010_TO_2020[0]
        code = generator.choice(CODES, len(subject), p=share / share.sum())
        value = np.where(code % 4 == 1, generator.normal(size=len(subject)), np.nan).astype(np.float32)
        events = pl.DataFrame({"subject_id": subject, "time": moment, "code": code, "numeric_value": value})
        events = events.unique(["subject_id", "time", "code"]).sort("subject_id", "time", "code")
        events = events.with_columns(
            pl.col("time").cast(pl.Datetime("us")), codes[events["code"].to_numpy()].alias("code"), pl.col("numeric_value").fill_nan(None)
        )
        events.write_parquet(folder / "data" / f"{shard:03d}.parquet")
        owners = np.arange(per_shard, dtype=np.int64) + shard * per_shard
        times = generator.integers(sum(YEARS_2010_TO_2020) // 2, YEARS_2010_TO_2020[1], per_shard)
        samples.append(pl.DataFrame({"sample_id": owners.astype(str), "subject_id": owners, "prediction_time": times}))
    pl.concat(samples).with_columns(pl.col("prediction_time").cast(pl.Datetime("us"))).write_parquet(folder / "samples.parquet")


# --- one-hot and count features: how often each subject has each code up to its prediction time, sparse


Matrix = tuple[csr_matrix, list[str]]
"""Counts, a row per sample in the order of the table, and what the columns are."""


def counts_of_concordant(folder: Path) -> Matrix:
    """Count by `stream_events` and the encoder `count`, as an embedding store is filled."""
    from concordant.core.embedding import concatenate
    from concordant.data.meds import stream_events
    from concordant.encoders.code_counts import Count

    encoder, samples = Count(), pl.read_parquet(folder / "samples.parquet")
    tables, rows = [], []
    for part in stream_events(folder, samples):
        tables.append(encoder.encode_table(part.records))
        rows.append(part.samples)
    order = np.concatenate(rows)
    table = concatenate(tables)
    if (np.diff(order) < 0).any():
        table = table.take(np.argsort(order))
    return csr_matrix((table.weight, table.index, table.offsets), shape=(len(table), len(table.codes))), list(table.codes)


def counts_of_pandas(folder: Path) -> Matrix:
    """Count by a group-by on categoricals."""
    import pandas as pd
    import pyarrow.parquet as pq

    files = sorted((folder / "data").glob("*.parquet"))
    table = pq.ParquetDataset(files, read_dictionary=["code"]).read(columns=["subject_id", "time", "code"]).unify_dictionaries()
    events = table.to_pandas()
    samples = pd.read_parquet(folder / "samples.parquet").reset_index(names="row")
    events = events.merge(samples[["row", "subject_id", "prediction_time"]], on="subject_id")
    events = events[~(events["time"] > events["prediction_time"])]
    sizes = events.groupby(["row", "code"], observed=True, sort=False).size()
    row, code = sizes.index.get_level_values(0), sizes.index.get_level_values(1)
    names = list(code.categories) if hasattr(code, "categories") else list(events["code"].cat.categories)
    place = events["code"].cat.categories.get_indexer(code)
    return csr_matrix((sizes.to_numpy(), (row.to_numpy(), place)), shape=(len(samples), len(names))), names


def counts_of_duckdb(folder: Path) -> Matrix:
    """Count by SQL."""
    import duckdb

    connection = duckdb.connect(config={"threads": THREADS})
    samples = pl.read_parquet(folder / "samples.parquet").with_row_index("row").select("row", "subject_id", "prediction_time")
    connection.register("samples", samples.to_arrow())
    query = connection.execute(
        f"select row, code, count(*) as n from read_parquet('{folder}/data/*.parquet') join samples using (subject_id) "  # noqa: S608 - our folder
        "where time is null or time <= prediction_time group by row, code"
    )
    found = pl.from_arrow(query.to_arrow_table())
    assert isinstance(found, pl.DataFrame)  # noqa: S101 - for the type checker
    return _matrix(found, samples.height)


def counts_of_polars(folder: Path) -> Matrix:
    """Count by a streaming group-by."""
    samples = pl.scan_parquet(folder / "samples.parquet").with_row_index("row").select("row", "subject_id", "prediction_time")
    events = pl.scan_parquet(folder / "data" / "*.parquet").select("subject_id", "time", "code").join(samples, on="subject_id")
    kept = events.filter(pl.col("time").is_null() | (pl.col("time") <= pl.col("prediction_time")))
    found = kept.group_by("row", "code").agg(n=pl.len()).collect(engine="streaming")
    return _matrix(found, samples.select(pl.len()).collect().item())


def _matrix(found: pl.DataFrame, n_samples: int) -> Matrix:
    code = found["code"].cast(pl.Categorical(pl.Categories.random()))
    names = code.unique(maintain_order=True).cast(pl.String).to_list()
    place = code.to_physical().to_numpy()
    return csr_matrix((found["n"].to_numpy(), (found["row"].to_numpy(), place)), shape=(n_samples, int(place.max()) + 1)), names


COUNTS: Mapping[str, Callable[[Path], Matrix]] = {
    "concordant": counts_of_concordant,
    "pandas": counts_of_pandas,
    "duckdb": counts_of_duckdb,
    "polars": counts_of_polars,
}


def check_same(folder: Path, one: Path, other: Path) -> None:
    """Refuse a peer whose matrix is another one: equal numbers of entries, and equal sums per sample."""
    ours, theirs = load_npz(one), load_npz(other)
    ours.data = np.round(2.0**ours.data - 1)  # log2(1 + n) back to n
    per_sample = [np.asarray(matrix.sum(1)).ravel() for matrix in (ours, theirs)]
    if ours.nnz != theirs.nnz or not (per_sample[0] == per_sample[1]).all():
        raise SystemExit(f"{folder}: {other.name} counts otherwise ({theirs.nnz} entries, not {ours.nnz})")


def one_hot_and_count(table: Table, n_events: int, *, peers: bool = True) -> None:
    """Time the sparse matrix of counts."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "meds"
        generate(folder, n_events)
        for package in COUNTS if peers else ["concordant"]:
            table.add("count features", package, folder, n_events, run_apart(package, folder))
            if package != "concordant":
                check_same(folder, folder / "concordant.npz", folder / f"{package}.npz")


# --- running and writing ------------------------------------------------------------------------------------------------------------------


def run_apart(package: str, folder: Path) -> dict[str, float]:
    """Run one package in a process of its own."""
    done = subprocess.run(  # noqa: S603 - this interpreter and this file
        [sys.executable, __file__, "--package", package, "--folder", str(folder)], check=True, capture_output=True, text=True
    )
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def measure(package: str, folder: Path) -> None:
    """Print the median of three calls after one, and the peak memory; keep the matrix for comparison."""
    matrix, _ = COUNTS[package](folder)
    save_npz(folder / f"{package}.npz", matrix, compressed=False)
    del matrix
    times, processor = [], []
    for _ in range(3):
        start, busy = time.perf_counter(), time.process_time()
        COUNTS[package](folder)
        times.append(time.perf_counter() - start)
        processor.append(time.process_time() - busy)
    seconds, cpu_seconds = statistics.median(times), statistics.median(processor)
    print(
        json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20})
    )


class Table:
    """Collects the rows; a peer's ratio is to our time of the same task and size."""

    def __init__(self) -> None:
        """Start empty."""
        self.rows: list[dict[str, object]] = []

    def add(self, task: str, package: str, folder: Path, n_events: int, measured: Mapping[str, float]) -> None:
        """Keep and print what was measured."""
        same = [row for row in self.rows if (row["task"], row["n_events"], row["package"]) == (task, n_events, "concordant")]
        ours = {key: float(str(same[0][key])) if same else measured[key] for key in ("seconds", "cpu_seconds")}
        row: dict[str, object] = {
            "task": task,
            "package": package,
            "version": importlib.metadata.version(package),
            "n_events": n_events,
            "n_subjects": pl.scan_parquet(folder / "samples.parquet").select(pl.len()).collect().item(),
            "seconds": round(measured["seconds"], 4),
            "cpu_seconds": round(measured["cpu_seconds"], 4),
            "ratio_to_concordant": round(measured["seconds"] / ours["seconds"], 2),
            "cpu_ratio_to_concordant": round(measured["cpu_seconds"] / ours["cpu_seconds"], 2),
            "peak_gb": round(measured["peak_gb"], 3),
            "threads": THREADS,
            "date": datetime.now(UTC).date().isoformat(),
            "processor": f"{platform.machine()}, {os.cpu_count()} processors",
        }
        self.rows.append(row)
        shown = (
            f"{row['seconds']:9} s  x {row['ratio_to_concordant']:6} (processor x {row['cpu_ratio_to_concordant']:6})  {row['peak_gb']} GB"
        )
        print(f"{task:20} {package:12} {n_events:12,} {shown}", flush=True)

    def write(self, path: Path) -> None:
        """Write the rows as CSV."""
        with path.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)


def main() -> None:
    """Run all and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--growth", action="store_true", help="1 and 30 million events too")
    parser.add_argument("--package", choices=list(COUNTS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.package:
        measure(given.package, given.folder)
        return
    table = Table()
    one_hot_and_count(table, given.events)
    if given.growth:
        for n_events in (1_000_000, 30_000_000):
            one_hot_and_count(table, n_events, peers=False)
    table.write(Path(__file__).with_suffix(".csv"))


if __name__ == "__main__":
    main()
