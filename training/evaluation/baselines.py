"""Named methods that need no training, for a generator to be measured against."""

import math
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from rasterio.fill import fillnodata
from scipy.ndimage import distance_transform_edt
from scipy.sparse import coo_array
from scipy.sparse.linalg import splu

from ecea.runtime.masks import Mask
from ecea.runtime.stretch import Stretch

Values = npt.NDArray[Any]
Baseline = Callable[[Values, Mask, Stretch], Values]

INPAINT_RADIUS = 3
"""Pixels around each one that ``cv2.inpaint`` looks at."""
SEARCH_DISTANCE = 100.0
"""Pixels that GDAL looks for valid values in each direction; its own default."""


def fill_telea(values: Values, missing: Mask, stretch: Stretch) -> Values:
    """Telea's fast marching (doi 10.1080/10867651.2004.10487596), OpenCV's."""
    return _inpaint(values, missing, stretch, cv2.INPAINT_TELEA)


def fill_navier_stokes(values: Values, missing: Mask, stretch: Stretch) -> Values:
    """Bertalmio's fluid dynamics (doi 10.1109/CVPR.2001.990497), OpenCV's."""
    return _inpaint(values, missing, stretch, cv2.INPAINT_NS)


def fill_fillnodata(values: Values, missing: Mask, stretch: Stretch) -> Values:
    """GDAL's FillNodata: the nearest valid values of several directions by inverse distance, without smoothing."""
    distance = max(SEARCH_DISTANCE, math.ceil(distance_transform_edt(missing).max()))
    known = (~missing).astype(np.uint8)
    return np.stack([fillnodata(band.astype(np.float32), mask=known, max_search_distance=distance) for band in values])


def fill_nearest(values: Values, missing: Mask, stretch: Stretch) -> Values:
    """The nearest valid pixel, by Euclidean distance."""
    rows, columns = distance_transform_edt(missing, return_distances=False, return_indices=True)
    return values[:, rows, columns]


def fill_laplace(values: Values, missing: Mask, stretch: Stretch) -> Values:
    """The solution of Laplace's equation: each missing pixel is the mean of its four neighbours (two at a corner)."""
    count = np.count_nonzero(missing)
    number = np.full(missing.shape, -1)
    number[missing] = np.arange(count)
    rows, columns = np.nonzero(missing)
    degree = np.zeros(count)
    known = np.zeros((len(values), count))
    links = []
    for down, right in ((-1, 0), (1, 0), (0, -1), (0, 1)):
        there = (rows + down >= 0) & (rows + down < missing.shape[0])
        there &= (columns + right >= 0) & (columns + right < missing.shape[1])
        pixels = np.flatnonzero(there)
        near = rows[pixels] + down, columns[pixels] + right
        degree += there
        is_gap = missing[near]
        known[:, pixels[~is_gap]] += values[:, near[0][~is_gap], near[1][~is_gap]]
        links.append((pixels[is_gap], number[near][is_gap]))
    first, second = (np.concatenate(part) for part in zip(*links, strict=True))
    every = np.arange(count)
    entries = np.concatenate([degree, np.full(len(first), -1.0)])
    places = np.concatenate([every, first]), np.concatenate([every, second])
    solution = splu(coo_array((entries, places), shape=(count, count)).tocsc()).solve(known.T)
    filled = values.astype(np.float64)
    filled[:, missing] = solution.T
    return filled


BASELINES: dict[str, Baseline] = {
    "telea": fill_telea,
    "navier-stokes": fill_navier_stokes,
    "fillnodata": fill_fillnodata,
    "nearest": fill_nearest,
    "laplace": fill_laplace,
}


def fill(name: str, values: Values, missing: Mask, stretch: Stretch) -> Values:
    """Fill what is missing; every other value is a copy.

    Args:
        name: one of ``BASELINES``.
        values: (3, H, W), integers or floats; what they are where missing has no influence.
        missing: (H, W), True where all three bands are to be filled; not everywhere.
        stretch: the values that matter: OpenCV's methods are given them in 16 bits of this range.

    Returns:
        (3, H, W) of the same dtype; integers rounded to nearest.
    """
    result = BASELINES[name](values, missing, stretch)
    return np.where(missing, _as_dtype(result, values.dtype), values)


def _as_dtype(values: Values, dtype: np.dtype[Any]) -> Values:
    if values.dtype == dtype or dtype.kind == "f":
        return values.astype(dtype, copy=False)
    limits = np.iinfo(dtype)
    return np.clip(np.rint(values), limits.min, limits.max).astype(dtype)


def _inpaint(values: Values, missing: Mask, stretch: Stretch, method: int) -> Values:
    # OpenCV leaves missing pixels of the first row and column, and others beside them take what stands there (seen
    # with 5.0): they are moved inside by mirroring, and what stands in a gap is the nearest valid pixel.
    hidden = np.pad(missing, 1, mode="reflect").astype(np.uint8)
    padded = np.pad(fill_nearest(values, missing, stretch), ((0, 0), (1, 1), (1, 1)), mode="reflect")
    # In 16 bits, whatever the scene has. In 8 bits, Telea's method rounds up at each pixel on its way into a gap, which
    # costs it up to 1 dB; in float32 it is off by up to 0.5 (both seen with 5.0).
    bits = np.rint(stretch.to_unit(padded) * 65535).astype(np.uint16)
    filled = np.stack([cv2.inpaint(band, hidden, INPAINT_RADIUS, method) for band in bits])[:, 1:-1, 1:-1]
    return stretch.from_unit((filled / 65535).astype(np.float32), np.dtype(np.float64))
