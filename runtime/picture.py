"""Before and after, side by side: a PNG to look at."""

from __future__ import annotations

if __name__ == "__main__":  # before what takes time to import
    from ecea.runtime.entry import end_when_stopped

    end_when_stopped("python -m ecea.runtime.picture")

from pathlib import Path

import cv2
import numpy as np
import rasterio
from numpy.typing import NDArray

from ecea.runtime.command import start_script
from ecea.runtime.errors import EceaError, RequestError
from ecea.runtime.paths import same_file
from ecea.runtime.writer import check_destination, written_whole

Bytes = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Limits = list[tuple[float, float]]

LONGEST_SIDE = 1600
"""Pixels that either half of the picture is high and wide at most."""
DIVIDER = 4
"""Pixels of white between the halves."""
NODATA_COLOUR = (52, 52, 58)
"""Red, green, blue: a dark grey that is lighter than deep water and shadow."""

_MARGIN = 8
_TEXT_HEIGHT = 14
_LABEL_COLOUR = (20, 20, 24)


def before_after(
    before_path: str | Path,
    after_path: str | Path,
    png_path: str | Path,
    bands: tuple[int, int, int] = (1, 2, 3),
) -> Path:
    """Write a PNG with one scene left and the other right, alike in colour.

    Each band is drawn from the 1st to the 99th percentile of its valid values before. A pixel without a valid value in
    any of the bands is drawn in :data:`NODATA_COLOUR`. Scenes longer than :data:`LONGEST_SIDE` are read decimated
    (every n-th pixel).

    Args:
        before_path, after_path: rasters of equal size.
        png_path: of the picture; replaced when it exists, whole or not at all.
        bands: shown as red, green and blue; the first is 1.

    Returns:
        ``png_path``. The picture is twice as wide as a half, plus :data:`DIVIDER`.

    Raises:
        RequestError: a scene cannot be read, their sizes differ, one would be replaced, or the picture has no place or
            another name than a PNG's.
        EceaError: the picture cannot be encoded or written.
    """
    png = Path(png_path)
    check_destination(png, ".png")
    for path in (before_path, after_path):
        if same_file(path, png):
            raise RequestError(f"{png}: is one of the scenes, and would be replaced: name another picture")
    (before, size), (after, other) = _read(before_path, bands), _read(after_path, bands)
    if size != other:
        raise RequestError(
            f"{after_path}: is {other[1]} x {other[0]} px, {before_path} is {size[1]} x {size[0]}: give two scenes of "
            "the same size"
        )
    limits = percentiles(before, _valid(before))
    named = ((before, "before"), (after, "after"))
    halves = [_label(colours(values, _valid(values), limits), name) for values, name in named]
    divider = np.full((before.shape[1], DIVIDER, 3), 255, dtype=np.uint8)
    return _write_png(png, np.concatenate([halves[0], divider, halves[1]], axis=1))


def _read(path: str | Path, bands: tuple[int, int, int]) -> tuple[NDArray[np.float64], tuple[int, int]]:
    """The three bands as (3, H, W) float64, NaN in all where any has no valid value; and the scene's own size."""
    try:
        with rasterio.open(path, OVERVIEW_LEVEL="NONE") as scene:  # the output has none, and must look the same
            whole = scene.height, scene.width
            shrink = max(scene.height, scene.width, LONGEST_SIDE) / LONGEST_SIDE
            size = (3, max(1, round(scene.height / shrink)), max(1, round(scene.width / shrink)))
            values = scene.read(bands, out_shape=size).astype(np.float64)
            valid = scene.read_masks(bands, out_shape=size) > 0
    except (rasterio.errors.RasterioError, IndexError) as error:
        raise RequestError(
            f"{path}: cannot be read as a raster with the bands {', '.join(map(str, bands))} ({error}): give another"
        ) from error
    valid &= np.isfinite(values)
    return np.where(valid.all(axis=0), values, np.nan), whole


def _valid(values: NDArray[np.float64]) -> Mask:
    return ~np.isnan(values[0])


def percentiles(values: NDArray[np.floating], valid: Mask) -> Limits:
    """For each band of (3, H, W) values the 1st and the 99th percentile of what is valid, (H, W): what limits colours.

    Any limits, where nothing is valid.
    """
    if not valid.any():
        return [(0.0, 1.0)] * 3
    low, high = np.percentile(values[:, valid], [1, 99], axis=1)
    return [(float(a), float(b)) for a, b in zip(low, high, strict=True)]


def colours(values: NDArray[np.floating], valid: Mask, limits: Limits) -> Bytes:
    """(3, H, W) values as an (H, W, 3) picture, red, green and blue; where not ``valid``, ``NODATA_COLOUR``."""
    shown = np.full((*valid.shape, 3), NODATA_COLOUR, dtype=np.uint8)
    for band, (low, high) in enumerate(limits):
        span = high - low if high > low else 1.0
        shown[valid, band] = np.rint(255 * np.clip((values[band, valid] - low) / span, 0, 1))
    return shown


def _label(picture: Bytes, text: str) -> Bytes:
    """Write ``text`` into the upper left corner, white on dark; the picture is changed and returned."""
    font = cv2.FONT_HERSHEY_SIMPLEX
    scale = cv2.getFontScaleFromHeight(font, _TEXT_HEIGHT, 1)
    (width, height), baseline = cv2.getTextSize(text, font, scale, 1)
    corner = (2 * _MARGIN + width, 2 * _MARGIN + height + baseline)
    cv2.rectangle(picture, (0, 0), corner, _LABEL_COLOUR, cv2.FILLED)
    cv2.putText(picture, text, (_MARGIN, _MARGIN + height), font, scale, (255, 255, 255), 1, cv2.LINE_AA)
    return picture


def _write_png(path: Path, picture: Bytes) -> Path:
    done, data = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    if not done:
        raise EceaError(f"{path}: OpenCV could not encode a picture of {picture.shape[1]} x {picture.shape[0]} px")
    with written_whole(path) as temporary:
        temporary.write_bytes(data.tobytes())
    return path


def main(before: Path, after: Path, png: Path) -> None:
    """Draw two scenes of one size side by side, alike in colour."""
    before_after(before, after, png)


if __name__ == "__main__":
    start_script("python -m ecea.runtime.picture", main)
