"""The benchmark of the Cox loss: a table of peers' times is kept, and misuse is told."""

from __future__ import annotations

import csv
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "cox_loss.py"


@pytest.fixture
def script(monkeypatch):
    spec = spec_from_file_location("benchmark_of_the_cox_loss", SCRIPT)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "SIZES", (20,))
    monkeypatch.setattr(module, "SECONDS", 0.0)
    return module


def run(script, monkeypatch, out, *options):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--out", str(out), *options])
    script.main()
    with out.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_without_peers_it_times_our_loss_and_keeps_a_table_that_has_theirs(
    script, monkeypatch, tmp_path
):
    out = tmp_path / "times.csv"
    found = run(script, monkeypatch, out)
    assert {one["package"] for one in found} == {"concordant", "concordant, prepared"}
    assert all(float(one["microseconds"]) > 0 for one in found)
    monkeypatch.setattr(script, "PEERS", {"peer": lambda *_: __import__("no_such_peer")})
    absent = run(script, monkeypatch, out, "--peers", str(tmp_path))
    assert {one["note"] for one in absent if one["package"] == "peer"} == {
        "not run: No package metadata was found for peer"
    }
    for one in absent:
        one["microseconds"] = "7"
    with out.open("w", newline="") as lines:
        writer = csv.DictWriter(lines, script.COLUMNS)
        writer.writeheader()
        writer.writerows(absent)
    assert run(script, monkeypatch, out) == absent
    assert run(script, monkeypatch, out, "--overwrite") != absent


def test_a_folder_of_peers_that_is_not_there_is_told(script, monkeypatch, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(script, monkeypatch, tmp_path / "times.csv", "--peers", str(tmp_path / "none"))
    assert "fill one as the top of this file says" in capsys.readouterr().err
