"""Questions about paths that a user gives, and about the files behind them."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import rasterio


def same_file(first: str | os.PathLike[str], second: str | os.PathLike[str]) -> bool:
    """Whether two paths are one existing file."""
    try:
        return Path(first).samefile(second)
    except OSError:
        return False


def real_parents(path: str | os.PathLike[str]) -> list[Path]:
    """What a path leads through, as paths of the file system: ``/vsizip/a/b.zip/c.tif`` through ``a/b.zip``."""
    text = os.fspath(path)
    while text.startswith("/vsi"):
        text = text.removeprefix("/").partition("/")[2]
    return list(Path(text.partition("://")[2] or text).parents)


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
        if file.lower().endswith(".vrt"):
            with suppress(rasterio.errors.RasterioError), rasterio.open(file) as inner:
                pending += inner.files
    return tuple(found)
