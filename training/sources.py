"""Which rasters are trained or evaluated on, with which bands, and which of them show the same scene."""

import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import rasterio

from ecea.runtime.errors import RequestError
from ecea.runtime.paths import is_special
from ecea.runtime.scene import DEFAULT_BANDS
from ecea.runtime.stretch import Stretch
from ecea.training.folds import scene_of
from ecea.training.rasters import scenes_in

LIST_SUFFIX = ".toml"

MASKS = ("nodata", "zero", "none")
"""Where a raster holds nothing to learn from, beside the path of a mask."""

_KEYS = frozenset(("path", "scene", "bands", "stretch", "mask"))


@dataclass(frozen=True)
class Source:
    """A raster to train or to evaluate on.

    Attributes:
        path: anything that GDAL opens.
        scene: what it shows; folds are made of whole scenes.
        bands: three 1-based indexes.
        stretch: to [0, 1]; None for the one that ``ecea-run`` would choose.
        mask: where it holds nothing to learn from: ``nodata`` (what it declares; if it declares nothing, it is clean
            all over), ``zero``, ``none`` (all of it is clean, whatever it declares), or the path of a raster that is
            not 0 there.
    """

    path: str
    scene: str
    bands: tuple[int, ...] = DEFAULT_BANDS
    stretch: Stretch | None = None
    mask: str = "nodata"

    @property
    def label(self) -> str:
        """What results call it: the path, and its bands where they are not the first three."""
        return self.path if self.bands == DEFAULT_BANDS else f"{self.path} (bands {','.join(map(str, self.bands))})"


def find_sources(
    data: Sequence[str],
    *,
    bands: tuple[int, ...] = DEFAULT_BANDS,
    stretch: Stretch | None = None,
    mask: str = "nodata",
    group: str = "number",
) -> list[Source]:
    """Find the rasters that a user names.

    Args:
        data: each a raster; a folder of patches; or a list, ``.toml``, with a table ``[[source]]`` for each raster or
            folder: ``path``, relative to the list, and if they differ from the options ``scene``, ``bands`` (one
            triple or several), ``stretch`` and ``mask``.
        bands, stretch, mask: as in :class:`Source`, where a list does not say otherwise.
        group: which files show one scene, as in :func:`ecea.training.folds.scene_of`, where a list does not say so.

    Raises:
        RequestError: where there is nothing, it cannot be understood, or one file is named for two scenes.
    """
    default = Source("", "", bands, stretch, mask)
    found: list[Source] = []
    for name in data:
        if Path(name).suffix.lower() == LIST_SUFFIX:
            found += _read_list(Path(name), default, group)
        else:
            found += _expand(replace(default, path=name), group)
    if not found:
        raise RequestError("no raster was named: give rasters, folders of patches or a list of them (.toml)")
    _check_masks({source.mask for source in found})
    _check_scenes(found)
    return found


def _check_masks(masks: Iterable[str]) -> None:
    for mask in masks:
        if mask in MASKS:
            continue
        reason = "it is a device or a pipe" if is_special(mask) else ""
        if not reason:
            try:
                rasterio.open(mask).close()
            except rasterio.RasterioIOError as error:
                reason = str(error)
        if reason:
            raise RequestError(
                f"mask '{mask}' is neither {', '.join(MASKS)} nor a raster that can be read ({reason}): give one "
                "of these"
            )


def _check_scenes(sources: Iterable[Source]) -> None:
    """Refuse a file that would be on both sides of a split."""
    first: dict[object, Source] = {}
    for source in sources:
        other = first.setdefault(_identity(source.path), source)
        if other.scene != source.scene:
            again = "" if other.path == source.path else f" as {other.path}"
            raise RequestError(
                f"{source.path}: is named for the scene '{source.scene}', and{again} for the scene '{other.scene}', so "
                "it might be held out and learned from: name it for one scene"
            )


def _identity(path: str) -> object:
    """What two paths of one file share; a path of GDAL's own is its own."""
    try:
        status = Path(path).stat()
    except OSError:
        return path
    return status.st_dev, status.st_ino


def _expand(source: Source, group: str) -> Iterator[Source]:
    """One source for a raster, one for each patch of a folder; scenes are named where they have no name."""
    folder = Path(source.path)
    # A path that is no folder's may be GDAL's own (/vsizip//...), and stays as it is.
    for path in map(str, scenes_in(folder)) if folder.is_dir() else [source.path]:
        named = scene_of(path, group)
        yield replace(source, path=path, scene=source.scene or named)


def _read_list(path: Path, default: Source, group: str) -> Iterator[Source]:
    wanted = "expected tables [[source]] with a path, and if need be scene, bands, stretch and mask"
    if is_special(path):
        raise RequestError(f"{path}: is a device or a pipe: give the path of a list")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RequestError(f"{path}: cannot be read ({error.strerror}): give the path of a list") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"{path}: is not TOML ({error}): {wanted}") from error
    entries = content.get("source")
    if not isinstance(entries, list) or not entries or set(content) != {"source"}:
        raise RequestError(f"{path}: holds {', '.join(sorted(content)) or 'nothing'}: {wanted}")
    for number, entry in enumerate(entries, start=1):
        try:
            for source in _read_entry(entry, path.parent, default):
                yield from _expand(source, group)
        except (TypeError, ValueError, KeyError) as error:
            raise RequestError(f"{path}: source {number} cannot be understood ({error}): {wanted}") from error


def _read_entry(entry: Mapping[str, Any], folder: Path, default: Source) -> Iterator[Source]:
    """One source for each triple of bands."""
    if surplus := set(entry) - _KEYS:
        raise KeyError(f"'{min(surplus)}' is no key of it")
    mask = entry.get("mask", default.mask)
    if "mask" in entry and mask not in MASKS:
        mask = str(folder / mask)
    stretch = Stretch(*map(float, entry["stretch"])) if "stretch" in entry else default.stretch
    bands = entry.get("bands", default.bands)
    triples = bands if bands and isinstance(bands[0], list) else [bands]
    for triple in triples:
        chosen = tuple(int(band) for band in triple)
        # A GDAL path (/vsizip/...) is absolute, so it stays as it is.
        yield Source(str(folder / entry["path"]), str(entry.get("scene", "")), chosen, stretch, mask)
