"""COLIPRI, the chest CT encoder of Microsoft Research (arXiv:2510.15042), from its released file.

The network is a Primus: patches of 8 voxels, EVA blocks with rotary embeddings in three dimensions
(arXiv:2503.01835), then a projection to the space it shares with report text, and attention pooling
with the mean token as query.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from concordant.core.errors import ConfigError
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

_PREFIX = "image_encoder."
_ROTARY_BASE = 10_000.0


@dataclass(frozen=True, slots=True)
class ColipriSizes:
    """Sizes of the network: the released ones, unless a `config.json` gives others.

    Attributes:
        input_size: Voxels along each side of the input.
        patch: Voxels along each side of a patch.
        width: Of a token; three rotary axes have to fit into each head (a multiple of 6 per head).
        depth: Number of blocks.
        heads: Attention heads of a block and of the pooler.
        hidden: Width of a block's feed-forward part.
        projected: Width of a projected token and of the pooled vector.
    """

    input_size: int = 192
    patch: int = 8
    width: int = 864
    depth: int = 16
    heads: int = 12
    hidden: int = 2304
    projected: int = 768

    @property
    def grid(self) -> tuple[int, int, int]:
        """Tokens along each axis."""
        side = self.input_size // self.patch
        return side, side, side


@ENCODERS.register("colipri")
class Colipri(VolumeNetwork):
    """Encode a chest CT with COLIPRI: projected tokens of a 24 x 24 x 24 grid, 768 pooled.

    The scan is resampled to 2 mm and cropped or padded to 192 voxels (384 mm) along each axis
    around its centre; the sampling convention is TorchIO's, which the released network was trained
    with.

    Args:
        weights: The folder with `model.safetensors`, or `hf:microsoft/colipri@REVISION`.
        tokens: "projected" into the space of the pooled vector and of report text, or "raw" as the
            last block leaves them.
        token_grid: Tokens are averaged over boxes to a grid of so many along each axis; null keeps
            all 13,824.
        device: "auto" takes a GPU where there is one.
        batch_size: Scans that go through the network together.
    """

    licence = "MIT"
    training_data = ("CT-RATE", "NLST")

    def __init__(
        self,
        *,
        weights: WeightsOption,
        tokens: Literal["projected", "raw"] = "projected",
        token_grid: int | None = 6,
        device: Device = "auto",
        batch_size: int = 1,
    ) -> None:
        super().__init__("colipri", weights, device, batch_size, token_grid)
        self.tokens = tokens
        self.sizes: ColipriSizes = sizes_beside(weights, ColipriSizes())
        self.pooled_dim = self.sizes.projected
        self.token_dim = self.pooled_dim if tokens == "projected" else self.sizes.width
        self.steps = Preprocessing(
            orientation="RAS",
            spacing_mm=(2.0, 2.0, 2.0),
            window_hu=(-1000.0, 1000.0),
            target=(-1.0, 1.0),
            size=(self.sizes.input_size,) * 3,
            pad="minimum",
            convention="torchio",
        )

    def token_boxes(self, volume: Volume | StoredVolume) -> Float[np.ndarray, "token 2 3"]:
        """Return each token's patch or box of patches; the network's blocks let it read all."""
        patch = self.sizes.patch
        edges = [
            place_edges(self.sizes.input_size, first=patch / 2, step=patch, n=n)
            for n in self.sizes.grid
        ]
        return network_boxes(volume, self.steps, edges, self.token_grid)

    @staticmethod
    def load(folder: WeightsFolder, sizes: ColipriSizes) -> nn.Module:
        """Build the network and fill it with the weights, without those of the text encoder."""
        path = folder.path(folder.files[0])
        tensors = {
            key.removeprefix(_PREFIX): value
            for key, value in read_tensors(path).items()
            if key.startswith(_PREFIX)
        }
        with torch.device("meta"):
            network = ColipriNetwork(sizes)
        return load_state(network, tensors, path)

    def features(
        self, network: nn.Module, batch: Float[Tensor, "batch right anterior superior"]
    ) -> Features:
        """Run the network on a batch of prepared scans."""
        own = cast(ColipriNetwork, network)
        grid = own(batch[:, None])
        tokens = pool_grid(grid, self.token_grid)
        own_tokens = own.project(tokens) if self.tokens == "projected" else tokens
        return Features(own_tokens, own.pool(grid))


class ColipriNetwork(nn.Module):
    """The image encoder; parameters are named as in the released file."""

    def __init__(self, sizes: ColipriSizes) -> None:
        super().__init__()
        if (
            sizes.width % (6 * sizes.heads)
            or sizes.projected % sizes.heads
            or sizes.input_size % sizes.patch
        ):
            raise ConfigError(
                f"COLIPRI with {sizes}: width has to be a multiple of 6 heads, projected of heads, "
                "and input_size of patch; restore the config.json that came with the weights"
            )
        self.backbone = _Backbone(sizes)
        self.projector = nn.Conv3d(sizes.width, sizes.projected, 1)
        self.pooler = _Pooler(sizes.projected, sizes.heads)

    def forward(self, scans: Float[Tensor, "batch 1 x y z"]) -> Float[Tensor, "batch width a b c"]:
        """Return the raw tokens on their grid."""
        return torch.as_tensor(self.backbone(scans))

    def pool(self, grid: Float[Tensor, "batch width a b c"]) -> Float[Tensor, "batch projected"]:
        """Return the vector that stands for the scan."""
        return torch.as_tensor(self.pooler(self.projector(grid).flatten(2).transpose(1, 2)))

    def project(
        self, tokens: Float[Tensor, "batch token width"]
    ) -> Float[Tensor, "batch token projected"]:
        """Project each token as if the pooler saw it alone; affine, so it may follow averaging."""
        projected = functional.linear(tokens, self.projector.weight.flatten(1), self.projector.bias)
        attention = self.pooler.attn
        weight, bias = attention.in_proj_weight.chunk(3)[2], attention.in_proj_bias.chunk(3)[2]
        return torch.as_tensor(attention.out_proj(functional.linear(projected, weight, bias)))


class _Pooler(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, tokens: Float[Tensor, "batch token width"]) -> Float[Tensor, "batch width"]:
        pooled, _ = self.attn(tokens.mean(1, keepdim=True), tokens, tokens, need_weights=False)
        return torch.as_tensor(pooled[:, 0])


class _Backbone(nn.Module):
    mask_token: Tensor

    def __init__(self, sizes: ColipriSizes) -> None:
        super().__init__()
        # of pretraining; in the file, of no use here
        self.register_buffer("mask_token", torch.zeros(1, 1, sizes.width))
        self.down_projection = nn.ModuleDict(
            {"proj": nn.Conv3d(1, sizes.width, sizes.patch, sizes.patch)}
        )
        self.eva = _Blocks(sizes)

    def forward(self, scans: Float[Tensor, "batch 1 x y z"]) -> Float[Tensor, "batch width a b c"]:
        patches = self.down_projection["proj"](scans)
        grid = patches.shape[2:]
        tokens = self.eva(patches.flatten(2).transpose(1, 2), grid)
        return torch.as_tensor(tokens.transpose(1, 2).unflatten(2, grid))


class _Blocks(nn.Module):
    def __init__(self, sizes: ColipriSizes) -> None:
        super().__init__()
        self.heads = sizes.heads
        self.blocks = nn.ModuleList(_Block(sizes) for _ in range(sizes.depth))
        self.norm = nn.LayerNorm(sizes.width)

    def forward(
        self, tokens: Float[Tensor, "batch token width"], grid: torch.Size
    ) -> Float[Tensor, "batch token width"]:
        angles = rotary_angles(grid, tokens.shape[-1] // self.heads, tokens.device)
        turn = angles.cos(), angles.sin()
        for block in self.blocks:
            tokens = block(tokens, turn)
        return torch.as_tensor(self.norm(tokens))


class _Block(nn.Module):
    def __init__(self, sizes: ColipriSizes) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(sizes.width)
        self.attn = _Attention(sizes.width, sizes.heads)
        self.gamma_1 = nn.Parameter(torch.ones(sizes.width))
        self.norm2 = nn.LayerNorm(sizes.width)
        self.mlp = _GatedFeedForward(sizes.width, sizes.hidden)
        self.gamma_2 = nn.Parameter(torch.ones(sizes.width))

    def forward(
        self, tokens: Float[Tensor, "batch token width"], turn: tuple[Tensor, Tensor]
    ) -> Float[Tensor, "batch token width"]:
        tokens = tokens + self.gamma_1 * self.attn(self.norm1(tokens), turn)
        return torch.as_tensor(tokens + self.gamma_2 * self.mlp(self.norm2(tokens)))


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.proj = nn.Linear(width, width)

    def forward(
        self, tokens: Float[Tensor, "batch token width"], turn: tuple[Tensor, Tensor]
    ) -> Float[Tensor, "batch token width"]:
        query, key, value = (
            project(tokens).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = functional.scaled_dot_product_attention(
            rotate(query, *turn).type_as(value), rotate(key, *turn).type_as(value), value
        )
        return torch.as_tensor(self.proj(self.norm(mixed.transpose(1, 2).flatten(2))))


class _GatedFeedForward(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1_g = nn.Linear(width, hidden)
        self.fc1_x = nn.Linear(width, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(
        self, tokens: Float[Tensor, "batch token width"]
    ) -> Float[Tensor, "batch token width"]:
        gated = functional.silu(self.fc1_g(tokens)) * self.fc1_x(tokens)
        return torch.as_tensor(self.fc2(self.norm(gated)))


def rotary_angles(
    grid: torch.Size, head_width: int, device: torch.device
) -> Float[Tensor, "token half_head"]:
    """Return the angle of each pair of channels per place; a third turns with each axis."""
    bands = torch.pow(_ROTARY_BASE, -torch.linspace(0, 1, head_width // 6 + 1, device=device)[:-1])
    places = torch.cartesian_prod(
        *[torch.arange(size, device=device, dtype=torch.float32) for size in grid]
    )
    return (places[:, :, None] * bands).flatten(1)


def rotate(
    heads: Float[Tensor, "batch head token head_width"],
    cosine: Float[Tensor, "token half_head"],
    sine: Float[Tensor, "token half_head"],
) -> Float[Tensor, "batch head token head_width"]:
    """Turn each pair of neighbouring channels by its angle."""
    first, second = heads[..., 0::2], heads[..., 1::2]
    turned = [first * cosine - second * sine, second * cosine + first * sine]
    return torch.stack(turned, -1).flatten(-2)
