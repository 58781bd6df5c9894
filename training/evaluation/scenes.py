"""Clean scenes: those of which every valid pixel is known, so that a fill can be compared with the truth."""

import zlib
from collections.abc import Callable, Iterable, Sequence
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
from ecea.training.rasters import scenes_in

Unit = npt.NDArray[np.float32]

SMALLEST_SIDE = 11
"""Pixels: the window of SSIM."""


@dataclass(frozen=True)
class CleanScene:
    """A scene without the gaps that it will be given.

    Attributes:
        path: where it was read from.
        values: (3, H, W), the file's own dtype: the bands chosen.
        valid: (H, W), True where all three hold data. What is missing here is never counted.
        stretch: between these values and [0, 1], in which errors are measured.
        nodata: the value that means "no data", if the file declares one.
    """

    path: Path
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


def read_clean_scene(path: Path, bands: Sequence[int], stretch: Stretch | None) -> CleanScene:
    """Read three bands of a scene.

    Args:
        path: any raster that GDAL opens; integers or floats.
        bands: three 1-based bands, as for ``ecea-run``.
        stretch: None: 0 to 255 for 8 bits, else chosen from the scene's valid values as ``ecea-run`` does.

    Raises:
        RequestError: where the raster or its bands are not what is needed, it has no valid pixel, or it is smaller
            than ``SMALLEST_SIDE``.
        EceaError: where the file is damaged.
    """
    # What a mask would say of zeros is not read; naming one keeps an undeclared nodata value from being an error.
    with Scene(path, bands=bands, mask="zero") as scene:
        if min(scene.height, scene.width) < SMALLEST_SIDE:
            raise RequestError(
                f"{path}: is {scene.width} x {scene.height} px, smaller than the {SMALLEST_SIDE} px that SSIM looks at "
                "at once: give a larger scene"
            )
        rows = scene.read(0, scene.height)
        values = rows.bands[scene.band_positions]
        nodata = scene.dataset.nodata
    valid = np.asarray((rows.declared & np.isfinite(values)).all(axis=0))
    if not valid.any():
        raise RequestError(f"{path}: has no valid pixel at all: there is nothing to compare a fill with")
    chosen = automatic_stretch(values.dtype, values[:, valid]) if stretch is None else stretch
    return CleanScene(path, values, valid, chosen, nodata)
