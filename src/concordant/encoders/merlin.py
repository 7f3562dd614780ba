"""Merlin, an encoder of abdominal CT (arXiv:2406.06512), loaded from its released file.

The image encoder is a ResNet-152 whose filters were inflated to three dimensions
(arXiv:1705.07750): depth is halved wherever height and width are, but for the first convolution.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

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

_FILES = {
    "image_text": "i3_resnet_clinical_longformer_best_clip_04-02-2024_23-21-36_epoch_99.pt",
    "five_year": "resnet_clinical_longformer_five_year_disease_prediction.pt",
}
_PREFIX = "encode_image.i3_resnet."
_HEADS = ("classifier.", "contrastive_head.")
_EXPANSION = 4
_STRIDE = 32
_STRIDES = (_STRIDE // 2, _STRIDE, _STRIDE)  # the first convolution keeps the depth


@dataclass(frozen=True, slots=True)
class MerlinSizes:
    """Sizes of the network: the released ones, unless a `config.json` gives others.

    Attributes:
        blocks: Bottleneck blocks per stage.
        width: Channels of the first convolution; the last stage has 32 times as many.
        input_size: Voxels along (superior, right, anterior).
    """

    blocks: tuple[int, int, int, int] = (3, 8, 36, 3)
    width: int = 64
    input_size: tuple[int, int, int] = (160, 224, 224)

    @property
    def features(self) -> int:
        """Width of the last stage's map."""
        return self.width * 8 * _EXPANSION

    @property
    def grid(self) -> tuple[int, int, int]:
        """Places of the last stage's map."""
        depth, right, anterior = (
            -(-size // stride) for size, stride in zip(self.input_size, _STRIDES, strict=True)
        )
        return depth, right, anterior


@ENCODERS.register("merlin")
class Merlin(VolumeNetwork):
    """Encode an abdominal CT with Merlin: the last map's 10 x 7 x 7 tokens, and their mean.

    The scan is resampled to 1.5 x 1.5 x 3 mm and cropped or padded (with -1000 HU) to 336 x 336 x
    480 mm around its centre.

    Args:
        weights: The folder with the released `.pt` file, or `hf:stanfordmimi/Merlin@REVISION`.
        checkpoint: "image_text", trained on reports and diagnosis codes, or "five_year", tuned
            further to predict six diseases.
        token_grid: Tokens are averaged over boxes to a grid of at most so many along each axis;
            null keeps all 490.
        device: "auto" takes a GPU where there is one.
        batch_size: Scans that go through the network together.
    """

    licence = "MIT"
    training_data = ("Merlin",)

    def __init__(
        self,
        *,
        weights: WeightsOption,
        checkpoint: Literal["image_text", "five_year"] = "image_text",
        token_grid: int | None = None,
        device: Device = "auto",
        batch_size: int = 1,
    ) -> None:
        super().__init__("merlin", weights, device, batch_size, token_grid)
        self.files = (_FILES[checkpoint],)
        self.sizes: MerlinSizes = sizes_beside(weights, MerlinSizes())
        self.token_dim = self.pooled_dim = self.sizes.features
        self.steps = Preprocessing(
            orientation="SRA",
            spacing_mm=(3.0, 1.5, 1.5),
            window_hu=(-1000.0, 1000.0),
            target=(0.0, 1.0),
            size=self.sizes.input_size,
            pad=0.0,
        )

    def token_boxes(self, volume: Volume | StoredVolume) -> Float[np.ndarray, "token 2 3"]:
        """Return the stretch around the centre of each receptive field, the first at voxel 0."""
        axes = zip(self.sizes.input_size, _STRIDES, self.sizes.grid, strict=True)
        edges = [place_edges(size, first=0.5, step=stride, n=n) for size, stride, n in axes]
        return network_boxes(volume, self.steps, edges, self.token_grid)

    @staticmethod
    def load(folder: WeightsFolder, sizes: MerlinSizes) -> nn.Module:
        """Build the network and fill it with the weights, without text encoder and heads."""
        path = folder.path(folder.files[0])
        with torch.device("meta"):
            network = InflatedResNet(sizes)
        return load_state(network, image_tensors(read_tensors(path)), path)

    def features(
        self, network: nn.Module, batch: Float[Tensor, "batch superior right anterior"]
    ) -> Features:
        """Run the network on a batch of prepared scans."""
        grid = network(batch[:, None]).float()  # means of bfloat16 would lose digits
        return Features(pool_grid(grid, self.token_grid), grid.mean((2, 3, 4)))


def image_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the image encoder's tensors; the five-year checkpoint holds no others."""
    prefix = _PREFIX if any(key.startswith(_PREFIX) for key in tensors) else ""
    own = {
        key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)
    }
    return {key: value for key, value in own.items() if not key.startswith(_HEADS)}


class InflatedResNet(nn.Module):
    """The image encoder without its heads; parameters are named as in the released file."""

    def __init__(self, sizes: MerlinSizes) -> None:
        super().__init__()
        width = sizes.width
        self.conv1 = nn.Conv3d(3, width, (3, 7, 7), stride=(1, 2, 2), padding=(1, 3, 3), bias=False)
        self.bn1 = nn.BatchNorm3d(width)
        self.layer1 = _stage(width, width, sizes.blocks[0], stride=1)
        self.layer2 = _stage(width * _EXPANSION, width * 2, sizes.blocks[1], stride=2)
        self.layer3 = _stage(width * 2 * _EXPANSION, width * 4, sizes.blocks[2], stride=2)
        self.layer4 = _stage(width * 4 * _EXPANSION, width * 8, sizes.blocks[3], stride=2)

    def forward(
        self, scans: Float[Tensor, "batch 1 depth right anterior"]
    ) -> Float[Tensor, "batch dim a b c"]:
        """Return the last stage's map."""
        values = functional.relu(self.bn1(self._first(scans)), inplace=True)
        values = functional.max_pool3d(values, 3, stride=2, padding=1)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            values = stage(values)
        return values

    def _first(
        self, scans: Float[Tensor, "batch 1 depth right anterior"]
    ) -> Float[Tensor, "batch width depth b c"]:
        """Apply the first convolution: the same grey for all colours, so filters add up."""
        weight = self.conv1.weight.sum(1, keepdim=True)
        return functional.conv3d(scans, weight, stride=self.conv1.stride, padding=(1, 3, 3))


def _stage(inputs: int, width: int, n_blocks: int, *, stride: int) -> nn.Sequential:
    rest = [_Bottleneck(width * _EXPANSION, width, stride=1) for _ in range(n_blocks - 1)]
    return nn.Sequential(_Bottleneck(inputs, width, stride=stride), *rest)


class _Bottleneck(nn.Module):
    def __init__(self, inputs: int, width: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm3d(width)
        self.conv2 = nn.Conv3d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm3d(width)
        self.conv3 = nn.Conv3d(width, width * _EXPANSION, 1, bias=False)
        self.bn3 = nn.BatchNorm3d(width * _EXPANSION)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or inputs != width * _EXPANSION:
            self.downsample = nn.Sequential(
                nn.Conv3d(inputs, width * _EXPANSION, 1, stride=stride, bias=False),
                nn.BatchNorm3d(width * _EXPANSION),
            )

    def forward(
        self, values: Float[Tensor, "batch inputs a b c"]
    ) -> Float[Tensor, "batch dim d e f"]:
        inner = functional.relu(self.bn1(self.conv1(values)), inplace=True)
        inner = functional.relu(self.bn2(self.conv2(inner)), inplace=True)
        short = values if self.downsample is None else self.downsample(values)
        return functional.relu(self.bn3(self.conv3(inner)) + short, inplace=True)
