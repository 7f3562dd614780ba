"""The two layouts of a CLMBR checkpoint, same shapes, other rules, told by its keys alone.

A file read by the rules of the other layout gives finite numbers that mean nothing, so there is no
way to choose a layout.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from concordant.core.errors import WeightsError


@dataclass(frozen=True, slots=True)
class Layout:
    """The rules of a layout.

    Attributes:
        name: How it is called in messages.
        norm_key: What a norm's parameter is called.
        qkv_first: Whether the rows of `input_proj` begin with those of attention; if not, with
            those of the feed-forward part.
        norm_after_root: Whether the norm's small constant is added to the root mean square; if not,
            to the mean square.
        keys_beyond_width: Keys in the attention window besides `attention_width`, itself counted.
    """

    name: str
    norm_key: str
    qkv_first: bool
    norm_after_root: bool
    keys_beyond_width: int


OLD = Layout(
    "old (femr 0.2.0, 0.2.1)", "scale", qkv_first=True, norm_after_root=True, keys_beyond_width=1
)
NEW = Layout(
    "new (femr 0.2.2, 0.2.3)", "weight", qkv_first=False, norm_after_root=False, keys_beyond_width=0
)

_THIRD = "hawk_module"


def layout_of(path: Path, keys: Iterable[str]) -> Layout:
    """Tell a checkpoint's layout from the names of its tensors.

    Args:
        path: The file, for messages.
        keys: Names of its tensors.

    Raises:
        WeightsError: A third layout, or the names of both or neither.
    """
    names = list(keys)
    if any(f".{_THIRD}." in name for name in names):
        raise WeightsError(
            f"{path}: its keys hold {_THIRD!r}: a checkpoint of femr 0.2.4, another architecture "
            "(recurrent layers beside attention) that is not read; give a checkpoint of femr 0.2.0 "
            "to 0.2.3, or pretrain one with `concordant pretrain`"
        )
    norms = {
        name.rpartition(".")[2]
        for name in names
        if name.startswith("transformer.") and "norm." in name
    }
    found = [layout for layout in (OLD, NEW) if layout.norm_key in norms]
    if len(found) != 1 or len(norms) != 1:
        raise WeightsError(
            f"{path}: not a CLMBR or MOTOR checkpoint: its norms are called "
            f"{', '.join(sorted(norms)) or 'nothing'}, expected `.norm.scale` throughout (the old "
            "layout) or `.norm.weight` throughout (the new one). Check which model the folder holds"
        )
    return found[0]


def to_new(tensors: Mapping[str, Tensor], layout: Layout, hidden_size: int) -> dict[str, Tensor]:
    """Return tensors by the new layout's names and rows; norm and window stay its own."""
    if not layout.qkv_first:
        return dict(tensors)
    renamed = {
        name.removesuffix(".scale") + ".weight" if name.endswith("norm.scale") else name: value
        for name, value in tensors.items()
    }
    return {
        name: _ff_first(value, hidden_size) if ".input_proj." in name else value
        for name, value in renamed.items()
    }


def _ff_first(rows: Tensor, hidden_size: int) -> Tensor:
    return torch.cat([rows[3 * hidden_size :], rows[: 3 * hidden_size]])
