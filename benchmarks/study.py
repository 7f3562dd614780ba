"""Measures what a study costs beside its fits; writes study.csv beside this file.

Usage: python benchmarks/study.py [--rows NAME ...] [--before CHECKOUT] [--demo FOLDER]
       [--kits23 FOLDER] [--paper FOLDER]

Rows: plan (10,000 fits planned), skip (10,000 finished fits found), engine (what an engine costs a
fit), loop (the demo's grid against one process per strategy), grid (12 strategies, two record
encoders, five seeds, 3,000 + 1,000 patients), before (the demo's and kits23's grids by this code
and by that of an older checkout, in turn), paper (a study of the paper's size). A row that needs a
folder that is not given is left out, and said. Whole processes are timed from outside: seconds on
the clock, of processor time in user and system mode, and the largest process's memory.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import date, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml

from concordant.config import parse_study
from concordant.engines import LocalEngine
from concordant.study import run_study
from concordant.study.data import read_data
from concordant.study.fits import FitTask, is_done, run_fit
from concordant.study.planning import make_plan
from concordant.study.sources import Sources, embed_all
from concordant.study.workspace import release_memory, write_workspace

HERE = Path(__file__).resolve().parent
WORKERS = 2
MANY = 10_000


@dataclass(frozen=True)
class Cost:
    """What something took.

    Attributes:
        seconds: On the clock.
        user_seconds: Of processor time in user mode, all processes.
        system_seconds: The same in system mode.
        peak_mb: Memory of the largest process.
    """

    seconds: float
    user_seconds: float
    system_seconds: float
    peak_mb: float


# Small studies of feature files


def write_cohort(folder: Path, n: int, n_external: int, *, ct: int, ehr: int, tokens: int) -> None:
    """Write a cohort, an external one, pooled CT features, record features, and token files."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    total = n + n_external
    hidden = rng.normal(size=(total, 3))
    event_time = rng.exponential(400 * np.exp(-hidden.sum(1) * 0.6))
    censored = rng.exponential(900, total)
    cohort = pl.DataFrame(
        {
            "sample_id": [f"s{row}" for row in range(total)],
            "subject_id": np.arange(total),
            "prediction_time": [datetime(2020, 1, 1)] * total,
            "time_days": np.minimum(event_time, censored) + 1,
            "event": (event_time <= censored).astype(int),
            "site": ["a"] * n + ["b"] * n_external,
        }
    )
    splits = pl.Series("split", ["train", "train", "train", "tuning", "held_out"] * (n // 5))
    cohort[:n].with_columns(splits).write_parquet(folder / "development.parquet")
    cohort[n:].write_parquet(folder / "external.parquet")
    for name, width, factors in (("ct", ct, [0, 2]), ("ehr", ehr, [1, 2])):
        maps = rng.normal(size=(2, width))
        signal = hidden[:, factors] @ maps
        pooled = (signal + rng.normal(size=(total, width)) * 2).astype(np.float32)
        columns = {f"x{number}": pooled[:, number] for number in range(width)}
        frame = pl.DataFrame({"sample_id": cohort["sample_id"], **columns})
        frame.write_parquet(folder / f"{name}.parquet")
        if tokens:
            noise = rng.normal(size=(total, tokens, width)).astype(np.float32)
            cells = pl.Series("tokens", signal[:, None].astype(np.float32) + 3 * noise)
            listed = cells.cast(pl.List(pl.List(pl.Float32)))
            frame.with_columns(listed).write_parquet(folder / f"{name}_tokens.parquet")


def study_of(folder: Path, name: str, grid: Mapping[str, Any], **changes: Any) -> Any:
    """Return a study over the cohort of a folder."""
    given = {
        "name": name,
        "task": {"event": "death", "horizons_days": [180, 365]},
        "cohorts": {
            "development": {"table": "development.parquet"},
            "external": [{"table": "external.parquet"}],
        },
        "encoders": {
            "ct": {"name": "features", "path": "ct.parquet", "label": "scan"},
            "ehr": {"name": "features", "path": "ehr.parquet", "label": "record"},
        },
        "train": {"device": "cpu"},
        "grid": grid,
        **changes,
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(given))
    return parse_study(given, folder=folder)


@contextmanager
def measured(found: list[Cost]) -> Iterator[None]:
    """Measure this process and its children."""
    before, started = _used(), time.perf_counter()
    yield
    seconds, after = time.perf_counter() - started, _used()
    found.append(Cost(seconds, after[0] - before[0], after[1] - before[1], after[2]))


def _used() -> tuple[float, float, float]:
    who = [resource.getrusage(one) for one in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    peak = max(one.ru_maxrss for one in who) / 1024
    return sum(one.ru_utime for one in who), sum(one.ru_stime for one in who), peak


def command(arguments: list[str], *, source: Path | None = None) -> Cost:
    """Run the command line in a process of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    if source is not None:
        environment["PYTHONPATH"] = str(source / "src")
    code = (
        "import json, resource, sys\nfrom concordant.cli import app\n"
        "app(sys.argv[1:], standalone_mode=False)\n"
        "who = [resource.getrusage(one) for one in (resource.RUSAGE_SELF, "
        "resource.RUSAGE_CHILDREN)]\n"
        "print(json.dumps([sum(one.ru_utime for one in who), sum(one.ru_stime for one in who), "
        "max(one.ru_maxrss for one in who) / 1024]))\n"
    )
    started = time.perf_counter()
    done = subprocess.run(  # noqa: S603 - this interpreter, fixed code
        [sys.executable, "-c", code, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    seconds = time.perf_counter() - started
    return Cost(seconds, *json.loads(done.stdout.splitlines()[-1]))


# Rows


def plan_row(folder: Path) -> Iterator[tuple[str, Cost, str]]:
    """Plan 10,000 fits, and find 10,000 finished ones."""
    write_cohort(folder, 500, 100, ct=4, ehr=4, tokens=0)
    grid = {
        "fusion": ["concat", "late", "contrastive", {"name": "unimodal", "modality": "ct"}],
        "seed": list(range(MANY // 100)),
    }
    study = study_of(folder, "many", grid, cross_validation={"folds": 5, "repeats": 5})
    data = read_data(study)
    stores = embed_all(
        Sources.of(study), data, engine=LocalEngine(), retry_quarantined=False, progress=None
    )
    found: list[Cost] = []
    with measured(found):
        plan = make_plan(study, data, stores)
        n = len(plan.fits)
        print(f"{n} fits, {plan.fingerprint}")
    yield f"plan {n} fits", found[-1], ""
    for fit in plan.fits:
        fit.folder.path.mkdir(parents=True)
        files = {}
        for name in ("model.safetensors", "predictions.safetensors"):
            (fit.folder.path / name).write_bytes(b"0" * 8)
            files[name] = (8, "0" * 64)
        account = {"fingerprint": fit.fingerprint, "files": files, "facts": {"padding": "0" * 1500}}
        fit.folder.account.write_text(json.dumps(account))
    with measured(found):
        done = sum(is_done(fit.folder, fit.fingerprint) for fit in plan.fits)
    yield f"skip {done} finished fits", found[-1], ""


def engine_row(folder: Path) -> Iterator[tuple[str, Cost, str]]:
    """Run short fits by an engine and, the same, one after the other without one."""
    write_cohort(folder, 300, 50, ct=4, ehr=4, tokens=0)
    grid = {"fusion": ["concat"], "seed": list(range(50))}
    study = study_of(folder, "short", grid, train={"max_epochs": 1, "device": "cpu", "width": 4})
    data = read_data(study)
    stores = embed_all(
        Sources.of(study), data, engine=LocalEngine(), retry_quarantined=False, progress=None
    )
    plan = make_plan(study, data, stores)
    found: list[Cost] = []
    space = write_workspace(plan, data)
    tasks = [FitTask(space, number) for number in range(len(plan.fits))]
    run_fit(tasks[0])
    with measured(found):
        for task in tasks[1:]:
            run_fit(task)
    plain = found[-1].seconds / (len(tasks) - 1)
    yield "short fit, without an engine", found[-1], f"{plain * 1000:.1f} ms a fit"
    shutil.rmtree(plan.run.path)
    release_memory()
    with measured(found):
        run_study(study, engine=LocalEngine())
    fits = found[-1].seconds / len(tasks)
    yield "run of short fits, tables and report included", found[-1], f"{fits * 1000:.1f} ms a fit"


def loop_row(demo: Path) -> Iterator[tuple[str, Cost, str]]:
    """The demo's grid in one run, against one process per strategy in a shell loop."""
    folder = demo.resolve()
    given = yaml.safe_load((folder / "study.yaml").read_text())
    del given["foreign"]
    given["name"] = "together"
    (folder / "together.yaml").write_text(yaml.safe_dump(given))
    command(["embed", str(folder / "together.yaml"), "--workers", str(WORKERS)])
    shutil.rmtree(folder / "runs" / "together", ignore_errors=True)
    whole = command(["run", str(folder / "together.yaml"), "--workers", str(WORKERS)])
    yield "the demo's grid in one run", whole, f"{WORKERS} workers"
    alone = []
    for number, fusion in enumerate(given["grid"]["fusion"]):
        one = {**given, "name": f"alone{number}", "grid": {**given["grid"], "fusion": [fusion]}}
        path = folder / f"alone{number}.yaml"
        path.write_text(yaml.safe_dump(one))
        shutil.rmtree(folder / "runs" / f"alone{number}", ignore_errors=True)
        alone.append(command(["run", str(path), "--workers", "1"]))
    total = _sum(alone)
    ratio = total.seconds / whole.seconds
    yield "the demo's grid, a process per strategy", total, f"{ratio:.2f} times the one run"


def grid_row(folder: Path) -> Iterator[tuple[str, Cost, str]]:
    """The full grid: pooled strategies, then all of them."""
    write_cohort(folder, 3000, 1000, ct=512, ehr=768, tokens=27)
    encoders = {
        "ct": {"name": "features", "path": "ct_tokens.parquet", "label": "scan"},
    }
    records = [
        {"name": "features", "path": "ehr_tokens.parquet", "label": "tokens"},
        {"name": "features", "path": "ehr.parquet", "label": "pooled", "transform": "signed_log1p"},
    ]
    pooled = [
        {"name": "unimodal", "modality": "ct"},
        {"name": "unimodal", "modality": "ehr"},
        "linear",
        "concat",
        "late",
        {"name": "late", "combine": "mean"},
        "contrastive",
    ]
    attending = [
        {"name": "cross_attention", "query": "ct"},
        {"name": "cross_attention", "query": "ehr"},
        {"name": "cross_attention", "query": "both"},
        {"name": "co_attention", "guide": "ct"},
        {"name": "co_attention", "guide": "ehr"},
    ]
    for name, fusions in (("pooled", pooled), ("whole", pooled + attending)):
        grid = {"fusion": fusions, "encoders.ehr": records, "seed": [0, 1, 2, 3, 4]}
        study_of(folder, name, grid, encoders=encoders)
        cost = command(["run", str(folder / f"{name}.yaml"), "--workers", str(WORKERS)])
        yield f"full grid, {name}", cost, f"{len(fusions)} strategies x 2 records x 5 seeds"


def before_row(study: Path, checkout: Path) -> Iterator[tuple[str, Cost, str]]:
    """One study by this code and by that of an older checkout, each in a folder of its own."""
    costs = {}
    for label, source in (("before", checkout), ("now", HERE.parent)):
        with tempfile.TemporaryDirectory() as place:
            copy = Path(place) / "study"
            shutil.copytree(study, copy, ignore=shutil.ignore_patterns("runs", "embeddings"))
            file = str(copy / "study.yaml")
            command(["embed", file, "--workers", str(WORKERS)], source=source)
            costs[label] = command(["run", file, "--workers", str(WORKERS)], source=source)
        ratio = "" if label == "before" else _ratio(costs)
        yield f"{study.name}, {label}", costs[label], ratio


def paper_row(folder: Path) -> Iterator[tuple[str, Cost, str]]:
    """A study of the paper's size, whose files are there."""
    shutil.rmtree(folder / "runs", ignore_errors=True)
    cost = command(["run", str(folder / "study.yaml"), "--workers", str(WORKERS)])
    yield "a study of the paper's size", cost, f"{WORKERS} workers, embedding included"


def _ratio(costs: Mapping[str, Cost]) -> str:
    return f"{costs['before'].seconds / costs['now'].seconds:.2f} times as fast"


def _sum(costs: list[Cost]) -> Cost:
    return Cost(
        sum(one.seconds for one in costs),
        sum(one.user_seconds for one in costs),
        sum(one.system_seconds for one in costs),
        max(one.peak_mb for one in costs),
    )


def _chosen(given: argparse.Namespace, place: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield the rows that can be measured; say which cannot."""
    yield "plan", lambda: plan_row(place / "plan")
    yield "engine", lambda: engine_row(place / "engine")
    yield "grid", lambda: grid_row(place / "grid")
    if given.demo:
        yield "loop", lambda: loop_row(given.demo)
        if given.before:
            yield "before", lambda: before_row(given.demo, given.before)
    if given.kits23 and given.before:
        yield "before", lambda: before_row(given.kits23, given.before)
    if given.paper:
        yield "paper", lambda: paper_row(given.paper)


def main() -> None:
    """Measure what was asked for and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_AsWritten)
    parser.add_argument("--rows", nargs="*", default=["plan", "engine"], help="which to measure")
    for name in ("before", "demo", "kits23", "paper"):
        parser.add_argument(f"--{name}", type=Path, help="a folder; see above")
    given = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as place:
        known = list(_chosen(given, Path(place)))
        absent = set(given.rows) - {name for name, _ in known}
        if absent:
            print(f"left out: {', '.join(sorted(absent))} (unknown, or without its folder)")
        for name, row in known:
            for task, cost, note in row() if name in given.rows else ():
                figures = {key: round(value, 3) for key, value in asdict(cost).items()}
                rows.append({"task": task, **figures, "note": note, **_versions()})
                print(task, figures, note)
    _write(rows)


class _AsWritten(argparse.RawDescriptionHelpFormatter):
    """Shows the lines above as they stand."""


def _versions() -> dict[str, str]:
    return {
        "date": date.today().isoformat(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "numpy", "polars")},
        "processors": str(os.cpu_count()),
    }


def _write(rows: list[dict[str, Any]]) -> None:
    """Write the table; rows that were not measured this time stay."""
    path = HERE / "study.csv"
    now = {row["task"] for row in rows}
    kept = []
    if path.is_file():
        with path.open(newline="") as stream:
            kept = [row for row in csv.DictReader(stream) if row["task"] not in now]
    if rows:
        with path.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows([*kept, *rows])


if __name__ == "__main__":
    main()
