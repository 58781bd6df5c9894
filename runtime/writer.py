"""Writing the filled scene: a tiled, compressed GeoTIFF that appears whole or not at all."""

import errno
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.windows import Window

from ecea.runtime.bundle import is_bundle
from ecea.runtime.errors import EceaError, RequestError
from ecea.runtime.paths import is_special, place_for, written_at

BLOCK = 256  # px; rows are handed to GDAL in whole blocks, so none is compressed twice

# What GDAL reads beside a raster and believes: its georeference or statistics, its overviews, its mask.
_SIDECARS = (".aux.xml", ".ovr", ".msk", ".msk.ovr")

_STALE_TAG = "STATISTICS_"  # GDAL's cached statistics are not those of the filled band
_STRUCTURE = ("IMAGE_STRUCTURE", "DERIVED_SUBDATASETS", "LocationInfo", "TIFF")

WriteRows = Callable[[npt.NDArray[Any], npt.NDArray[np.bool_]], None]


def check_destination(destination: Path, *suffixes: str) -> None:
    """Refuse a destination that cannot be written, before any work is done.

    Args:
        destination: of a file.
        suffixes: in small letters, of which it has to have one, in small letters or capitals; none: it may have any.

    Raises:
        RequestError: where it has another suffix, its folder does not exist, may not be written or is a bundle, or it
            is a folder, a device or a pipe, or has too long a name. Of a link, the folder is that of what it leads to.
    """
    if suffixes and destination.suffix.lower() not in suffixes:
        names = " or ".join(f"NAME{suffix}" for suffix in suffixes)
        raise RequestError(f"{destination}: does not end in {' or '.join(suffixes)}: name it {names}")
    folder = place_for(destination).parent
    try:
        destination.lstat()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise RequestError(f"{destination}: is too long a name for the file system: name another output") from error
    if is_bundle(Path(os.path.realpath(folder))):
        raise RequestError(f"{destination}: lies in a bundle, which takes nothing but its own: name another output")
    if destination.is_dir():
        raise RequestError(f"{destination}: is a folder: name a file for the output")
    if is_special(destination):
        raise RequestError(f"{destination}: is a device or a pipe, which is not replaced: name a file for the output")
    if not os.access(folder, os.W_OK):
        raise RequestError(f"{destination}: the folder {folder} may not be written: name another output")


WHY_NOT_WRITTEN = "is the disk full, or no file allowed there?"
"""What to look at where a file could not be written."""


@contextmanager
def whole_or_nothing(destination: Path) -> Iterator[Path]:
    """Give a temporary path beside ``destination``; rename it there if the block succeeds, else delete it.

    A link stays, and what it leads to is replaced. What GDAL has put beside the temporary file goes with it, and takes
    the place of what was beside the old one.

    Raises:
        EceaError: where the disk fails or the rename.
    """
    target = written_at(destination)
    short = destination.stem[:32]  # a name may be as long as the file system allows, the temporary one not longer
    temporary = target.with_name(f".{short}.{secrets.token_hex(4)}.partial{destination.suffix}")
    try:
        yield temporary
        try:
            _to_disk(temporary)
            temporary.replace(target)
        except OSError as error:
            raise EceaError(f"{destination}: cannot be put in place ({error.strerror})") from error
        for new, old, seen in zip(sidecars(temporary), sidecars(target), sidecars(destination), strict=True):
            with _put_beside(destination, old):
                _take_place(new, old)
            if target != destination:
                with _put_beside(destination, seen):
                    _lead(seen, old)
    finally:
        for leftover in (temporary, *sidecars(temporary)):
            with suppress(OSError):
                leftover.unlink(missing_ok=True)


def _to_disk(path: Path) -> None:
    """Wait until a file is on the disk: else, where power fails, its new name may lead to nothing."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


@contextmanager
def _put_beside(destination: Path, beside: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EceaError(
            f"{destination}: was written, but {beside} beside it is not its own and cannot be replaced "
            f"({error.strerror}): remove that"
        ) from error


def _take_place(new: Path, old: Path) -> None:
    if os.path.lexists(new):
        new.replace(old)
    elif os.path.lexists(old):  # not where the name is too long to be there
        old.unlink()


def _lead(seen: Path, kept: Path) -> None:
    """Beside a link, lead to what is kept beside the file: GDAL looks for it by the name that it is given."""
    if os.path.lexists(seen):
        seen.unlink()
    if os.path.lexists(kept):
        seen.symlink_to(kept)


def sidecars(raster: Path) -> list[Path]:
    """Where GDAL looks for what it keeps beside a raster; replaced with it."""
    return [raster.with_name(raster.name + suffix) for suffix in _SIDECARS]


@contextmanager
def written_whole(destination: Path) -> Iterator[Path]:
    """As :func:`whole_or_nothing`, for a block that does nothing but write: what stops it is said in a sentence.

    Raises:
        EceaError: where the file cannot be written.
    """
    with whole_or_nothing(destination) as temporary:
        try:
            yield temporary
        except (rasterio.errors.RasterioError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise EceaError(f"{destination}: cannot be written ({reason}): {WHY_NOT_WRITTEN}") from error


@contextmanager
def geotiff_like(
    source: Any, destination: Path, *, named: Path | None = None, with_mask: bool = False
) -> Iterator[WriteRows]:
    """Create a GeoTIFF with everything of ``source`` but its pixels, and take those from the top row down.

    Kept: size, bands, dtype, CRS, transform, ground control points, RPCs, nodata, descriptions, units, scales,
    offsets, colour interpretation, colour tables and tags.

    Args:
        source: an open rasterio dataset.
        destination: a path that does not exist.
        named: what errors call it, where it is a temporary one.
        with_mask: write a mask into the file too.

    Yields:
        A function that takes the next rows, (bands, h, W), and which of their pixels are valid, (h, W).

    Raises:
        EceaError: where the file system refuses, with its reason.
    """
    name = destination if named is None else named
    with ExitStack() as stack:
        with _writing(name):
            stack.enter_context(rasterio.Env(GDAL_TIFF_INTERNAL_MASK="YES"))
            target = stack.enter_context(rasterio.open(destination, "w", **_profile(source)))
            _copy_metadata(source, target)
        rows = _AlignedRows(target, name, with_mask)
        yield rows.add
        rows.flush()
        with _writing(name):
            stack.close()
    with _writing(name):
        _check_complete(destination, with_mask)


@contextmanager
def _writing(destination: Path) -> Iterator[None]:
    try:
        yield
    except (rasterio.errors.RasterioError, OSError) as error:
        reason = error.__cause__ or error  # rasterio's own words refer to GDAL's
        raise EceaError(f"{destination}: cannot be written ({reason}): {WHY_NOT_WRITTEN}") from error


class _AlignedRows:
    """Gathers rows until they make up whole blocks of the file."""

    def __init__(self, target: Any, destination: Path, with_mask: bool) -> None:
        self._target = target
        self._destination = destination
        self._with_mask = with_mask
        self._top = 0
        self._pending: list[npt.NDArray[Any]] = []
        self._pending_valid: list[npt.NDArray[np.bool_]] = []
        self._count = 0

    def add(self, rows: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> None:
        self._pending.append(rows)
        self._pending_valid.append(valid)
        self._count += rows.shape[1]
        if self._count >= BLOCK:
            self._write(self._count - self._count % BLOCK)

    def flush(self) -> None:
        if self._count:
            self._write(self._count)

    def _write(self, count: int) -> None:
        rows, valid = np.concatenate(self._pending, axis=1), np.concatenate(self._pending_valid)
        window = Window(0, self._top, rows.shape[2], count)
        with _writing(self._destination):
            self._target.write(rows[:, :count], window=window)
            if self._with_mask:
                self._target.write_mask(valid[:count], window=window)
        self._pending, self._pending_valid = [rows[:, count:]], [valid[count:]]
        self._top += count
        self._count -= count


def _profile(source: Any) -> dict[str, Any]:
    dtype = np.dtype(source.dtypes[0])
    return {
        "driver": "GTiff",
        "width": source.width,
        "height": source.height,
        "count": source.count,
        "dtype": dtype.name,
        "nodata": source.nodata,
        "crs": source.crs,
        "transform": source.transform,
        "tiled": True,
        "blockxsize": BLOCK,
        "blockysize": BLOCK,
        "interleave": "pixel",
        "compress": "deflate",
        "predictor": 3 if dtype.kind == "f" else 2,
        "zlevel": 1,
        "BIGTIFF": "IF_SAFER",
    }


def _copy_metadata(source: Any, target: Any) -> None:
    target.update_tags(**_fresh(source.tags()))
    for namespace in _kept(source.tag_namespaces()):
        target.update_tags(ns=namespace, **source.tags(ns=namespace))
    for band in source.indexes:
        target.update_tags(band, **_fresh(source.tags(band)))
        for namespace in _kept(source.tag_namespaces(band)):
            target.update_tags(band, ns=namespace, **source.tags(band, ns=namespace))
        if source.descriptions[band - 1]:
            target.set_band_description(band, source.descriptions[band - 1])
        if source.units[band - 1]:
            target.set_band_unit(band, source.units[band - 1])
        if source.count == 1 and source.colorinterp[band - 1] == ColorInterp.palette:  # more, no GeoTIFF holds
            target.write_colormap(band, source.colormap(band))
    target.scales = source.scales
    target.offsets = source.offsets
    target.colorinterp = source.colorinterp
    control_points, control_crs = source.gcps
    if control_points:
        target.gcps = (control_points, control_crs or CRS())
    if source.rpcs is not None:
        target.rpcs = source.rpcs


def _kept(namespaces: Iterable[str]) -> list[str]:
    """Those that hold tags; an ``xml:`` one holds a document, of the format that the scene came in."""
    return [name for name in namespaces if name not in _STRUCTURE and not name.startswith("xml:")]


def _fresh(tags: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in tags.items() if not name.startswith(_STALE_TAG)}


def _check_complete(path: Path, with_mask: bool) -> None:
    """Read the last pixels back: GDAL does not always report that a file could not be finished."""
    with rasterio.open(path) as written:
        corner = Window(max(written.width - 1, 0), max(written.height - 1, 0), 1, 1)
        written.read(window=corner)
        if with_mask:
            written.read_masks(1, window=corner)
