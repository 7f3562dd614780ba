"""Pictures of what a strategy attends to, for the samples it ranks highest and lowest."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from concordant.config import FEATURES, Strategy, Study, parse_study
from concordant.core.artifacts import FitFolder, RunFolder, slug
from concordant.core.errors import (
    ConfigError,
    NotApplicableError,
    StoreError,
    VolumeError,
    did_you_mean,
)
from concordant.core.files import atomic_folder, read_json, write_json
from concordant.core.modality import Modality
from concordant.core.survival import AS_IS, read_predictions
from concordant.data.volumes import open_volume
from concordant.embeddings.store import EmbeddingStore
from concordant.encoders.base import ENCODERS, VolumeEncoder
from concordant.report.attention import ABOUT, AboutPicture, AboutPictures
from concordant.report.overlay import WINDOW_HU, attention_picture
from concordant.study.data import StudyData, read_data
from concordant.study.fits import read_account
from concordant.study.plan import Fold, trials_that_differ
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
    """Return the study that a run folder, `runs/<name>` beside its study file, was made from.

    Raises:
        StoreError: It holds no record of a finished run.
    """
    record = RunFolder(run).record
    try:
        given = read_json(record)["given"]
    except (OSError, ValueError, LookupError, TypeError):
        raise StoreError(
            f"{run}: no record of a finished run is there; give the folder runs/NAME, or the study "
            "file"
        ) from None
    return parse_study(given, folder=run.resolve().parent.parent, imports=imports)


def write_pictures(
    study: Study, out: Path, *, strategy: str | None = None, options: PictureOptions | None = None
) -> int:
    """Draw what a finished strategy attends to into a new folder.

    PNG files named by rank, `about.json`, and `index.parquet`.

    Judged samples (held out, or the test part of their fold) with a scan are ranked by predicted
    risk. The index maps each file to its sample_id; nothing else in the folder names a sample.

    Args:
        study: The study; it must have been run.
        out: The folder; it must not exist, or be empty.
        strategy: Name of its folder, or its label in tables; the attention model that is best on
            tuning unless given. Of several seeds the first is drawn.
        options: Which pictures.

    Returns:
        How many were drawn.

    Raises:
        ConfigError: A folder that holds something, or no such strategy.
        NotApplicableError: The strategy attends to no token of a scan, or its tokens have no place.
        StoreError: The study was not run, or what it made is damaged.
        VolumeError: A scan that can no longer be read.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} is there and not empty; give a new folder for the pictures")
    finished = _Finished(study, read_data(study))
    chosen = [finished.find(strategy)] if strategy is not None else finished.best_first()
    return _write_first(finished, chosen, out, options or PictureOptions())


def refresh_pictures(study: Study, data: StudyData) -> None:
    """Draw the pictures that a study wants in its report, or remove those it no longer wants."""
    wanted, folder = study.report.attention_pictures, study.run_folder.pictures
    if folder.exists():
        shutil.rmtree(folder)
    if wanted:
        options = PictureOptions(highest=-(-wanted // 2), lowest=wanted // 2)
        finished = _Finished(study, data)
        try:
            _write_first(finished, finished.best_first(), folder, options)
        except NotApplicableError as error:
            _LOG.warning("no attention pictures in the report: %s", error)


@dataclass(frozen=True, slots=True)
class _Finished:
    """A finished study: its strategies, and the fit that stands behind each prediction."""

    study: Study
    data: StudyData

    def find(self, name: str) -> Strategy:
        """Return the strategy of a name or label."""
        known = self.study.strategies()
        found = [one for one in known if one.name == name] or [
            one for one in known if one.label == name
        ]
        if len(found) != 1:
            hint = did_you_mean(name, [one.name for one in known])
            raise ConfigError(
                f"strategy {name!r}: {len(found)} strategies of this study are called so, expected "
                f"one.{hint}"
            )
        return found[0]

    def best_first(self) -> list[Strategy]:
        """Return the finished strategies that use scans, by concordance on tuning."""
        if not self.study.run_folder.trials.is_file():
            return []
        tuning = (
            pl.read_parquet(self.study.run_folder.trials)
            .filter("chosen")
            .group_by("ct_encoder", "ehr_encoder", "fusion")
            .agg(pl.col("tuning_concordance").mean())
        )
        scored = {tuple(row[:3]): row[3] or 0.0 for row in tuning.rows()}
        keyed = [
            (scored[key], one)
            for one in self.study.strategies()
            if one.ct is not None and (key := (one.ct_label, one.ehr_label, one.label)) in scored
        ]
        return [one for _, one in sorted(keyed, key=lambda pair: -pair[0])]

    def predictions(self, strategy: Strategy) -> pl.DataFrame:
        """Return the judged rows of the first seed, with a scan."""
        path = self.study.run_folder.strategy(strategy.name).predictions(self.data.internal_label)
        if not path.is_file():
            raise StoreError(f"{path}: no finished fit; run the study first")
        table = read_predictions(path).of_variant(AS_IS).table
        return table.filter(
            pl.col("available").is_in(["both", "ct"]) & (pl.col("seed") == self.study.seeds()[0])
        )

    def fit(
        self, strategy: Strategy, trial: int, repeat: int | None, fold: int | None
    ) -> FitFolder:
        """Return the fit behind a row of the predictions."""
        name = trials_that_differ(strategy, self.study.trials())[trial].name
        place = Fold({}, repeat, fold)
        folder = self.study.run_folder.strategy(strategy.name)
        return folder.fit(name, self.study.seeds()[0], place.name if place.key else None)


def _write_first(
    finished: _Finished, strategies: Sequence[Strategy], out: Path, options: PictureOptions
) -> int:
    """Draw the first strategy that has something to show."""
    reason = "no finished strategy uses scans"
    for strategy in strategies:
        try:
            return _write(finished, strategy, out, options)
        except NotApplicableError as error:
            reason = str(error)
    raise NotApplicableError(reason)


def _write(finished: _Finished, strategy: Strategy, out: Path, options: PictureOptions) -> int:
    encoder = _encoder(strategy)
    chosen = _ranked(finished, strategy, options)
    attention = _attention(finished, strategy, chosen)
    shown = chosen.with_columns(
        pl.format("{}-{}.png", "group", pl.col("rank").cast(pl.String).str.zfill(3)).alias("file")
    )
    with atomic_folder(out) as temporary:
        for row, (sample, weights) in enumerate(
            zip(shown.iter_rows(named=True), attention.weights, strict=True)
        ):
            picture = _drawn(finished.data, encoder, sample, weights, options.window_hu)
            picture.save(temporary / shown["file"][row], format="PNG")
        shown.select("file", "group", "rank", "sample_id", "risk").write_parquet(temporary / INDEX)
        about = _about(strategy, finished.data, attention, options, shown)
        write_json(temporary / ABOUT, about.model_dump(mode="json"))
    return shown.height


def _encoder(strategy: Strategy) -> VolumeEncoder:
    if strategy.ct is None or strategy.ct.name == FEATURES:
        raise NotApplicableError(
            f"{strategy.label} does not read scans themselves (no encoder, or a feature file): "
            "there is nothing to draw on"
        )
    encoder = ENCODERS.create(strategy.ct.name, **strategy.ct.options)
    if (
        not isinstance(encoder, VolumeEncoder)
        or type(encoder).token_boxes is VolumeEncoder.token_boxes
    ):
        raise NotApplicableError(f"tokens of {strategy.ct.label} have no fixed place in a scan")
    return encoder


def _ranked(finished: _Finished, strategy: Strategy, options: PictureOptions) -> pl.DataFrame:
    """Return the samples to draw, the highest risk first, then the lowest.

    Under cross-validation every sample counts in its first repeat, and risks are compared after the
    mean risk of their fold's train is taken off.
    """
    table = finished.predictions(strategy)
    if table["fold"].null_count() < table.height:
        table = table.filter(pl.col("repeat") == pl.col("repeat").min())
        centres = {
            fold: read_account(finished.fit(strategy, trial, repeat, fold))["train_mean_risk"]
            for trial, repeat, fold in _models(table)
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
    return pl.concat(groups).select("group", "rank", "sample_id", "risk", *_MODEL)


_MODEL = ("trial", "repeat", "fold")
"""Columns that tell which model a row comes from."""


def _models(table: pl.DataFrame) -> list[tuple[int, int | None, int | None]]:
    return table.select(_MODEL).unique(maintain_order=True).rows()


def _attention(finished: _Finished, strategy: Strategy, chosen: pl.DataFrame) -> ScanAttention:
    """Return the attention of the model that judged each sample: one model, or that of its fold."""
    weights: dict[str, Any] = {}
    source = None
    root = finished.study.embeddings_root / slug(finished.data.development.label)
    for trial, repeat, fold in _models(chosen):
        folder = finished.fit(strategy, trial, repeat, fold)
        ids = chosen.filter(pl.col("fold").eq_missing(fold))["sample_id"].to_list()
        stores = read_account(folder)["facts"]["stores"][finished.data.internal_label]
        inputs = {
            Modality(modality): EmbeddingStore.open(root / name).read(ids)
            for modality, name in stores.items()
        }
        found = scan_attention(load_fitted(folder.path), inputs)
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
    strategy: Strategy,
    data: StudyData,
    attention: ScanAttention,
    options: PictureOptions,
    shown: pl.DataFrame,
) -> AboutPictures:
    """Return what may be told of the pictures anywhere: no sample, no path."""
    return AboutPictures(
        fusion=strategy.label,
        ct_encoder=strategy.ct_label,
        ehr_encoder=strategy.ehr_label,
        cohort=data.internal_label,
        source=attention.source,
        window_hu=options.window_hu,
        pictures=tuple(
            AboutPicture(**row) for row in shown.select("file", "group", "rank").to_dicts()
        ),
    )
