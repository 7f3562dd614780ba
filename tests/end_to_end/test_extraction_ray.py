"""The same work on a Ray cluster: a store on two nodes, one of which is lost midway, and fits."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from typer.testing import CliRunner

from concordant.cli import app
from concordant.config import read_study
from concordant.core.errors import ConcordantError, ConfigError
from concordant.engines import LocalEngine, RayEngine, run_tasks
from concordant.engines.base import CRASH
from concordant.engines.worker import THREAD_VARIABLES
from concordant.study import embed_study
from scans_fixture import store_bytes, write_scans

ray: Any = pytest.importorskip("ray", reason="the extra `ray` is not installed")

N = 300


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head node and an empty slot for another, one processor each."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


ray_warnings = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning:ray"
)


@ray_warnings
def test_a_node_lost_midway_changes_nothing(cluster, tmp_path: Path):
    damaged = write_scans(tmp_path / "one", N, damaged=0.05)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    embed_study(read_study(tmp_path / "one" / "study.yaml"), engine=LocalEngine(2))
    second = cluster.add_node(num_cpus=1)
    lost: list[int] = []

    def lose_a_node(stage: str, done: int, total: int) -> None:
        if "digests" not in stage and done >= N / 4 and not lost:
            cluster.remove_node(second, allow_graceful=False)
            lost.append(done)

    stores = embed_study(
        read_study(tmp_path / "two" / "study.yaml"),
        engine=RayEngine(cluster.address),
        progress=lose_a_node,
    )
    assert lost
    assert lost[0] < N
    assert store_bytes(tmp_path / "two") == store_bytes(tmp_path / "one")
    ((store,),) = (by_cohort.values() for by_cohort in stores.values())
    assert store.quarantine["sample_id"].to_list() == damaged


def test_an_address_without_a_cluster_says_how_to_start_one():
    with pytest.raises(ConfigError, match=r"no Ray cluster at '127.0.0.1:1'.*ray start --head"):
        next(RayEngine("127.0.0.1:1").run(process_of, [1]))


def process_of(number: int) -> tuple[int, int, float]:
    return number, os.getpid(), time.monotonic()


def die_or_fail(number: int) -> int:
    if number == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 9:
        raise ConcordantError("no nine")
    return number


def lambda_of(number: int) -> object:
    return (lambda: number) if number == 1 else number


def thread_variables(_: int) -> set[str | None]:
    return {os.environ.get(name) for name in THREAD_VARIABLES}


class CannotTravel:
    def __reduce__(self) -> object:
        raise RuntimeError("stays here")


@ray_warnings
def test_tasks_on_ray_keep_the_contract_of_an_engine(cluster):
    """One cluster for all of it, since it takes seconds to start."""
    engine = RayEngine(cluster.address)
    # outcomes stream, and short tasks travel many at a time
    seen: list[int] = []
    outcomes = run_tasks(
        process_of, range(400), engine=engine, on_done=lambda outcome: seen.append(outcome.index)
    )
    assert [outcome.value[0] for outcome in outcomes if outcome.value] == list(range(400))
    assert sorted(seen) == list(range(400))
    began = time.monotonic()
    run_tasks(process_of, range(400), engine=engine)
    assert (time.monotonic() - began) / 400 < 0.05
    # a crash and an error cost their own task, whatever the batch
    outcomes = run_tasks(die_or_fail, range(40), engine=engine)
    failed = {outcome.index: outcome.failure for outcome in outcomes if outcome.failure}
    assert failed.keys() == {7, 9}
    assert failed[7].kind == CRASH
    assert (failed[9].message, failed[9].expected) == ("no nine", True)
    assert [outcome.value for outcome in outcomes if not outcome.failure] == [
        number for number in range(40) if number not in (7, 9)
    ]
    # what cannot travel costs its own task
    outcomes = run_tasks(lambda_of, range(3), engine=engine)
    assert [outcome.failure is None for outcome in outcomes] == [True, False, True]
    outcomes = run_tasks(process_of, [0, CannotTravel(), 2], engine=engine)
    assert [outcome.failure is None for outcome in outcomes] == [True, False, True]
    # a module that registers components comes first, threads are as many as processors
    (outcome,) = run_tasks(process_of, [1], engine=engine, imports=["no_such_module"])
    assert outcome.failure is not None
    assert "no_such_module" in outcome.failure.message
    assert run_tasks(thread_variables, [1], engine=engine)[0].value == {"1"}


@ray_warnings
def test_fits_run_on_ray(cluster, tmp_path: Path):
    rng = np.random.default_rng(0)
    ids = [f"s{row:03d}" for row in range(200)]
    pl.DataFrame(
        {
            "sample_id": ids,
            "subject_id": np.arange(200),
            "prediction_time": [datetime(2020, 1, 1)] * 200,
            "time_days": rng.exponential(100, 200) + 1,
            "event": rng.integers(0, 2, 200),
            "split": [("train", "train", "tuning", "held_out")[row % 4] for row in range(200)],
        }
    ).write_parquet(tmp_path / "cohort.parquet")
    features = {"sample_id": ids, "a": rng.normal(size=200), "b": rng.normal(size=200)}
    pl.DataFrame(features).write_parquet(tmp_path / "features.parquet")
    study = {
        "name": "remote",
        "task": {"event": "death"},
        "cohorts": {"development": {"table": "cohort.parquet"}},
        "encoders": {"ct": {"name": "features", "path": "features.parquet"}},
        "fusion": {"name": "unimodal", "modality": "ct"},
        "train": {"max_epochs": 3},
        "grid": {"seed": [0, 1]},
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    given = ["run", str(tmp_path / "study.yaml"), "--engine", "ray", "--address", cluster.address]
    result = CliRunner().invoke(app, given)
    assert result.exit_code == 0, result.output
    assert "fits: 2/2" in result.stderr
    assert (tmp_path / "runs" / "remote" / "report.html").is_file()
