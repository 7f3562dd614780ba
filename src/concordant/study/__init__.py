"""The wiring of a study: check, embed, fit every strategy, judge, compare, report.

Each stage skipped where nothing changed.
"""

from __future__ import annotations

from concordant.study.run import check_study, embed_study, run_study

__all__ = ["check_study", "embed_study", "run_study"]
