"""A raster in memory: its clean pixels, and where tiles of them can be cut."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from ecea.runtime.errors import RequestError
from ecea.runtime.masks import Mask
from ecea.runtime.scene import Rows, Scene
from ecea.runtime.stretch import Stretch, automatic_stretch, sample_step
from ecea.training.fingerprint import fingerprint
from ecea.training.sources import Source

_ROWS_AT_ONCE = 256
_POSITIONS = 1_000_000  # places at which tiles may be cut, at most

Tensor = npt.NDArray[np.float32]


@dataclass(frozen=True)
class TrainingScene:
    """What tiles are cut from; as many bytes in memory as the three bands have in the file, uncompressed.

    Attributes:
        source: where it comes from.
        values: (3, H, W), the file's dtype.
        stretch: to [0, 1].
        corners: (n,) the places, ``row * W + column``, of the upper left corners of tiles that are clean all over.
        tile: side of these tiles, px.
        clean_pixels: how many pixels hold data.
    """

    source: Source
    values: npt.NDArray[Any]
    stretch: Stretch
    corners: npt.NDArray[np.int64]
    tile: int
    clean_pixels: int

    @property
    def tiles(self) -> int:
        """Tiles that it gives in an epoch: as many as would cover its clean pixels, one at least."""
        return max(1, self.clean_pixels // self.tile**2)

    @property
    def contents(self) -> str:
        """What tells it apart from a raster of the same name that holds something else, or is clean elsewhere."""
        return f"{Path(self.source.path).name} {fingerprint(self.values, self.corners)}"

    def cut(self, rng: np.random.Generator) -> tuple[Tensor, tuple[int, int]]:
        """Cut a clean tile anywhere: (3, tile, tile) float32 in [0, 1], and the row and column that it starts at."""
        row, column = divmod(int(rng.choice(self.corners)), self.values.shape[2])
        window = self.values[:, row : row + self.tile, column : column + self.tile]
        return self.stretch.to_unit(window), (row, column)


def load_scene(source: Source, tile: int) -> TrainingScene:
    """Read a raster.

    Raises:
        RequestError: where it is not what is needed, is smaller than a tile, or nowhere clean over a whole tile.
        EceaError: where it is damaged.
    """
    with Scene(source.path, bands=source.bands, mask=mask_for(source)) as scene:
        if min(scene.height, scene.width) < tile:
            raise RequestError(
                f"{source.path}: is {scene.width} x {scene.height} px, smaller than a tile of {tile} px: leave it out, "
                "or train with a smaller --image-size"
            )
        values = np.empty((3, scene.height, scene.width), scene.dtype)
        clean = np.empty(values.shape[1:], bool)
        for top in range(0, scene.height, _ROWS_AT_ONCE):
            rows = scene.read(top, min(top + _ROWS_AT_ONCE, scene.height))
            chosen = rows.bands[scene.band_positions]
            values[:, top : rows.bottom] = chosen
            clean[top : rows.bottom] = clean_pixels(source.mask, rows, chosen)
    corners = _clean_corners(clean, tile)
    if not corners.size:
        raise RequestError(
            f"{source.path}: has no tile of {tile} px without missing pixels ({100 * clean.mean():.0f} % hold data): "
            "leave it out, or train with a smaller --image-size"
        )
    return TrainingScene(source, values, _stretch(source, values, clean), corners, tile, int(np.count_nonzero(clean)))


def mask_for(source: Source) -> str:
    """The mask to open its scene with.

    Where nothing is declared to be nodata, Scene takes no "nodata" for an answer; what is declared is in its rows.
    """
    return "zero" if source.mask in ("nodata", "none") else source.mask


def clean_pixels(mask: str, rows: Rows, values: npt.NDArray[Any]) -> Mask:
    """(h, W), True where these rows hold data.

    Args:
        mask: as in :class:`ecea.training.sources.Source`.
        rows: of the scene, opened with :func:`mask_for`.
        values: (3, h, W), the bands chosen.
    """
    if mask not in ("nodata", "none"):
        return ~rows.missing
    clean = rows.declared.all(axis=0) if mask == "nodata" else np.ones(values.shape[1:], bool)
    if values.dtype.kind == "f":
        clean &= np.isfinite(values).all(axis=0)
    return np.asarray(clean)


def _clean_corners(clean: Mask, tile: int) -> npt.NDArray[np.int64]:
    """Upper left corners of clean tiles: all of them, or some of all places where they would be very many."""
    # The sum over each tile, from the sums over rectangles that begin at the origin.
    sums = cv2.integral((~clean).astype(np.uint8), sdepth=cv2.CV_64F)
    missing = sums[tile:, tile:] - sums[:-tile, tile:] - sums[tile:, :-tile] + sums[:-tile, :-tile]
    found = np.empty(0, np.int64)
    if missing.size > _POSITIONS:
        # Not on a grid: a network that sees patches of 4 px would learn some of their phases alone.
        places = np.unique(np.random.default_rng(0).integers(missing.size, size=_POSITIONS))
        found = places[missing.ravel()[places] == 0]
    if not found.size:
        found = np.flatnonzero(missing == 0)
    rows, columns = np.divmod(found, missing.shape[1])
    return np.asarray(rows * clean.shape[1] + columns, np.int64)


def _stretch(source: Source, values: npt.NDArray[Any], clean: Mask) -> Stretch:
    if source.stretch is not None:
        return source.stretch
    return automatic_stretch(values.dtype, values[:, clean][:, :: sample_step(clean.size)])
