"""A thousand scans, one in twenty damaged.

Killed at random moments and started again, on one machine and on a cluster of two nodes.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

from concordant.config import read_study
from concordant.engines import LocalEngine
from concordant.study import embed_study
from scans_fixture import store_bytes, write_scans

N = 1000
DAMAGED = 0.05
PATIENCE_S = 120


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The scans, embedded in one go, and which of them are damaged."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    damaged = write_scans(folder, N, damaged=DAMAGED)
    embed_study(read_study(folder / "study.yaml"), engine=LocalEngine(2))
    return folder, damaged


def twin(folder: Path, original: Path) -> Path:
    """Copy the inputs, byte for byte."""
    shutil.copytree(original, folder, ignore=shutil.ignore_patterns("embeddings"))
    return folder


def shards(folder: Path) -> int:
    return len(list((folder / "embeddings").rglob("index-*.parquet")))


def start(folder: Path) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-c",
        "from concordant.cli import main; main()",
        "embed",
        folder / "study.yaml",
        "--workers",
        "2",
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_the_quarantine_lists_exactly_the_damaged_scans(uninterrupted):
    folder, damaged = uninterrupted
    (path,) = (folder / "embeddings").rglob("quarantine.parquet")
    quarantine = pl.read_parquet(path)
    assert sorted(quarantine["sample_id"]) == damaged
    assert quarantine["reason"].n_unique() == 5
    assert not quarantine["reason"].str.contains("unexpected|died").any()


def test_a_run_killed_three_times_comes_to_the_same_bytes(uninterrupted, tmp_path):
    folder = twin(tmp_path / "killed", uninterrupted[0])
    moments = sorted(random.Random(7).sample(range(1, 15), 3))  # noqa: S311 - which shards are there when it is killed
    for moment in moments:
        process = start(folder)
        deadline = time.monotonic() + PATIENCE_S
        while shards(folder) < moment and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert not list((folder / "embeddings").rglob("manifest.json"))
    last = start(folder)
    _, errors = last.communicate(timeout=PATIENCE_S)
    assert last.returncode == 0, errors
    assert store_bytes(folder) == store_bytes(uninterrupted[0])


def test_a_reading_process_may_be_killed_at_any_time(uninterrupted, tmp_path):
    folder, killed = twin(tmp_path / "readers", uninterrupted[0]), []

    def kill_a_reader(stage: str, done: int, total: int) -> None:
        if done in (100, 500, 900) and "digests" not in stage:
            children = [
                child
                for file in Path("/proc/self/task").glob("*/children")
                for child in file.read_text().split()
            ]
            readers = [
                int(child)
                for child in children
                if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
            ]
            os.kill(max(readers), signal.SIGKILL)
            killed.append(done)

    embed_study(read_study(folder / "study.yaml"), engine=LocalEngine(2), progress=kill_a_reader)
    assert killed == [100, 500, 900]
    assert store_bytes(folder) == store_bytes(uninterrupted[0])
