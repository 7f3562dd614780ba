"""What every fusion is: a module from projected tokens of both modalities to one or more views
for the head.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn

from concordant.core.modality import Modality
from concordant.core.registry import Registry
from concordant.core.tokens import FusionOutput, Pair

BOTH = (Modality.CT, Modality.EHR)


@dataclass(frozen=True, slots=True)
class FusionDims:
    """What the house supplies to a fusion.

    Attributes:
        width: Width of the shared latent space.
        dropout: Probability of dropping a unit in training.
        features: Width of each modality's unprojected pooled features (codes: size of the
            vocabulary).
    """

    width: int
    dropout: float
    features: Mapping[Modality, int]


@dataclass(frozen=True, slots=True)
class Phase:
    """One stretch of training: the weights of the two losses, and how long.

    Attributes:
        time_to_event: Weight of the survival loss.
        alignment: Weight of the alignment loss.
        epochs: Fixed number of epochs, or None: up to `max_epochs`, stopped early on tuning.
    """

    time_to_event: float = 1.0
    alignment: float = 0.0
    epochs: int | None = None


class Fusion(nn.Module, ABC):
    """Base of every fusion.

    The contract (one test per line, run over the registry):

    * Shapes are right and values finite, forward and backward, for every subset of missing
      modalities, none present included.
    * Garbage in invalid tokens changes nothing, once they passed the boundary (`Pair.cleaned`).
    * Permuting the batch permutes the output.
    * With one modality missing the prediction still depends on the other one (fusions that use
      both).
    * It learns: C-index above 0.95 on 32 memorised subjects.
    * Attention over a single key is refused before training: `attends_to` names the modalities that
      serve as keys.
    * It runs under `torch.func.functional_call` and `vmap` with the same result: no control flow on
      values, no data-dependent shape.
    * Every parameter belongs to a view by `view_parameters`, and no view's result reaches the
      parameters of another alone.
    * What `start` sets to zero is zero in a new model: it is called after the orthogonal start.

    Attributes:
        solver: How `training.fit` finds the parameters: "gradient", or "ridge" (a ridge Cox model
            solved to convergence).
        reads_tokens: False where the pooled vectors are all it reads, so that projecting single
            tokens can be left out.
        uses: The modalities the prediction depends on.
        view_modalities: Per view the modality it stands for; None = a joint view.
        view_dim: Width of a view.
        combine: How several views become one risk ("stack" or "mean"), or None with one view.
    """

    solver: ClassVar[Literal["gradient", "ridge"]] = "gradient"
    reads_tokens: ClassVar[bool] = True

    def __init__(self, dims: FusionDims) -> None:
        """Set what holds for a fusion of both modalities into one joint view."""
        super().__init__()
        self.uses: tuple[Modality, ...] = BOTH
        self.view_modalities: tuple[Modality | None, ...] = (None,)
        self.view_dim = dims.width
        self.combine: Literal["stack", "mean"] | None = None

    @property
    def attends_to(self) -> tuple[Modality, ...]:
        """Modalities that serve as attention keys, and so need more than one token."""
        return ()

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The stretches of training, in order."""
        return (Phase(),)

    def view_parameters(self, view: int) -> list[str]:
        """Return the names, within the fusion, of the parameters a view depends on: all of them."""
        return [name for name, _ in self.named_parameters()]

    def start(self) -> None:
        """Set parts to zero, weight and bias, after every linear map was started orthogonal.

        By default none is.
        """

    @abstractmethod
    def forward(self, pair: Pair) -> FusionOutput:
        """Fuse a batch.

        Args:
            pair: Projected tokens of both modalities with their pooled vectors (batch, width), zero
                where a modality is missing. Only `linear` (solver "ridge") is handed unprojected
                features.
        """


FUSIONS: Registry[Fusion] = Registry("fusion")
