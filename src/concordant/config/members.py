"""The grid of a study, expanded to its members.

One combination of encoders, fusion, head, seed and training options each.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
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
class Member:
    """One model of a study.

    Attributes:
        ct: The scan's encoder, or None where the fusion does not use scans.
        ehr: The record's encoder, or None where the fusion does not use records.
        fusion: The strategy.
        head: The survival head.
        seed: Seed of initialisation and batches.
        train: Options of training.
        varied: The training options, and the head, that the grid varies: what sets members apart
            that have the same fusion and encoders.
    """

    ct: Component | None
    ehr: Component | None
    fusion: Component
    head: Component
    seed: int
    train: TrainOptions
    varied: Mapping[str, Any] = field(default_factory=dict)

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
        """What tables call the strategy.

        The fusion's label, and in brackets what else the grid varies.
        """
        varied = ",".join(f"{key}={value}" for key, value in self.varied.items())
        return f"{self.fusion.label}[{varied}]" if varied else self.fusion.label

    @property
    def name(self) -> str:
        """Name of the member's folder.

        Made of the labels, the same in every study that holds this member.
        """
        options = [f"{key}={value}" for key, value in self.varied.items() if key != "head"]
        labels = [
            self.fusion.label,
            self.ct_label,
            self.ehr_label,
            self.head.label,
            *options,
            f"seed{self.seed}",
        ]
        name = "__".join(slug(label) for label in labels if label is not None)
        return (
            name
            if len(name) <= _LONGEST_NAME
            else f"{name[:_LONGEST_NAME]}-{fingerprint({'name': name})}"
        )

    def encoder(self, modality: Modality) -> Component | None:
        """Return the encoder of a modality, or None where it is not used."""
        return self.ct if modality is Modality.CT else self.ehr

    def resolved(self) -> dict[str, Any]:
        """Return the member as plain values, in the form of a study."""
        encoders = {
            str(one): None
            if (chosen := self.encoder(one)) is None
            else chosen.model_dump(mode="json")
            for one in Modality
        }
        parts = {"fusion": self.fusion, "head": self.head, "train": self.train}
        return {
            "encoders": encoders,
            **{key: part.model_dump(mode="json") for key, part in parts.items()},
            "seed": self.seed,
        }


def member_of(choice: Mapping[str, Any], train: TrainOptions, varied: Iterable[str]) -> Member:
    """Build the member of one point of the grid.

    Args:
        choice: A value for "fusion", "encoders.ct", "encoders.ehr", "head", "seed" and each
            "train.<option>" that the grid names.
        train: Options of training that hold where the grid does not name them.
        varied: Keys of the grid with more than one value.

    Raises:
        ConfigError: The fusion uses a modality that has no encoder.
    """
    fusion: Component = choice["fusion"]
    encoders = {
        modality: choice[f"encoders.{modality}"]
        for modality in modalities_used(fusion.name, fusion.options)
    }
    for modality, encoder in encoders.items():
        if encoder is None:
            raise ConfigError(
                f"fusion {fusion.label} uses {modality}, but there is no encoders.{modality}; "
                f"give one, or choose a fusion of one modality: {{name: unimodal, modality: "
                f"{modality.other}}}"
            )
    options = {
        key.removeprefix("train."): value
        for key, value in choice.items()
        if key.startswith("train.")
    }
    return Member(
        ct=encoders.get(Modality.CT),
        ehr=encoders.get(Modality.EHR),
        fusion=fusion,
        head=choice["head"],
        seed=choice["seed"],
        train=train.model_copy(update=options),
        varied={
            key.removeprefix("train."): _short(choice[key])
            for key in varied
            if key == "head" or key.startswith("train.")
        },
    )


def _short(value: Any) -> Any:
    return value.label if isinstance(value, Component) else value


def merged(members: Iterable[Member]) -> tuple[Member, ...]:
    """Return the members in order, those that are the same once.

    Raises:
        ConfigError: Two members differ but have the same name, so that their folders and rows could
            not be told apart.
    """
    by_name: dict[str, Member] = {}
    for member in members:
        other = by_name.setdefault(member.name.casefold(), member)
        if other != member:
            raise ConfigError(
                f"two members of the grid differ but are both called {member.name!r}; give their "
                "components a `label` each"
            )
    return tuple(by_name.values())
