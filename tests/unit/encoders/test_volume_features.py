from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from concordant.core.errors import ConfigError, VolumeError
from concordant.core.volume import Volume
from concordant.encoders.base import ENCODERS
from concordant.encoders.region_statistics import HISTOGRAM_EDGES_HU, LAG_MM, LOCAL_MM, TISSUES_HU
from concordant.encoders.volume_features import VolumeFeatures


def noise_volume(shape=(9, 10, 13), spacing=(2.5, 1.0, 1.4), seed=0):
    hu = np.random.default_rng(seed).normal(-200, 500, shape).round()
    return Volume(np.clip(hu, -2000, 2000).astype(np.float32), spacing)


def named(encoder, volume):
    embedding = encoder.encode([volume])[0]
    tokens = [
        dict(zip(encoder.feature_names, token.tolist(), strict=True)) for token in embedding.tokens
    ]
    return tokens, dict(zip(encoder.pooled_feature_names, embedding.pooled.tolist(), strict=True))


def edges(size, n):
    """First places of the n parts of an axis, the slow way.

    A place belongs to part floor(place * n / size).
    """
    owner = [place * n // size for place in range(size)]
    return [owner.index(part) for part in range(n)] + [size]


def boxes(shape, grid):
    cuts = [edges(size, grid) for size in shape]
    return [
        tuple(slice(cut[part], cut[part + 1]) for cut, part in zip(cuts, index, strict=True))
        for index in np.ndindex(grid, grid, grid)
    ]


def slow_distribution(values):
    expected = {}
    ends = [-np.inf, *HISTOGRAM_EDGES_HU, np.inf]
    names = [
        f"share_below_{ends[1]}",
        *(f"share_{a}_to_{b}" for a, b in pairwise(HISTOGRAM_EDGES_HU)),
        f"share_from_{ends[-2]}",
    ]
    for name, low, high in zip(names, ends[:-1], ends[1:], strict=True):
        expected[name] = np.mean((values >= low) & (values < high))
    for tissue, (low, high) in TISSUES_HU.items():
        inside = values[(values >= low) & (values < high)]
        expected[f"share_{tissue}"] = inside.size / values.size
        if tissue in ("lung", "soft"):
            expected[f"{tissue}_mean"] = inside.mean() if inside.size else 0.0
            expected[f"{tissue}_sd"] = inside.std() if inside.size else 0.0
    expected["mean"], expected["sd"] = values.mean(), values.std()
    for percent in (5, 25, 50, 75, 95):
        expected[f"percentile_{percent}"] = np.percentile(values, percent, method="inverted_cdf")
    return expected


def slow_local_sd(region, spacing, grid, shape, scale):
    blocks = [
        max(1, min(size // grid, round(size * step / grid / scale)))
        for size, step in zip(shape, spacing, strict=True)
    ]
    squares, freedom = 0.0, 0
    for index in np.ndindex(*blocks):
        block = region
        for axis, (part, n) in enumerate(zip(index, blocks, strict=True)):
            cut = edges(region.shape[axis], n)
            block = np.take(block, np.arange(cut[part], cut[part + 1]), axis)
        squares += ((block - block.mean()) ** 2).sum()
        freedom += block.size - 1
    return np.sqrt(squares / freedom) if freedom else 0.0


def slow_autocorrelation(region, axis, step):
    lag = max(1, round(LAG_MM / step))
    moved = np.moveaxis(region, axis, 0)
    if len(moved) <= lag or region.std() == 0:
        return 0.0
    return max(-1.0, 1.0 - np.mean((moved[lag:] - moved[:-lag]) ** 2) / (2 * region.var()))


def slow_gradient(values, spacing, box):
    steps = [max(1, round(2.0 / step)) for step in spacing]
    magnitudes = []
    for index in np.ndindex(values.shape):
        inside = all(
            s <= i < size - s for i, s, size in zip(index, steps, values.shape, strict=True)
        )
        if inside and all(cut.start <= i < cut.stop for i, cut in zip(index, box, strict=True)):
            slopes = []
            for axis, step in enumerate(steps):
                ahead, behind = list(index), list(index)
                ahead[axis] += step
                behind[axis] -= step
                slopes.append(
                    (values[tuple(ahead)] - values[tuple(behind)]) / (2 * step * spacing[axis])
                )
            magnitudes.append(np.linalg.norm(slopes))
    return np.mean(magnitudes) if magnitudes else 0.0


@pytest.mark.parametrize("grid", [1, 2])
def test_every_statistic_equals_a_slow_reference(grid):
    volume = Volume(noise_volume((8, 12, 20), (2.5, 1.0, 1.4)).voxels, (2.5, 1.0, 1.4))
    tokens, pooled = named(VolumeFeatures(grid=grid, window=(-1000, 900)), volume)
    values = np.clip(volume.voxels.astype(np.float64), -1000, 900)
    for token, box in zip(tokens, boxes(values.shape, grid), strict=True):
        region = values[box]
        expected = slow_distribution(region)
        expected["gradient_per_mm"] = slow_gradient(values, volume.spacing_mm, box)
        for scale in LOCAL_MM:
            expected[f"local_sd_{scale:g}mm"] = slow_local_sd(
                region, volume.spacing_mm, grid, values.shape, scale
            )
        for axis, name in enumerate(("depth", "height", "width")):
            expected[f"autocorrelation_5mm_{name}"] = slow_autocorrelation(
                region, axis, volume.spacing_mm[axis]
            )
        assert {name: token[name] for name in expected} == pytest.approx(
            expected, rel=1e-4, abs=1e-4
        )
    expected = slow_distribution(values)
    assert {name: pooled[name] for name in expected} == pytest.approx(expected, rel=1e-4, abs=1e-4)


@given(
    shape=st.tuples(*[st.integers(3, 14)] * 3),
    spacing=st.tuples(*[st.floats(0.3, 12.0)] * 3),
    kind=st.sampled_from(["noise", "air", "two values"]),
)
@settings(deadline=None, max_examples=40)
def test_every_feature_is_finite_and_shares_add_up(shape, spacing, kind):
    voxels = noise_volume(shape).voxels
    if kind != "noise":
        voxels = np.where(
            voxels > (np.inf if kind == "air" else 0), np.float32(500), np.float32(-3000)
        )
    encoder = VolumeFeatures(grid=3)
    embedding = encoder.encode([Volume(voxels, spacing)])[0]
    assert embedding.tokens.shape == (27, encoder.card.token_dim)
    assert embedding.pooled.shape == (encoder.card.pooled_dim,)
    assert np.isfinite(embedding.tokens).all()
    assert np.isfinite(embedding.pooled).all()
    np.testing.assert_allclose(
        embedding.tokens[:, : len(HISTOGRAM_EDGES_HU) + 1].sum(1), 1.0, atol=1e-5
    )


def test_tokens_follow_the_regions_from_inferior_posterior_left_to_superior_anterior_right():
    voxels = np.full((6, 6, 6), -1000, np.float32)
    voxels[4:, 2:4, :2] = 40  # superior, middle, left
    encoder = VolumeFeatures(grid=3)
    tokens, _ = named(encoder, Volume(voxels, (1.0, 1.0, 1.0)))
    soft = [token for token in tokens if token["share_soft"] == 1.0]
    assert len(soft) == 1
    place = [soft[0][f"position_{axis}"] for axis in ("depth", "height", "width")]
    assert place == pytest.approx([2 / 3, 0.0, -2 / 3], rel=1e-6)


def test_names_are_unique_and_as_many_as_the_card_says():
    encoder = ENCODERS.create("volume_features", grid=2)
    for names, dim in (
        (encoder.feature_names, encoder.card.token_dim),
        (encoder.pooled_feature_names, encoder.card.pooled_dim),
    ):
        assert len(set(names)) == len(names) == dim
    assert 20 <= encoder.card.token_dim <= 40
    assert encoder.card.max_tokens == 8


def test_a_batch_equals_the_loop_over_its_members():
    volumes = [noise_volume(seed=seed) for seed in range(3)]
    encoder = VolumeFeatures()
    for one, embedding in zip(volumes, encoder.encode(volumes), strict=True):
        alone = encoder.encode([one])[0]
        np.testing.assert_array_equal(alone.tokens, embedding.tokens)
        np.testing.assert_array_equal(alone.pooled, embedding.pooled)


def chest(spacing, contrast_at=(0.0, 0.0, 20.0), lung_texture=60.0, size=96.0):
    """A cylinder of soft tissue, 80 mm wide and 60 mm deep, with two lungs open at both ends and a
    ball of contrast medium.

    Built from formulas in mm, so that it can be drawn at any spacing.
    """
    axes = [(np.arange(round(size / step)) + 0.5) * step - size / 2 for step in spacing]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    hu = np.full(z.shape, -1000.0)
    hu[(x / 40) ** 2 + (y / 30) ** 2 <= 1] = 40
    wave = np.sin(2 * np.pi * x / 24) * np.sin(2 * np.pi * y / 24) * np.sin(2 * np.pi * z / 24)
    for side in (-20, 20):
        lung = ((x - side) / 12) ** 2 + (y / 20) ** 2 <= 1
        hu[lung] = -800 + lung_texture * wave[lung]
    ball = sum((a - b) ** 2 for a, b in zip((z, y, x), contrast_at, strict=True)) <= 10**2
    hu[ball] = 250
    return Volume(hu.astype(np.float32), tuple(spacing))


def test_shapes_are_measured_in_millimetres():
    _, pooled = named(VolumeFeatures(), chest((1.0, 1.0, 1.0)))
    assert pooled["body_extent_mm_height"] == pytest.approx(60, abs=3)
    assert pooled["body_extent_mm_width"] == pytest.approx(80, abs=3)
    assert pooled["body_extent_mm_depth"] == pytest.approx(96)
    assert np.expm1(pooled["body_log_ml"]) == pytest.approx(np.pi * 40 * 30 * 96 / 1000, rel=0.03)
    assert pooled["body_spread_mm_width"] == pytest.approx(
        40 / 2, rel=0.03
    )  # an ellipse's variance is a^2 / 4
    assert pooled["lung_share"] == pytest.approx(
        2 * 12 * 20 / (40 * 30), rel=0.1
    )  # less the part of the ball inside
    assert np.expm1(pooled["contrast_log_ml"]) == pytest.approx(4 / 3 * np.pi, rel=0.25)
    assert pooled["contrast_offset_width"] == pytest.approx(20 / 80, abs=0.02)
    assert pooled["contrast_offset_height"] == pytest.approx(0.0, abs=0.02)
    assert pooled["bone_log_ml"] == 0.0


def test_features_depend_little_on_the_voxel_spacing():
    encoder = VolumeFeatures(grid=1)
    fine = named(encoder, chest((1.0, 1.0, 1.0)))[1]
    coarse = named(encoder, chest((2.0, 1.5, 1.5)))[1]
    for name in (
        "mean",
        "sd",
        "share_lung",
        "share_soft",
        "lung_mean",
        "body_log_ml",
        "lung_log_ml",
        "contrast_log_ml",
        "lung_sd",
    ):
        assert coarse[name] == pytest.approx(fine[name], rel=0.08, abs=0.02), name
    for name in ("gradient_per_mm", "local_sd_5mm", "local_sd_15mm", "autocorrelation_5mm_width"):
        assert coarse[name] == pytest.approx(fine[name], rel=0.25), name


def test_lung_texture_and_the_place_of_contrast_can_be_read():
    quiet = named(VolumeFeatures(), chest((1.5, 1.5, 1.5), lung_texture=20.0))[1]
    coarse = named(VolumeFeatures(), chest((1.5, 1.5, 1.5), lung_texture=120.0))[1]
    assert coarse["lung_sd"] > 2 * quiet["lung_sd"]
    left = named(VolumeFeatures(), chest((1.5, 1.5, 1.5), contrast_at=(0.0, 0.0, -20.0)))[1]
    assert left["contrast_offset_width"] < 0 < quiet["contrast_offset_width"]


def test_a_volume_of_air_has_no_body():
    voxels = noise_volume().voxels * 0.01 - 900
    encoder = VolumeFeatures()
    _, pooled = named(encoder, Volume(voxels, (1.0, 1.0, 1.0)))
    assert all(
        value == 0.0
        for name, value in pooled.items()
        if name.startswith(("body_", "lung_log", "fat_", "contrast_", "bone_"))
    )


def test_a_volume_smaller_than_the_grid_is_refused():
    with pytest.raises(VolumeError, match="3 regions") as error:
        VolumeFeatures(grid=3).encode([noise_volume((2, 9, 9))])
    assert error.value.reason == "fewer voxels along an axis than the 3 regions of the grid"


@pytest.mark.parametrize(
    ("options", "name"),
    [({"grid": 0}, "grid"), ({"grid": 17}, "grid"), ({"window": (100, 100)}, "window")],
)
def test_impossible_options_are_refused(options, name):
    with pytest.raises(ConfigError, match=name):
        ENCODERS.create("volume_features", **options)
