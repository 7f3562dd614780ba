"""The header of one DICOM file: what it shows, where its planes lie, how its pixels are stored."""

from __future__ import annotations

import logging
import math
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from jaxtyping import Float

from concordant.core.errors import ConcordantError, VolumeError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

CT_CLASSES = (
    "1.2.840.10008.5.1.4.1.1.2",
    "1.2.840.10008.5.1.4.1.1.2.1",
    "1.2.840.10008.5.1.4.1.1.2.2",
)
"""CT images: classic, enhanced multi-frame, and classic ones converted to multi-frame."""

UNDEFINED_LENGTH = 0xFFFFFFFF
_IMPLICIT, _EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
NATIVE_SYNTAXES = (_IMPLICIT, _EXPLICIT, BIG_ENDIAN)
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_PIXEL_DATA = (0x7FE0, 0x0010)
_FIRST_TAGS = [bytes(tag) for tag in ((8, 0, 0, 0), (8, 0, 5, 0), (8, 0, 8, 0), (2, 0, 0, 0))]
_ROUNDING = 1e-2
_META_REGION = 2048  # bytes in which the transfer syntax stands
_RAS_FROM_LPS = np.array([-1.0, -1.0, 1.0])

_TAGS = [
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"),
    *("FrameOfReferenceUID", "PatientID", "Modality", "ImageType", "LossyImageCompression"),
    *("ConvolutionKernel", "SliceThickness", "SpacingBetweenSlices", "ImagePositionPatient"),
    *("ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept"),
    *("RescaleType", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel"),
    *("PhotometricInterpretation", "BitsAllocated", "BitsStored"),
    *("PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
]


@dataclass(frozen=True, slots=True)
class Plane:
    """One plane of voxels; body axes are (right, anterior, superior), millimetres.

    What a header lacks is NaN.

    Attributes:
        position: Centre of the first voxel.
        along_row: Direction in which the column index grows.
        along_column: Direction in which the row index grows.
        spacing_mm: Between rows, and between columns.
        slope: Hounsfield units per stored unit.
        intercept: Hounsfield units of a stored 0.
        kind: The values of Image Type and Frame Type.
        rescale_type: Unit of the rescaled values; empty where the header names none.
    """

    position: Float[np.ndarray, " 3"]
    along_row: Float[np.ndarray, " 3"]
    along_column: Float[np.ndarray, " 3"]
    spacing_mm: tuple[float, float]
    slope: float
    intercept: float
    kind: frozenset[str]
    rescale_type: str

    @property
    def normal(self) -> Float[np.ndarray, " 3"]:
        """Direction across the plane, along which planes are stacked."""
        return np.cross(self.along_row, self.along_column)


@dataclass(frozen=True, slots=True)
class Pixels:
    """Where a file's pixels lie and how they are stored.

    Attributes:
        path: The file.
        syntax: UID of the transfer syntax.
        offset: Where the value of Pixel Data starts; None where there is none.
        length: Its length as the header says.
        n_frames: Number of planes.
        padding: Least and greatest stored value that mean "no measurement", or None.
    """

    path: Path
    syntax: str
    offset: int | None
    length: int
    n_frames: int
    rows: int
    columns: int
    samples: int
    photometric: str
    bits_allocated: int
    bits_stored: int
    signed: bool
    padding: tuple[int, int] | None

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Type of one stored value."""
        order = ">" if self.syntax == BIG_ENDIAN else "<"
        return np.dtype(f"{order}{'i' if self.signed else 'u'}{self.bits_allocated // 8}")


@dataclass(frozen=True, slots=True)
class Image:
    """One DICOM file. The identifiers serve to group files; they stand in no message.

    Attributes:
        path: The file.
        study: Patient and study.
        series: Series Instance UID; may be empty.
        instance: SOP Instance UID; may be empty.
        frame_of_reference: Planes of one frame of reference can be compared in position; may be
            empty.
        sop_class: UID of the kind of object; may be empty.
        modality: For example CT.
        lossy: Lossy compression is declared.
        kernel: Name of the reconstruction kernel; may be empty.
        thickness_mm: Thickness of a slice, or NaN.
        distance_mm: Declared distance of slices, or NaN.
        pixels: How the pixels are stored.
        planes: One, or one per frame.
    """

    path: Path
    study: tuple[str, str]
    series: str
    instance: str
    frame_of_reference: str
    sop_class: str
    modality: str
    lossy: bool
    kernel: str
    thickness_mm: float
    distance_mm: float
    pixels: Pixels
    planes: tuple[Plane, ...]


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Let pydicom read malformed values without an error or a line that would quote them.

    Raises:
        ConcordantError: The extra is not installed.
    """
    try:
        from pydicom import config
    except ImportError:
        raise ConcordantError(
            "reading DICOM needs pydicom and python-gdcm; install them with: pip install "
            "'concordant[dicom]'"
        ) from None
    before = config.settings.reading_validation_mode
    config.settings.reading_validation_mode = config.IGNORE
    log = logging.getLogger("pydicom")
    was_disabled, log.disabled = log.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="pydicom")
            yield
    finally:
        config.settings.reading_validation_mode = before
        log.disabled = was_disabled


def is_dicom(start: bytes) -> bool:
    """Say whether a file's first bytes are those of DICOM, in old files without a preamble."""
    return start[128:132] == b"DICM" or start[:4] in _FIRST_TAGS


def read_header(path: Path) -> Image:
    """Read the header of a DICOM file, up to its pixels. Call it within `quiet_pydicom`.

    Raises:
        VolumeError: The header cannot be read.
    """
    from pydicom import dcmread

    try:
        with path.open("rb") as stream:
            if _DEFLATED in stream.read(_META_REGION):
                raise VolumeError(
                    "deflated DICOM is not read; store it with another transfer syntax"
                )
            stream.seek(0)
            dataset = dcmread(stream, stop_before_pixels=True, force=True, specific_tags=_TAGS)
            return _image(path, dataset, stream)
    except VolumeError:
        raise
    except OSError as error:
        raise VolumeError("unreadable file") from error
    except Exception as error:  # a damaged header fails in as many ways as pydicom has converters
        raise VolumeError("damaged DICOM header") from error


def _image(path: Path, dataset: Dataset, stream: BinaryIO) -> Image:
    pixels = _pixels(path, dataset, stream)
    sop_class = _text(dataset, "SOPClassUID")
    sop_class = sop_class or _text(dataset.file_meta, "MediaStorageSOPClassUID")
    # the file may end within its class
    if pixels.offset is None and any(known.startswith(sop_class) for known in CT_CLASSES):
        raise VolumeError("truncated file (no pixels)")
    planes = _groups(dataset)
    first = _PlaneHeader(planes[0])
    return Image(
        path=path,
        study=(_text(dataset, "PatientID"), _text(dataset, "StudyInstanceUID")),
        series=_text(dataset, "SeriesInstanceUID"),
        instance=_text(dataset, "SOPInstanceUID"),
        frame_of_reference=_text(dataset, "FrameOfReferenceUID"),
        sop_class=sop_class,
        modality=_text(dataset, "Modality"),
        lossy=_text(dataset, "LossyImageCompression") == "01",
        kernel=first.words("CTReconstructionSequence", "ConvolutionKernel")[0],
        thickness_mm=first.number("PixelMeasuresSequence", "SliceThickness"),
        distance_mm=first.number("PixelMeasuresSequence", "SpacingBetweenSlices"),
        pixels=pixels,
        planes=tuple(_plane(_PlaneHeader(groups)) for groups in planes),
    )


def _groups(dataset: Dataset) -> list[list[Dataset]]:
    """Return each plane's datasets: its functional groups, the shared ones, the header itself."""
    frames = dataset.get("PerFrameFunctionalGroupsSequence")
    shared = list(dataset.get("SharedFunctionalGroupsSequence") or [])[:1]
    return [[frame, *shared, dataset] for frame in frames] if frames else [[*shared, dataset]]


@dataclass(frozen=True, slots=True)
class _PlaneHeader:
    """What a header says of one plane, in the first dataset that says it."""

    groups: list[Dataset]

    def value(self, group: str, name: str) -> Any:
        """Return an attribute, within its functional group or in the header itself."""
        for dataset in self.groups:
            items = dataset.get(group)
            found = (items[0] if items else dataset).get(name)
            if found is not None and found != "":
                return found
        return None

    def words(self, group: str, name: str) -> list[str]:
        return _words(self.value(group, name))

    def number(self, group: str, name: str) -> float:
        return _number(self.value(group, name))

    def numbers(self, group: str, name: str, count: int) -> Float[np.ndarray, " count"]:
        """Return several numbers, NaN where there are not so many."""
        value = self.value(group, name)
        single = value is None or isinstance(value, str | float | int)
        values = [] if single else [_number(one) for one in value]
        return np.array(values if len(values) == count else [math.nan] * count)


def _plane(header: _PlaneHeader) -> Plane:
    directions = header.numbers("PlaneOrientationSequence", "ImageOrientationPatient", 6)
    between_rows, between_columns = header.numbers("PixelMeasuresSequence", "PixelSpacing", 2)
    position = header.numbers("PlanePositionSequence", "ImagePositionPatient", 3)
    rescale = "PixelValueTransformationSequence"
    kind = [
        *_words(header.groups[-1].get("ImageType")),
        *header.words("CTImageFrameTypeSequence", "FrameType"),
    ]
    return Plane(
        position=position * _RAS_FROM_LPS,
        along_row=_direction(directions[:3]),
        along_column=_direction(directions[3:]),
        spacing_mm=(float(between_rows), float(between_columns)),
        slope=header.number(rescale, "RescaleSlope"),
        intercept=header.number(rescale, "RescaleIntercept"),
        kind=frozenset(filter(None, kind)),
        rescale_type=header.words(rescale, "RescaleType")[0],
    )


def _direction(lps: Float[np.ndarray, " 3"]) -> Float[np.ndarray, " 3"]:
    """Return a direction in body axes, of length 1 where the decimals were too few for that."""
    length = float(np.linalg.norm(lps))
    return np.asarray(lps * _RAS_FROM_LPS / (length if abs(length - 1) < _ROUNDING else 1.0))


def _pixels(path: Path, dataset: Dataset, stream: BinaryIO) -> Pixels:
    implicit = bool(dataset.original_encoding[0])
    fallback = _IMPLICIT if implicit else _EXPLICIT
    syntax = str(dataset.file_meta.get("TransferSyntaxUID") or fallback)
    offset, length = _pixel_data(stream, implicit=implicit, big_endian=syntax == BIG_ENDIAN)
    bits = int(dataset.get("BitsAllocated") or 0)
    signed = int(dataset.get("PixelRepresentation") or 0) == 1
    return Pixels(
        path=path,
        syntax=syntax,
        offset=offset,
        length=length,
        n_frames=int(dataset.get("NumberOfFrames") or 1),
        rows=int(dataset.get("Rows") or 0),
        columns=int(dataset.get("Columns") or 0),
        samples=int(dataset.get("SamplesPerPixel") or 1),
        photometric=_words(dataset.get("PhotometricInterpretation"))[0] or "MONOCHROME2",
        bits_allocated=bits,
        bits_stored=int(dataset.get("BitsStored") or bits),
        signed=signed,
        padding=_padding(dataset, bits, signed=signed),
    )


def _pixel_data(stream: BinaryIO, *, implicit: bool, big_endian: bool) -> tuple[int | None, int]:
    """Return where Pixel Data starts and its length; the stream is at its tag, or at the end."""
    order = ">" if big_endian else "<"
    size = 8 if implicit else 12
    start = stream.read(size)
    if len(start) < size or struct.unpack(f"{order}HH", start[:4]) != _PIXEL_DATA:
        return None, 0
    return stream.tell(), int(struct.unpack(f"{order}L", start[-4:])[0])


def _padding(dataset: Dataset, bits: int, *, signed: bool) -> tuple[int, int] | None:
    """Return the range of values that stand for no measurement, with the sign of the pixels."""
    value, limit = dataset.get("PixelPaddingValue"), dataset.get("PixelPaddingRangeLimit")
    if value is None or value == "" or not bits:
        return None
    limit = value if limit in (None, "") else limit
    ends = [_signed(one, bits, signed=signed) for one in (value, limit)]
    return min(ends), max(ends)


def _signed(value: Any, bits: int, *, signed: bool) -> int:
    number = int.from_bytes(value[:2], "little") if isinstance(value, bytes) else int(value)
    number %= 1 << bits
    return number - (1 << bits) if signed and number >= 1 << (bits - 1) else number


def _text(dataset: Dataset, name: str) -> str:
    return str(dataset.get(name) or "").strip().strip("\0")


def _words(value: Any) -> list[str]:
    """Return the values of a text attribute without padding; at least one, perhaps empty."""
    if value is None or isinstance(value, str):
        return [(value or "").strip()]
    return [str(word).strip() for word in value] or [""]


def _number(value: Any) -> float:
    try:
        return math.nan if value is None else float(value)
    except (TypeError, ValueError):
        return math.nan
