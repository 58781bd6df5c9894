"""Gaps to hide parts of a clean tile with: real masks, Landsat 7's stripes, scribbles."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import rasterio

from ecea.runtime.errors import RequestError
from ecea.runtime.masks import Mask, landsat_gaps
from ecea.runtime.paths import is_special
from ecea.runtime.slc_off import MAX_WIDTH, PERIOD, TILTS, slc_off_gaps
from ecea.training.rasters import rasters_in

KINDS = ("files", "slc-off", "scribbles")

_TRIES = 16  # draws until a mask with a gap is found

# The five measured scenes (ecea.runtime.slc_off), and a little more on either side.
_SWATH = 7000  # px at 30 m
_PIXEL_SIZES = (0.8, 1.25)  # of 30 m: 24 to 37.5 m
_FREE_SHARES = (0.08, 0.2)  # stripes fade out rather than end
_BROKEN_BELOW = 4.0  # px: narrower stripes are seen as fragments
_BAND_SHIFT = 1  # rows by which the detectors of the three bands look beside one another

# Of a tile's pixels: what the published scribbles cover.
_SCRIBBLE_SHARES = (0.05, 0.45)


@dataclass(frozen=True)
class GapRecipe:
    """Which kinds of gaps are drawn, how often, and the masks for the kind ``files``.

    Attributes:
        shares: kind -> how often relative to the others, above 0.
        masks: (H, W) each, True in a gap.
    """

    shares: tuple[tuple[str, float], ...]
    masks: tuple[Mask, ...] = ()

    def draw(self, size: int, mask_index: int, rng: np.random.Generator) -> Mask:
        """Draw the gaps of a tile, (size, size), True in a gap.

        Args:
            mask_index: which mask file is this tile's turn, where it gets one; any number from 0.
        """
        shares = np.array([share for _, share in self.shares])
        kind = self.shares[int(rng.choice(len(shares), p=shares / shares.sum()))][0]
        if kind == "files":
            return crop_mask(self.masks[mask_index % len(self.masks)], size, rng)
        return draw_stripes(size, rng) if kind == "slc-off" else draw_scribbles(size, rng)


def parse_gaps(text: str | None, mask_paths: Sequence[str], tile: int) -> GapRecipe:
    """Read ``slc-off=0.7,files=0.3`` and the masks; by default the masks alone, or stripes where there are none.

    Raises:
        RequestError: where it cannot be understood or a mask cannot be used.
    """
    text = text or ("files" if mask_paths else "slc-off")
    shares: dict[str, float] = {}
    for part in text.split(","):
        kind, _, share = part.strip().partition("=")
        try:
            shares[kind] = float(share or 1)
        except ValueError:
            shares[kind] = -1.0
        if kind not in KINDS or not 0 < shares[kind] < np.inf:
            raise RequestError(f"gaps '{part.strip()}' are unknown: expected KIND or KIND=SHARE of {', '.join(KINDS)}")
    if ("files" in shares) != bool(mask_paths):
        raise RequestError(
            "gaps of the kind files are cut from what --masks names, so the two belong together: give both or neither"
        )
    return GapRecipe(tuple(shares.items()), tuple(_load_masks(mask_paths, tile)))


def _load_masks(paths: Sequence[str], tile: int) -> list[Mask]:
    found: list[Mask] = []
    for path in paths:
        files = rasters_in(Path(path)) if Path(path).is_dir() else [Path(path)]
        found += [load_mask(file, tile) for file in files]
    return found


def read_mask(path: str | os.PathLike[str]) -> Mask:
    """Read a mask: any raster, a gap is where its first band is above 0, or what Landsat's own says in its way.

    Raises:
        RequestError: where it cannot be read.
    """
    if is_special(path):
        raise RequestError(f"{path}: is a device or a pipe: give the path of a mask raster")
    try:
        with rasterio.open(path) as dataset:
            values = dataset.read(1)
    except rasterio.RasterioIOError as error:
        raise RequestError(f"{path}: is not a mask that can be read ({error}): give a raster file") from error
    known = landsat_gaps(path, values)
    return np.asarray(values > 0) if known is None else known


def load_mask(path: str | os.PathLike[str], tile: int) -> Mask:
    """Read a mask to cut tiles from.

    Raises:
        RequestError: where it cannot be read, is smaller than a tile, or has no gap or nothing else.
    """
    mask = read_mask(path)
    if min(mask.shape) < tile:
        raise RequestError(
            f"{path}: is a mask of {mask.shape[1]} x {mask.shape[0]} px, tiles are {tile} x {tile}: give masks of a "
            "tile's size at least, or train with a smaller --image-size"
        )
    if mask.all() or not mask.any():
        raise RequestError(
            f"{path}: is a mask of {'one gap' if mask.any() else 'no gap'} from side to side: expected values above 0 "
            "where there is a gap and 0 elsewhere"
        )
    return mask


def crop_mask(mask: Mask, size: int, rng: np.random.Generator) -> Mask:
    """Cut a tile with a gap out of a mask, anywhere, and lay it one of the four ways that keep rows rows."""
    rows, columns = (length - size for length in mask.shape)
    for _ in range(_TRIES):
        top, left = int(rng.integers(rows + 1)), int(rng.integers(columns + 1))
        tile = mask[top : top + size, left : left + size]
        if tile.any() and not tile.all():
            break
    else:
        top, left = _around_an_edge(mask, size, rng)
        tile = mask[top : top + size, left : left + size]
    # Not turned by a right angle: stripes run across a scene, never down.
    if rng.integers(2):
        tile = tile[::-1]
    if rng.integers(2):
        tile = tile[:, ::-1]
    return np.ascontiguousarray(tile)


def _around_an_edge(mask: Mask, size: int, rng: np.random.Generator) -> tuple[int, int]:
    """Where a tile begins that holds one of the gap pixels beside which there is none, and what is beside it."""
    gaps = mask.astype(np.uint8)
    inner = cv2.erode(gaps, cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3)))
    places = np.unravel_index(rng.choice(np.flatnonzero(gaps > inner)), mask.shape)
    top, left = (
        int(rng.integers(min(max(0, place - size + 2), last), min(max(0, place - 1), last) + 1))
        for place, last in zip(places, (length - size for length in mask.shape), strict=True)
    )
    return top, left


def draw_stripes(size: int, rng: np.random.Generator) -> Mask:
    """Draw the SLC-off stripes of a tile that lies anywhere in a swath, descending or ascending.

    Geometry as measured (:func:`ecea.runtime.slc_off.slc_off_gaps`), at a phase, a tilt, a pixel size and a distance
    from the centre line that are drawn; the union over three bands that look a row apart, at times; and stripes that
    are broken into fragments where they are narrow, near the centre line.
    """
    for _ in range(_TRIES):
        scale = rng.uniform(*_PIXEL_SIZES)
        tilt = rng.uniform(*TILTS) * (1 if rng.integers(2) else -1)
        swath = _SWATH / scale
        from_centre = rng.uniform(-swath / 2, swath / 2)
        phase = rng.uniform(0, PERIOD)
        free_share = rng.uniform(*_FREE_SHARES)
        shifts = {0, *rng.integers(-_BAND_SHIFT, _BAND_SHIFT + 1, 2).tolist()} if rng.integers(2) else {0}
        gaps = np.zeros((size, size), bool)
        for shift in shifts:
            gaps |= slc_off_gaps(
                size,
                size,
                phase=phase + shift,
                tilt=tilt,
                period=PERIOD / scale,
                max_width=MAX_WIDTH / scale,
                swath_width=swath,
                centre=(size - 1) / 2 - from_centre,
                free_share=free_share,
            )
        gaps = _break_up(gaps, abs(from_centre) * MAX_WIDTH / (_SWATH / 2), rng)
        if gaps.any():
            break
    return gaps


def _break_up(gaps: Mask, width: float, rng: np.random.Generator) -> Mask:
    """Take parts out of stripes about ``width`` px wide, the more the narrower they are."""
    share = max(0.0, 1 - width / _BROKEN_BELOW) * rng.uniform(0, 1)
    if not share:
        return gaps
    size = gaps.shape[0]
    # Blotches some 8 columns wide, so that what is left are dashes.
    noise = rng.random((size // 8 + 2, size // 8 + 2)).astype(np.float32)
    blotches = cv2.resize(noise, (size, size), interpolation=cv2.INTER_LINEAR)
    return np.asarray(gaps & (blotches >= np.quantile(blotches, share)))


def draw_scribbles(size: int, rng: np.random.Generator) -> Mask:
    """Draw bent strokes of any thickness, over 5 to 45 % of a tile."""
    wanted = rng.uniform(*_SCRIBBLE_SHARES) * size * size
    canvas = np.zeros((size, size), np.uint8)
    # Strokes of less than a pixel's width are drawn a pixel wide, so the canvas always fills up.
    while np.count_nonzero(canvas) < wanted:
        before = canvas.copy()
        _draw_stroke(canvas, rng)
        if np.count_nonzero(canvas) > _SCRIBBLE_SHARES[1] * size * size:
            return np.asarray(before > 0)
    return np.asarray(canvas > 0)


def _draw_stroke(canvas: npt.NDArray[np.uint8], rng: np.random.Generator) -> None:
    size = canvas.shape[0]
    thickness = max(1, round(size * rng.uniform(0.01, 0.08)))
    place = rng.uniform(0, size, 2)
    angle = rng.uniform(0, 2 * np.pi)
    for _ in range(int(rng.integers(2, 8))):
        angle += rng.normal(0, 0.6)
        step = size * rng.uniform(0.05, 0.2)
        following = place + step * np.array([np.cos(angle), np.sin(angle)])
        start, end = (tuple(int(v) for v in np.rint(point)) for point in (place, following))
        cv2.line(canvas, start, end, 1, thickness)
        place = following
