"""A run that is killed anywhere goes on where it was, and comes to what a run without a stop
comes to.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from polars.testing import assert_frame_equal

from concordant.config import read_study
from concordant.core.artifacts import RunFolder
from concordant.core.files import read_json
from concordant.core.survival import read_predictions
from concordant.simulate import SimulatedCohort
from concordant.study import embed_study, run_study
from study_fixture import FUSIONS, files_of, study_text, write_tables

FOLDS, REPEATS = 2, 2
STRATEGIES = [*FUSIONS[:3], "concat"]
N_UNITS = len(STRATEGIES) * FOLDS * REPEATS
PATIENCE_S = 120


def written(folder: Path) -> Path:
    write_tables(folder)
    given = study_text(
        cross_validation={"folds": FOLDS, "repeats": REPEATS}, grid={"fusion": STRATEGIES}
    )
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(given))
    return path


def start(*arguments: str | Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", "from concordant.cli import main; main()", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def kill_when(
    ready: Callable[[], bool], process: subprocess.Popen[bytes], *, delay: float = 0.0
) -> bool:
    """Kill a process a moment after something has come true.

    Return whether it was still at work.
    """
    deadline = time.monotonic() + PATIENCE_S
    try:
        while not ready() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(delay)
    finally:
        process.kill()
        process.communicate()
    return process.returncode < 0


def finished_units(run: RunFolder) -> Mapping[str, tuple[int, int]]:
    """Return inode and modification time of the account of every fit that is whole."""
    states = {path: path.stat() for path in run.path.glob("*__seed0/folds/r*/unit.json")}
    return {str(path): (state.st_ino, state.st_mtime_ns) for path, state in states.items()}


def test_a_run_that_is_killed_again_and_again_comes_to_the_same_tables(tmp_path):
    whole = run_study(read_study(written(tmp_path / "whole")))
    study = written(tmp_path / "killed")
    run = read_study(study).run_folder
    seed = random.SystemRandom().randrange(10_000)
    chance = random.Random(seed)  # noqa: S311 - moments, no secrets
    kept: dict[str, tuple[int, int]] = {}
    kills = 0
    moments = [
        *sorted(chance.sample(range(1, N_UNITS), 2)),
        N_UNITS,
    ]  # the last one while the tables are made
    for workers, least in zip(("2", "1", "1"), moments, strict=True):
        process = start("run", study, "--workers", workers)
        kills += kill_when(
            lambda least=least: len(finished_units(run)) >= least,
            process,
            delay=chance.uniform(0, 0.1),
        )
        now = finished_units(run)
        assert len(now) >= least, f"moments of seed {seed}"
        assert {name: now[name] for name in kept} == kept, f"moments of seed {seed}"
        kept = dict(now)
    assert kills >= 2, f"moments of seed {seed}"
    finished = start("run", study, "--workers", "2")
    _, errors = finished.communicate(timeout=PATIENCE_S)
    assert finished.returncode == 0, errors.decode()
    assert f"fits: {N_UNITS}/{N_UNITS}" in errors.decode()
    assert "Traceback" not in errors.decode()  # nor from a worker on its way out
    assert finished_units(run) == kept
    for name in ("results", "contrasts", "subgroups"):
        assert_frame_equal(
            pl.read_parquet(getattr(run, name)), pl.read_parquet(getattr(whole, name)), abs_tol=1e-6
        )
    for member in read_json(whole.record)["strategies"]:
        for cohort in ("development", "west"):
            ours, theirs = (
                read_predictions(folder.member(member["folder"]).predictions(cohort))
                for folder in (run, whole)
            )
            assert_frame_equal(ours.table, theirs.table, abs_tol=1e-6)
    assert not [path for path in run.path.rglob("*") if path.name.endswith(".tmp")]


@pytest.fixture
def unembedded(simulated: SimulatedCohort, tmp_path: Path) -> SimulatedCohort:
    folder = tmp_path / "demo"
    shutil.copytree(
        simulated.folder,
        folder,
        copy_function=os.link,
        ignore=shutil.ignore_patterns("runs", "embeddings"),
    )
    return SimulatedCohort(folder)


def test_encoding_that_is_killed_goes_on_with_the_shards_that_are_not_whole(simulated, unembedded):
    root = unembedded.folder / "embeddings"
    process = start("embed", unembedded.study, "--workers", "1")
    assert kill_when(
        lambda: any(root.glob("cohort/volume_features-*/index-00000.parquet")), process
    )
    (store,) = root.glob("cohort/volume_features-*")
    assert not (store / "manifest.json").exists()
    before = {
        name: state
        for name, state in files_of(store).items()
        if "00000" in name and ".tmp" not in name
    }
    assert sorted(before) == ["00000.npy", "index-00000.parquet", "pooled-00000.npy"]
    embed_study(read_study(unembedded.study))
    after = files_of(store)
    assert {name: after[name] for name in before} == before
    assert not [name for name in after if name.endswith(".tmp")]
    whole = simulated.folder / "embeddings" / "cohort" / store.name
    for name in ("00000.npy", "00001.npy", "pooled-00001.npy"):
        np.testing.assert_array_equal(np.load(store / name), np.load(whole / name))
    assert pl.read_parquet(store / "index.parquet").equals(pl.read_parquet(whole / "index.parquet"))
