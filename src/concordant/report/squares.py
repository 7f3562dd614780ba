"""Paths in a square of 1000 x 1000 that a template stretches.

Strokes and letters do not stretch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

SQUARE = 1000.0

Place = tuple[float, float]
"""Percent from the left, percent from the top."""


def in_square(percent: float) -> str:
    """Return a percent as a place in the square."""
    return f"{SQUARE * percent / 100:.1f}".removesuffix(".0")


def line_path(places: Sequence[Place | None]) -> str:
    """Return a line through places; None breaks it."""
    return "".join(f"M{'L'.join(_point(place) for place in run)}" for run in _runs(places))


def band_path(low: Sequence[Place | None], high: Sequence[Place | None]) -> str:
    """Return closed areas between two lines over the same places."""
    areas = zip(_runs(low), _runs(high), strict=True)
    return "".join(
        f"M{'L'.join(_point(place) for place in (*top, *reversed(bottom)))}Z"
        for bottom, top in areas
    )


def _runs(places: Sequence[Place | None]) -> Iterator[list[Place]]:
    run: list[Place] = []
    for place in (*places, None):
        if place is not None:
            run.append(place)
        elif run:
            yield run
            run = []


def _point(place: Place) -> str:
    return f"{in_square(place[0])} {in_square(place[1])}"
