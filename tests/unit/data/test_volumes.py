from __future__ import annotations

import gzip
import os
from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from concordant.data.volumes import VolumeError, open_volume, read_volume
from concordant.data.volumes.grid import trilinear

DATA = (
    Path(os.environ.get("CONCORDANT_DATA", Path(__file__).parents[3] / ".." / "shared" / "data"))
    / "ct_volumes"
    / "totalseg"
)
SHAPE, SPACING = (4, 5, 6), (0.7, 0.8, 2.5)


def write(path, voxels, affine, edit=None):
    image = nib.Nifti1Image(voxels, affine)
    if edit is not None:
        edit(image.header)
    data = image.to_bytes()
    path.write_bytes(gzip.compress(data, 1) if path.suffix == ".gz" else data)
    return path


def block(shape=SHAPE, dtype=np.int16):
    return (np.arange(np.prod(shape)).reshape(shape) - 50).astype(dtype)


def signed_axes(order, signs, spacing=SPACING):
    """An affine whose voxel axis i runs along body axis order[i] in direction signs[i]."""
    affine = np.eye(4)
    affine[:3, :3] = 0.0
    for axis in range(3):
        affine[order[axis], axis] = signs[axis] * spacing[axis]
    affine[:3, 3] = (-30.0, 12.0, 700.0)
    return affine


def reason(path):
    with pytest.raises(VolumeError) as error:
        read_volume(path)
    assert str(path) in str(error.value)
    assert str(path) not in error.value.reason
    return error.value.reason


def world_samples(voxels_ras, origin, spacing):
    """Value at each body position, the slow way: the position of a voxel is its key."""
    return {
        tuple(np.round(np.array(origin) + np.array(index) * spacing, 4)): voxels_ras[index]
        for index in np.ndindex(voxels_ras.shape)
    }  # fmt: skip


@pytest.mark.parametrize(
    ("order", "signs"), list(product(permutations(range(3)), product((1, -1), repeat=3)))
)
def test_every_orientation_is_brought_to_superior_anterior_right(tmp_path, order, signs):
    voxels, affine = block(), signed_axes(order, signs)
    volume = read_volume(write(tmp_path / "scan.nii.gz", voxels, affine))

    assert volume.voxels.dtype == np.float32
    assert volume.voxels.flags.c_contiguous
    spacing_xyz = volume.spacing_mm[::-1]
    corners = np.array(
        [affine @ [*corner, 1] for corner in product(*[(0, size - 1) for size in voxels.shape])]
    )[:, :3]
    expected = {
        tuple(np.round((affine @ [*index, 1])[:3], 4)): voxels[index]
        for index in np.ndindex(voxels.shape)
    }
    assert world_samples(
        volume.voxels.transpose(2, 1, 0), corners.min(0), spacing_xyz
    ) == pytest.approx(expected)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "example_ct_sm.nii.gz",
            "example_ct.nii.gz",
            "chest_pulmonary_ct_cropped.nii.gz",
            "aorta_ct_cropped.nii.gz",
        ),
        *("example_seg.nii.gz", "chest_heart_mask.nii.gz", "chest_pulmonary_artery_mask.nii.gz"),
    ],
)
def test_real_scans_equal_nibabel(name):
    if not DATA.is_dir():
        pytest.skip("no development data: set CONCORDANT_DATA to the folder that holds ct_volumes")
    volume = read_volume(DATA / name)
    canonical = nib.as_closest_canonical(nib.load(DATA / name))
    np.testing.assert_array_equal(
        volume.voxels, np.asarray(canonical.dataobj, dtype=np.float32).transpose(2, 1, 0)
    )
    np.testing.assert_allclose(volume.spacing_mm, canonical.header.get_zooms()[::-1], rtol=1e-6)


@pytest.mark.parametrize(
    "dtype", [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.uint32, np.float32, np.float64]
)
@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
def test_every_voxel_type_is_read(tmp_path, dtype, suffix):
    voxels = np.arange(120).reshape(SHAPE).astype(dtype)
    volume = read_volume(
        write(tmp_path / f"scan.{suffix}", voxels, signed_axes((0, 1, 2), (1, 1, 1)))
    )
    np.testing.assert_array_equal(volume.voxels, voxels.transpose(2, 1, 0).astype(np.float32))


def test_big_endian_and_version_2_are_read(tmp_path):
    voxels, affine = block(), signed_axes((0, 1, 2), (1, 1, 1))
    big = nib.Nifti1Image(voxels, affine, nib.Nifti1Header(endianness=">"))
    (tmp_path / "big.nii").write_bytes(big.to_bytes())
    (tmp_path / "two.nii").write_bytes(nib.Nifti2Image(voxels, affine).to_bytes())
    for name in ("big.nii", "two.nii"):
        np.testing.assert_array_equal(
            read_volume(tmp_path / name).voxels, voxels.transpose(2, 1, 0)
        )


def test_slope_and_intercept_are_applied(tmp_path):
    path = write(tmp_path / "scan.nii", block(), signed_axes((0, 1, 2), (1, 1, 1)))
    raw = bytearray(path.read_bytes())
    raw[112:120] = np.array([2.0, -1024.0], "<f4").tobytes()  # scl_slope, scl_inter
    path.write_bytes(raw)
    np.testing.assert_array_equal(
        read_volume(path).voxels, block().transpose(2, 1, 0) * 2.0 - 1024.0
    )


def test_the_sform_comes_before_the_qform(tmp_path):
    def disagree(header):
        header.set_sform(signed_axes((0, 1, 2), (1, 1, 1)), code=1)
        header.set_qform(signed_axes((0, 1, 2), (-1, -1, 1)), code=1)

    path = write(tmp_path / "scan.nii", block(), signed_axes((0, 1, 2), (1, 1, 1)), disagree)
    assert int(nib.load(path).header["qform_code"]) == 1
    np.testing.assert_array_equal(read_volume(path).voxels, block().transpose(2, 1, 0))


def test_the_qform_serves_where_the_sform_has_no_code(tmp_path):
    def only_qform(header):
        header.set_sform(None, code=0)
        header.set_qform(signed_axes((0, 1, 2), (-1, -1, 1)), code=1)

    path = write(tmp_path / "scan.nii", block(), signed_axes((0, 1, 2), (-1, -1, 1)), only_qform)
    assert int(nib.load(path).header["sform_code"]) == 0
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.voxels, block()[::-1, ::-1].transpose(2, 1, 0))
    np.testing.assert_allclose(volume.spacing_mm, SPACING[::-1], rtol=1e-6)


@pytest.mark.parametrize(
    ("unit", "factor"), [("meter", 1000.0), ("micron", 0.001), ("mm", 1.0), ("unknown", 1.0)]
)
def test_units_become_millimetres(tmp_path, unit, factor):
    affine = np.diag([*(np.array(SPACING) / factor), 1.0])
    path = write(tmp_path / "scan.nii", block(), affine, lambda header: header.set_xyzt_units(unit))
    np.testing.assert_allclose(read_volume(path).spacing_mm, SPACING[::-1], rtol=1e-6)


def rotated(degrees):
    angle = np.radians(degrees)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return turn @ np.diag([*SPACING, 1.0])


def test_a_tenth_of_a_degree_is_reordered_exactly(tmp_path):
    path = write(tmp_path / "scan.nii", block(), rotated(0.09))
    np.testing.assert_array_equal(read_volume(path).voxels, block().transpose(2, 1, 0))


def linear_field(affine, shape):
    """HU that are linear in body position, which linear interpolation reproduces."""
    index = np.moveaxis(np.indices(shape), 0, -1)
    position = index @ affine[:3, :3].T + affine[:3, 3]
    return (position @ [3.0, -2.0, 1.0]).astype(np.float32)


@pytest.mark.parametrize("kind", ["oblique", "sheared"])
def test_an_oblique_or_sheared_grid_is_resampled_in_body_space(tmp_path, kind):
    affine = rotated(20.0)
    if kind == "sheared":
        affine = np.diag([*SPACING, 1.0])
        affine[1, 2] = 0.5
    affine[:3, 3] = (5.0, -4.0, 3.0)
    shape = (14, 15, 16)
    field = linear_field(affine, shape)
    volume = read_volume(write(tmp_path / "scan.nii", field, affine))

    corners = np.array(
        [affine @ [*corner, 1] for corner in product(*[(0, size - 1) for size in shape])]
    )[:, :3]
    grid = np.diag([*volume.spacing_mm[::-1], 1.0])
    grid[:3, 3] = corners.min(0)
    expected = linear_field(grid, volume.voxels.shape[::-1]).transpose(2, 1, 0)
    inside = volume.voxels != field.min()
    assert inside.mean() > 0.4
    np.testing.assert_allclose(volume.voxels[inside], expected[inside], atol=2e-3)
    extent = (np.array(volume.voxels.shape) - 1) * volume.spacing_mm
    assert (extent <= (corners.max(0) - corners.min(0))[::-1] + 1e-3).all()
    assert (extent + volume.spacing_mm >= (corners.max(0) - corners.min(0))[::-1]).all()


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float32])
def test_linear_resampling_equals_scipy(dtype):
    random = np.random.default_rng(0)
    values = (
        random.integers(0, 200, (9, 10, 11)).astype(dtype)[::-1].transpose(1, 0, 2)
    )  # a view in an odd memory order
    matrix, offset = np.eye(3) + random.normal(0, 0.1, (3, 3)), random.normal(0, 1, 3)
    out = np.empty((12, 13, 14), np.float32)
    trilinear(values, matrix, offset, np.float32(-5), out)
    known = ndimage.affine_transform(
        values, matrix, offset, out.shape[::-1], np.float64, order=1, cval=-5
    )
    np.testing.assert_allclose(out.transpose(2, 1, 0), known, atol=1e-4)
    assert 0.1 < (known == -5).mean() < 0.9


def test_a_trailing_axis_of_one_is_dropped(tmp_path):
    path = write(tmp_path / "scan.nii", block()[..., None], signed_axes((0, 1, 2), (1, 1, 1)))
    np.testing.assert_array_equal(read_volume(path).voxels, block().transpose(2, 1, 0))


def damage_checksum(data):
    return data[:-8] + bytes([data[-8] ^ 1]) + data[-7:]


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (damage_checksum, "damaged compression"),
        (lambda data: data[: len(data) // 2], "truncated"),
        (lambda data: data[:-4], "truncated"),
        (lambda data: data[:40] + bytes(20) + data[60:], "damaged"),
        (lambda data: b"", "empty file"),
        (lambda data: b"no image at all, just text", "not a NIfTI file"),
        (lambda data: gzip.compress(gzip.decompress(data)[:-1]), "truncated"),
        (lambda data: gzip.compress(gzip.decompress(data)[:200]), "truncated"),
        (lambda data: gzip.decompress(data)[:-1], "truncated"),
        (lambda data: gzip.decompress(data)[:300], "truncated"),
    ],
)
def test_damaged_files_are_refused(tmp_path, damage, expected):
    voxels = np.random.default_rng(0).integers(-1000, 1000, (12, 12, 12)).astype(np.int16)
    path = write(tmp_path / "scan.nii.gz", voxels, signed_axes((0, 1, 2), (1, 1, 1)))
    path.write_bytes(damage(path.read_bytes()))
    assert expected in reason(path)


@pytest.mark.parametrize(
    "tail",
    [
        bytes(1),
        bytes(511),
        bytes(1 << 20),
        gzip.compress(b""),
        gzip.compress(b"more"),
        bytes(9) + gzip.compress(b"more") + bytes(9),
    ],
)
def test_padding_and_a_further_stream_may_follow_the_compressed_data(tmp_path, tail):
    path = write(tmp_path / "scan.nii.gz", block(), signed_axes((0, 1, 2), (1, 1, 1)))
    expected = read_volume(path).voxels
    path.write_bytes(path.read_bytes() + tail)
    np.testing.assert_array_equal(read_volume(path).voxels, expected)


def test_voxels_may_lie_in_several_streams(tmp_path):
    path = write(tmp_path / "scan.nii.gz", block(), signed_axes((0, 1, 2), (1, 1, 1)))
    expected, data = read_volume(path).voxels, gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(data[:400]) + bytes(3) + gzip.compress(data[400:]))
    np.testing.assert_array_equal(read_volume(path).voxels, expected)


@pytest.mark.parametrize(
    "tail",
    [
        b"?",
        b"\x1f",
        b"text",
        b"a longer line of text\n" * 100,
        bytes(512) + b"text",
        gzip.compress(b"more") + b"text",
    ],
)
def test_other_bytes_after_the_compressed_data_are_named(tmp_path, tail):
    path = write(tmp_path / "scan.nii.gz", block(), signed_axes((0, 1, 2), (1, 1, 1)))
    path.write_bytes(path.read_bytes() + tail)
    assert reason(path) == "other bytes follow the compressed data"


def test_a_further_stream_that_is_cut_short_is_truncated(tmp_path):
    path = write(tmp_path / "scan.nii.gz", block(), signed_axes((0, 1, 2), (1, 1, 1)))
    path.write_bytes(path.read_bytes() + gzip.compress(b"more")[:-3])
    assert reason(path) == "truncated file"


@given(place=st.integers(0, 10_000), flip=st.integers(1, 255))
@settings(deadline=None, max_examples=60)
def test_one_damaged_byte_never_changes_a_voxel_unnoticed(tmp_path_factory, place, flip):
    path = tmp_path_factory.getbasetemp() / "byte.nii.gz"
    voxels = np.random.default_rng(1).integers(-1000, 1000, (8, 8, 8)).astype(np.int16)
    data = bytearray(gzip.compress(nib.Nifti1Image(voxels, np.eye(4)).to_bytes(), 1, mtime=0))
    place = 10 + place % (
        len(data) - 10
    )  # after gzip's own header, whose time stamp and flags may differ freely
    data[place] ^= flip
    path.write_bytes(data)
    try:
        volume = read_volume(path)
    except VolumeError:
        return
    np.testing.assert_array_equal(
        volume.voxels, voxels.transpose(2, 1, 0)
    )  # only padding bits were hit


def set_field(**values):
    def edit(header):
        for name, value in values.items():
            header[name] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (set_field(pixdim=[1, 0, 1, 1, 0, 0, 0, 0]), "spacing"),
        (set_field(pixdim=[1, 1, -2, 1, 0, 0, 0, 0]), "spacing"),
        (set_field(pixdim=[1, 1, 1, 51, 0, 0, 0, 0]), "spacing"),
        (set_field(srow_x=[0, 0, 0, 0]), "spacing"),
        (set_field(srow_x=[60, 0, 0, 0]), "spacing"),
        (set_field(srow_x=[np.nan, 0, 0, 0]), "not finite"),
        (set_field(srow_x=[0.7, 0.8, 0, 0], srow_y=[0.7, 0.8, 0, 0]), "singular"),
        (set_field(sform_code=0, qform_code=0), "no orientation"),
        (set_field(sform_code=0, qform_code=1, quatern_b=3.0), "qform is no rotation"),
        (set_field(dim=[3, 2000, 2000, 2000, 1, 1, 1, 1]), "2^31 voxels"),
        (set_field(dim=[3, 1200, 1200, 1200, 1, 1, 1, 1]), "truncated"),
        (set_field(dim=[3, 4, 0, 6, 1, 1, 1, 1]), "empty volume"),
        (set_field(dim=[2, 4, 30, 1, 1, 1, 1, 1]), "2-D image"),
        (set_field(dim=[4, 4, 5, 3, 2, 1, 1, 1]), "4-D image"),
        (set_field(vox_offset=0), "voxel offset"),
        (set_field(vox_offset=np.nan), "voxel offset"),
        (set_field(magic=b"ni1"), "pair"),
        (set_field(magic=b""), "pair"),
        (set_field(datatype=12345), "damaged header"),
        (set_field(datatype=128, bitpix=24), "not plain numbers"),
        (set_field(xyzt_units=5), "unit of length"),
    ],
)
def test_absurd_headers_are_refused(tmp_path, edit, expected):
    path = tmp_path / "scan.nii.gz"
    data = nib.Nifti1Image(block(), signed_axes((0, 1, 2), (1, 1, 1))).to_bytes()
    header = nib.Nifti1Header(data[:348])
    header["vox_offset"] = 352
    edit(header)
    path.write_bytes(gzip.compress(header.binaryblock + data[348:]))
    assert expected in reason(path)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.nan, "NaN or infinite"),
        (np.inf, "NaN or infinite"),
        (1e300, "NaN or infinite"),
        (None, "constant"),
    ],
)
def test_impossible_voxels_are_refused(tmp_path, value, expected):
    voxels = np.zeros(SHAPE, np.float64)
    if value is not None:
        voxels[1, 2, 3] = value
    assert expected in reason(
        write(tmp_path / "scan.nii.gz", voxels, signed_axes((0, 1, 2), (1, 1, 1)))
    )


def test_what_is_no_scan_says_so(tmp_path):
    assert reason(tmp_path) == "an empty folder (links to folders are not entered)"
    assert reason(tmp_path / ("x" * 300)) == "unreadable file"
    assert reason(tmp_path / "absent.nii.gz") == "not a file"
    write(tmp_path / "scan.nii.gz", block(), signed_axes((0, 1, 2), (1, 1, 1)))
    assert reason(tmp_path) == "no DICOM images in this folder; name a NIfTI file itself"


@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
def test_what_is_stored_stays_stored_until_it_is_converted(tmp_path, suffix):
    path = write(tmp_path / f"scan.{suffix}", block(), signed_axes((1, 0, 2), (1, -1, -1)))
    stored = open_volume(path)
    assert stored.stored.dtype == np.int16
    assert not stored.stored.flags.writeable
    volume = read_volume(path)
    np.testing.assert_array_equal(stored.stored * stored.slope + stored.intercept, volume.voxels)
    np.testing.assert_array_equal(stored.to_volume().voxels, volume.voxels)
    assert stored.spacing_mm == volume.spacing_mm


def test_a_file_beside_it_is_not_read_instead(tmp_path):
    affine = signed_axes((0, 1, 2), (1, 1, 1))
    path = write(tmp_path / "scan.nii.gz", block(), affine)
    write(tmp_path / "scan.nii", block() + 7, affine)
    np.testing.assert_array_equal(read_volume(path).voxels, block().transpose(2, 1, 0))


def test_a_negative_slope_fills_the_outside_with_the_least_value(tmp_path):
    path = write(tmp_path / "scan.nii", block(), rotated(20.0))
    raw = bytearray(path.read_bytes())
    raw[112:120] = np.array([-2.0, 100.0], "<f4").tobytes()  # scl_slope, scl_inter
    path.write_bytes(raw)
    volume = read_volume(path)
    assert volume.voxels[0, 0, 0] == volume.voxels.min() == (block() * -2.0 + 100.0).min()


def test_what_inflates_on_and_on_is_refused(tmp_path):
    path = write(tmp_path / "scan.nii.gz", block(), signed_axes((0, 1, 2), (1, 1, 1)))
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + bytes(1 << 22)))
    assert reason(path) == "absurd file: more data than its header promises"


def test_gigabytes_from_a_small_file_are_refused_before_memory_is_asked_for(tmp_path):
    header = nib.Nifti1Image(block(), np.eye(4)).to_bytes()[:348]
    parsed = nib.Nifti1Header(header)
    parsed["dim"], parsed["vox_offset"] = [3, 1024, 1024, 1024, 1, 1, 1, 1], 352
    path = tmp_path / "bomb.nii.gz"
    rest = np.random.default_rng(0).bytes(
        3 << 20
    )  # as large as two gigabytes of zeros when compressed
    path.write_bytes(gzip.compress(parsed.binaryblock + bytes(4) + rest, 1))
    assert reason(path).startswith("absurd header: more than 1 GiB")
