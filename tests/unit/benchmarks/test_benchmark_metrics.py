"""The benchmark of the metrics keeps a table whose peers cannot be timed now."""

from __future__ import annotations

import csv
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "metrics.py"
ABSENT = "peer-that-is-not-installed"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, with one task that takes no time.

    Ours, a peer that is there and one that may not be.
    """
    spec = spec_from_file_location("benchmark_of_metrics", SCRIPT)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)

    def task(table):
        table.ours("task", 10, lambda: None)
        table.peer("task", "numpy", 10, lambda: None)
        table.peer("task", ABSENT, 10, lambda: __import__(ABSENT))

    for part in ("growth", "start", "over_time", "discrimination", "differences", "resampling"):
        monkeypatch.setattr(module, part, task if part == "growth" else lambda table: None)
    for name, value in module.ONE_THREAD.items():
        monkeypatch.setenv(name, value)
    return module


def run(script: ModuleType, monkeypatch: pytest.MonkeyPatch, out: Path, *options: str) -> None:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--out", str(out), *options])
    script.main()


def rows(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="") as stream:
        return {row["package"]: row for row in csv.DictReader(stream)}


def test_a_first_table_is_written_and_says_which_peer_is_not_installed(
    script, monkeypatch, tmp_path
):
    out = tmp_path / "metrics.csv"
    run(script, monkeypatch, out)
    assert rows(out)["numpy"]["seconds"]
    assert rows(out)[ABSENT]["seconds"] == ""
    assert rows(out)[ABSENT]["note"] == f"not installed: {ABSENT}"
    out.write_text(out.read_text().replace(rows(out)["numpy"]["date"], "1999-01-01"))
    run(script, monkeypatch, out)  # no time of a peer would be lost
    assert {row["date"] for row in rows(out).values()} != {"1999-01-01"}


def test_a_table_with_times_of_a_peer_that_is_missing_is_kept_unless_told_otherwise(
    script, monkeypatch, tmp_path, capsys
):
    out = tmp_path / "metrics.csv"
    run(script, monkeypatch, out)
    with out.open(newline="") as stream:
        measured = list(csv.DictReader(stream))
    for row in measured:
        row["seconds"] = "123"
    with out.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, script.COLUMNS)
        writer.writeheader()
        writer.writerows(measured)
    before = out.read_bytes()
    run(script, monkeypatch, out)
    assert out.read_bytes() == before
    assert (
        f"{out} is kept: it has times of {ABSENT}, not measured now; give --peers DIR with them, "
        "or --overwrite" in capsys.readouterr().out
    )
    run(script, monkeypatch, out, "--overwrite")
    assert rows(out)[ABSENT]["seconds"] == ""
    assert rows(out)["numpy"]["seconds"] != "123"
