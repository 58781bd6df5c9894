"""Questions about paths that a user gives, and about the files behind them."""

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import rasterio

from ecea.runtime.errors import RequestError

# GDAL's virtual file systems: each is a prefix of the path of a file, which may be virtual again. Two have words of
# their own between: /vsisubfile/OFFSET_SIZE,PATH and /vsicached?file=PATH.
_VIRTUAL = re.compile(r"/vsi\w+(?:/(?:\d+(?:_\d+)?,)?|\?(?:[^&]*&)*?file=)")

_VRT = b"<VRTDataset"
_VRT_BEGINS_WITHIN = 1024  # bytes; comments may come before


def same_file(first: str | os.PathLike[str], second: str | os.PathLike[str]) -> bool:
    """Whether two paths are one existing file."""
    try:
        return Path(first).samefile(second)
    except (OSError, ValueError):  # there is no such file, and of a name with a zero byte none can be
        return False


def written_at(path: Path) -> Path:
    """Where what is written to a path comes to lie: a link stays, and what it leads to is replaced."""
    return Path(os.path.realpath(path)) if os.path.islink(path) else path  # noqa: PTH114 which raises on long names


def place_for(path: Path) -> Path:
    """The same, where something can be put there.

    Raises:
        RequestError: where a link leads to itself, or the folder does not exist.
    """
    place = written_at(path)
    if os.path.islink(place):  # noqa: PTH114 which raises on long names
        raise RequestError(f"{path}: is a link that leads to itself: remove it, or name another output")
    if not place.parent.is_dir():
        raise RequestError(f"{path}: the folder {place.parent} does not exist: make it, or name another output")
    return place


def is_read_through(path: Path, names: Iterable[str | os.PathLike[str]]) -> bool:
    """Whether a path is one of the files that GDAL opens under some names: ``a.zip`` under ``/vsizip/a.zip/b.tif``."""
    return any(same_file(part, path) for name in names for part in leads_through(name))


def leads_through(name: str | os.PathLike[str]) -> list[Path]:
    """A name of GDAL's, as the paths of the file system that may be the file: of an archive, one of the parents."""
    text = os.fspath(name)
    virtual = False
    while match := _VIRTUAL.match(text):
        virtual, text = True, text[match.end() :]
    if virtual:
        text = text.replace("{", "").replace("}", "")  # around the path of an archive
    path = Path(text.partition("://")[2] or text)
    return [path, *path.parents] if virtual or "://" in text else [path]


def check_name(path: str | os.PathLike[str]) -> None:
    """Refuse what GDAL takes for no name.

    Raises:
        RequestError: where it is not UTF-8, or holds a zero byte.
    """
    text = os.fspath(path)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        shown = os.fsencode(text).decode(errors="backslashreplace")
        raise RequestError(f"{shown}: is a name that is not UTF-8, which GDAL expects: rename it") from error
    if "\0" in text:
        raise RequestError(f"{text!r}: holds a zero byte, which no name may: give the path of a file")


def is_special(path: str | os.PathLike[str]) -> bool:
    """Whether a path is there and is neither a file nor a folder: a device or a pipe, which may never end."""
    return os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path))  # noqa: PTH110, PTH112, PTH113


def files_behind(dataset: Any) -> tuple[str, ...]:
    """The files that an open raster is made of, and those that these are made of: GDAL lists one level of VRTs."""
    found: dict[str, None] = {}
    pending = list(dataset.files)
    while pending:
        file = pending.pop()
        if file in found:
            continue
        found[file] = None
        if _is_made_of_others(file):
            with suppress(rasterio.errors.RasterioError), rasterio.open(file) as inner:
                pending += inner.files
    return tuple(found)


def _is_made_of_others(name: str) -> bool:
    """Whether a name of GDAL's is a VRT, or no path but a driver's own, as ``GTIFF_DIR:1:a.tif``."""
    if name.lower().endswith(".vrt"):
        return True
    if name.startswith("/vsi"):
        return False
    try:
        with Path(name).open("rb") as file:
            return _VRT in file.read(_VRT_BEGINS_WITHIN)
    except OSError:
        return ":" in name
