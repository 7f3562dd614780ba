"""A chest phantom: what of a subject's factors a scan shows, and how the scanner writes it down."""

# mypy: disable-error-code="no-untyped-call"
# (nibabel's image and orientation functions carry no annotations)

from __future__ import annotations

import gzip
from dataclasses import dataclass

import nibabel as nib
import numpy as np
from jaxtyping import Bool, Float
from nibabel.orientations import apply_orientation, inv_ornt_aff
from scipy import ndimage

SPACING_MM = (0.9, 2.5)
FAT_HU, MUSCLE_HU, LUNG_HU, BONE_HU = -100.0, 45.0, -820.0, 600.0
BLOOD_HU, LESION_HU, AIR_HU = 260.0, 50.0, -1000.0
NOISE_HU = 15.0

_Grid = Float[np.ndarray, "depth height width"]
_Mask = Bool[np.ndarray, "depth height width"]


@dataclass(frozen=True, slots=True)
class Scanner:
    """How a site's scanner departs from Hounsfield units.

    Attributes:
        offset_hu: Added to every voxel.
        gain: Every voxel is multiplied by it.
        noise_hu: Standard deviation of the noise.
    """

    offset_hu: float
    gain: float
    noise_hu: float


def scanner(shift: float) -> Scanner:
    """Return a scanner `shift` HU too high, contrast 1 % up per 10 HU, noise 2 % per HU."""
    return Scanner(shift, 1 + shift / 1000, NOISE_HU * (1 + shift / 50))


def chest(ct: float, shared: float, size: int, rng: np.random.Generator) -> _Grid:
    """Draw a chest in Hounsfield units, axes (superior, anterior, right).

    The factor `ct` sets how coarse the lungs' texture is and how many dense lesions lie in them;
    `shared` sets how large the right ventricle is, the left one staying as it is. Body size,
    inflation of the lungs and contrast enhancement vary without meaning.

    Args:
        ct: The factor that only the scan shows.
        shared: The factor that the record shows too.
        size: Voxels along each axis.
        rng: Source of the subject's own anatomy.
    """
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, size, dtype=np.float32)] * 3, indexing="ij")
    body_size, inflation, enhancement = rng.normal(1.0, [0.03, 0.04, 0.08])
    hu = np.full(z.shape, AIR_HU, dtype=np.float32)
    body = (x / 0.90) ** 2 + (y / 0.70) ** 2
    hu[body <= body_size**2] = FAT_HU
    hu[body <= (0.92 * body_size) ** 2] = MUSCLE_HU
    hu[x**2 + (y + 0.48) ** 2 <= 0.11**2] = BONE_HU
    lungs = _lungs(z, y, x, inflation)
    hu[lungs] = LUNG_HU + _texture(ct, size, rng)[lungs]
    hu[_lesions(ct, lungs, z, y, x, rng)] = LESION_HU
    hu[_ventricles(shared, z, y, x, rng)] = BLOOD_HU * enhancement
    return hu


def _lungs(z: _Grid, y: _Grid, x: _Grid, inflation: float) -> _Mask:
    return np.asarray(
        ((np.abs(x) - 0.44) / 0.28) ** 2 + (y / 0.46) ** 2 + (z / 0.9) ** 2 <= inflation
    )


def _texture(ct: float, size: int, rng: np.random.Generator) -> _Grid:
    strength = 60.0 * np.exp(0.35 * ct + rng.normal(0, 0.05))
    field = ndimage.gaussian_filter(rng.standard_normal((size, size, size), dtype=np.float32), 1.2)
    return np.asarray(strength / field.std() * field, dtype=np.float32)


def _lesions(
    ct: float, lungs: _Mask, z: _Grid, y: _Grid, x: _Grid, rng: np.random.Generator
) -> _Mask:
    inside = np.zeros(lungs.shape, dtype=bool)
    places = np.flatnonzero(lungs)
    for centre in rng.choice(places, rng.poisson(np.exp(1.0 + 0.5 * ct))):
        at = [axis.ravel()[centre] for axis in (z, y, x)]
        radius = rng.uniform(0.06, 0.10)
        inside |= (z - at[0]) ** 2 + (y - at[1]) ** 2 + (x - at[2]) ** 2 <= radius**2
    return np.asarray(inside & lungs)


def _ventricles(shared: float, z: _Grid, y: _Grid, x: _Grid, rng: np.random.Generator) -> _Mask:
    radius = 0.20 * np.exp(rng.normal(0, 0.02))
    left = (z + 0.25) ** 2 + (y - 0.02) ** 2 + (x + 0.16) ** 2 <= radius**2
    radius = 0.19 * np.exp(0.14 * shared + rng.normal(0, 0.02))
    right = (z + 0.25) ** 2 + (y - 0.16) ** 2 + (x - 0.18) ** 2 <= radius**2
    return np.asarray(left | right)


def scan(hu: _Grid, device: Scanner, rng: np.random.Generator) -> bytes:
    """Return a chest's compressed NIfTI file, with its own noise, spacing and orientation."""
    noise = device.noise_hu * rng.standard_normal(hu.shape, dtype=np.float32)
    read = hu * device.gain + device.offset_hu + noise
    stored = np.clip(np.rint(read), -1024, 3071).astype(np.int16).transpose(2, 1, 0)
    slices, in_plane = rng.uniform(*SPACING_MM, 2)
    affine = np.diag([in_plane, in_plane, slices, 1.0])
    affine[:3, 3] = rng.uniform(-300, 300, 3)
    orientation = np.stack([rng.permutation(3), rng.choice([-1, 1], 3)], 1)
    turned = np.ascontiguousarray(apply_orientation(stored, orientation))
    image = nib.Nifti1Image(turned, affine @ inv_ornt_aff(orientation, stored.shape))
    image.header.set_xyzt_units("mm")
    return gzip.compress(image.to_bytes(), compresslevel=1, mtime=0)
