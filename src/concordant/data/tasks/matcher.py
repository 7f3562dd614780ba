"""Codes given by name or by how they begin."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import polars as pl


@dataclass(frozen=True, slots=True)
class CodeMatcher:
    """Tells which codes belong to a set.

    Attributes:
        exact: Codes that do.
        beginnings: What the others begin with.
        without: Tells which of these do not; None = all belong.
    """

    exact: frozenset[str]
    beginnings: tuple[str, ...] = ()
    without: CodeMatcher | None = None

    @classmethod
    def of(cls, patterns: Iterable[str]) -> CodeMatcher:
        """Sort patterns by whether `*` ends them."""
        patterns = tuple(patterns)
        return cls(
            frozenset(one for one in patterns if not one.endswith("*")),
            tuple(one[:-1] for one in patterns if one.endswith("*")),
        )

    def matches(self, code: pl.Expr) -> pl.Expr:
        """Tell for each code whether it belongs to the set."""
        found = code.is_in(sorted(self.exact))
        if self.beginnings:
            found |= code.str.contains(f"^(?:{'|'.join(map(re.escape, self.beginnings))})")
        return found if self.without is None else found & ~self.without.matches(code)

    def among(self, codes: pl.Series) -> pl.Series:
        """Return the codes that belong to the set."""
        return codes.to_frame("code").filter(self.matches(pl.col("code")))["code"]
