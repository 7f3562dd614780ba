"""Attention pictures in the report, embedded without anything that names a sample."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal, NamedTuple

from pydantic import ValidationError

from concordant.core.artifacts import RunFolder
from concordant.core.errors import StoreError
from concordant.core.files import read_json
from concordant.core.records import Record

ABOUT = "about.json"


class AboutPicture(Record):
    """One picture.

    Attributes:
        file: Its name in the folder.
        group: `highest` or `lowest` predicted risk.
        rank: 1 for the most extreme one.
    """

    file: str
    group: Literal["highest", "lowest"]
    rank: int


class AboutPictures(Record):
    """What the pictures of a folder show.

    Attributes:
        fusion: Label of the strategy.
        ct_encoder: Label of the scan's encoder.
        ehr_encoder: Label of the record's encoder.
        cohort: Label of the cohort.
        source: Whose attention it is: the record's, or that of pooling.
        window_hu: Hounsfield units that are black and white.
        pictures: The pictures, in order.
    """

    fusion: str
    ct_encoder: str | None = None
    ehr_encoder: str | None = None
    cohort: str
    source: Literal["record", "pooling"]
    window_hu: tuple[float, float]
    pictures: tuple[AboutPicture, ...]


class EmbeddedPicture(NamedTuple):
    """A picture inside the page: what it shows, and the PNG file as a data address."""

    title: str
    data: str


@dataclass(frozen=True, slots=True)
class AttentionPictures:
    """The pictures of a run.

    Attributes:
        about: What they show.
        pictures: The pictures, in order.
    """

    about: AboutPictures
    pictures: tuple[EmbeddedPicture, ...]


def read_pictures(run: RunFolder) -> AttentionPictures | None:
    """Return the attention pictures of a run; None where it has none.

    Raises:
        StoreError: The folder is damaged.
    """
    if not run.pictures.is_dir():
        return None
    try:
        about = AboutPictures.model_validate(read_json(run.pictures / ABOUT))
        shown = tuple(_embedded(run, one) for one in about.pictures)
    except (OSError, ValueError, ValidationError) as error:
        raise StoreError(
            f"{run.pictures}: not readable ({type(error).__name__}); delete the folder and run the "
            "study again"
        ) from None
    return AttentionPictures(about, shown) if shown else None


def _embedded(run: RunFolder, one: AboutPicture) -> EmbeddedPicture:
    content = (run.pictures / PurePath(one.file).name).read_bytes()
    title = f"{one.group.capitalize()} predicted risk, number {one.rank}"
    return EmbeddedPicture(
        title, f"data:image/png;base64,{base64.b64encode(content).decode('ascii')}"
    )
