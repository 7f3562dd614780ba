"""DICOM series whose voxels are known in body space.

Geometry, intensity, compression, and what is refused.
"""

from __future__ import annotations

import os
import struct
from contextlib import suppress
from itertools import product
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRBigEndian, HTJ2KLossless, ImplicitVRLittleEndian

from concordant.data.volumes import VolumeError, open_volume, read_volume
from dicom_fixture import (
    Geometry,
    body,
    enhanced,
    image,
    save,
    set_pixels,
    tilted,
    transcode,
    write_series,
)

DATA = (
    Path(os.environ.get("CONCORDANT_DATA", Path(__file__).parents[3] / ".." / "shared" / "data"))
    / "ct_volumes"
)
real_data = pytest.mark.skipif(
    not DATA.is_dir(),
    reason="no development data: set CONCORDANT_DATA to the folder that holds ct_volumes",
)
TEN = tuple(2.0 * k for k in range(10))


def expected(geometry: Geometry) -> np.ndarray:
    """The volume of an untilted stack, plane by plane, in (superior, anterior, right)."""
    return np.stack([geometry.hounsfield(index) for index in range(len(geometry.heights))])[
        :, ::-1, ::-1
    ]


def reason(path: Path) -> str:
    with pytest.raises(VolumeError) as error:
        read_volume(path)
    for private in (str(path), "Secret", "P1", "1.2.3"):
        assert private not in error.value.reason
    return error.value.reason


def field_on(volume, corner_ras) -> np.ndarray:
    """The known field at every voxel of a volume whose first voxel lies at a body position."""
    index = np.moveaxis(np.indices(volume.voxels.shape), 0, -1)
    return body(np.array(corner_ras) + (index * volume.spacing_mm)[..., ::-1])


def least_corner(geometry: Geometry) -> np.ndarray:
    """The least right, anterior and superior position that any voxel has."""
    far_row = (geometry.rows - 1) * geometry.spacing[0] * np.array(geometry.along_column)
    far_column = (geometry.columns - 1) * geometry.spacing[1] * np.array(geometry.along_row)
    ends = product(
        (geometry.position(0), geometry.position(len(geometry.heights) - 1)),
        (0, far_row),
        (0, far_column),
    )
    return (np.array([sum(end) for end in ends]) * [-1, -1, 1]).min(0)


# geometry


def test_shuffled_slices_are_sorted_by_position(tmp_path):
    geometry = Geometry()
    volume = read_volume(write_series(tmp_path, geometry, shuffle=3).folder)
    np.testing.assert_array_equal(volume.voxels, expected(geometry))
    np.testing.assert_allclose(volume.spacing_mm, (2.0, 0.9, 0.7))
    assert volume.voxels.dtype == np.float32
    assert volume.voxels.flags.c_contiguous


@pytest.mark.parametrize("signs", list(product((1, -1), repeat=3)))
def test_every_direction_of_rows_columns_and_slices_is_brought_to_ras(tmp_path, signs):
    along_row, along_column, up = signs
    geometry = Geometry(
        along_row=(along_row, 0, 0), along_column=(0, along_column, 0), table=(0, 0, up)
    )
    volume = read_volume(write_series(tmp_path, geometry).folder)
    np.testing.assert_allclose(volume.voxels, field_on(volume, least_corner(geometry)), atol=0.51)


def test_a_turned_matrix_is_brought_to_ras(tmp_path):
    geometry = Geometry(along_row=(0, 1, 0), along_column=(-1, 0, 0))
    volume = read_volume(write_series(tmp_path, geometry).folder)
    assert volume.voxels.shape == (10, 9, 8)
    np.testing.assert_allclose(volume.voxels, field_on(volume, least_corner(geometry)), atol=0.51)


@pytest.mark.parametrize("degrees", [-22.0, 0.5, 15.0])
def test_a_tilted_gantry_is_resampled_to_a_straight_grid(tmp_path, degrees):
    geometry = tilted(degrees, rows=24, heights=tuple(5.0 * k for k in range(12)))
    volume = read_volume(write_series(tmp_path, geometry).folder)
    np.testing.assert_allclose(volume.spacing_mm, (5.0, 0.9, 0.7), rtol=1e-6)

    known = field_on(volume, least_corner(geometry))
    inside = volume.voxels != volume.voxels.min()
    assert inside.mean() > 0.6
    np.testing.assert_allclose(
        volume.voxels[inside], known[inside], atol=1.0
    )  # the planes were stored as whole HU


def test_a_sheared_stack_of_axial_planes_is_resampled_too(tmp_path):
    geometry = Geometry(table=(0.0, 0.3, 1.0), rows=24)
    volume = read_volume(write_series(tmp_path, geometry).folder)
    inside = volume.voxels != volume.voxels.min()
    assert inside.mean() > 0.6
    np.testing.assert_allclose(
        volume.voxels[inside], field_on(volume, least_corner(geometry))[inside], atol=1.0
    )


def test_overlapping_slices_keep_their_distance(tmp_path):
    geometry = Geometry(heights=tuple(1.2 * k for k in range(10)))  # 2 mm thick
    volume = read_volume(write_series(tmp_path, geometry).folder)
    assert volume.spacing_mm[0] == pytest.approx(1.2)
    np.testing.assert_array_equal(volume.voxels, expected(geometry))


@pytest.mark.parametrize("missing", [(4,), (2, 3), (1, 4, 8)])
def test_missing_slices_are_interpolated(tmp_path, missing):
    geometry = Geometry()
    volume = read_volume(
        write_series(tmp_path, geometry, keep=[k for k in range(10) if k not in missing]).folder
    )
    known = expected(geometry)
    assert volume.voxels.shape == known.shape
    there = [k for k in range(10) if k not in missing]
    np.testing.assert_array_equal(volume.voxels[there], known[there])
    np.testing.assert_allclose(volume.voxels[list(missing)], known[list(missing)], atol=1.0)


def test_one_missing_thick_slice_is_interpolated_two_are_refused(tmp_path):
    geometry = Geometry(heights=tuple(8.0 * k for k in range(10)))
    volume = read_volume(
        write_series(tmp_path / "one", geometry, keep=[0, 1, 2, 4, 5, 6, 7, 8, 9]).folder
    )
    np.testing.assert_allclose(volume.voxels, expected(geometry), atol=1.0)
    assert reason(
        write_series(tmp_path / "two", geometry, keep=[0, 1, 2, 5, 6, 7, 8, 9]).folder
    ).startswith("missing slices")


def test_a_wide_gap_is_refused(tmp_path):
    geometry = Geometry(heights=(*TEN[:5], 8.0 + 10.5, 8.0 + 12.5))
    assert (
        reason(write_series(tmp_path, geometry).folder)
        == "missing slices: a gap of more than 10 mm"
    )


def test_uneven_slices_are_resampled_to_their_median_distance(tmp_path):
    geometry = Geometry(heights=(0.0, 2.0, 4.0, 6.0, 8.0, 11.3, 13.0, 16.1, 18.0, 20.0))
    volume = read_volume(write_series(tmp_path, geometry).folder)
    assert volume.spacing_mm[0] == pytest.approx(2.0)
    assert volume.voxels.shape[0] == 11
    np.testing.assert_allclose(volume.voxels, field_on(volume, least_corner(geometry)), atol=1.0)


def test_positions_rounded_in_the_header_are_a_regular_stack(tmp_path):
    geometry = Geometry(heights=tuple(0.625 * k for k in range(12)))

    def rounded(index, made):
        made.ImagePositionPatient = [-30, -40, round(500 + 0.625 * index, 1)]

    volume = read_volume(write_series(tmp_path, geometry, edit=rounded).folder)
    np.testing.assert_array_equal(volume.voxels, expected(geometry))
    assert volume.spacing_mm[0] == pytest.approx(0.625, abs=0.01)


def test_copies_of_slices_count_once_but_different_ones_at_a_position_are_refused(tmp_path):
    geometry = Geometry()
    volume = read_volume(
        write_series(tmp_path / "copies", geometry, keep=[*range(10), 3, 3, 7]).folder
    )
    np.testing.assert_array_equal(volume.voxels, expected(geometry))

    folder = write_series(tmp_path / "phases", geometry).folder
    second = image(geometry, 4)
    set_pixels(second, np.full((8, 9), 7, np.int16))
    save(second, folder / "z.dcm")
    assert reason(folder).startswith("different slices at one position")


def test_slices_shifted_sideways_are_refused(tmp_path):
    def shift(index, made):
        if index == 5:
            made.ImagePositionPatient = [-30, -36.5, 510.0]

    assert (
        reason(write_series(tmp_path, edit=shift).folder)
        == "slices are shifted sideways against each other"
    )


def test_a_single_slice_file_is_that_slice(tmp_path):
    geometry = Geometry()
    files = write_series(tmp_path, geometry, shuffle=None).files
    volume = read_volume(files[4])
    np.testing.assert_array_equal(volume.voxels, expected(geometry)[4:5])
    assert volume.spacing_mm == pytest.approx((2.0, 0.9, 0.7))


@pytest.mark.parametrize("order", [None, [3, 1, 0, 2, 9, 8, 7, 4, 5, 6]])
def test_an_enhanced_multi_frame_image_is_a_volume(tmp_path, order):
    geometry = Geometry()
    path = save(enhanced(geometry, order=order), tmp_path / "enhanced.dcm")
    for source in (path, tmp_path):
        volume = read_volume(source)
        np.testing.assert_array_equal(volume.voxels, expected(geometry))
        np.testing.assert_allclose(volume.spacing_mm, (2.0, 0.9, 0.7))


def test_a_tilted_enhanced_image_equals_its_slices(tmp_path):
    geometry = tilted(12.0)
    save(enhanced(geometry), tmp_path / "one" / "enhanced.dcm")
    slices = read_volume(write_series(tmp_path / "many", geometry).folder)
    np.testing.assert_allclose(read_volume(tmp_path / "one").voxels, slices.voxels, atol=1e-2)


# intensity


def test_each_slice_has_its_own_slope_and_intercept(tmp_path):
    geometry = Geometry()

    def rescale(index, made):
        slope, intercept = 0.5 + 0.25 * (index % 3), -1024.0 + index
        made.RescaleSlope, made.RescaleIntercept = slope, intercept
        set_pixels(made, np.rint((geometry.hounsfield(index) - intercept) / slope).astype(np.int16))

    volume = read_volume(write_series(tmp_path, geometry, edit=rescale).folder)
    np.testing.assert_allclose(volume.voxels, expected(geometry), atol=0.51)
    assert open_volume(tmp_path).slope == 1.0


def test_what_all_slices_share_is_left_to_one_conversion(tmp_path):
    stored = open_volume(write_series(tmp_path).folder)
    assert stored.stored.dtype == np.int16
    assert (stored.slope, stored.intercept) == (1.0, -1024.0)
    np.testing.assert_array_equal(
        stored.to_volume().voxels, stored.stored.astype(np.float32) - 1024
    )


@pytest.mark.parametrize(
    ("dtype", "intercept", "padding"),
    [(np.int16, -1024, -2000), (np.uint16, -1024, 63536), (np.uint16, 0, 0), (np.int16, 0, -3024)],
)
@pytest.mark.parametrize("per_slice", [False, True])
def test_padding_becomes_air(tmp_path, dtype, intercept, padding, per_slice):
    def pad(index, made):
        stored = np.arange(100, 172).reshape(8, 9).astype(dtype)
        stored[0, :4] = padding
        made.RescaleIntercept = intercept + (1 if per_slice and index == 0 else 0)
        set_pixels(made, stored)
        made.PixelPaddingValue = padding
        made["PixelPaddingValue"].VR = "SS" if dtype == np.int16 else "US"

    volume = read_volume(write_series(tmp_path, edit=pad).folder)
    np.testing.assert_array_equal(volume.voxels[:, -1, -4:], -1024.0)
    assert volume.voxels[1:, -1, :-4].min() == 104 + intercept


def test_padding_written_without_its_sign_and_a_range_of_padding(tmp_path):
    def pad(index, made):
        stored = np.arange(100, 172).reshape(8, 9).astype(np.int16)
        stored[0, :3] = (-2000, -1995, -1990)
        set_pixels(made, stored)
        made.add_new("PixelPaddingValue", "US", 65536 - 2000)
        made.add_new("PixelPaddingRangeLimit", "US", 65536 - 1990)

    volume = read_volume(write_series(tmp_path, edit=pad).folder)
    np.testing.assert_array_equal(volume.voxels[:, -1, -3:], -1024.0)
    assert volume.voxels[:, -1, :-3].min() == 103 - 1024


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("syntax", [None, "RLELossless", "JPEGLosslessProcess14_1"])
def test_bits_above_the_stored_ones_do_not_count(tmp_path, signed, syntax):
    """Of 16 bits, 12 are the value: the rest holds an overlay, or no sign."""
    geometry = Geometry(origin=(-30.0, -40.0, -1000.0))
    low = 2048 if signed else 0

    def store(index, made):
        stored = np.rint(geometry.hounsfield(index)) + 1024 - low
        overlay = 0x3000 * (np.indices(stored.shape).sum(0) % 3 == 0) if syntax is None else 0
        set_pixels(made, ((stored.astype(np.int64) & 0x0FFF) | overlay).astype(np.uint16))
        made.BitsStored, made.HighBit, made.PixelRepresentation, made.RescaleIntercept = (
            12,
            11,
            int(signed),
            low - 1024,
        )

    written = write_series(tmp_path, geometry, edit=store)
    for file in written.files if syntax else ():
        transcode(file, syntax)
    known = expected(geometry)
    assert known.min() > -1024
    np.testing.assert_array_equal(read_volume(tmp_path).voxels, known)


def test_padding_may_need_more_bits_than_are_stored(tmp_path):
    def pad(index, made):
        stored = np.full((8, 9), 1024 + index, np.int16)
        stored[0, :3] = -32768  # its lowest 12 bits are those of 0
        set_pixels(made, stored)
        made.BitsStored, made.HighBit = 12, 11
        made.add_new("PixelPaddingValue", "SS", -32768)

    volume = read_volume(write_series(tmp_path, edit=pad).folder)
    np.testing.assert_array_equal(volume.voxels[:, -1, -3:], -1024.0)
    np.testing.assert_array_equal(volume.voxels[:, 0, 0], np.arange(10.0))


@pytest.mark.parametrize(
    ("syntax", "dtype"),
    [
        *product(
            ("JPEG2000Lossless", "JPEGLosslessProcess14_1", "JPEGLosslessProcess14", "RLELossless"),
            (np.uint16, np.int16),
        ),
        ("JPEGLSLossless", np.uint16),  # GDCM writes no signed JPEG-LS
    ],
)
def test_compressed_slices_equal_uncompressed_ones(tmp_path, syntax, dtype):
    geometry = Geometry(rows=16, columns=16)

    def store(index, made):
        set_pixels(made, (np.rint(geometry.hounsfield(index)) + 1024).astype(dtype))

    written = write_series(tmp_path, geometry, edit=store)
    plain = read_volume(tmp_path)
    for file in written.files:
        transcode(file, syntax)
    assert pydicom.dcmread(written.files[0]).file_meta.TransferSyntaxUID.is_compressed
    np.testing.assert_array_equal(read_volume(tmp_path).voxels, plain.voxels)
    np.testing.assert_array_equal(plain.voxels, expected(geometry))


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_other_native_transfer_syntaxes_are_read(tmp_path, syntax):
    geometry = Geometry()

    def store(index, made):
        made.file_meta.TransferSyntaxUID = syntax
        if syntax == ExplicitVRBigEndian:
            made.PixelData = (geometry.hounsfield(index) + 1024).astype(">i2").tobytes()

    def write(index, made):
        store(index, made)
        path = tmp_path / f"{index}.dcm"
        pydicom.dcmwrite(
            path,
            made,
            implicit_vr=syntax == ImplicitVRLittleEndian,
            little_endian=syntax != ExplicitVRBigEndian,
            enforce_file_format=True,
        )

    for index in range(10):
        write(index, image(geometry, index))
    np.testing.assert_array_equal(read_volume(tmp_path).voxels, expected(geometry))


def test_files_without_a_preamble_are_dicom_too(tmp_path):
    geometry = Geometry()
    for index in range(10):
        made = image(geometry, index)
        made.preamble = None
        del made.file_meta
        pydicom.dcmwrite(tmp_path / f"{index}", made, implicit_vr=True, little_endian=True)
    np.testing.assert_array_equal(read_volume(tmp_path).voxels, expected(geometry))


# what is refused


def edited(**values):
    def edit(index, made):
        for name, value in values.items():
            if name in made:
                delattr(made, name)
            if value is not None:
                with pydicom.config.disable_value_validation():
                    setattr(made, name, value)

    return edit


def at(index, edit):
    return lambda k, made: edit(k, made) if k == index else None


@pytest.mark.parametrize(
    ("edit", "expected_reason"),
    [
        (edited(Modality="MR"), "wrong modality (MR)"),
        (edited(Modality="Secret^Name"), "wrong modality, expected CT"),
        (edited(SOPClassUID="1.2.840.10008.5.1.4.1.1.7"), "a secondary capture"),
        (edited(SOPClassUID="1.2.840.10008.5.1.4.1.1.66.4"), "not a CT image"),
        (edited(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "a localizer"),
        (edited(ImageType=["DERIVED", "PRIMARY", "AXIAL"]), "a derived image"),
        (edited(ImageType=["ORIGINAL", "SECONDARY", "AXIAL"]), "a derived image"),
        (edited(ImageType=["ORIGINAL", "PRIMARY", "MPR"]), "a derived image"),
        (edited(ImageType=["DERIVED", "PRIMARY", "PERFUSION", "RCBF"]), "not HU: perfusion map"),
        (edited(RescaleType="MGML"), "not HU: another unit"),
        (edited(RescaleSlope=None, RescaleIntercept=None), "not HU: no rescale"),
        (edited(RescaleSlope=0), "absurd header: rescale"),
        (edited(ImagePositionPatient=None), "no position or orientation"),
        (edited(ImageOrientationPatient=None), "no position or orientation"),
        (edited(ImageOrientationPatient=[1, 0, 0, 1, 0, 0]), "absurd header: orientation"),
        (edited(ImageOrientationPatient=[1, 0, 0, 0, 0, -1]), "not axial"),
        (edited(PixelSpacing=None), "absurd header: spacing"),
        (edited(PixelSpacing=[0.9, 0]), "absurd header: spacing"),
        (edited(Rows=65000, Columns=65000), "absurd header: rows and columns"),
        (edited(Rows=4000, Columns=4000), "truncated file"),
        (edited(BitsAllocated=12), "absurd header: bits"),
        (edited(NumberOfFrames=7), "absurd header: number of frames"),
        (edited(SamplesPerPixel=3, PhotometricInterpretation="RGB"), "a colour image"),
        (edited(PixelData=None), "truncated file (no pixels)"),
        (at(3, edited(Modality="PT")), "mixed series: wrong modality"),
        (at(3, edited(Rows=7)), "mixed series: two image sizes"),
        (at(3, edited(PixelSpacing=[0.9, 0.8])), "mixed series: two pixel spacings"),
        (at(3, edited(FrameOfReferenceUID="1.2.10")), "mixed series: two frames of reference"),
        (
            at(3, edited(ImageOrientationPatient=[1, 0, 0, 0, 0.995, 0.0998749])),
            "mixed series: two orientations",
        ),
        (at(3, edited(ImagePositionPatient=None)), "no position or orientation"),
        (lambda index, made: set_pixels(made, np.full((8, 9), 24, np.int16)), "constant volume"),
    ],
)
def test_what_is_no_axial_ct_series_is_refused_with_its_reason(tmp_path, edit, expected_reason):
    assert reason(write_series(tmp_path, edit=edit).folder).startswith(expected_reason)


def test_a_localizer_or_screenshot_among_the_slices_is_left_out(tmp_path):
    geometry = Geometry()
    folder = write_series(tmp_path, geometry).folder
    scout = image(Geometry(along_column=(0, 0, -1)), 0)
    scout.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    save(scout, folder / "scout.dcm")
    screenshot = image(geometry, 1)
    screenshot.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    save(screenshot, folder / "screenshot.dcm")
    np.testing.assert_array_equal(read_volume(folder).voxels, expected(geometry))


def test_a_truncated_slice_is_found(tmp_path):
    files = write_series(tmp_path, shuffle=None).files
    whole = files[4].read_bytes()
    for length in (*range(0, len(whole), 37), len(whole) - 1):
        files[4].write_bytes(whole[:length])
        assert reason(tmp_path).startswith(("truncated file", "damaged DICOM header")), length


@pytest.mark.parametrize("syntax", ["JPEG2000Lossless", "JPEGLosslessProcess14_1", "RLELossless"])
def test_a_truncated_compressed_slice_is_found(tmp_path, syntax):
    files = write_series(tmp_path, Geometry(rows=64, columns=64), shuffle=None).files
    for file in files:
        transcode(file, syntax)
    whole = files[4].read_bytes()
    for length in (len(whole) - 1, len(whole) - 40):
        files[4].write_bytes(whole[:length])
        assert reason(tmp_path) == "truncated file"


def test_a_compressed_image_of_another_size_is_refused_before_it_is_decoded(tmp_path):
    path = save(image(Geometry(rows=64, columns=64), 0), tmp_path / "one.dcm")
    for syntax, marker, place in (
        ("JPEG2000Lossless", b"\xff\x4f\xff\x51", 8),
        ("JPEGLosslessProcess14_1", b"\xff\xc3", 5),
    ):
        save(image(Geometry(rows=64, columns=64), 0), path)
        data = bytearray(transcode(path, syntax).read_bytes())
        start = data.index(marker) + place
        size = (
            struct.pack(">L", 40000) if syntax.startswith("JPEG2000") else struct.pack(">H", 40000)
        )
        data[start : start + len(size)] = size
        path.write_bytes(data)
        assert reason(path) == "absurd header: the compressed image has another size"


@pytest.mark.parametrize(
    ("syntax", "marker", "place"),
    [
        ("JPEGLosslessProcess14_1", b"\xff\xc3", 4),
        ("JPEGLosslessProcess14_1", b"\xff\xc3", 9),
        ("JPEG2000Lossless", b"\xff\x4f\xff\x51", 42),
    ],
)
def test_a_compressed_image_of_more_bits_or_channels_is_refused_before_it_is_decoded(
    tmp_path, syntax, marker, place
):
    path = transcode(save(image(Geometry(rows=64, columns=64), 0), tmp_path / "one.dcm"), syntax)
    data = bytearray(path.read_bytes())
    data[data.index(marker) + place] = 101
    path.write_bytes(data)
    assert reason(path) == "damaged pixels"


def test_a_series_that_claims_gigabytes_in_small_files_is_refused(tmp_path):
    geometry = Geometry(rows=64, columns=64, heights=tuple(float(k) for k in range(60)))
    files = write_series(tmp_path, geometry).files
    for file in files:
        transcode(file, "RLELossless")
        made = pydicom.dcmread(file)
        made.Rows = made.Columns = 4096
        made.save_as(file)
    assert reason(tmp_path).startswith("absurd header: more than 1 GiB")


def test_a_transfer_syntax_without_a_decoder_is_this_scans_fault(tmp_path):
    def high_throughput(index, made):
        header = struct.pack(
            ">4s2H8LH3B", b"\xff\x4f\xff\x51", 41, 0, 9, 8, 0, 0, 9, 8, 0, 0, 1, 15, 1, 1
        )
        made.file_meta.TransferSyntaxUID = HTJ2KLossless
        made.PixelData = encapsulate([header + bytes(21)])
        made["PixelData"].is_undefined_length = True

    assert reason(write_series(tmp_path, edit=high_throughput).folder) == "unknown transfer syntax"


def test_deflated_files_are_refused_without_inflating_them(tmp_path):
    made = image(Geometry(), 0)
    made.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    path = tmp_path / "deflated.dcm"
    made.save_as(path, enforce_file_format=True)
    assert reason(path).startswith("deflated DICOM")


def test_damaged_headers_are_refused(tmp_path):
    path = save(image(Geometry(), 0), tmp_path / "one.dcm")
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    for _ in range(40):
        data = bytearray(whole)
        for place in random.integers(132, len(data), 12):
            data[place] = random.integers(256)
        path.write_bytes(data)
        with suppress(VolumeError):
            read_volume(path)
    path.write_bytes(whole[:132] + bytes(200))
    assert reason(path)


def test_malformed_identifiers_do_no_harm(tmp_path):
    def malformed(index, made):
        made.add_new("FrameOfReferenceUID", "UI", "not a uid, and far too long " * 4)

    with pydicom.config.disable_value_validation():
        folder = write_series(
            tmp_path,
            edit=malformed,
            series="dbf60361338b6cb0d8add6f6ea34276642da945f02b34613f09188618e7d4d7b",
        ).folder
    np.testing.assert_array_equal(read_volume(folder).voxels, expected(Geometry()))


# real files


@real_data
def test_pairs_that_show_one_image_are_equal():
    for plain, compressed in (("693_UNCR", "693_J2KR"), ("693_UNCI", "693_J2KI")):
        volumes = [read_volume(DATA / "pydicom" / f"{name}.dcm") for name in (plain, compressed)]
        np.testing.assert_array_equal(volumes[0].voxels, volumes[1].voxels)


@real_data
@pytest.mark.parametrize(
    "name", ["CT_small", "J2K_pixelrep_mismatch", "bad_sequence", "explicit_VR-UN", "693_J2KR"]
)
def test_real_slices_equal_pydicom(name):
    path = DATA / "pydicom" / f"{name}.dcm"
    with pydicom.config.disable_value_validation():
        made = pydicom.dcmread(path)
        stored = made.pixel_array.astype(np.float32)
        column = np.array([float(x) for x in made.ImageOrientationPatient[3:]])
    known = stored * float(made.RescaleSlope) + float(made.RescaleIntercept)
    if "PixelPaddingValue" in made:
        known[stored == made.PixelPaddingValue] = -1024
    known = known[:, ::-1] if column[1] < 0 else known[::-1, ::-1]
    np.testing.assert_array_equal(read_volume(path).voxels[0], known)


@real_data
def test_the_perfusion_map_is_refused_as_not_hu():
    assert reason(DATA / "pydicom" / "eCT_Supplemental.dcm") == "not HU: perfusion map"


@real_data
def test_a_real_series_equals_simpleitk_in_body_space():
    import SimpleITK as sitk  # noqa: N813  # the name its manual uses

    folder = DATA / "totalseg" / "dicom_j2k_series"
    volume = read_volume(folder)
    reader = sitk.ImageSeriesReader()
    files = sorted(
        folder.iterdir(),
        key=lambda file: float(
            pydicom.dcmread(file, specific_tags=["ImagePositionPatient"]).ImagePositionPatient[2]
        ),
    )
    reader.SetFileNames([str(file) for file in files])
    known = sitk.DICOMOrient(reader.Execute(), "RAS")
    np.testing.assert_allclose(volume.spacing_mm, known.GetSpacing()[::-1], atol=1e-3)
    np.testing.assert_array_equal(volume.voxels, sitk.GetArrayFromImage(known))


@real_data
def test_a_folder_of_several_studies_is_refused():
    assert reason(DATA / "pydicom").startswith("series of several studies")
