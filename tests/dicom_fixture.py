"""DICOM series made for tests.

The voxels are known in body space, and every way to break a series is an argument or an edit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid

Edit = Callable[[int, Dataset], object]


def body(position_ras: np.ndarray) -> np.ndarray:
    """HU at body positions (..., 3) in millimetres.

    Linear in position, so that linear interpolation reproduces it; never constant.
    """
    return position_ras @ np.array([3.0, -2.0, 1.0])


@dataclass(frozen=True)
class Geometry:
    """A stack of planes in DICOM's axes (left, posterior, superior)."""

    rows: int = 8
    columns: int = 9
    spacing: tuple[float, float] = (0.9, 0.7)  # between rows, between columns
    heights: tuple[float, ...] = tuple(2.0 * k for k in range(10))
    origin: tuple[float, float, float] = (-30.0, -40.0, 500.0)
    along_row: tuple[float, float, float] = (1.0, 0.0, 0.0)
    along_column: tuple[float, float, float] = (0.0, 1.0, 0.0)
    table: tuple[float, float, float] = (
        0.0,
        0.0,
        1.0,
    )  # where the planes move for each millimetre of height

    def position(self, index: int) -> np.ndarray:
        return np.array(self.origin) + self.heights[index] * np.array(self.table)

    def hounsfield(self, index: int) -> np.ndarray:
        """Values of one plane, rounded to whole HU."""
        row, column = np.mgrid[: self.rows, : self.columns]
        along = column[..., None] * self.spacing[1] * np.array(self.along_row) + row[
            ..., None
        ] * self.spacing[0] * np.array(self.along_column)
        return np.rint(body((self.position(index) + along) * [-1, -1, 1]))


@dataclass
class Written:
    """A series on disk."""

    folder: Path
    files: list[Path] = field(default_factory=list)


def tilted(degrees: float, **changes: object) -> Geometry:
    """A gantry tilted about the left-right axis, the table moving along the body."""
    angle = np.radians(degrees)
    # tests only
    return Geometry(along_column=(0.0, float(np.cos(angle)), float(-np.sin(angle))), **changes)  # type: ignore[arg-type]


def image(
    geometry: Geometry,
    index: int,
    *,
    series: str = "1.2.3.4",
    slope: float = 1.0,
    intercept: float = -1024.0,
) -> FileDataset:
    """One CT slice, uncompressed, as a dataset to be edited and saved."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[series, str(index)])
    made = FileDataset("", {}, preamble=bytes(128), file_meta=meta)
    made.SOPClassUID, made.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    made.PatientName, made.PatientID = "Secret^Name", "P1"
    made.StudyInstanceUID, made.SeriesInstanceUID, made.FrameOfReferenceUID = (
        "1.2.3",
        series,
        "1.2.9",
    )
    made.Modality, made.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
    made.InstanceNumber = index + 1
    made.ConvolutionKernel = "STANDARD"
    made.SliceThickness = 2.0
    made.ImagePositionPatient = [round(float(x), 6) for x in geometry.position(index)]
    made.ImageOrientationPatient = [
        round(float(x), 9) for x in (*geometry.along_row, *geometry.along_column)
    ]
    made.PixelSpacing = list(geometry.spacing)
    made.RescaleSlope, made.RescaleIntercept, made.RescaleType = slope, intercept, "HU"
    set_pixels(made, np.rint((geometry.hounsfield(index) - intercept) / slope).astype(np.int16))
    return made


def set_pixels(made: Dataset, stored: np.ndarray) -> None:
    """Store values, with the elements that describe them."""
    made.Rows, made.Columns = stored.shape[-2:]
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated = made.BitsStored = stored.dtype.itemsize * 8
    made.HighBit = made.BitsStored - 1
    made.PixelRepresentation = int(stored.dtype.kind == "i")
    made.PixelData = stored.tobytes()
    made["PixelData"].VR = "OW"


def save(made: FileDataset, path: Path) -> Path:
    """Write a dataset with its preamble."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with disable_value_validation():
        made.save_as(path, enforce_file_format=True)
    return path


def write_series(
    folder: Path,
    geometry: Geometry | None = None,
    *,
    keep: Sequence[int] | None = None,
    edit: Edit | None = None,
    shuffle: int | None = 0,
    series: str = "1.2.3.4",
) -> Written:
    """Write a series, a file a slice, with names in random order.

    Args:
        folder: Where.
        geometry: The stack.
        keep: Indices of the slices to write; one may come twice.
        edit: Called with each slice's index and dataset before it is saved.
        shuffle: Seed of the order of names; None names them in order.
        series: Series Instance UID.
    """
    geometry = geometry or Geometry()
    indices = list(range(len(geometry.heights))) if keep is None else list(keep)
    names = (
        np.arange(len(indices))
        if shuffle is None
        else np.random.default_rng(shuffle).permutation(len(indices))
    )
    written = Written(folder)
    for name, index in zip(names, indices, strict=True):
        made = image(geometry, index, series=series)
        if edit is not None:
            edit(index, made)
        written.files.append(save(made, folder / f"{name:04d}.dcm"))
    return written


def enhanced(
    geometry: Geometry,
    *,
    order: Sequence[int] | None = None,
    frame_type: Sequence[str] = ("ORIGINAL", "PRIMARY", "VOLUME", "NONE"),
) -> FileDataset:
    """An enhanced multi-frame CT image.

    What planes share stands once, position and rescaling per frame.
    """
    order = list(range(len(geometry.heights))) if order is None else list(order)
    made = image(geometry, 0)
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    made.ImageType = list(frame_type)
    for name in (
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "PixelSpacing",
        "RescaleSlope",
        "RescaleIntercept",
        "RescaleType",
    ):
        delattr(made, name)
    del made.SliceThickness, made.ConvolutionKernel
    set_pixels(
        made, np.stack([geometry.hounsfield(index) + 1024 for index in order]).astype(np.int16)
    )
    made.NumberOfFrames = len(order)
    made.SharedFunctionalGroupsSequence = Items([_shared(geometry, frame_type)])
    made.PerFrameFunctionalGroupsSequence = Items([_per_frame(geometry, index) for index in order])
    return made


def _item(**values: object) -> Items:
    item = Dataset()
    for name, value in values.items():
        setattr(item, name, value)
    return Items([item])


def _shared(geometry: Geometry, frame_type: Sequence[str]) -> Dataset:
    shared = Dataset()
    shared.CTImageFrameTypeSequence = _item(FrameType=list(frame_type))
    shared.PixelMeasuresSequence = _item(PixelSpacing=list(geometry.spacing), SliceThickness=2.0)
    shared.PlaneOrientationSequence = _item(
        ImageOrientationPatient=[*geometry.along_row, *geometry.along_column]
    )
    shared.CTReconstructionSequence = _item(ConvolutionKernel="STANDARD")
    return shared


def _per_frame(geometry: Geometry, index: int) -> Dataset:
    frame = Dataset()
    frame.PlanePositionSequence = _item(
        ImagePositionPatient=[float(x) for x in geometry.position(index)]
    )
    frame.PixelValueTransformationSequence = _item(
        RescaleSlope=1.0, RescaleIntercept=-1024.0, RescaleType="HU"
    )
    return frame


def transcode(path: Path, syntax: str) -> Path:
    """Compress a file in place with GDCM.

    "JPEG2000Lossless", "JPEGLosslessProcess14_1", "JPEGLSLossless" or "RLELossless".
    """
    import gdcm

    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, syntax)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    return path
