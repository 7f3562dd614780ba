"""What a run has to survive: killed drivers and workers, company, a full disk, a lost node.

After each fault the tables are those of a run without one.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from polars.testing import assert_frame_equal

from concordant.config import read_study
from concordant.core.artifacts import RunFolder
from concordant.engines import RayEngine
from concordant.study import run_study
from study_fixture import FUSIONS, study_text, write_tables

STRATEGIES = [*FUSIONS[:3], "concat"]
N_FITS = len(STRATEGIES) * 4
TABLES = ("results", "contrasts", "subgroups", "trials")
PATIENCE_S = 240


def write_study(folder: Path, **changes: Any) -> Path:
    given = study_text(
        cross_validation={"folds": 2, "repeats": 2}, grid={"fusion": STRATEGIES}, **changes
    )
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(given))
    return path


def written(folder: Path, **changes: Any) -> Path:
    write_tables(folder)
    return write_study(folder, **changes)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return run_study(read_study(written(tmp_path_factory.mktemp("undisturbed"))))


def assert_same_tables(run: RunFolder, undisturbed: RunFolder) -> None:
    for name in TABLES:
        ours, theirs = (pl.read_parquet(one.table(name)) for one in (run, undisturbed))
        assert_frame_equal(ours, theirs, abs_tol=1e-6)
    left = {path.name for path in run.path.iterdir() if path.name.startswith(".")}
    assert left == set()


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "from concordant.cli import main; main()", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for a run that has to succeed, and return what it said on standard error."""
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    return errors


def fits_of(run: RunFolder) -> int:
    return len(list(run.path.glob("*/fits/*/fit.json")))


def wait_for(ready: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not ready() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    """Return the worker processes of a run, which begin by spawning."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            command = (path.parent / "cmdline").read_text()
        except OSError:
            continue
        if parent == process.pid and "spawn_main" in command:
            found.append(int(path.parent.name))
    return found


def test_a_worker_that_is_killed_costs_nothing(undisturbed, tmp_path):
    study = written(tmp_path)
    run = read_study(study).run_folder
    process = start("run", study, "--workers", "2")
    killed = 0
    for least in (1, N_FITS // 2):
        wait_for(lambda least=least: fits_of(run) >= least, process)
        if workers := workers_of(process):
            os.kill(random.SystemRandom().choice(workers), signal.SIGKILL)
            killed += 1
    finish(process)
    assert killed
    assert_same_tables(run, undisturbed)


def test_drivers_that_share_a_run_survive_one_of_them(undisturbed, tmp_path):
    study = written(tmp_path)
    run = read_study(study).run_folder
    drivers = [start("run", study, "--join", "--workers", "1") for _ in range(4)]
    try:
        wait_for(lambda: fits_of(run) >= 2, drivers[0])
        drivers[0].kill()
        drivers[0].communicate()
        for other in drivers[1:]:
            finish(other)
    finally:
        for one in drivers:
            one.kill()
            one.communicate()
    assert_same_tables(run, undisturbed)
    late = start("run", study, "--join", "--workers", "1")  # finds everything done
    assert f"fits: {N_FITS}/{N_FITS}" in finish(late)


def test_a_second_driver_is_refused_and_the_first_goes_on(undisturbed, tmp_path):
    study = written(tmp_path)
    run = read_study(study).run_folder
    first = start("run", study, "--workers", "1")
    try:
        wait_for(lambda: fits_of(run) >= 1, first)
        for arguments in ((), ("--join",)):
            second = start("run", study, "--workers", "1", *arguments)
            _, errors = second.communicate(timeout=PATIENCE_S)
            assert second.returncode == 2
            (line,) = (line for line in errors.splitlines() if line.startswith("error: "))
            assert f"is being run by process {first.pid} on " in line
        finish(first)
    finally:
        first.kill()
        first.communicate()
    assert_same_tables(run, undisturbed)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = _mount(["-t", "tmpfs", "-o", "size=1500k", "tmpfs", str(folder)])
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)  # noqa: S607 # the system's own


def _mount(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    command = ["mount", *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:  # no such command
        return subprocess.CompletedProcess(command, 1, "", str(error))


def test_a_full_disk_is_one_line_and_the_next_run_goes_on(undisturbed, small_disk):
    study = written(small_disk)
    run = read_study(study).run_folder
    process = start("run", study, "--workers", "1")
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 2, errors
    assert "Traceback" not in errors
    (line,) = (line for line in errors.splitlines() if line.startswith("error: "))
    assert "disk" in line
    assert not run.digests.exists()
    assert _mount(["-o", "remount,size=100M", str(small_disk)]).returncode == 0
    finish(start("run", study, "--workers", "1"))
    assert_same_tables(run, undisturbed)


@pytest.mark.slow
def test_a_driver_that_is_killed_twenty_times_comes_to_the_same_tables(undisturbed, tmp_path):
    study = written(tmp_path)
    run = read_study(study).run_folder
    seed = random.SystemRandom().randrange(10_000)
    chance = random.Random(seed)  # noqa: S311 - moments, no secrets
    for kill in range(20):
        process = start("run", study, "--workers", str(1 + kill % 2))
        least = fits_of(run) + (kill % 3 == 0)
        wait_for(lambda least=least: run.path.exists() and fits_of(run) >= least, process)
        time.sleep(chance.uniform(0, 2))
        process.kill()
        process.communicate()
    finish(start("run", study, "--workers", "2"))
    assert_same_tables(run, undisturbed), f"moments of seed {seed}"


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning:ray"
)
def test_a_ray_node_lost_midway_changes_no_table(undisturbed, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    try:
        second = cluster.add_node(num_cpus=1)
        lost: list[int] = []

        def lose_a_node(stage: str, done: int, total: int) -> None:
            if stage == "fits" and done >= 3 and not lost:
                cluster.remove_node(second, allow_graceful=False)
                lost.append(done)

        study = read_study(written(tmp_path))
        run = run_study(study, engine=RayEngine(cluster.address), progress=lose_a_node)
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert lost
    assert_same_tables(run, undisturbed)
