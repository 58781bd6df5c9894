"""Clean scenes: those of which every valid pixel is known, so that a fill can be compared with the truth."""

import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ecea.runtime.errors import RequestError
from ecea.runtime.masks import Mask
from ecea.runtime.paths import is_special
from ecea.runtime.scene import Scene
from ecea.runtime.stretch import Stretch, automatic_stretch
from ecea.training.data.scenes import clean_pixels, mask_for
from ecea.training.rasters import scenes_in
from ecea.training.sources import Source

Unit = npt.NDArray[np.float32]

SMALLEST_SIDE = 11
"""Pixels: the window of SSIM."""


@dataclass(frozen=True)
class CleanScene:
    """A scene without the gaps that it will be given.

    Attributes:
        path: where it was read from.
        label: what results call it.
        values: (3, H, W), the file's own dtype: the bands chosen.
        valid: (H, W), True where all three hold data. What is missing here is never counted.
        stretch: between these values and [0, 1], in which errors are measured.
        nodata: the value that means "no data", if the file declares one.
    """

    path: Path
    label: str
    values: npt.NDArray[Any]
    valid: Mask
    stretch: Stretch
    nodata: float | None

    @property
    def name(self) -> str:
        """The file's name without its suffix."""
        return self.path.stem

    @property
    def key(self) -> int:
        """A number that is the scene's own, whichever others there are: what random draws start from."""
        return zlib.crc32(self.name.encode())

    def to_unit(self, values: npt.NDArray[Any]) -> Unit:
        """(3, H, W) values of this scene -> float32 in [0, 1], clipped; 0 where the clean scene has no data."""
        return np.where(self.valid, self.stretch.to_unit(values), np.float32(0))


def find_rasters(paths: Iterable[Path], what: str, inside: Callable[[Path], list[Path]] = scenes_in) -> list[Path]:
    """The files named, and those ``inside`` the folders named, sorted by name.

    Raises:
        RequestError: where a path does not exist, or a folder holds no raster.
    """
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise RequestError(f"{path}: no such file or folder: give {what}, files or folders of them")
        if is_special(path):
            raise RequestError(f"{path}: is a device or a pipe: give {what}, files or folders of them")
        found += inside(path) if path.is_dir() else [path]
    return sorted(dict.fromkeys(found), key=lambda file: (file.name, str(file)))


def read_clean_scene(source: Source) -> CleanScene:
    """Read three bands of a scene.

    Args:
        source: any raster that GDAL opens, integers or floats. Without a stretch it gets 0 to 255 for 8 bits, else the
            one that ``ecea-run`` would choose from its valid values.

    Raises:
        RequestError: where the raster or its bands are not what is needed, it has no valid pixel, or it is smaller
            than ``SMALLEST_SIDE``.
        EceaError: where the file is damaged.
    """
    path = source.path
    with Scene(path, bands=source.bands, mask=mask_for(source)) as scene:
        if min(scene.height, scene.width) < SMALLEST_SIDE:
            raise RequestError(
                f"{path}: is {scene.width} x {scene.height} px, smaller than the {SMALLEST_SIDE} px that SSIM looks at "
                "at once: give a larger scene"
            )
        rows = scene.read(0, scene.height)
        values = rows.bands[scene.band_positions]
        nodata = None if source.mask == "none" else scene.dataset.nodata
    valid = clean_pixels(source.mask, rows, values) & np.isfinite(values).all(axis=0)
    if not valid.any():
        raise RequestError(f"{path}: has no valid pixel at all: there is nothing to compare a fill with")
    stretch = automatic_stretch(values.dtype, values[:, valid]) if source.stretch is None else source.stretch
    return CleanScene(Path(path), source.label, values, valid, stretch, nodata)
