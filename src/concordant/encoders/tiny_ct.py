"""A small convolutional network for CT, for tests and trials; its weights come from a file."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from concordant.core.volume import StoredVolume, Volume
from concordant.encoders.base import ENCODERS
from concordant.encoders.network import (
    Device,
    Features,
    VolumeNetwork,
    load_state,
    pool_grid,
    sizes_beside,
)
from concordant.encoders.preprocessing import Preprocessing
from concordant.encoders.token_places import network_boxes, place_edges
from concordant.encoders.weights import WeightsFolder, WeightsOption, read_tensors

_PATCH = 4
_STRIDE = 8


@dataclass(frozen=True, slots=True)
class TinyCTSizes:
    """Sizes of the network, and what it sees.

    Attributes:
        input_size: Voxels along each side of the input, a multiple of 8.
        spacing_mm: Of the input.
        width: Of a token.
    """

    input_size: int = 48
    spacing_mm: float = 8.0
    width: int = 32

    @property
    def grid(self) -> tuple[int, int, int]:
        """Tokens along each axis."""
        side = self.input_size // _STRIDE
        return side, side, side


@ENCODERS.register("tiny_ct")
class TinyCT(VolumeNetwork):
    """Encode a CT with a network of two convolutions: a token per 8 x 8 x 8 voxels, and their mean.

    Args:
        weights: The folder with `model.safetensors` and, where the sizes differ from the defaults,
            `config.json`.
        token_grid: Tokens are averaged over boxes to a grid of at most so many along each axis;
            null keeps all 216.
        device: "auto" takes a GPU where there is one.
        batch_size: Scans that go through the network together.
    """

    def __init__(
        self,
        *,
        weights: WeightsOption,
        token_grid: int | None = None,
        device: Device = "auto",
        batch_size: int = 8,
    ) -> None:
        super().__init__("tiny_ct", weights, device, batch_size, token_grid)
        self.sizes: TinyCTSizes = sizes_beside(weights, TinyCTSizes())
        self.token_dim = self.pooled_dim = self.sizes.width
        self.steps = Preprocessing(
            orientation="SAR",
            spacing_mm=(self.sizes.spacing_mm,) * 3,
            window_hu=(-1000.0, 1000.0),
            target=(-1.0, 1.0),
            size=(self.sizes.input_size,) * 3,
            pad=-1.0,
        )

    def token_boxes(self, volume: Volume | StoredVolume) -> Float[np.ndarray, "token 2 3"]:
        """Return the stretch around the patch in the middle of each token's 3 x 3 x 3 patches."""
        edges = [
            place_edges(self.sizes.input_size, first=_PATCH / 2, step=_STRIDE, n=n)
            for n in self.sizes.grid
        ]
        return network_boxes(volume, self.steps, edges, self.token_grid)

    @staticmethod
    def load(folder: WeightsFolder, sizes: TinyCTSizes) -> nn.Module:
        """Build the network and fill it with the weights."""
        path = folder.path(folder.files[0])
        with torch.device("meta"):
            network = TinyCTNetwork(sizes)
        return load_state(network, read_tensors(path), path)

    def features(
        self, network: nn.Module, batch: Float[Tensor, "batch superior anterior right"]
    ) -> Features:
        """Run the network on a batch of prepared scans."""
        grid = network(batch[:, None]).float()  # means of bfloat16 would lose digits
        return Features(pool_grid(grid, self.token_grid), grid.mean((2, 3, 4)))


class TinyCTNetwork(nn.Module):
    """Patches of 4 voxels, then a convolution that halves the grid."""

    def __init__(self, sizes: TinyCTSizes) -> None:
        super().__init__()
        self.patches = nn.Conv3d(1, sizes.width // 2, _PATCH, stride=_PATCH)
        self.mix = nn.Conv3d(sizes.width // 2, sizes.width, 3, stride=2, padding=1)

    def forward(self, scans: Float[Tensor, "batch 1 a b c"]) -> Float[Tensor, "batch width d e f"]:
        """Return the grid of tokens."""
        return torch.as_tensor(self.mix(functional.gelu(self.patches(scans))))
