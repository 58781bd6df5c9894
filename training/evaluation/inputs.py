"""What an evaluation reads, so that none of it is overwritten."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import rasterio

from ecea.runtime.errors import RequestError
from ecea.runtime.paths import files_behind, is_read_through, is_special, same_file
from ecea.training.evaluation.gaps import own_masks
from ecea.training.evaluation.scenes import find_rasters
from ecea.training.rasters import rasters_in
from ecea.training.sources import MASKS, Source


def check_outputs_apart(outputs: Sequence[Path], rasters: Iterable[str], others: Iterable[Path]) -> None:
    """Refuse an output that is an input, or two that are one file.

    Args:
        outputs: to be written.
        rasters: to be read, with the files that they are made of.
        others: files to be read, and folders of them.

    Raises:
        RequestError: where one is.
    """
    for number, output in enumerate(outputs):
        if any(same_file(output, other) or output.resolve() == other.resolve() for other in outputs[:number]):
            raise RequestError(f"{output}: is named for two outputs: give each a file of its own")
    replaced = [output for output in outputs if output.exists()]
    if not replaced:
        return
    for file in [*_files(others), *_files_of_rasters(rasters)]:
        for output in replaced:
            if is_read_through(output, [file]):
                raise RequestError(f"{output}: is read for this evaluation, so it is not overwritten: name another")


def rasters_read(scenes: Sequence[Source], masks: Sequence[Path], *, own: bool) -> list[str]:
    """The rasters of an evaluation: scenes, what masks them, and masks for gaps.

    Args:
        scenes: of it.
        masks: files and folders of them.
        own: whether each scene has a mask of its own beside it.

    Raises:
        RequestError: where a mask does not exist, or a folder holds none.
    """
    found = [scene.path for scene in scenes]
    found += [scene.mask for scene in scenes if scene.mask not in MASKS]
    found += map(str, find_rasters(masks, "masks", rasters_in))
    if own:
        found += [str(path) for scene in scenes for path in own_masks(Path(scene.path)) if path.exists()]
    return found


def _files(paths: Iterable[Path]) -> Iterator[str]:
    for path in paths:
        yield from map(str, path.iterdir() if path.is_dir() else [path])


def _files_of_rasters(rasters: Iterable[str]) -> Iterator[str]:
    for raster in rasters:
        yield raster
        if is_special(raster):  # which might be waited for
            continue
        with suppress(rasterio.errors.RasterioError), rasterio.open(raster) as dataset:  # said where it is read
            yield from files_behind(dataset)
