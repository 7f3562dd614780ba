"""The checks for a machine with a GPU: they run small on a CPU, and notice what is wrong."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "gpu.py"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    spec = spec_from_file_location("benchmark_of_the_gpu", SCRIPT)
    module = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


def run(script, monkeypatch, tmp_path, *options):
    arguments = [str(SCRIPT), "--small", "--output", str(tmp_path / "gpu.csv"), *options]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as ended:
        script.main()
    return ended.value.code


def test_want_of_memory_halves_batches_and_quarantines(script, monkeypatch, tmp_path, capsys):
    code = run(script, monkeypatch, tmp_path, "--only", "halved", "quarantined")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("halved: passed, batches [8, 4, 4], ")
    assert lines[1].startswith("quarantined: passed, ")
    assert "8 of 8 quarantined" in lines[1]
    assert lines[2:] == ["2 passed, 0 failed"]
    assert code == 0
    assert not (tmp_path / "gpu.csv").exists()  # figures of a CPU are none of a GPU


def test_vectors_too_far_from_float32_fail(script, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(script, "BF16_TOLERANCE", 1e-9)
    assert run(script, monkeypatch, tmp_path, "--only", "ctfm") == 1
    assert capsys.readouterr().out.splitlines()[-1] == "0 passed, 1 failed"


def test_a_check_that_raises_fails_and_the_next_runs(script, monkeypatch, tmp_path, capsys):
    def broken(setting):
        raise RuntimeError("a kernel is missing")

    monkeypatch.setitem(script.CHECKS, "fit", broken)
    assert run(script, monkeypatch, tmp_path, "--only", "fit", "ctfm") == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "fit: failed, RuntimeError: a kernel is missing"
    assert lines[1].startswith("ctfm: passed, ")


def test_what_the_budget_does_not_reach_is_skipped_and_said(script, monkeypatch, tmp_path, capsys):
    run(script, monkeypatch, tmp_path, "--only", "ctfm", "merlin", "fit", "--budget-s", "1e-3")
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:] == ["skipped for want of time (0.001 s): merlin, fit", "1 passed, 0 failed"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--only", "colipry"], "invalid choice: 'colipry'"),
        (["--budget-s", "-1"], "--budget-s: -1 given, expected seconds above 0"),
    ],
)
def test_a_misused_call_says_what_it_takes(script, monkeypatch, tmp_path, capsys, options, said):
    assert run(script, monkeypatch, tmp_path, *options) == 2
    assert said in capsys.readouterr().err
