"""How a scene is turned into tiles and tiles into a scene again: for users, and as the published application did."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ecea.runtime.errors import RequestError
from ecea.runtime.scene import Scene
from ecea.runtime.stretch import Stretch, automatic_stretch, stretch_of
from ecea.runtime.survey import Survey
from ecea.runtime.tiles import TileGrid, published_grid


@dataclass(frozen=True)
class Recipe:
    """What the stages of the pipeline need to know of a scene.

    Attributes:
        grid: where the tiles lie.
        stretch: between the scene's values and [0, 1].
        positions: the three bands among those of the file, 0-based.
        every_tile: run tiles without a gap too, and those without a valid pixel.
        alpha: the band that says which pixels hold data, 0-based; None where none does.
        to_values: (n,) float32 in [0, 1] and a 0-based band of the file -> (n,) values of the scene's dtype.
        completes: whether a filled pixel lacks nothing, so that an alpha band or a mask may say that it holds data.
    """

    grid: TileGrid
    stretch: Stretch
    positions: list[int]
    every_tile: bool
    alpha: int | None
    to_values: Callable[[npt.NDArray[np.float32], int], npt.NDArray[Any]]
    completes: bool = True


def default_recipe(scene: Scene, grid: TileGrid, stretch: Stretch | Sequence[float] | None, seen: Survey) -> Recipe:
    """How a scene is filled unless the published application is asked for.

    Args:
        stretch: None: one is chosen from what was seen of the scene.

    Raises:
        RequestError: where the stretch is impossible, or one cannot be chosen.
    """
    if stretch is None:
        _check_not_indexed(scene)
        chosen = automatic_stretch(scene.dtype, seen.sample)
    else:
        chosen = stretch if isinstance(stretch, Stretch) else stretch_of(stretch)
    # A filled pixel must not look like a gap to whoever reads the output next.
    declared = {value for value in scene.nodata_values if np.isfinite(value)}
    forbidden = sorted(declared | {0.0} if scene.zero_is_gap else declared)

    def to_values(unit: npt.NDArray[np.float32], position: int) -> npt.NDArray[Any]:
        return chosen.from_unit(unit, scene.dtype, forbidden)

    return Recipe(grid, chosen, scene.band_positions, False, scene.alpha_position, to_values, scene.all_bands_chosen)


def published_recipe(scene: Scene, size: int) -> Recipe:
    """How the published application fills a scene, with tiles of ``size`` px.

    Raises:
        RequestError: where the scene is not of 8 bits, or its values are indexes of colours.
    """
    if scene.dtype != np.uint8:
        raise RequestError(
            f"{scene.path}: has values of type {scene.dtype}: the reference mode takes 8-bit scenes as they are; "
            "convert the scene to 8 bits first, or run without --reference"
        )

    _check_not_indexed(scene)

    def to_bytes(unit: npt.NDArray[np.float32], position: int) -> npt.NDArray[np.uint8]:
        return np.floor(255 * unit).astype(np.uint8)

    grid = published_grid(scene.height, scene.width, size)
    return Recipe(
        grid, Stretch(0, 255), scene.band_positions, True, scene.alpha_position, to_bytes, scene.all_bands_chosen
    )


def _check_not_indexed(scene: Scene) -> None:
    """Refuse indexes of colours, between which there is nothing, unless a stretch says that they are brightness."""
    if scene.is_indexed:
        raise RequestError(
            f"{scene.path}: holds indexes of a colour table, expected brightness: expand it first (gdal_translate "
            "-expand rgb), or, where the table does no more than colour brightness, say with --stretch which values "
            "are black and white"
        )
