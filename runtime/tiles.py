"""Which tiles cover a scene, what weight each pixel of a tile has, and how a tile is cut from a strip of rows."""

from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from ecea.runtime.errors import RequestError

BLENDS = ("linear", "mean")  # the first unless another is asked for
PUBLISHED_OVERLAP = 20  # px, of tiles of 256

_Scalar = TypeVar("_Scalar", bound=np.generic)


@dataclass(frozen=True)
class TileGrid:
    """Square tiles that together cover a scene.

    Attributes:
        size: side of a tile in pixels.
        rows: top row of each strip of tiles, ascending from 0.
        columns: left column of each tile in a strip, ascending from 0.
        row_weights: (rows, size) float32, > 0: of each row of a tile, where tiles overlap.
        column_weights: (columns, size) likewise; a pixel of a tile weighs the product of both.
    """

    size: int
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    row_weights: npt.NDArray[np.float32]
    column_weights: npt.NDArray[np.float32]


def default_overlap(size: int) -> int:
    """As the published application: 20 px for tiles of 256, and as large a share of others."""
    return size * PUBLISHED_OVERLAP // 256


def covering_grid(height: int, width: int, size: int, overlap: int, blend: str = "linear") -> TileGrid:
    """Lay as few tiles as cover the scene with neighbours sharing at least ``overlap`` pixels, evenly.

    No tile reaches beyond the scene, unless the scene is smaller than a tile. Linear weights rise and fall over all
    that neighbours share, not over ``overlap`` alone, and not at the border of the scene.

    Raises:
        RequestError: where ``overlap`` is not in ``[0, size / 2]`` or ``blend`` is not one of ``BLENDS``.
    """
    if not 0 <= overlap <= size // 2:
        raise RequestError(f"an overlap of {overlap} px is out of range: expected 0 to {size // 2} px, half a tile")
    if blend not in BLENDS:
        raise RequestError(f"blend '{blend}' is unknown: expected one of {', '.join(BLENDS)}")
    rows, columns = _even_positions(height, size, overlap), _even_positions(width, size, overlap)
    weights = _linear_weights if blend == "linear" else _equal_weights
    return TileGrid(size, rows, columns, weights(rows, size), weights(columns, size))


def published_grid(height: int, width: int, size: int) -> TileGrid:
    """Lay tiles as the published application does: a fixed step, the last ones reaching beyond the scene."""
    step = size - PUBLISHED_OVERLAP

    def positions(length: int) -> tuple[int, ...]:
        return tuple(range(0, max(length - PUBLISHED_OVERLAP, 1), step))

    rows, columns = positions(height), positions(width)
    return TileGrid(size, rows, columns, _equal_weights(rows, size), _equal_weights(columns, size))


def cut_tile(strip: npt.NDArray[_Scalar], column: int, size: int) -> npt.NDArray[_Scalar]:
    """Cut (..., size, size) from the left top of a strip (..., H, W), mirrored where the strip ends before."""
    tile = strip[..., :size, column : column + size]
    missing_rows, missing_columns = size - tile.shape[-2], size - tile.shape[-1]
    if not missing_rows and not missing_columns:
        return tile
    padding = [(0, 0)] * (tile.ndim - 2) + [(0, missing_rows), (0, missing_columns)]
    return np.pad(tile, padding, mode="reflect")


def _even_positions(length: int, size: int, overlap: int) -> tuple[int, ...]:
    if length <= size:
        return (0,)
    count = -(-(length - overlap) // (size - overlap))
    return tuple(round(i * (length - size) / (count - 1)) for i in range(count))


def _equal_weights(positions: tuple[int, ...], size: int) -> npt.NDArray[np.float32]:
    return np.ones((len(positions), size), np.float32)


def _linear_weights(positions: tuple[int, ...], size: int) -> npt.NDArray[np.float32]:
    """(n, size): each rises over what it shares with the tile before and falls over what it shares with the next."""
    shared = [size - (after - before) for before, after in pairwise(positions)]
    distance = np.arange(1, size + 1)
    weights = [
        np.minimum(np.minimum(distance / (left + 1), distance[::-1] / (right + 1)), 1)
        for left, right in zip([0, *shared], [*shared, 0], strict=True)
    ]
    return np.array(weights, np.float32)
