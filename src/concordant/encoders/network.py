"""Networks that encode scans, in halves that may run in different processes.

`prepare` runs where scans are decoded, without weights or torch device; `encode_prepared` where the
network lives.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor, nn
from torch.nn import functional

from concordant.core.embedding import TokenEmbedding
from concordant.core.errors import ConfigError, WeightsError
from concordant.core.volume import StoredVolume, Volume
from concordant.encoders.base import EncoderCard, VolumeEncoder, require_at_least_one
from concordant.encoders.preprocessing import Preprocessing, preprocess
from concordant.encoders.weights import HUB, WeightsFolder, check_shapes, open_weights

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Sizes = TypeVar("Sizes", bound=DataclassInstance)

Device = Literal["auto", "cpu", "cuda"]
CONFIG = "config.json"


@dataclass(frozen=True, slots=True)
class Prepared:
    """A scan as a network takes it.

    Attributes:
        voxels: Contiguous, axes as the network's preprocessing declares them.
    """

    voxels: Float32[np.ndarray, "first second third"]


@dataclass(frozen=True, slots=True)
class Features:
    """What a network makes of a batch.

    Attributes:
        tokens: Its tokens, place by place.
        pooled: One vector per scan.
        valid: Places that hold a token; None = all.
    """

    tokens: Float[Tensor, "batch token dim"]
    pooled: Float[Tensor, "batch pooled_dim"]
    valid: Bool[Tensor, "batch token"] | None = None


class VolumeNetwork(VolumeEncoder):
    """Base of the encoders of scans that have weights.

    Besides the contract of every encoder:

    * `prepare` needs no weights. What it returns can be sent to another process, and so can the
      encoder: it holds no network.
    * `encode(volumes)` equals `encode_prepared` of the prepared volumes.
    * A process loads the same weights once, when the first scan is encoded.
    * On a GPU the network runs in bfloat16 where that is safe (autocast), on a CPU in float32; what
      it returns is float32.

    Attributes:
        files: What the folder of weights has to hold.
        licence: Of the weights.
        training_data: Names of the public cohorts they were trained on.
        sizes: Of the network, a frozen dataclass with the `grid` of its tokens.
        steps: What the network wants to see of a scan.
        token_dim: Width of a token.
        pooled_dim: Width of the pooled vector.
    """

    options_of_no_effect: ClassVar[frozenset[str]] = frozenset({"weights"})
    files: tuple[str, ...] = ("model.safetensors",)
    licence: ClassVar[str] = "Apache-2.0"
    training_data: ClassVar[tuple[str, ...]] = ()
    sizes: Any
    steps: Preprocessing
    token_dim: int
    pooled_dim: int

    def __init__(
        self,
        name: str,
        weights: Path | str,
        device: Device,
        batch_size: int,
        token_grid: int | None,
    ) -> None:
        require_at_least_one(name, batch_size=batch_size, token_grid=token_grid)
        self.weights = weights
        self.batch_size = batch_size
        self.token_grid = token_grid
        self._device = device

    @property
    def card(self) -> EncoderCard:
        """What this encoder declares of itself."""
        return EncoderCard(
            kind="tokens",
            token_dim=self.token_dim,
            pooled_dim=self.pooled_dim,
            max_tokens=tokens_in(self.sizes.grid, self.token_grid),
            licence=self.licence,
            training_data=self.training_data,
            spacing_mm=self.steps.volume_spacing_mm,
            window_hu=self.steps.window_hu,
        )

    @property
    def device(self) -> str:
        """Where the network runs: a GPU where there is one and the options do not forbid it.

        Raises:
            ConfigError: A GPU that is asked for and not there.
        """
        return available_device(self._device, type(self).__name__)

    @cached_property
    def folder(self) -> WeightsFolder:
        """The folder with the weights, fetched if it is on the hub."""
        # sizes are part of what the digest has to tell apart
        sizes = [] if _config_beside(self.weights) is None else [CONFIG]
        return open_weights(self.weights, files=[*self.files, *sizes])

    @property
    def weights_digest(self) -> str:
        """The digest of the weights."""
        return self.folder.digest

    def prepare(self, volume: Volume | StoredVolume) -> Prepared:
        """Make the network's input of a scan, without the network."""
        return Prepared(preprocess(volume, self.steps))

    def encode(self, volumes: Sequence[Volume]) -> list[TokenEmbedding]:
        """Encode volumes in batches."""
        return self.encode_prepared([self.prepare(volume) for volume in volumes])

    def encode_prepared(self, prepared: Sequence[Prepared]) -> list[TokenEmbedding]:
        """Encode what `prepare` returned, in batches of scans of the same size, in the order given.

        Raises:
            WeightsError: The weights cannot be had, or are not this network's.
        """
        network = _network(type(self), self.folder, self.folder.digest, self.sizes, self.device)
        return [
            embedding
            for batch in _batches(prepared, self.batch_size)
            for embedding in self._encode_batch(network, batch)
        ]

    def _encode_batch(
        self, network: nn.Module, batch: Sequence[Prepared]
    ) -> Iterator[TokenEmbedding]:
        stacked = torch.from_numpy(np.stack([one.voxels for one in batch])).to(self.device)
        with (
            torch.inference_mode(),
            torch.autocast(self.device, torch.bfloat16, enabled=self.device != "cpu"),
        ):
            features = self.features(network, stacked)
        return _embeddings(features)

    @staticmethod
    @abstractmethod
    def load(folder: WeightsFolder, sizes: Any) -> nn.Module:
        """Build the network in the given sizes and fill it with the weights.

        Raises:
            WeightsError: The file is not this network's.
        """

    @abstractmethod
    def features(
        self, network: nn.Module, batch: Float[Tensor, "batch first second third"]
    ) -> Features:
        """Run the network on a batch of prepared scans."""


def available_device(wanted: Device, encoder: str) -> str:
    """Return "cuda" where it is wanted or left open and there is a GPU, else "cpu".

    Raises:
        ConfigError: A GPU that is asked for and not there.
    """
    if wanted != "cpu" and torch.cuda.is_available():
        return "cuda"
    if wanted == "cuda":
        raise ConfigError(
            f"{encoder}, option device: 'cuda' given, but there is no GPU here; give 'auto' or "
            "'cpu'"
        )
    return "cpu"


@lru_cache(maxsize=1)  # a process encodes with one network at a time
def _network(
    kind: type[VolumeNetwork], folder: WeightsFolder, digest: str, sizes: Any, device: str
) -> nn.Module:
    """Load a network; `digest` tells weights that were replaced from those that were loaded."""
    network = kind.load(folder, sizes).eval().requires_grad_(requires_grad=False)
    try:
        return network.to(device)
    except torch.OutOfMemoryError:  # no scan's fault
        raise WeightsError(
            f"{folder.folder}: the network does not fit into the memory of the GPU; free it of "
            "other processes, or give `device: cpu`"
        ) from None


def _batches(prepared: Iterable[Prepared], batch_size: int) -> Iterator[list[Prepared]]:
    for _, same in groupby(prepared, key=lambda one: one.voxels.shape):
        run = list(same)
        for start in range(0, len(run), batch_size):
            yield run[start : start + batch_size]


def _embeddings(features: Features) -> Iterator[TokenEmbedding]:
    tokens, pooled = features.tokens.float().cpu().numpy(), features.pooled.float().cpu().numpy()
    for row, own in enumerate(tokens):
        kept = own if features.valid is None else own[features.valid[row].cpu().numpy()]
        yield TokenEmbedding(kept.copy(), pooled[row].copy())


def places_of(grid: Sequence[int], token_grid: int | None) -> tuple[int, int, int]:
    """Return the grid left by pooling to at most `token_grid` places along each axis."""
    first, second, third = (size if token_grid is None else min(token_grid, size) for size in grid)
    return first, second, third


def pool_grid(
    grid: Float[Tensor, "batch dim a b c"], token_grid: int | None
) -> Float[Tensor, "batch token dim"]:
    """Return a grid of features as tokens, averaged over boxes to `places_of` the grid."""
    if token_grid is not None:
        grid = functional.adaptive_avg_pool3d(grid, places_of(grid.shape[2:], token_grid))
    return grid.flatten(2).transpose(1, 2)


def tokens_in(grid: Sequence[int], token_grid: int | None) -> int:
    """Return how many tokens `pool_grid` makes of a grid."""
    return int(np.prod(places_of(grid, token_grid)))


def _config_beside(weights: Path | str) -> Path | None:
    path = Path(weights) / CONFIG
    return path if not str(weights).startswith(HUB) and path.is_file() else None


def sizes_beside(weights: Path | str, released: Sizes) -> Sizes:
    """Return sizes by `config.json` beside weights, else, as on the hub, the released ones.

    Raises:
        ConfigError: A `config.json` that is no JSON object, or a size in it that is none.
    """
    path = _config_beside(weights)
    if path is None:
        return released
    try:
        given = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"{path} is no JSON object; restore the file that came with the weights"
        ) from error
    sizes = {
        field.name: _as_size(given[field.name]) for field in fields(released) if field.name in given
    }
    wrong = [
        name
        for name, value in sizes.items()
        if value is None or type(value) is not type(getattr(released, name))
    ]
    if wrong:
        raise ConfigError(
            f"{path}: {wrong[0]} is {given[wrong[0]]!r}, expected numbers above 0 such as "
            f"{getattr(released, wrong[0])}"
        )
    return replace(released, **sizes)


def _as_size(value: Any) -> int | float | tuple[int | float, ...] | None:
    """Return a size, or several; None where it is none."""
    if isinstance(value, list):
        parts = [part for part in map(_as_size, value) if isinstance(part, int | float)]
        return tuple(parts) if parts and len(parts) == len(value) else None
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return value if known and value > 0 else None


def load_state(network: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> nn.Module:
    """Fill a network, which may be on the meta device, with tensors; they become float32.

    Raises:
        WeightsError: Tensors that are missing, of another shape, or not the network's.
    """
    check_shapes(path, {key: value.shape for key, value in network.state_dict().items()}, tensors)
    whole = {
        key: value.float() if value.is_floating_point() else value for key, value in tensors.items()
    }
    network.load_state_dict(whole, assign=True)
    return network
