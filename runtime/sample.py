"""A synthetic Landsat-7-like scene with SLC-off gaps: a sample to fill, where every true value is known.

The geometry of the gaps is measured (see ``ecea.runtime.slc_off``); the land between them is invented. It is made
with additions, multiplications, divisions and square roots of single elements, which IEEE 754 rounds alike
everywhere, so a seed gives the same digital numbers on every machine. (Fourier transforms, powers, sums over
arrays and matrix products would not.)
"""

from __future__ import annotations

if __name__ == "__main__":  # before what takes time to import
    from ecea.runtime.entry import end_when_stopped

    end_when_stopped("python -m ecea.runtime.sample")

from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp

from ecea.runtime.command import start_script
from ecea.runtime.slc_off import collar, slc_off_gaps, swath_size
from ecea.runtime.writer import check_destination, written_whole

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]
Numbers = NDArray[np.uint16]

BAND_SHIFTS = (0.0, 1.0, -1.0)
"""Rows by which the gaps of the sample's bands are moved: the detectors of a band do not look exactly where
those of another do, so the gap to fill is the union over the bands."""
PIXEL_SIZE = 30.0
"""Metres."""

_BANDS = ("SR_B3 red", "SR_B2 green", "SR_B1 blue")
_BRIGHTEST = 0.75  # a generator ending in tanh(1) reaches 0.76
_SUN = (0.52, 0.48, 0.70)  # east, south, up: mid-morning in the northern hemisphere
_RELIEF = 56.0  # height of the highest ridge, in pixels

# Surface reflectance in red, green and blue: brighter than true ones, so that pictures need no gamma.
_FOREST, _MEADOW, _ROCK, _SNOW = (
    (0.10, 0.14, 0.09),
    (0.25, 0.27, 0.17),
    (0.40, 0.36, 0.32),
    (0.58, 0.59, 0.61),
)
_DEEP, _SHALLOW, _SAND, _ROAD = (0.05, 0.10, 0.15), (0.13, 0.24, 0.25), (0.56, 0.51, 0.41), (0.50, 0.47, 0.43)
_CROPS = (
    (0.17, 0.23, 0.13),
    (0.20, 0.28, 0.15),
    (0.27, 0.31, 0.18),
    (0.44, 0.40, 0.28),
    (0.50, 0.46, 0.35),
    (0.37, 0.31, 0.25),
    (0.31, 0.26, 0.21),
    (0.23, 0.26, 0.16),
)

# How Landsat Collection 2 stores reflectance: reflectance = value * scale + offset.
_SCALE, _OFFSET, _NODATA = 2.75e-5, -0.2, 0


# ---- land


def terrain(height: int, width: int, seed: int = 0) -> Floats:
    """Invent land: ridges and valleys in the north, parcels in the south, a river that runs through a lake.

    Args:
        height, width: px. The layout follows the frame; texture, parcels and river are sized in pixels.
        seed: 0 or more.

    Returns:
        (3, height, width) float32, surface reflectance of red, green and blue, 0.02 to 0.75.
    """
    rng = np.random.Generator(np.random.Philox(seed))
    y = np.arange(height, dtype=np.float32)[:, None]
    x = np.arange(width, dtype=np.float32)[None, :]
    river, lake = _water(rng, y, x)
    ground, mountains = _elevation(rng, y, x, river)
    light = _hill_shade(ground * _RELIEF)
    texture = _fractal(rng, y, x, spacing=7.0, octaves=3)

    land = _wild_land(rng, y, x, ground, mountains, texture)
    farmed = _smooth(0.26, 0.20, mountains) * _smooth(0.18, 0.12, _fractal(rng, y, x, spacing=70.0, octaves=4))
    land += (_parcels(rng, y, x) - land) * farmed
    grain = 0.12 * texture + 0.10 * _noise(rng, y, x, 1.7)
    land *= light * (1 + grain)
    land = _mix(land, _SAND, 0.8 * _smooth(13.0, 6.0, np.minimum(river, lake) + 5 * texture) * (mountains < 0.5))

    depth = _smooth(4.0, -40.0, np.minimum(lake, river + 3)) + 0.05 * texture
    water = _mix(np.zeros_like(land) + _column(_SHALLOW), _DEEP, depth)
    land += (water - land) * np.maximum(_smooth(4.6, 3.2, river), _smooth(1.0, -1.0, lake))
    return np.asarray(np.clip(land, 0.02, _BRIGHTEST), dtype=np.float32)


def _water(rng: np.random.Generator, y: Floats, x: Floats) -> tuple[Floats, Floats]:
    """Distances (px, (H, W)) from the river's middle and from the lake's shore, negative in the lake."""
    height, width = y.size, x.size
    bend_y = y + 26 * _noise(rng, y, x, 64.0) + 7 * _noise(rng, y, x, 21.0)
    bend_x = x + 46 * _noise(rng, y, x, 80.0) + 10 * _noise(rng, y, x, 23.0)
    start, drift = rng.uniform(0.25, 0.75), rng.uniform(-0.25, 0.25)
    course = (start + drift * bend_y / height) * width
    course += 0.2 * width * _noise(rng, bend_y, np.zeros_like(bend_y), max(height / 2.5, 8.0))
    aside = np.asarray(bend_x - course, dtype=np.float32)
    slope_y, slope_x = _slopes(aside)
    # A distance is a difference over its slope: without, the river would widen where it turns.
    river = np.abs(aside) / np.maximum(np.sqrt(slope_y * slope_y + slope_x * slope_x), np.float32(0.4))

    below = bend_y - np.float32(rng.uniform(0.55, 0.75) * height)
    from_centre = np.sqrt(below * below / np.float32(0.5) + aside * aside / np.float32(1.7))
    size = 0.09 * min(height, width)
    lake = from_centre - np.float32(size) * (1 + 0.7 * _fractal(rng, y, x, 50.0, 4))
    return np.asarray(river, dtype=np.float32), np.asarray(lake, dtype=np.float32)


def _elevation(rng: np.random.Generator, y: Floats, x: Floats, river: Floats) -> tuple[Floats, Floats]:
    """Height of the ground and share of mountains, (H, W), both about 0 to 1; the river has cut a valley."""
    height, width = y.size, x.size
    north = 0.5 - y / height + np.float32(rng.uniform(-0.5, 0.5)) * (x / width - 0.5)
    mountains = _smooth(-0.16, 0.24, north + 0.30 * _fractal(rng, y, x, max(min(height, width) / 2.5, 8.0), 3))
    warp_y = y + 14 * _fractal(rng, y, x, 70.0, 2)
    warp_x = x + 14 * _fractal(rng, y, x, 70.0, 2)
    ridges = _ridges(rng, warp_y, warp_x, spacing=130.0, octaves=6)
    hills = _fractal(rng, warp_y, warp_x, spacing=60.0, octaves=4)
    valley = 0.15 + 0.85 * _smooth(4.0, 90.0, river)
    ground = (mountains * ridges * valley + 0.05 * hills * (0.3 + mountains)).astype(np.float32)
    return ground, mountains


def _hill_shade(ground: Floats) -> Floats:
    """Light on a surface whose heights are in pixels, (H, W): 1 on level ground, 0.35 in shadow."""
    slope_y, slope_x = _slopes(ground)
    east, south, up = _SUN
    facing = (up - east * slope_x - south * slope_y) / np.sqrt(1 + slope_x * slope_x + slope_y * slope_y)
    return np.asarray(0.35 + 0.65 * np.clip(facing / up, 0, 1.5), dtype=np.float32)


def _slopes(field: Floats) -> tuple[Floats, Floats]:
    """Rise per pixel down a column and along a row, (H, W); 0 on the frame's border."""
    slope_y, slope_x = np.zeros_like(field), np.zeros_like(field)
    slope_y[1:-1] = (field[2:] - field[:-2]) / 2
    slope_x[:, 1:-1] = (field[:, 2:] - field[:, :-2]) / 2
    return slope_y, slope_x


def _wild_land(
    rng: np.random.Generator, y: Floats, x: Floats, ground: Floats, mountains: Floats, texture: Floats
) -> Floats:
    """Reflectance of land that nobody farms, (3, H, W): meadow, forest, and rock and snow higher up."""
    patches = _fractal(rng, y, x, spacing=45.0, octaves=5)
    land = np.zeros((3, *ground.shape), dtype=np.float32) + _column(_MEADOW)
    land = _mix(land, _FOREST, _smooth(-0.06, 0.05, patches + 0.35 * mountains + 0.2 * texture))
    land = _mix(land, _ROCK, _smooth(0.46, 0.62, ground + 0.12 * patches + 0.05 * texture))
    return _mix(land, _SNOW, _smooth(0.70, 0.80, ground + 0.15 * patches))


def _parcels(rng: np.random.Generator, y: Floats, x: Floats) -> Floats:
    """Reflectance of farmed land, (3, H, W): strips of unlike width, cut into parcels, with lanes between."""
    u = 0.96 * x + 0.28 * y  # a turn by the exact angle of the 7-24-25 triangle
    v = 0.96 * y - 0.28 * x
    sides = np.cumsum(rng.integers(14, 40, size=(x.size + y.size) // 14 + 2)).astype(np.float32)
    strip = np.searchsorted(sides, u)
    length = rng.integers(16, 52, size=sides.size + 1).astype(np.float32)[strip]
    step = (v + rng.integers(0, 64, size=sides.size + 1).astype(np.float32)[strip]) / length
    parcel = np.floor(step)
    to_side = sides[np.minimum(strip, sides.size - 1)] - u
    to_end = (step - parcel) * length

    kinds = rng.integers(len(_CROPS), size=(64, 64))
    tints = rng.uniform(0.85, 1.15, size=(64, 64)).astype(np.float32)
    index = (strip % 64, parcel.astype(np.int64) % 64)
    land = np.moveaxis(np.asarray(_CROPS, dtype=np.float32)[kinds[index]], -1, 0) * tints[index]
    land = _mix(land, _FOREST, 0.6 * _smooth(1.6, 0.6, to_end))
    return _mix(land, _ROAD, 0.8 * _smooth(1.8, 0.8, to_side) * (strip % 4 == 0))


# ---- noise


def _noise(rng: np.random.Generator, y: Floats, x: Floats, spacing: float) -> Floats:
    """Gradient noise (Perlin) at pixel positions ``y``, ``x`` that broadcast together; about -1 to 1, mean 0.

    ``spacing`` is the size in pixels of the lattice's cells, that is, of the smallest bumps.
    """
    slopes = rng.integers(-8, 9, size=(2, 256, 256)).astype(np.float32) / np.float32(5)
    y, x = y / np.float32(spacing), x / np.float32(spacing)
    row, col = np.floor(y), np.floor(x)
    fy, fx = y - row, x - col
    row, col = row.astype(np.int64), col.astype(np.int64)

    def corner(dy: int, dx: int) -> Floats:
        at = ((row + dy) % 256, (col + dx) % 256)
        return np.asarray(slopes[0][at] * (fy - dy) + slopes[1][at] * (fx - dx), dtype=np.float32)

    wy = fy * fy * fy * (fy * (fy * 6 - 15) + 10)
    wx = fx * fx * fx * (fx * (fx * 6 - 15) + 10)
    upper = corner(0, 0) + (corner(0, 1) - corner(0, 0)) * wx
    lower = corner(1, 0) + (corner(1, 1) - corner(1, 0)) * wx
    return np.asarray(upper + (lower - upper) * wy, dtype=np.float32)


def _fractal(rng: np.random.Generator, y: Floats, x: Floats, spacing: float, octaves: int) -> Floats:
    """Noise at ``octaves`` sizes from ``spacing`` down, each half as high as the last; about -1 to 1."""
    total = _noise(rng, y, x, spacing)
    for octave in range(1, octaves):
        total = total + _noise(rng, y, x, spacing / 2**octave) * np.float32(0.5**octave)
    return total


def _ridges(rng: np.random.Generator, y: Floats, x: Floats, spacing: float, octaves: int) -> Floats:
    """Ridged noise, about 0 to 1: sharp crests where gradient noise crosses 0, finer ones on high ground."""
    total: Floats = np.zeros(np.broadcast_shapes(y.shape, x.shape), dtype=np.float32)
    weight: Floats = np.ones_like(total)
    for octave in range(octaves):
        crest = 1 - np.minimum(np.abs(_noise(rng, y, x, spacing / 2**octave)) * 1.5, 1)
        crest = crest * crest * weight
        total += crest * np.float32(0.5 * 0.54**octave)
        weight = np.clip(crest * 2.2, 0.1, 1)
    return total


def _smooth(start: float, end: float, values: Floats) -> Floats:
    """0 up to ``start``, 1 from ``end`` on, a smooth rise between; ``end`` may lie below ``start``."""
    t = np.clip((values - np.float32(start)) / np.float32(end - start), 0, 1)
    return np.asarray(t * t * (3 - 2 * t), dtype=np.float32)


def _column(colour: tuple[float, float, float]) -> Floats:
    return np.array(colour, dtype=np.float32)[:, None, None]


def _mix(image: Floats, colour: tuple[float, float, float], share: Floats) -> Floats:
    """``image`` (3, H, W), with ``share`` (H, W) of every pixel replaced by ``colour``."""
    return np.asarray(image + (_column(colour) - image) * share, dtype=np.float32)


# ---- files


def write_sample_scene(
    path: str | Path,
    *,
    height: int = 800,
    width: int = 1024,
    seed: int = 1,
    truth_path: str | Path | None = None,
) -> Path:
    """Write :func:`terrain` as a GeoTIFF with SLC-off gaps and a collar, both nodata: three bands, UTM, 30 m.

    Values are digital numbers of Landsat Collection 2 surface reflectance, 8000 to 34545, which the file's scales and
    offsets turn into reflectance; nodata is 0. The gaps are as wide at the sides of the swath as in a full scene, and
    reach the collar there. Those of the three bands differ by :data:`BAND_SHIFTS`.

    Args:
        path: of the file; replaced when it exists, whole or not at all.
        height, width: px, neither more than 5 times the other.
        seed: of the land, 0 or more.
        truth_path: where to write the same scene without gaps, with its collar. Default: nowhere.

    Returns:
        ``path``.

    Raises:
        ValueError: the sides are too unlike for a turned swath.
        RequestError: a destination cannot be written, found before anything is drawn.
        EceaError: a file could not be written.
    """
    for destination in (path, truth_path):
        if destination is not None:
            check_destination(Path(destination))
    outside = collar(height, width)
    across, along = swath_size(height, width)
    # A gap of the left half on the upper side keeps slivers of land, one row high, from standing along it.
    phases = [shift - along / 2 for shift in BAND_SHIFTS]
    gaps = np.stack([slc_off_gaps(height, width, phase=phase, swath_width=across) for phase in phases])
    values = _digital_numbers(terrain(height, width, seed))
    title = f"Synthetic Landsat-7-like scene, seed {seed}"
    if truth_path is not None:
        _write(Path(truth_path), np.where(outside, _NODATA, values), f"{title}, without gaps")
    _write(Path(path), np.where(outside | gaps, _NODATA, values), title)
    return Path(path)


def _digital_numbers(reflectance: Floats) -> Numbers:
    """Reflectance as it is stored; none is the nodata value."""
    return np.rint((reflectance.astype(np.float64) - _OFFSET) / _SCALE).astype(np.uint16)


def _write(path: Path, values: Numbers, title: str) -> None:
    """Write (3, H, W) ``values`` beside ``path``, then rename."""
    count, height, width = values.shape
    profile = {
        "driver": "GTiff",
        "count": count,
        "height": height,
        "width": width,
        "dtype": "uint16",
        "nodata": _NODATA,
        "crs": "EPSG:32610",
        "transform": rasterio.Affine(PIXEL_SIZE, 0, 553_800, 0, -PIXEL_SIZE, 4_260_300),
        "tiled": True,
        "blockxsize": 256,
        "blockysize": 256,
        "compress": "deflate",
        "predictor": 2,
        "photometric": "RGB",
    }
    with written_whole(path) as temporary, rasterio.open(temporary, "w", **profile) as scene:
        scene.write(values)
        scene.descriptions = _BANDS
        scene.scales = (_SCALE,) * count
        scene.offsets = (_OFFSET,) * count
        scene.colorinterp = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
        scene.update_tags(TIFFTAG_IMAGEDESCRIPTION=title)


def main(scene: Path) -> None:
    """Write a synthetic scene with gaps, to try commands on: a GeoTIFF of three bands, 1024 x 800 px."""
    write_sample_scene(scene)


if __name__ == "__main__":
    start_script("python -m ecea.runtime.sample", main)
