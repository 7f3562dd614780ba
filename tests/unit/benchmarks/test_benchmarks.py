"""Every benchmark, which no other test may run, imports names of ours that exist."""

from __future__ import annotations

import ast
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[3] / "benchmarks"


def imported(script):
    """Return (module, name) of each name taken from our package, inside functions too."""
    return [
        (node.module, alias.name)
        for node in ast.walk(ast.parse(script.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "concordant"
        for alias in node.names
    ]


def is_there(module, name):
    """Tell whether a module has a name, a module below it included."""
    if find_spec(module) is None:
        return False
    return hasattr(import_module(module), name) or find_spec(f"{module}.{name}") is not None


def test_there_are_benchmarks():
    assert len(list(FOLDER.glob("*.py"))) > 10


@pytest.mark.parametrize(
    "script", sorted(FOLDER.rglob("*.py")), ids=lambda path: str(path.relative_to(FOLDER))
)
def test_what_a_benchmark_imports_of_ours_is_there(script):
    assert [one for one in imported(script) if not is_there(*one)] == []
