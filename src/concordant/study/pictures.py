"""Pictures of what a member attends to, for the samples it ranks highest and lowest."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from concordant.config import FEATURES, Member, Study, parse_study
from concordant.core.artifacts import MemberFolder, slug
from concordant.core.errors import (
    ConfigError,
    NotApplicableError,
    StoreError,
    VolumeError,
    did_you_mean,
)
from concordant.core.files import atomic_folder, read_json, write_json
from concordant.core.modality import Modality
from concordant.core.survival import read_predictions
from concordant.data.volumes import open_volume
from concordant.embeddings.store import EmbeddingStore
from concordant.encoders.base import ENCODERS, VolumeEncoder
from concordant.report.attention import ABOUT, AboutPicture, AboutPictures
from concordant.report.overlay import WINDOW_HU, attention_picture
from concordant.study.cohorts import StudyData, read_data
from concordant.training.attention import ScanAttention, scan_attention
from concordant.training.checkpoint import load_fitted

if TYPE_CHECKING:
    from PIL import Image

_LOG = logging.getLogger(__name__)

INDEX = "index.parquet"
"""Maps the file of a picture to its sample.

For the owner of the data alone, never part of a report.
"""

_GROUPS = {"highest": "highest risk", "lowest": "lowest risk"}


@dataclass(frozen=True, slots=True)
class PictureOptions:
    """Which pictures are drawn.

    Attributes:
        highest: Of so many of the samples with the highest risk.
        lowest: And of so many with the lowest.
        window_hu: Hounsfield units that become black and white.
    """

    highest: int = 3
    lowest: int = 3
    window_hu: tuple[float, float] = WINDOW_HU


def study_of_run(run: Path, imports: Sequence[str] = ()) -> Study:
    """Return the study that a run folder, `runs/<name>` beside its study file, was made from, as
    its members recorded it.

    Raises:
        StoreError: No finished member is in the folder.
    """
    accounts = sorted(run.glob("*/run.json"))
    if not accounts:
        raise StoreError(
            f"{run}: no member of a finished run is there; give the folder runs/NAME, or the study "
            "file"
        )
    return parse_study(
        read_json(accounts[0])["given"], folder=run.resolve().parent.parent, imports=imports
    )


def write_pictures(
    study: Study, out: Path, *, member: str | None = None, options: PictureOptions | None = None
) -> int:
    """Draw what a finished member attends to into a new folder.

    PNG files named by rank, `about.json`, and `index.parquet`.

    Judged samples (held out, or the test part of their fold) with a scan are ranked by predicted
    risk. The index maps each file to its sample_id; nothing else in the folder names a sample.

    Args:
        study: The study; it must have been run.
        out: The folder; it must not exist, or be empty.
        member: Name of the member's folder, or its label in tables; the attention model that is
            best on tuning unless given.
        options: Which pictures.

    Returns:
        How many were drawn.

    Raises:
        ConfigError: A folder that holds something, or no such member.
        NotApplicableError: The member attends to no token of a scan, or its tokens have no place.
        StoreError: The study was not run, or what it made is damaged.
        VolumeError: A scan that can no longer be read.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} is there and not empty; give a new folder for the pictures")
    chosen = [_find(study, member)] if member is not None else _best_first(study)
    return _write_first(study, read_data(study), chosen, out, options or PictureOptions())


def refresh_pictures(study: Study, data: StudyData) -> None:
    """Draw the pictures that a study wants in its report into its run folder, or remove those
    that it no longer wants.
    """
    wanted, folder = study.report.attention_pictures, study.run_folder.pictures
    if folder.exists():
        shutil.rmtree(folder)
    if wanted:
        try:
            _write_first(
                study,
                data,
                _best_first(study),
                folder,
                PictureOptions(highest=-(-wanted // 2), lowest=wanted // 2),
            )
        except NotApplicableError as error:
            _LOG.warning("no attention pictures in the report: %s", error)


def _find(study: Study, name: str) -> Member:
    members = study.members()
    found = [one for one in members if one.name == name] or [
        one for one in members if one.label == name
    ]
    if len(found) != 1:
        hint = did_you_mean(name, [one.name for one in members])
        raise ConfigError(
            f"member {name!r}: {len(found)} members of this study are called so, expected "
            f"one.{hint}"
        )
    return found[0]


def _best_first(study: Study) -> list[Member]:
    """Return the finished members that use scans, by concordance on tuning."""
    scored = []
    for member in study.members():
        paths = sorted(study.run_folder.member(member.name).path.glob("**/unit.json"))
        known = [
            value for path in paths if (value := read_json(path)["tuning_concordance"]) is not None
        ]
        if paths and member.ct is not None:
            scored.append((sum(known) / max(len(known), 1), member))
    return [member for _, member in sorted(scored, key=lambda one: -one[0])]


def _write_first(
    study: Study, data: StudyData, members: Sequence[Member], out: Path, options: PictureOptions
) -> int:
    """Draw the first member that has something to show."""
    reason = "no finished member uses scans"
    for member in members:
        try:
            return _write(study, data, member, out, options)
        except NotApplicableError as error:
            reason = str(error)
    raise NotApplicableError(reason)


def _write(
    study: Study, data: StudyData, member: Member, out: Path, options: PictureOptions
) -> int:
    encoder = _encoder(member)
    folder = study.run_folder.member(member.name)
    chosen = _ranked(folder, data, options)
    attention = _attention(study, data, folder, chosen)
    shown = chosen.with_columns(
        pl.format("{}-{}.png", "group", pl.col("rank").cast(pl.String).str.zfill(3)).alias("file")
    )
    with atomic_folder(out) as temporary:
        for row, (sample, weights) in enumerate(
            zip(shown.iter_rows(named=True), attention.weights, strict=True)
        ):
            picture = _drawn(data, encoder, sample, weights, options.window_hu)
            picture.save(temporary / shown["file"][row], format="PNG")
        shown.select("file", "group", "rank", "sample_id", "risk").write_parquet(temporary / INDEX)
        about = _about(member, data, attention, options, shown)
        write_json(temporary / ABOUT, about.model_dump(mode="json"))
    return shown.height


def _encoder(member: Member) -> VolumeEncoder:
    if member.ct is None or member.ct.name == FEATURES:
        raise NotApplicableError(
            f"{member.label} does not read scans themselves (no encoder, or a feature file): there "
            "is nothing to draw on"
        )
    encoder = ENCODERS.create(member.ct.name, **member.ct.options)
    if (
        not isinstance(encoder, VolumeEncoder)
        or type(encoder).token_boxes is VolumeEncoder.token_boxes
    ):
        raise NotApplicableError(f"tokens of {member.ct.label} have no fixed place in a scan")
    return encoder


def _ranked(folder: MemberFolder, data: StudyData, options: PictureOptions) -> pl.DataFrame:
    """Return the samples to draw.

    `group`, `rank`, `sample_id`, `risk`, `fold`, the highest risk first, then the lowest.

    Under cross-validation every sample counts in its first repeat, and risks are compared after the
    mean risk of their fold's train is taken off.
    """
    if not (folder.path / "run.json").is_file():
        raise StoreError(f"{folder.path}: no finished fit; run the study first")
    table = read_predictions(folder.predictions(data.internal_label)).table.filter(
        pl.col("available").is_in(["both", "ct"])
    )
    if table["fold"].null_count() < table.height:
        table = table.filter(pl.col("repeat") == pl.col("repeat").min())
        centres = {
            fold: read_json(_unit(folder, repeat, fold) / "unit.json")["train_mean_risk"]
            for repeat, fold in _folds(table)
        }
        table = table.with_columns(
            pl.col("risk") - pl.col("fold").replace_strict(centres, return_dtype=pl.Float64)
        )
    table = table.sort("risk", "sample_id", descending=[True, False])
    highest = table.head(options.highest)
    lowest = table.slice(highest.height).reverse().head(options.lowest)
    groups = [
        part.with_columns(pl.lit(name).alias("group")).with_row_index("rank", 1)
        for name, part in (("highest", highest), ("lowest", lowest))
    ]
    return pl.concat(groups).select("group", "rank", "sample_id", "risk", "repeat", "fold")


def _folds(table: pl.DataFrame) -> list[tuple[int | None, int | None]]:
    return table.select("repeat", "fold").unique(maintain_order=True).rows()


def _unit(folder: MemberFolder, repeat: int | None, fold: int | None) -> Path:
    return folder.path if fold is None else folder.path / "folds" / f"r{repeat}-f{fold}"


def _attention(
    study: Study, data: StudyData, folder: MemberFolder, chosen: pl.DataFrame
) -> ScanAttention:
    """Return the attention of the model that judged each sample: one model, or that of its fold."""
    weights: dict[str, Any] = {}
    source = None
    for repeat, fold in _folds(chosen):
        unit = _unit(folder, repeat, fold)
        ids = chosen.filter(pl.col("fold").eq_missing(fold))["sample_id"].to_list()
        stores = read_json(unit / "unit.json")["facts"]["stores"][data.internal_label]
        root = study.embeddings_root / slug(data.development.label)
        inputs = {
            Modality(modality): EmbeddingStore.open(root / name).read(ids)
            for modality, name in stores.items()
        }
        found = scan_attention(load_fitted(unit), inputs)
        source = found.source
        weights |= dict(zip(ids, found.weights, strict=True))
    if source is None:
        raise NotApplicableError("no judged sample has a scan")
    return ScanAttention(source, tuple(weights[one] for one in chosen["sample_id"]))


def _drawn(
    data: StudyData,
    encoder: VolumeEncoder,
    sample: Mapping[str, Any],
    weights: Any,
    window_hu: tuple[float, float],
) -> Image.Image:
    title = f"{_GROUPS[sample['group']]} {sample['rank']}"
    path = data.development.ct_path(data.development.sample_ids.index(sample["sample_id"]))
    try:
        volume = open_volume(path or Path())
    except VolumeError as error:
        raise VolumeError(f"the scan of {title} cannot be read ({error.reason})") from None
    boxes = encoder.token_boxes(volume)
    if boxes is None or len(boxes) != len(weights):
        raise StoreError(
            f"the scan of {title} has {0 if boxes is None else len(boxes)} places and "
            f"{len(weights)} tokens in the store; the scan has changed, or the store was made by "
            "another version: run the study again"
        )
    return attention_picture(volume, boxes, weights, title=title, window_hu=window_hu)


def _about(
    member: Member,
    data: StudyData,
    attention: ScanAttention,
    options: PictureOptions,
    shown: pl.DataFrame,
) -> AboutPictures:
    """Return what may be told of the pictures anywhere: no sample, no path."""
    return AboutPictures(
        fusion=member.label,
        ct_encoder=member.ct_label,
        ehr_encoder=member.ehr_label,
        cohort=data.internal_label,
        source=attention.source,
        window_hu=options.window_hu,
        pictures=tuple(
            AboutPicture(**row) for row in shown.select("file", "group", "rank").to_dicts()
        ),
    )
