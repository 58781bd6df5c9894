"""Where the gaps of a scene are known from: its nodata, zeros, a mask file, or Landsat's quality bands."""

import os
import re
from contextlib import ExitStack
from pathlib import Path, PurePath
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.windows import Window

from ecea.runtime.errors import RequestError
from ecea.runtime.paths import check_name, files_behind, is_special

Mask = npt.NDArray[np.bool_]

_QA_PIXEL_SUFFIX = "_QA_PIXEL.TIF"
_QA_RADSAT_SUFFIX = "_QA_RADSAT.TIF"
_QA_PIXEL_FILL = 1 << 0
_QA_RADSAT_DROPPED = 1 << 9
_QA_RADSAT_BYTES = 2
_GAP_MASK = re.compile(r"_GM_B\d+\.TIF$")


class MaskSource(Protocol):
    """Says which values are to be filled: a pixel may lack one band and hold another, which then stays as it is.

    Attributes:
        covers_data: whether it may select pixels that hold data, so that it says nothing of where the swath ends.
        files: that it reads, besides the scene's own.
    """

    covers_data: bool
    files: tuple[str, ...]

    def select(self, bands: npt.NDArray[Any], invalid: Mask, window: Window) -> Mask:
        """(3, h, w) values and "no data" of a window -> True for each value to be filled, broadcast to (3, h, w)."""


class NodataMask:
    """What the raster itself declares to be no data, or that is not a finite number."""

    covers_data = False
    files: tuple[str, ...] = ()

    def select(self, bands: npt.NDArray[Any], invalid: Mask, window: Window) -> Mask:
        return invalid


class ZeroMask:
    """Zeros. A pixel is a gap where any of its bands is 0, as in the published application."""

    covers_data = False
    files: tuple[str, ...] = ()

    def select(self, bands: npt.NDArray[Any], invalid: Mask, window: Window) -> Mask:
        return np.asarray(bands == 0)


class FileMask:
    """Where the first band of another raster of the same size is not 0, or what Landsat's own says in its way."""

    covers_data = True

    def __init__(self, path: str, height: int, width: int, stack: ExitStack) -> None:
        self._path = path
        self._dataset = _open_same_size(path, height, width, stack)
        self.files = files_behind(self._dataset)

    def select(self, bands: npt.NDArray[Any], invalid: Mask, window: Window) -> Mask:
        values = self._dataset.read(1, window=window)
        gaps = landsat_gaps(self._path, values)
        return np.asarray(values != 0) if gaps is None else gaps


def landsat_gaps(path: str | os.PathLike[str], values: npt.NDArray[Any]) -> Mask | None:
    """Where one of a Landsat product's own rasters says that pixels are missing: most of their values are not 0.

    Args:
        path: its name tells which it is: QA_RADSAT has a bit for dropped pixels, a gap mask is 0 in gaps.
        values: of its first band, of any shape.

    Returns:
        True in gaps, of that shape; None for any other raster.

    Raises:
        RequestError: where the values cannot be that raster's.
    """
    name = PurePath(path).name.upper()
    if name.endswith(_QA_RADSAT_SUFFIX):
        _check_bits(path, values.dtype.name, _QA_RADSAT_BYTES)
        return np.asarray((values & _QA_RADSAT_DROPPED) != 0)
    return np.asarray(values == 0) if _GAP_MASK.search(name) else None


class QualityMask:
    """Fill (QA_PIXEL bit 0) or dropped pixels (QA_RADSAT bit 9) of the Landsat product that a scene belongs to."""

    covers_data = False

    def __init__(self, scene: Path, height: int, width: int, stack: ExitStack) -> None:
        pixel = _quality_file(scene)
        self._pixel = _open_bits(pixel, 1, height, width, stack)
        radsat = pixel.with_name(pixel.name.removesuffix(_QA_PIXEL_SUFFIX) + _QA_RADSAT_SUFFIX)
        self._radsat = _open_bits(radsat, _QA_RADSAT_BYTES, height, width, stack) if radsat.exists() else None
        opened = [dataset for dataset in (self._pixel, self._radsat) if dataset is not None]
        self.files = tuple(file for dataset in opened for file in files_behind(dataset))

    def select(self, bands: npt.NDArray[Any], invalid: Mask, window: Window) -> Mask:
        gaps = (self._pixel.read(1, window=window) & _QA_PIXEL_FILL) != 0
        if self._radsat is not None:
            gaps |= (self._radsat.read(1, window=window) & _QA_RADSAT_DROPPED) != 0
        return np.asarray(gaps)


def open_mask(mask: str, scene: str, height: int, width: int, stack: ExitStack) -> MaskSource:
    """Open the source of gaps that a user names: ``nodata``, ``zero``, ``qa`` or the path of a mask.

    Raises:
        RequestError: where a file is needed that is absent, is no raster, or has another size than the scene.
    """
    if mask == "nodata":
        return NodataMask()
    if mask == "zero":
        return ZeroMask()
    if mask == "qa":
        return QualityMask(Path(scene), height, width, stack)
    return FileMask(mask, height, width, stack)


def _open_same_size(path: str | Path, height: int, width: int, stack: ExitStack) -> Any:
    check_name(path)
    if is_special(path):
        raise RequestError(f"{path}: is a device or a pipe: give the path of a mask raster")
    try:
        dataset = stack.enter_context(rasterio.open(path))
    except rasterio.RasterioIOError as error:
        raise RequestError(
            f"{path}: is not a mask that can be read ({error}): expected a raster, or nodata, zero or qa"
        ) from error
    if (dataset.height, dataset.width) != (height, width):
        raise RequestError(
            f"{path}: is a mask of {dataset.width} x {dataset.height} px, the scene has {width} x {height}: give a "
            "mask on the scene's own grid"
        )
    return dataset


def _open_bits(path: Path, least_bytes: int, height: int, width: int, stack: ExitStack) -> Any:
    """Open a quality band, whose values are bits."""
    dataset = _open_same_size(path, height, width, stack)
    _check_bits(path, dataset.dtypes[0], least_bytes)
    return dataset


def _check_bits(path: str | os.PathLike[str], found: str, least_bytes: int) -> None:
    if not found.startswith(("int", "uint")) or np.dtype(found).itemsize < least_bytes:
        raise RequestError(
            f"{path}: has values of type {found}, a quality band holds integers of {8 * least_bytes} bits at least: "
            "put the product's own file there, or choose another mask"
        )


def _quality_file(scene: Path) -> Path:
    """Find the QA_PIXEL file beside a scene whose name begins with the product's identifier."""
    candidates = sorted(scene.parent.glob(f"*{_QA_PIXEL_SUFFIX}"))
    matches = [path for path in candidates if scene.name.startswith(path.name.removesuffix(_QA_PIXEL_SUFFIX))]
    if len(matches) != 1:
        raise RequestError(
            f"{scene}: has {len(matches)} files PRODUCT{_QA_PIXEL_SUFFIX} of the same Landsat product beside it, "
            "expected one: put the quality bands beside a scene whose name begins with PRODUCT, or choose "
            "another --mask"
        )
    return matches[0]
