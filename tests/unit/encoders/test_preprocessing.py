"""Preprocessing against an obvious reference, on scans whose values say where they lie, and in
every layout of memory.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from concordant.core.volume import StoredVolume, Volume
from concordant.encoders.preprocessing import Preprocessing, preprocess, samples_along

ORIENTATIONS = [
    "".join(letters)
    for axes in itertools.permutations(("RL", "AP", "SI"))
    for letters in itertools.product(*axes)
]
WIDE = {"window_hu": (-4096.0, 4096.0), "target": (-4096.0, 4096.0)}


def scan(shape=(9, 11, 13), spacing=(2.5, 0.8, 1.1), seed=0):
    return StoredVolume(
        np.random.default_rng(seed).integers(-1024, 2000, shape).astype(np.int16), 1.0, 0.0, spacing
    )


def reference(volume, steps):
    """Do the steps one after another on the whole scan, each as its definition says."""
    voxels, spacing = volume.stored * np.float64(volume.slope) + volume.intercept, volume.spacing_mm
    axis_of = {letter: axis for axis, pair in enumerate(("SI", "AP", "RL")) for letter in pair}
    order = [axis_of[letter] for letter in steps.orientation]
    voxels, spacing = voxels.transpose(order), [spacing[axis] for axis in order]
    for axis, letter in enumerate(steps.orientation):
        if letter in "IPL":
            voxels = np.flip(voxels, axis)
    for axis in range(3):
        wanted = spacing[axis] if steps.spacing_mm is None else steps.spacing_mm[axis]
        voxels = resampled(voxels, axis, spacing[axis], wanted, steps.convention)
    low, high = steps.window_hu
    share = np.clip((voxels - low) / (high - low), 0, 1)
    values = steps.target[0] + share * (steps.target[1] - steps.target[0])
    if steps.size is not None:
        pad = values.min() if steps.pad == "minimum" else steps.pad
        for axis in range(3):
            values = cropped_or_padded(values, axis, steps.size[axis], pad, steps.convention)
    return values


def resampled(values, axis, step, wanted, convention):
    n = values.shape[axis]
    if convention == "monai":
        if abs(step - wanted) <= 1e-3:
            return values
        place = np.arange(int(np.round((n - 1) * step / wanted + 1))) * wanted / step
    else:
        count = 1 if n == 1 else max(1, int(n * step / wanted))  # a single slice stays one
        place = (n - 1) / 2 + (np.arange(count) - (count - 1) / 2) * wanted / step
    return np.apply_along_axis(lambda line: np.interp(place, np.arange(n), line), axis, values)


def cropped_or_padded(values, axis, size, pad, convention):
    values = np.moveaxis(values, axis, 0)
    n = len(values)
    if size < n:
        start = n // 2 - size // 2 if convention == "monai" else int(np.ceil((n - size) / 2))
        values = values[start : start + size]
    elif pad is not None:
        before = (size - n) // 2 if convention == "monai" else int(np.ceil((size - n) / 2))
        values = np.pad(values, [(before, size - n - before), (0, 0), (0, 0)], constant_values=pad)
    return np.moveaxis(values, 0, axis)


@given(
    shape=st.tuples(*[st.integers(1, 12)] * 3),
    spacing=st.tuples(*[st.floats(0.5, 4)] * 3),
    wanted=st.none() | st.tuples(*[st.floats(0.5, 4)] * 3),
    size=st.none() | st.tuples(*[st.integers(1, 14)] * 3),
    orientation=st.sampled_from(ORIENTATIONS),
    convention=st.sampled_from(["monai", "torchio"]),
    pad=st.sampled_from(["minimum", 0.25, None]),
    window=st.sampled_from([(-1000.0, 1000.0), (-1024.0, 2048.0), (900.0, 901.0)]),
    seed=st.integers(0, 9),
)
@settings(max_examples=100, deadline=None)
def test_one_pass_equals_the_steps_one_after_another(
    shape, spacing, wanted, size, orientation, convention, pad, window, seed
):
    volume = scan(shape, spacing, seed)
    steps = Preprocessing(orientation, window, (-1.0, 1.0), wanted, size, pad, convention)
    tensor = preprocess(volume, steps)
    expected = reference(volume, steps)
    assert tensor.shape == expected.shape
    assert tensor.dtype == np.float32
    assert tensor.flags.c_contiguous
    scale = 2 / (window[1] - window[0]) * 2000  # float32 has seven digits of a value of 2000 HU
    np.testing.assert_allclose(tensor, expected, atol=1e-6 * max(scale, 1))


@pytest.mark.parametrize("orientation", ["RAS", "SPL", "SRA", "ILP"])
def test_values_that_say_where_they_lie_come_out_where_they_should(orientation):
    spacing = (2.5, 0.8, 1.1)
    depth, height, width = np.indices((30, 60, 50), dtype=np.float32)
    letters = "SAR"
    for axis, coordinate in enumerate((depth, height, width)):
        volume = Volume(
            coordinate * np.float32(spacing[axis]), spacing
        )  # millimetres from the first voxel: linear, so exact
        steps = Preprocessing(
            orientation, spacing_mm=(1.7, 1.3, 2.1), size=(15, 16, 17), convention="torchio", **WIDE
        )
        tensor = preprocess(volume, steps)
        place = next(
            i
            for i, letter in enumerate(orientation)
            if letter in {"S": "SI", "A": "AP", "R": "RL"}[letters[axis]]
        )
        along = np.moveaxis(tensor, place, 0)[:, 5, 5]
        sign = 1 if orientation[place] in letters else -1
        np.testing.assert_allclose(np.diff(along), sign * steps.spacing_mm[place], rtol=1e-4)
        middle, centre = (
            (along[0] + along[-1]) / 2,
            (coordinate.shape[axis] - 1) / 2 * spacing[axis],
        )
        assert (
            abs(middle - centre) <= steps.spacing_mm[place]
        )  # an odd number is cropped with one voxel more on one side


def test_a_resampled_scan_keeps_its_first_voxel_or_its_centre():
    volume = Volume(np.broadcast_to(np.arange(11, dtype=np.float32), (4, 4, 11)), (1.0, 1.0, 1.0))
    monai, torchio = (
        preprocess(
            volume, Preprocessing("SAR", spacing_mm=(1.0, 1.0, 2.0), convention=convention, **WIDE)
        )[0, 0]
        for convention in ("monai", "torchio")
    )
    np.testing.assert_allclose(monai, [0, 2, 4, 6, 8, 10], atol=1e-3)
    np.testing.assert_allclose(torchio, [1, 3, 5, 7, 9], atol=1e-3)


@pytest.mark.parametrize(
    "dtype", ["i1", "u1", "i2", "<i2", ">i2", "u2", "i4", "f4", ">f4", "f8", "i8", "f2"]
)
def test_any_type_of_number_is_read(dtype):
    values = np.random.default_rng(0).integers(0, 100, (6, 7, 8))
    steps = Preprocessing(
        "RAS", spacing_mm=(1.5, 1.5, 1.5), size=(5, 6, 7), window_hu=(0.0, 100.0), target=(0.0, 1.0)
    )
    expected = preprocess(Volume(values.astype(np.float32), (2.0, 1.0, 1.0)), steps)
    np.testing.assert_array_equal(
        preprocess(StoredVolume(values.astype(dtype), 1.0, 0.0, (2.0, 1.0, 1.0)), steps), expected
    )


@pytest.mark.parametrize("orientation", ["RAS", "SRA", "SAR"])
def test_any_layout_of_memory_gives_the_same_tensor(orientation):
    volume = scan((8, 9, 10))
    steps = Preprocessing(orientation, spacing_mm=(1.5, 1.2, 1.4), size=(7, 12, 9), **WIDE)
    expected = preprocess(volume, steps)
    wide = np.zeros((16, 9, 20), np.int16)
    wide[::2, :, ::2] = volume.stored
    layouts = {"every second voxel of another": wide[::2, :, ::2]}
    for axes in itertools.permutations(range(3)):
        turned = np.ascontiguousarray(volume.stored.transpose(axes)).transpose(np.argsort(axes))
        layouts[f"axes {axes}"] = turned
        layouts[f"axes {axes}, backwards"] = np.ascontiguousarray(turned[::-1, :, ::-1])[
            ::-1, :, ::-1
        ]
    for name, layout in layouts.items():
        np.testing.assert_array_equal(layout, volume.stored)
        layout.flags.writeable = False
        given_ = StoredVolume(layout, 1.0, 0.0, volume.spacing_mm)
        np.testing.assert_allclose(
            preprocess(given_, steps), expected, atol=2e-3, err_msg=name
        )  # the order of additions differs


def test_stored_numbers_and_hounsfield_units_give_the_same_tensor():
    stored = np.random.default_rng(1).integers(0, 4000, (7, 8, 9)).astype(np.uint16)
    volume = StoredVolume(stored, 0.5, -1024.0, (1.0, 1.3, 0.9))
    steps = Preprocessing("RAS", (-1000.0, 1000.0), (-1.0, 1.0), (1.1, 1.1, 1.1), (8, 8, 8))
    np.testing.assert_allclose(
        preprocess(volume, steps), preprocess(volume.to_volume(), steps), atol=1e-6
    )


def test_padding_is_the_minimum_of_the_whole_scan_even_where_that_is_cropped_away():
    voxels = np.full((4, 20, 4), 100.0, np.float32)
    voxels[0, 0, 0] = -300.0
    steps = Preprocessing("SAR", (-1000.0, 1000.0), (-1.0, 1.0), size=(6, 4, 4), pad="minimum")
    tensor = preprocess(Volume(voxels, (1.0, 1.0, 1.0)), steps)
    np.testing.assert_allclose(tensor[0], -0.3, atol=1e-6)
    np.testing.assert_allclose(tensor[1:5], 0.1, atol=1e-6)


def test_samples_tie_a_voxel_of_the_tensor_to_the_scan():
    volume = scan((20, 21, 22), (2.0, 1.0, 1.0))
    steps = Preprocessing("SPL", spacing_mm=(4.0, 1.0, 1.0), size=(12, 5, 30), pad=0.0, **WIDE)
    superior, posterior, left = samples_along(volume, steps)
    assert (superior.axis, posterior.axis, left.axis) == (0, 1, 2)
    assert (superior.direction, posterior.direction, left.direction) == (1, -1, -1)
    assert (superior.before, posterior.before, left.before) == (1, 0, 4)
    np.testing.assert_array_equal(superior.place, np.arange(0, 20, 2))
    np.testing.assert_array_equal(posterior.place, [12, 11, 10, 9, 8])
    tensor = preprocess(volume, steps)
    assert tensor[1 + 3, 2, 4 + 5] == volume.stored[6, 10, 21 - 5]


def test_the_scan_is_not_changed():
    volume = scan()
    kept = volume.stored.copy()
    preprocess(volume, Preprocessing("RAS", spacing_mm=(1.0, 1.0, 1.0), size=(8, 8, 8), **WIDE))
    np.testing.assert_array_equal(volume.stored, kept)


def test_spacing_in_the_order_of_a_volume():
    assert Preprocessing("RAS", spacing_mm=(1.0, 2.0, 3.0), **WIDE).volume_spacing_mm == (
        3.0,
        2.0,
        1.0,
    )
    assert Preprocessing("SPL", spacing_mm=(3.0, 1.0, 2.0), **WIDE).volume_spacing_mm == (
        3.0,
        1.0,
        2.0,
    )
    assert Preprocessing("SPL", **WIDE).volume_spacing_mm is None
