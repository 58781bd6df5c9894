"""Named methods that need no training, for a generator to be measured against."""

import math
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from rasterio.fill import fillnodata
from scipy.ndimage import distance_transform_edt

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


BASELINES: dict[str, Baseline] = {
    "telea": fill_telea,
    "navier-stokes": fill_navier_stokes,
    "fillnodata": fill_fillnodata,
    "nearest": fill_nearest,
}


def fill(name: str, values: Values, missing: Mask, stretch: Stretch) -> Values:
    """Fill what is missing; every other value is a copy.

    Args:
        name: one of ``BASELINES``.
        values: (3, H, W), integers or floats; what they are where missing has no influence.
        missing: (H, W), True where all three bands are to be filled; not everywhere.
        stretch: the values that matter: what OpenCV cannot take as it is, it is given in 16 bits of this range.

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
    # OpenCV leaves missing pixels of the first row and column: they are moved inside by mirroring.
    hidden = np.pad(missing, 1, mode="reflect").astype(np.uint8)
    padded = np.pad(values, ((0, 0), (1, 1), (1, 1)), mode="reflect")
    if values.dtype == np.uint8:
        image = np.ascontiguousarray(np.moveaxis(padded, 0, -1))
        filled = np.moveaxis(cv2.inpaint(image, hidden, INPAINT_RADIUS, method), -1, 0)
        return filled[:, 1:-1, 1:-1]
    # Of other types OpenCV takes one band at a time, and with float32 Telea's method is off by up to 0.5 (seen with
    # OpenCV 5.0); with 16 bits it is not.
    bits = np.rint(stretch.to_unit(padded) * 65535).astype(np.uint16)
    filled = np.stack([cv2.inpaint(band, hidden, INPAINT_RADIUS, method) for band in bits])[:, 1:-1, 1:-1]
    return stretch.from_unit((filled / 65535).astype(np.float32), np.dtype(np.float64))
