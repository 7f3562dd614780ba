"""A scaling as plain arrays and JSON, for checkpoints and for the prepared inputs of a fold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from concordant.training.scaling import (
    CodeScaling,
    ColumnScaling,
    Scaling,
    TokenScaling,
    code_scaling,
)


@dataclass(frozen=True, slots=True)
class PlainScaling:
    """The two halves of a scaling.

    Attributes:
        facts: What goes into JSON.
        arrays: What goes into a file of arrays, by name.
    """

    facts: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]


def plain(scaling: Scaling) -> PlainScaling:
    """Take a scaling apart."""
    if isinstance(scaling, CodeScaling):
        facts = {"kind": "codes", "codes": list(scaling.codes), "norm": scaling.norm}
        return PlainScaling(facts, {"mean": scaling.mean, "scale": scaling.scale})
    parts = {"token": scaling.token}
    if scaling.pooled is not None:
        parts["pooled"] = scaling.pooled
    arrays = {
        f"{part}.{name}": np.asarray(values)
        for part, columns in parts.items()
        for name, values in asdict(columns).items()
    }
    return PlainScaling({"kind": "tokens", "pooled": scaling.pooled is not None}, arrays)


def restored(stored: PlainScaling) -> Scaling:
    """Put a scaling together again.

    Raises:
        LookupError: An array or a fact is not there.
        TypeError: An array too many.
    """
    facts, arrays = stored.facts, stored.arrays
    if facts["kind"] == "codes":
        return code_scaling(tuple(facts["codes"]), arrays["mean"], arrays["scale"], facts["norm"])
    pooled = _columns("pooled.", arrays) if facts["pooled"] else None
    return TokenScaling(_columns("token.", arrays), pooled)


def _columns(prefix: str, arrays: Mapping[str, np.ndarray]) -> ColumnScaling:
    own = {name.removeprefix(prefix): arrays[name] for name in arrays if name.startswith(prefix)}
    return ColumnScaling(**own)
