"""Reading a scene: any raster that GDAL opens, a few rows at a time."""

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.windows import Window

from ecea.runtime.errors import EceaError, RequestError
from ecea.runtime.masks import Mask, open_mask
from ecea.runtime.paths import check_name, files_behind, is_special
from ecea.runtime.words import counted

DEFAULT_BANDS = (1, 2, 3)

_REAL = ("int", "uint", "float")  # what the names of dtypes begin with, of any width
_MOST_EXACT = 2**53  # of a nodata value, which GDAL is asked for as a float64


@dataclass(frozen=True)
class Rows:
    """Consecutive rows of a scene.

    Attributes:
        top: index of the first row.
        bands: (bands of the file, h, W), the file's own dtype; all of them, to be copied.
        missing: (h, W), True where the chosen bands hold no data or are to be filled: hidden from the generator.
        selected: (3, h, W), True for each value of the chosen bands that the mask asks to fill, in the collar too.
        void: (h, W), True where the scene holds nothing: what a collar is made of.
        declared: (3, h, W), True for each value of the chosen bands that the raster itself declares to be data.
    """

    top: int
    bands: npt.NDArray[Any]
    missing: Mask
    selected: Mask
    void: Mask
    declared: Mask

    @property
    def bottom(self) -> int:
        """Index of the row after the last."""
        return self.top + self.bands.shape[1]


class Scene:
    """An open scene, the three bands that matter in it, and where its gaps are known from.

    Args:
        path: a file, or anything else that GDAL opens (``/vsizip/``, ``/vsis3/``, ...).
        bands: three 1-based indexes, in the order red, green, blue; one may stand for several.
        mask: ``nodata``, ``zero``, ``qa`` or the path of a mask raster.

    Raises:
        RequestError: where the raster, its bands, its dtype or the mask are not what is needed.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, bands: Sequence[int] = DEFAULT_BANDS, mask: str = "nodata"
    ) -> None:
        self.path = os.fspath(path)
        self.bands = _three(bands)
        with ExitStack() as stack:
            self._dataset = stack.enter_context(_open(self.path))
            self._check_bands()
            self._check_nodata()
            self._check_declares_gaps(mask)
            self._mask = open_mask(mask, self.path, self.height, self.width, stack)
            self.zero_is_gap = mask == "zero"
            self._stack = stack.pop_all()

    @property
    def dataset(self) -> Any:
        """The open ``rasterio`` dataset; one thread at a time."""
        return self._dataset

    @property
    def files(self) -> tuple[str, ...]:
        """All that it is read from, its mask among it; what GDAL makes up in memory is not."""
        return (self.path, *files_behind(self._dataset), *self._mask.files)

    @property
    def height(self) -> int:
        """Rows."""
        return int(self._dataset.height)

    @property
    def width(self) -> int:
        """Columns."""
        return int(self._dataset.width)

    @property
    def dtype(self) -> np.dtype[Any]:
        """That of every band."""
        return np.dtype(self._dataset.dtypes[0])

    @property
    def band_positions(self) -> list[int]:
        """The chosen bands as 0-based positions in ``Rows.bands``."""
        return [band - 1 for band in self.bands]

    @property
    def alpha_position(self) -> int | None:
        """The alpha band as a 0-based position, where such a band says which pixels hold data.

        Not where a nodata value does: GDAL calls the fourth band of an 8-bit file alpha, whatever it is.
        """
        if MaskFlags.alpha not in self._mask_flags():
            return None
        return int(self._dataset.colorinterp.index(ColorInterp.alpha))

    @property
    def is_indexed(self) -> bool:
        """Whether its only band has a colour table: of several bands, none says what their values mean."""
        return tuple(self._dataset.colorinterp) == (ColorInterp.palette,)

    @property
    def all_bands_chosen(self) -> bool:
        """Whether no band is there but the chosen ones and alpha."""
        return set(range(self._dataset.count)) <= {*self.band_positions, self.alpha_position}

    @property
    def nodata_values(self) -> tuple[float, ...]:
        """What a value of any band may be to mean that nothing is there."""
        declared = [value for value in self._dataset.nodatavals if value is not None]
        if MaskFlags.nodata in self._mask_flags():  # of all bands together: GDAL reads it from a tag
            declared += _floats(self._dataset.tags().get("NODATA_VALUES", ""))
        return tuple(declared)

    @property
    def has_mask(self) -> bool:
        """Whether a mask apart from the bands says which pixels hold data."""
        elsewhere = {MaskFlags.all_valid, MaskFlags.nodata, MaskFlags.alpha}
        return not elsewhere.intersection(self._mask_flags())

    def read(self, top: int, bottom: int) -> Rows:
        """Read the rows ``[top, bottom)``.

        Raises:
            EceaError: where the file is damaged there.
        """
        window = Window(0, top, self.width, bottom - top)
        try:
            values = self._dataset.read(window=window)
            declared = self._dataset.read_masks(list(self.bands), window=window) != 0
            chosen = values[self.band_positions]
            invalid = ~declared
            if self.dtype.kind == "f":
                invalid |= ~np.isfinite(chosen)
            selected = np.broadcast_to(self._mask.select(chosen, invalid, window), invalid.shape)
        except rasterio.RasterioIOError as error:
            raise EceaError(
                f"{self.path}: rows {top} to {bottom - 1} or their mask cannot be read ({error}): is the file whole?"
            ) from error
        missing = (invalid | selected).any(axis=0)
        void = invalid.any(axis=0) if self._mask.covers_data else missing
        return Rows(top, values, missing, selected, void, declared)

    def close(self) -> None:
        """Close the scene and its mask."""
        self._stack.close()

    def __enter__(self) -> "Scene":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _mask_flags(self) -> set[MaskFlags]:
        return set(self._dataset.mask_flag_enums[self.band_positions[0]])

    def _check_bands(self) -> None:
        count, dtypes = self._dataset.count, set(self._dataset.dtypes)
        if max(self.bands) > count:
            raise RequestError(
                f"{self.path}: has {counted(count, 'band')}, bands {','.join(map(str, self.bands))} were "
                "asked for: choose among them with --bands (one may stand for several: 1,1,1)"
            )
        if len(dtypes) > 1 or not self._dataset.dtypes[0].startswith(_REAL):
            raise RequestError(
                f"{self.path}: has values of type {', '.join(sorted(dtypes))}: expected one type for all bands, an "
                "integer or a float; convert it first (gdal_translate -ot Float32)"
            )

    def _check_nodata(self) -> None:
        """Refuse a nodata value of 64-bit integers that would be another one in the output."""
        if self.dtype.kind == "f" or self.dtype.itemsize < 8:
            return
        for band, (value, flags) in enumerate(
            zip(self._dataset.nodatavals, self._dataset.mask_flag_enums, strict=True), start=1
        ):
            if MaskFlags.nodata in flags and (value is None or abs(value) > _MOST_EXACT):
                raise RequestError(
                    f"{self.path}: band {band} declares a nodata value beyond 2**53, which cannot be written again "
                    "exactly: give it another nodata value first (gdalwarp -dstnodata), or convert it "
                    "(gdal_translate -ot Float64)"
                )

    def _check_declares_gaps(self, mask: str) -> None:
        if mask != "nodata" or self.dtype.kind == "f":
            return
        flags = self._dataset.mask_flag_enums
        if all(MaskFlags.all_valid in flags[position] for position in self.band_positions):
            raise RequestError(
                f"{self.path}: declares no nodata value, so its gaps cannot be told from data: say where they are "
                "with --mask zero or --mask FILE"
            )


def _three(bands: Sequence[int]) -> tuple[int, ...]:
    if len(bands) != 3 or not all(isinstance(band, int | np.integer) and band >= 1 for band in bands):
        raise RequestError(
            f"bands {','.join(map(str, bands))} are not three: expected three indexes from 1, such as 3,2,1 (one may "
            "stand for several: 1,1,1)"
        )
    return tuple(int(band) for band in bands)


def _floats(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split()]
    except ValueError:
        return []


def _open(path: str) -> Any:
    check_name(path)
    if is_special(path):
        raise RequestError(f"{path}: is a device or a pipe: give the path of a raster file")
    try:
        return rasterio.open(path)
    except rasterio.RasterioIOError as error:
        if not path.startswith("/vsi") and "://" not in path and not os.path.lexists(path):
            raise RequestError(f"{path}: no such file: give the path of a raster") from error
        raise RequestError(f"{path}: is not a raster that GDAL opens ({error}): give a raster file") from error
