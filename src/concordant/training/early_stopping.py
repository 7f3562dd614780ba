"""Early stopping: each view keeps the parameters of the epoch that tuning liked best."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from concordant.model import TTEModel


class EarlyStopping:
    """Remembers, per view, the parameters of its best epoch.

    Views are independent models and stop at their own time.
    """

    def __init__(self, model: TTEModel, patience: int) -> None:
        """Watch a model.

        Args:
            model: It is read at each `see` and written by `restore`.
            patience: Looks without a better loss after which a view has stopped.
        """
        views = len(model.fusion.view_modalities)
        parameters = dict(model.named_parameters())
        self._patience = patience
        self._own = [
            {name: parameters[name] for name in model.view_parameters(view)}
            for view in range(views)
        ]
        self._best = [float("inf")] * views
        self._since = [0] * views
        self._kept: list[dict[str, Tensor]] = [{} for _ in range(views)]

    def see(self, losses: Sequence[float]) -> None:
        """Take the tuning loss of each view at the model's present parameters."""
        for view, loss in enumerate(losses):
            if self._since[view] >= self._patience:
                continue  # it has stopped; that another view goes on must not give it more epochs
            self._since[view] += 1
            if loss < self._best[view]:
                self._best[view], self._since[view] = loss, 0
                self._kept[view] = {
                    name: parameter.detach().clone() for name, parameter in self._own[view].items()
                }

    @property
    def exhausted(self) -> bool:
        """Whether every view has stopped."""
        return all(since >= self._patience for since in self._since)

    def restore(self) -> None:
        """Give each view the parameters of its best epoch."""
        for own, kept in zip(self._own, self._kept, strict=True):
            for name, value in kept.items():
                own[name].data.copy_(value)
