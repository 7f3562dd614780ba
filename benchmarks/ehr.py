"""Times the record side beside other libraries on generated data; writes ehr.csv beside this file.

Every package runs in a process of its own, which also tells its peak memory; one call to warm up,
then the median of five. Beside the seconds stand those of the processor, which tell more where the
machine has other work. All read the same sharded parquet files with two threads. `--events` sets
the size, `--growth` adds smaller and larger ones. Cohorts with labels are timed by cohort.py.

The tasks: "count features" is the sparse matrix of the whole dataset in memory, checked to be the
same for all packages; "by shard" lets go of each shard's part of it, so that its peak memory is
that of reading alone; "stored" is what `concordant embed` does beyond that, from the dataset to an
embedding store on disk and back to the matrix, with digests and synced files.
"""

from __future__ import annotations

import argparse
import csv
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

THREADS = 2
for variable in (
    "POLARS_MAX_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "ARROW_NUM_THREADS",
):
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


# --- the data


def generate(folder: Path, n_events: int) -> None:
    """Write a MEDS dataset without duplicates and `samples.parquet`, with a prediction time for
    every subject.
    """
    generator = np.random.default_rng(0)
    codes = pl.Series(
        [
            f"{('DIAGNOSIS//ICD10CM', 'LAB', 'MEDICATION', 'PROCEDURE')[place % 4]}//{place:05d}"
            for place in range(CODES)
        ]
    )
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
        moment = (visit * 7_919 + subject * 104_729) % (
            3650 * 24 * 60
        ) * 60_000_000 + YEARS_2010_TO_2020[0]
        code = generator.choice(CODES, len(subject), p=share / share.sum())
        value = np.where(code % 4 == 1, generator.normal(size=len(subject)), np.nan).astype(
            np.float32
        )
        events = pl.DataFrame(
            {"subject_id": subject, "time": moment, "code": code, "numeric_value": value}
        )
        events = events.unique(["subject_id", "time", "code"]).sort("subject_id", "time", "code")
        events = events.with_columns(
            pl.col("time").cast(pl.Datetime("us")),
            codes[events["code"].to_numpy()].alias("code"),
            pl.col("numeric_value").fill_nan(None),
        )
        events.write_parquet(folder / "data" / f"{shard:03d}.parquet")
        owners = np.arange(per_shard, dtype=np.int64) + shard * per_shard
        times = generator.integers(sum(YEARS_2010_TO_2020) // 2, YEARS_2010_TO_2020[1], per_shard)
        samples.append(
            pl.DataFrame(
                {"sample_id": owners.astype(str), "subject_id": owners, "prediction_time": times}
            )
        )
    pl.concat(samples).with_columns(
        pl.col("prediction_time").cast(pl.Datetime("us"))
    ).write_parquet(folder / "samples.parquet")


# --- one-hot and count features: how often each subject has each code up to its prediction time,
# sparse


Matrix = tuple[csr_matrix, list[str]]
"""Counts, a row per sample in the order of the table, and what the columns are."""


def counts_of_concordant(folder: Path) -> Matrix:
    """Count by `stream_events` and the encoder `count`."""
    from concordant.core.embedding import concatenate
    from concordant.data.meds import stream_events
    from concordant.encoders.code_counts import Count

    encoder, samples = Count(), pl.read_parquet(folder / "samples.parquet")
    tables, rows = [], []
    for part in stream_events(folder, samples):
        tables.append(encoder.encode(part.records))
        rows.append(part.samples)
    order = np.concatenate(rows)
    table = concatenate(tables)
    if (np.diff(order) < 0).any():
        table = table.take(np.argsort(order))
    return _matrix_of(table)


def counts_by_shard(folder: Path) -> None:
    """Count as `counts_of_concordant`, without keeping what is counted."""
    from concordant.data.meds import stream_events
    from concordant.encoders.code_counts import Count

    encoder = Count()
    for part in stream_events(folder, pl.read_parquet(folder / "samples.parquet")):
        encoder.encode(part.records)


def counts_of_store(folder: Path) -> Matrix:
    """Fill an embedding store by the encoder `count`, as `concordant embed` does, and read it
    back.
    """
    from concordant.core.modality import Modality
    from concordant.data.cohort import Cohort
    from concordant.embeddings.extract import embed
    from concordant.encoders.code_counts import Count
    from concordant.study.sources import shard_size

    path = folder / "samples.parquet"
    cohort = Cohort("subjects", path, pl.read_parquet(path), folder)
    with tempfile.TemporaryDirectory() as root:
        size = shard_size(Modality.EHR, Count())
        store = embed(
            cohort, Modality.EHR, Count(), Path(root), name="count", options={}, shard_size=size
        )
        return _matrix_of(store.read(cohort.sample_ids))


def _matrix_of(table: Any) -> Matrix:
    return csr_matrix(
        (table.weight, table.index, table.offsets), shape=(len(table), len(table.codes))
    ), list(table.codes)


def counts_of_pandas(folder: Path) -> Matrix:
    """Count by a group-by on categoricals.

    The prediction times are looked up, which takes less time than a merge.
    """
    import pandas as pd
    import pyarrow.parquet as pq

    files = sorted((folder / "data").glob("*.parquet"))
    table = (
        pq.ParquetDataset(files, read_dictionary=["code"])
        .read(columns=["subject_id", "time", "code"])
        .unify_dictionaries()
    )
    events = table.to_pandas()
    samples = (
        pd.read_parquet(folder / "samples.parquet").reset_index(names="row").set_index("subject_id")
    )
    prediction = samples["prediction_time"].reindex(events["subject_id"]).to_numpy()
    events = events[~(events["time"].to_numpy() > prediction)]
    sizes = events.groupby(["subject_id", "code"], observed=True, sort=False).size()
    names = events["code"].cat.categories
    row = samples["row"].reindex(sizes.index.get_level_values("subject_id")).to_numpy()
    place = names.get_indexer(sizes.index.get_level_values("code"))
    return csr_matrix((sizes.to_numpy(), (row, place)), shape=(len(samples), len(names))), list(
        names
    )


def counts_of_duckdb(folder: Path) -> Matrix:
    """Count by SQL, with the codes as an enum."""
    import duckdb

    connection = duckdb.connect(config={"threads": THREADS})
    samples = (
        pl.read_parquet(folder / "samples.parquet")
        .with_row_index("row")
        .select("row", "subject_id", "prediction_time")
    )
    connection.register("samples", samples.to_arrow())
    files = f"read_parquet('{folder}/data/*.parquet')"
    connection.execute(f"create type codes as enum (select distinct code from {files})")  # noqa: S608 - our folder
    found = connection.execute(
        "select row, enum_code(code) as place, count(*)::integer as n "  # noqa: S608 - our folder
        f"from (select subject_id, time, code::codes as code from {files}) join samples using "
        "(subject_id) where time is null or time <= prediction_time group by row, code"
    ).fetchnumpy()
    names = [
        name
        for (name,) in connection.execute(
            "select unnest(enum_range(null::codes))::varchar"
        ).fetchall()
    ]
    return csr_matrix(
        (found["n"], (found["row"], found["place"])), shape=(samples.height, len(names))
    ), names


def counts_of_polars(folder: Path) -> Matrix:
    """Count by a streaming group-by."""
    samples = (
        pl.scan_parquet(folder / "samples.parquet")
        .with_row_index("row")
        .select("row", "subject_id", "prediction_time")
    )
    events = (
        pl.scan_parquet(folder / "data" / "*.parquet")
        .select("subject_id", "time", "code")
        .join(samples, on="subject_id")
    )
    kept = events.filter(pl.col("time").is_null() | (pl.col("time") <= pl.col("prediction_time")))
    found = kept.group_by("row", "code").agg(n=pl.len()).collect(engine="streaming")
    code = found["code"].cast(pl.Categorical(pl.Categories.random()))
    names, place = (
        code.unique(maintain_order=True).cast(pl.String).to_list(),
        code.to_physical().to_numpy(),
    )
    n_samples = samples.select(pl.len()).collect().item()
    return csr_matrix(
        (found["n"].to_numpy(), (found["row"].to_numpy(), place)), shape=(n_samples, len(names))
    ), names


IN_MEMORY, BY_SHARD, STORED = "count features", "count features, by shard", "count features, stored"

COUNTS: Mapping[tuple[str, str], Callable[[Path], Matrix | None]] = {
    (IN_MEMORY, "concordant"): counts_of_concordant,
    (IN_MEMORY, "pandas"): counts_of_pandas,
    (IN_MEMORY, "duckdb"): counts_of_duckdb,
    (IN_MEMORY, "polars"): counts_of_polars,
    (BY_SHARD, "concordant"): counts_by_shard,
    (STORED, "concordant"): counts_of_store,
}


def check_same(ours: Path, theirs: Path) -> None:
    """Refuse a matrix that is another one than ours in any entry or in what a column is."""
    one, other = _read_matrix(ours), _read_matrix(theirs)
    if one[1] != other[1] or (one[0] != other[0]).nnz:
        raise SystemExit(f"{theirs.stem} counts otherwise than {ours.stem}")


def _read_matrix(path: Path) -> Matrix:
    """Read counts, their used columns in the order of the names.

    A weight log2(1 + n) of ours is n again.
    """
    matrix, names = load_npz(path), json.loads(path.with_suffix(".json").read_text())
    if path.stem.endswith("concordant"):
        matrix.data = np.round(2.0**matrix.data - 1)
    used = sorted(
        np.flatnonzero(np.bincount(matrix.indices, minlength=len(names))).tolist(),
        key=names.__getitem__,
    )
    return matrix[:, used], [names[place] for place in used]


def one_hot_and_count(table: Table, n_events: int, work: Iterable[tuple[str, str]]) -> None:
    """Time the counts, and compare the matrices."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "meds"
        generate(folder, n_events)
        for task, package in work:
            table.add(task, package, folder, n_events, run_apart(task, package, folder))
            if _kept(folder, task, package).is_file():
                check_same(_kept(folder, IN_MEMORY, "concordant"), _kept(folder, task, package))


# --- running and writing


def run_apart(task: str, package: str, folder: Path) -> dict[str, float]:
    """Run one package in a process of its own."""
    done = subprocess.run(  # noqa: S603 - this interpreter and this file
        [sys.executable, __file__, "--task", task, "--package", package, "--folder", str(folder)],
        check=True,
        capture_output=True,
        text=True,
    )
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def _kept(folder: Path, task: str, package: str) -> Path:
    return folder / f"{task}, {package}.npz"


def measure(task: str, package: str, folder: Path) -> None:
    """Print the median of five calls after one, and the peak memory.

    Keep the matrix for comparison.
    """
    count = COUNTS[task, package]
    found = count(folder)
    if found is not None:
        path = _kept(folder, task, package)
        save_npz(path, found[0], compressed=False)
        path.with_suffix(".json").write_text(json.dumps(found[1]))
    del found
    times, processor = [], []
    for _ in range(5):
        start, busy = time.perf_counter(), time.process_time()
        count(folder)
        times.append(time.perf_counter() - start)
        processor.append(time.process_time() - busy)
    seconds, cpu_seconds = statistics.median(times), statistics.median(processor)
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_gb": peak_gb()}))


def peak_gb() -> float:
    """Return the peak memory of this process.

    `getrusage` would give that of the process that started it, where that is greater.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**20


class Table:
    """Collects the rows; a peer's ratio is to our time of the same task and size."""

    def __init__(self) -> None:
        """Start empty."""
        self.rows: list[dict[str, object]] = []

    def add(
        self, task: str, package: str, folder: Path, n_events: int, measured: Mapping[str, float]
    ) -> None:
        """Keep and print what was measured."""
        same = [
            row
            for row in self.rows
            if (row["task"], row["n_events"], row["package"]) == (task, n_events, "concordant")
        ]
        ours = {
            key: float(str(same[0][key])) if same else measured[key]
            for key in ("seconds", "cpu_seconds")
        }
        row: dict[str, object] = {
            "task": task,
            "package": package,
            "version": importlib.metadata.version(package),
            "n_events": n_events,
            "n_subjects": pl.scan_parquet(folder / "samples.parquet")
            .select(pl.len())
            .collect()
            .item(),
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
            f"{row['seconds']:9} s  x {row['ratio_to_concordant']:6} (processor x "
            f"{row['cpu_ratio_to_concordant']:6})  {row['peak_gb']} GB"
        )
        print(f"{task:26} {package:12} {n_events:12,} {shown}", flush=True)

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
    parser.add_argument("--growth", action="store_true", help="1, 30 and 100 million events too")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    parser.add_argument("--package", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    missing = [name for name in ("pandas", "pyarrow", "duckdb") if find_spec(name) is None]
    if missing:
        sys.exit(f"not here: {', '.join(missing)}; run: pip install -e '.[bench]'")
    if given.events < 1:
        parser.error(f"--events: {given.events} given, expected at least 1")
    if given.package:
        measure(given.task, given.package, given.folder)
        return
    table = Table()
    one_hot_and_count(table, given.events, COUNTS)
    if given.growth:
        for n_events in (1_000_000, 30_000_000, 100_000_000):
            one_hot_and_count(
                table, n_events, [(IN_MEMORY, "concordant"), (BY_SHARD, "concordant")]
            )
    table.write(Path(__file__).with_suffix(".csv"))


if __name__ == "__main__":
    main()
