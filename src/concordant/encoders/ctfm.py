"""CT-FM, an encoder of CT of any part of the body (arXiv:2501.09001), from its released file.

The network is the encoder of a SegResNet (arXiv:1810.11654): residual blocks of two 3 x 3 x 3
convolutions, halved resolution and doubled width from stage to stage. It was trained on patches of
24 x 128 x 128 voxels of 3 x 1 x 1 mm, so a scan is seen patch by patch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from concordant.core.volume import StoredVolume, Volume
from concordant.encoders.base import ENCODERS, require_at_least_one
from concordant.encoders.network import (
    Device,
    Features,
    VolumeNetwork,
    load_state,
    places_of,
    sizes_beside,
)
from concordant.encoders.preprocessing import Preprocessing
from concordant.encoders.token_places import Edges, network_boxes, place_edges
from concordant.encoders.weights import WeightsFolder, WeightsOption, read_tensors


@dataclass(frozen=True, slots=True)
class CTFMSizes:
    """Sizes of the network; the first two are in the released `config.json`.

    Attributes:
        init_filters: Width of the first stage; each further one is twice as wide.
        blocks_down: Residual blocks per stage.
        patch: Voxels of a patch along (superior, posterior, left).
        extent: Patches along each axis at most; what lies beyond is cropped around the centre.
    """

    init_filters: int = 32
    blocks_down: tuple[int, ...] = (1, 2, 2, 4, 4)
    patch: tuple[int, int, int] = (24, 128, 128)
    extent: tuple[int, int, int] = (10, 3, 4)

    @property
    def input_size(self) -> tuple[int, int, int]:
        """Voxels along (superior, posterior, left)."""
        return _product(self.extent, self.patch)

    @property
    def width(self) -> int:
        """Width of the last stage."""
        return int(self.init_filters * 2 ** (len(self.blocks_down) - 1))

    @property
    def stride(self) -> int:
        """Voxels from one place of the last stage's map to the next."""
        return int(2 ** (len(self.blocks_down) - 1))

    @property
    def patch_grid(self) -> tuple[int, int, int]:
        """Places of the last stage's map of one patch."""
        first, second, third = (-(-size // self.stride) for size in self.patch)
        return first, second, third

    @property
    def grid(self) -> tuple[int, int, int]:
        """Places of the last stage's maps of all patches together."""
        return _product(self.extent, self.patch_grid)


def _product(counts: Sequence[int], sizes: Sequence[int]) -> tuple[int, int, int]:
    first, second, third = (n * size for n, size in zip(counts, sizes, strict=True))
    return first, second, third


@ENCODERS.register("ctfm")
class CTFM(VolumeNetwork):
    """Encode any CT with CT-FM: the last stage's map averaged to tokens, and to 512 pooled.

    The scan is resampled to 3 x 1 x 1 mm, cropped around its centre to at most 720 x 384 x 512 mm
    (superior, posterior, left), and cut into patches that touch; a patch that holds nothing above
    -1024 HU (padding) is left out.

    Args:
        weights: The folder with `model.safetensors`, or
            `hf:project-lighter/ct_fm_feature_extractor@REVISION`.
        token_grid: Places are averaged over boxes to a grid of so many along each axis; null keeps
            all.
        device: "auto" takes a GPU where there is one.
        batch_size: Scans that are encoded in one call.
        patches_at_once: Patches that go through the network together.
    """

    training_data = ("IDC", "NLST")  # 69 collections of the Imaging Data Commons, NLST the largest

    def __init__(
        self,
        *,
        weights: WeightsOption,
        token_grid: int | None = 6,
        device: Device = "auto",
        batch_size: int = 1,
        patches_at_once: int = 4,
    ) -> None:
        super().__init__("ctfm", weights, device, batch_size, token_grid)
        require_at_least_one("ctfm", patches_at_once=patches_at_once)
        self.patches_at_once = patches_at_once
        self.sizes: CTFMSizes = sizes_beside(weights, CTFMSizes())
        self.token_dim = self.pooled_dim = self.sizes.width
        self.steps = Preprocessing(
            orientation="SPL",
            spacing_mm=(3.0, 1.0, 1.0),
            window_hu=(-1024.0, 2048.0),
            target=(0.0, 1.0),
            size=self.sizes.input_size,
            pad=None,
        )

    def token_boxes(self, volume: Volume | StoredVolume) -> Float[np.ndarray, "token 2 3"]:
        """Return the stretch around each place's centre, within its patch; some have no token."""
        patches, counts = _patches(torch.from_numpy(self.prepare(volume).voxels), self.sizes.patch)
        axes = zip(counts, self.sizes.patch, self.sizes.patch_grid, strict=True)
        edges = [_edges_of_patches(count, side, n, self.sizes.stride) for count, side, n in axes]
        there = self._share_held(self._held(patches), counts) > 0
        return np.asarray(network_boxes(volume, self.steps, edges, self.token_grid)[there.numpy()])

    @staticmethod
    def load(folder: WeightsFolder, sizes: CTFMSizes) -> nn.Module:
        """Build the network and fill it with the weights."""
        path = folder.path(folder.files[0])
        with torch.device("meta"):
            network = SegResEncoder(sizes.init_filters, sizes.blocks_down)
        return load_state(network, read_tensors(path), path)

    def features(
        self, network: nn.Module, batch: Float[Tensor, "batch superior posterior left"]
    ) -> Features:
        """Run the network over the patches of each scan."""
        parts = [self._of_one(network, scan) for scan in batch]
        tokens, pooled, valid = (torch.stack(part) for part in zip(*parts, strict=True))
        return Features(tokens, pooled, valid)

    def _of_one(
        self, network: nn.Module, scan: Float[Tensor, "superior posterior left"]
    ) -> tuple[Float[Tensor, "token width"], Float[Tensor, " width"], Bool[Tensor, " token"]]:
        patches, counts = _patches(scan, self.sizes.patch)
        held = self._held(patches)
        parts = torch.split(patches[held], self.patches_at_once)
        maps = torch.cat([network(part[:, None])[-1].float() for part in parts])
        whole = maps.new_zeros((len(patches), *maps.shape[1:]))
        whole[held] = maps
        grid = _assemble(whole, counts)
        weight = self._share_held(held, counts)
        tokens = self._averaged(grid) / weight.clamp(min=torch.finfo(weight.dtype).tiny)
        return tokens.T, maps.mean((0, 2, 3, 4)), weight > 0

    def _held(
        self, patches: Float[Tensor, "patch patch_a patch_b patch_c"]
    ) -> Bool[Tensor, " patch"]:
        """Return which patches hold anything; all of a scan that holds nothing."""
        held = patches.flatten(1).amax(1) > self.steps.target[0]
        return held | ~held.any()

    def _share_held(
        self, held: Bool[Tensor, " patch"], counts: tuple[int, int, int]
    ) -> Float[Tensor, " token"]:
        """Return what share of each token's places lies in patches that were encoded."""
        share = held[:, None, None, None, None].expand(-1, 1, *self.sizes.patch_grid).float()
        return self._averaged(_assemble(share, counts)).flatten()

    def _averaged(self, grid: Float[Tensor, "dim a b c"]) -> Float[Tensor, "dim token"]:
        places = places_of(grid.shape[1:], self.token_grid)
        return functional.adaptive_avg_pool3d(grid, places).flatten(1)


def _patches(
    scan: Float[Tensor, "a b c"], patch: Sequence[int]
) -> tuple[Float[Tensor, "patch patch_a patch_b patch_c"], tuple[int, int, int]]:
    """Cut a scan into patches that touch, the last of each axis padded with the lowest value."""
    first, second, third = (-(-size // side) for size, side in zip(scan.shape, patch, strict=True))
    missing = [-size % side for size, side in zip(scan.shape, patch, strict=True)]
    padded = functional.pad(scan, [0, missing[2], 0, missing[1], 0, missing[0]])
    cut = padded.reshape(first, patch[0], second, patch[1], third, patch[2])
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(-1, *patch), (first, second, third)


def _edges_of_patches(count: int, patch: int, n: int, stride: int) -> Edges:
    """Return the places' edges along an axis; each convolution keeps a map's first voxel."""
    own = place_edges(patch, first=0.5, step=stride, n=n)
    return np.concatenate([[0.0], *(own[1:] + patch * number for number in range(count))])


def _assemble(
    maps: Float[Tensor, "patch dim a b c"], counts: tuple[int, int, int]
) -> Float[Tensor, "dim grid_a grid_b grid_c"]:
    """Put the maps of touching patches together."""
    dim, a, b, c = maps.shape[1:]
    together = maps.reshape(*counts, dim, a, b, c).permute(3, 0, 4, 1, 5, 2, 6)
    return together.reshape(dim, counts[0] * a, counts[1] * b, counts[2] * c)


class SegResEncoder(nn.Module):
    """The encoder; parameters are named as in the released file."""

    def __init__(self, init_filters: int, blocks_down: Sequence[int]) -> None:
        super().__init__()
        self.conv_init = nn.Conv3d(1, init_filters, 3, padding=1, bias=False)
        self.layers = nn.ModuleList(
            _stage(init_filters * 2**stage, n_blocks, last=stage == len(blocks_down) - 1)
            for stage, n_blocks in enumerate(blocks_down)
        )

    def forward(
        self, scans: Float[Tensor, "batch 1 a b c"]
    ) -> list[Float[Tensor, "batch dim d e f"]]:
        """Return the map of every stage."""
        maps, values = [], self.conv_init(scans)
        for stage in self.layers:
            parts = cast(nn.ModuleDict, stage)
            maps.append(parts["blocks"](values))
            values = parts["downsample"](maps[-1])
        return maps


def _stage(width: int, n_blocks: int, *, last: bool) -> nn.ModuleDict:
    down = (
        nn.Identity() if last else nn.Conv3d(width, 2 * width, 3, stride=2, padding=1, bias=False)
    )
    return nn.ModuleDict(
        {"blocks": nn.Sequential(*[_Block(width) for _ in range(n_blocks)]), "downsample": down}
    )


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm3d(width)
        self.conv1 = nn.Conv3d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm3d(width)
        self.conv2 = nn.Conv3d(width, width, 3, padding=1, bias=False)

    def forward(
        self, values: Float[Tensor, "batch width a b c"]
    ) -> Float[Tensor, "batch width a b c"]:
        inner = self.conv1(functional.relu(self.norm1(values), inplace=True))
        inner = self.conv2(functional.relu(self.norm2(inner), inplace=True))
        return torch.as_tensor(values + inner)
