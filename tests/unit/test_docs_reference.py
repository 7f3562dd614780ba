"""The page on Python has an entry for every public function and class of metrics, evaluation and
analysis.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from concordant import analysis, evaluation, metrics
from concordant.analysis import calibration, candidates, compare, decision, gains

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "api.md").read_text()
LISTED = re.findall(r"^::: (\S+)$", PAGE, re.MULTILINE)
COMPONENTS = (metrics.Metric, analysis.Analysis)
ANALYSES = (
    candidates.Candidate,
    compare.compare_files,
    compare.contrasts,
    compare.FileComparison,
    calibration.calibration_groups,
    calibration.calibration_table,
    decision.decision_curves,
    gains.gains_over_both,
)


def found(path: str) -> object:
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def public() -> Iterator[object]:
    """Yield what is exported; registered metrics and analyses go by their names, not by class."""
    for module in (metrics, evaluation, analysis):
        for name in module.__all__:
            one = getattr(module, name)
            registered = (
                inspect.isclass(one) and issubclass(one, COMPONENTS) and one not in COMPONENTS
            )
            if (inspect.isfunction(one) or inspect.isclass(one)) and not registered:
                yield one
    yield from ANALYSES


def test_every_entry_is_there_and_stands_once():
    assert len({id(found(path)) for path in LISTED}) == len(LISTED)


@pytest.mark.parametrize("one", list(public()), ids=lambda one: one.__qualname__)
def test_every_public_name_has_its_entry(one):
    assert any(found(path) is one for path in LISTED), (
        f"docs/reference/api.md has no ::: entry for {one.__module__}.{one.__qualname__}"
    )
