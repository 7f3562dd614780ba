"""Where in a scan a token of a network's map lies, averaged to a token grid.

Along an axis a place is the stretch of input that is nearer to its centre than to any other
place's: what it sees may be more (receptive fields overlap, and attention inside the encoder reads
everywhere), but this is where it looks most.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from concordant.core.volume import StoredVolume, Volume
from concordant.encoders.preprocessing import Preprocessing, Samples, samples_along

Edges = Float[np.ndarray, " place_plus_one"]
"""Where places begin and end along an axis: voxel i runs from i to i + 1."""

Boxes = Float[np.ndarray, "token 2 3"]
"""Low and high corner of each token, in voxels (depth, height, width) from the outer edge."""


def place_edges(size: int, *, first: float, step: float, n: int) -> Edges:
    """Return the edges of places along an axis, halfway between their centres.

    Args:
        size: Voxels along the axis.
        first: Centre of the first place, from the outer edge of the first voxel (whose own centre
            is at 0.5).
        step: Distance of places.
        n: Number of places.
    """
    between = first + step * (np.arange(1, n, dtype=np.float64) - 0.5)
    return np.concatenate([[0.0], between, [float(size)]])


def network_boxes(
    volume: Volume | StoredVolume,
    steps: Preprocessing,
    edges: Sequence[Edges],
    token_grid: int | None,
) -> Boxes:
    """Return the box of each token of a network's map, the first axis of its input slowest.

    Args:
        volume: The scan.
        steps: What the network wants to see of it.
        edges: Of the map's places, along each axis of the network's input.
        token_grid: Places are averaged over boxes to so many along each axis at most, as by
            `pool_grid`; None = not.
    """
    along = samples_along(volume, steps)
    shape = (volume.voxels if isinstance(volume, Volume) else volume.stored).shape
    spans: list[Float[np.ndarray, "2 place"]] = [np.empty((2, 0))] * 3
    for samples, own in zip(along, edges, strict=True):
        spans[samples.axis] = _in_scan(_averaged(own, token_grid), samples, shape[samples.axis])
    return _boxes(spans, [samples.axis for samples in along])


def region_boxes(edges: Sequence[Edges]) -> Boxes:
    """Return the box of each region of a scan that is cut along its axes, depth slowest."""
    return _boxes([np.stack([own[:-1], own[1:]]) for own in edges], range(3))


def _averaged(edges: Edges, token_grid: int | None) -> Float[np.ndarray, "2 place"]:
    """Return where averages begin and end; adaptive pooling lets neighbours overlap."""
    n = len(edges) - 1
    kept = n if token_grid is None else min(token_grid, n)
    first, last = np.arange(kept) * n // kept, -(-np.arange(1, kept + 1) * n // kept)
    return np.stack([edges[first], edges[last]])


def _in_scan(
    span: Float[np.ndarray, "2 place"], samples: Samples, size: int
) -> Float[np.ndarray, "2 place"]:
    """Take stretches of a tensor's axis to the scan's, padding to its edge without extent."""
    middle = len(samples.place) // 2  # never clamped, as the outermost samples may be
    beyond = span - 0.5 - samples.before - middle
    placed = samples.place[middle] + samples.direction * samples.distance * beyond + 0.5
    return np.asarray(np.clip(np.sort(placed, axis=0), 0.0, float(size)))


def _boxes(spans: Sequence[Float[np.ndarray, "2 place"]], order: Sequence[int]) -> Boxes:
    """Combine the stretches along each axis of the scan, `order`ed from the slowest."""
    chosen = np.meshgrid(*(np.arange(spans[axis].shape[1]) for axis in order), indexing="ij")
    boxes = np.empty((chosen[0].size, 2, 3))
    for axis, place in zip(order, chosen, strict=True):
        boxes[:, :, axis] = spans[axis][:, place.ravel()].T
    return boxes
