"""What a study compares: its strategies, and the trials by which each of them may be fitted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from concordant.config.components import Component
from concordant.core.artifacts import slug
from concordant.core.errors import ConfigError
from concordant.core.files import fingerprint
from concordant.core.modality import Modality
from concordant.fusion import modalities_used
from concordant.training.options import TrainOptions

_LONGEST_NAME = 200


@dataclass(frozen=True, slots=True)
class Strategy:
    """A row of the tables: encoders, a fusion and a head.

    Attributes:
        ct: The scan's encoder, or None where the fusion does not use scans.
        ehr: The record's encoder, or None where the fusion does not use records.
        fusion: How the two are fused.
        head: The survival head.
        tells_head: Whether the label names the head, since the grid varies it.
    """

    ct: Component | None
    ehr: Component | None
    fusion: Component
    head: Component
    tells_head: bool = False

    @property
    def ct_label(self) -> str | None:
        """Label of the scan's encoder."""
        return None if self.ct is None else self.ct.label

    @property
    def ehr_label(self) -> str | None:
        """Label of the record's encoder."""
        return None if self.ehr is None else self.ehr.label

    @property
    def label(self) -> str:
        """What tables call it: the fusion's label and, where the grid varies it, the head."""
        head = f"[head={self.head.label}]" if self.tells_head else ""
        return f"{self.fusion.label}{head}"

    @property
    def name(self) -> str:
        """Name of its folder: made of labels, the same in every study that holds the strategy."""
        labels = [self.fusion.label, self.ct_label, self.ehr_label, self.head.label]
        name = "__".join(slug(label) for label in labels if label is not None)
        if len(name) <= _LONGEST_NAME:
            return name
        return f"{name[:_LONGEST_NAME]}-{fingerprint({'name': name})}"

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """The modalities that its prediction depends on."""
        return modalities_used(self.fusion.name, self.fusion.options)

    def encoder(self, modality: Modality) -> Component | None:
        """Return the encoder of a modality, or None where it is not used."""
        return self.ct if modality is Modality.CT else self.ehr

    def resolved(self) -> dict[str, Any]:
        """Return the strategy as plain values, in the form of a study."""
        encoders = {
            str(one): None if (chosen := self.encoder(one)) is None else _plain(chosen)
            for one in Modality
        }
        return {"encoders": encoders, "fusion": _plain(self.fusion), "head": _plain(self.head)}


@dataclass(frozen=True, slots=True)
class Trial:
    """A way to fit a strategy; never a row of a table, never a test.

    Attributes:
        name: What the grid varies and its values, such as "lr=0.01"; else "default".
        options: Options of training.
    """

    name: str
    options: TrainOptions


def strategy_of(choice: Mapping[str, Any], *, tells_head: bool) -> Strategy:
    """Build the strategy of one point of the grid.

    Args:
        choice: A value for "fusion", "encoders.ct", "encoders.ehr" and "head".
        tells_head: Whether the grid varies the head.

    Raises:
        ConfigError: The fusion uses a modality that has no encoder.
    """
    fusion: Component = choice["fusion"]
    used = modalities_used(fusion.name, fusion.options)
    for modality in used:
        if choice[f"encoders.{modality}"] is None:
            raise ConfigError(
                f"fusion {fusion.label} uses {modality}, but there is no encoders.{modality}; give "
                "one, or choose a fusion of one modality: "
                f"{{name: unimodal, modality: {modality.other}}}"
            )
    ct, ehr = (
        choice[f"encoders.{modality}"] if modality in used else None
        for modality in (Modality.CT, Modality.EHR)
    )
    return Strategy(ct, ehr, fusion, choice["head"], tells_head)


def distinct(strategies: Iterable[Strategy]) -> tuple[Strategy, ...]:
    """Return the strategies in order, those that are the same once.

    Raises:
        ConfigError: Two differ but have the same name, so that their rows could not be told apart.
    """
    by_name: dict[str, Strategy] = {}
    for strategy in strategies:
        other = by_name.setdefault(strategy.name.casefold(), strategy)
        if other != strategy:
            raise ConfigError(
                f"two strategies of the grid differ but are both called {strategy.name!r}; give "
                "their components a `label` each"
            )
    return tuple(by_name.values())


def trials_of(train: TrainOptions, varied: Mapping[str, tuple[Any, ...]]) -> tuple[Trial, ...]:
    """Return one trial per combination of the training options that the grid varies.

    Args:
        train: Options that hold where the grid does not vary them.
        varied: Values by the name of the option.
    """
    points = (dict(zip(varied, values, strict=True)) for values in product(*varied.values()))
    told = [key for key, values in varied.items() if len(values) > 1]
    trials = (
        Trial(
            ",".join(f"{key}={point[key]}" for key in told) or "default",
            train.model_copy(update=point),
        )
        for point in points
    )
    return tuple(dict.fromkeys(trials))


def _plain(component: Component) -> dict[str, Any]:
    return component.model_dump(mode="json")
