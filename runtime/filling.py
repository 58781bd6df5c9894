"""Filling a scene: what ``ecea-run`` does, as a function."""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rasterio

from ecea.runtime.backends.batch import check_batch
from ecea.runtime.engine import Engine
from ecea.runtime.errors import RequestError
from ecea.runtime.paths import check_name, is_read_through, written_at
from ecea.runtime.pipeline import Progress, SceneRows, TileBatch, cut_strips, fill_rows, prepare_tiles
from ecea.runtime.recipe import Recipe, default_recipe, published_recipe
from ecea.runtime.scene import DEFAULT_BANDS, Scene
from ecea.runtime.stretch import Stretch
from ecea.runtime.survey import Survey, survey
from ecea.runtime.tiles import BLENDS, covering_grid, default_overlap
from ecea.runtime.writer import WriteRows, check_destination, geotiff_like, sidecars, whole_or_nothing

# GDAL would keep as many decompressed blocks as fill 5 % of the machine's memory. A row of blocks must stay: it is
# read twice, and once more for the masks of its bands. In bytes, unlike GDAL's own setting of that name.
_GDAL_CACHE_BYTES = 32 << 20
_ROWS_AT_ONCE = 128


Tensor = npt.NDArray[np.float32]
OnRows = Callable[[int, int, Progress], None]


@dataclass(frozen=True)
class Result:
    """What became of a scene.

    Attributes:
        source, destination: the scene read and the one written.
        width, height: of both, in pixels.
        bands: the three that were filled.
        tiles_run: tiles that the generator filled.
        tiles_skipped: tiles without a gap.
        tiles_blind: tiles whose pixels are all missing: nothing there to fill from.
        pixels_filled: missing pixels that were filled.
        pixels_redrawn: valid pixels that were drawn anew, as the reference mode does; otherwise 0.
        pixels_left: pixels to fill that lie in blind tiles only, left as they were.
        pixels_collar: missing pixels outside the swath, left as they were.
        seconds: stage -> seconds of work in it; stages overlap, so they add up to more than ``total``.
        stretch: the values that stand for 0 and 1, and the gamma.
        outside_stretch: share of the scene's valid values that lie outside these, 0 to 1, in a sample of them.
        engine, backend, arithmetic: what ran, and what it computed in but for layers that are quantized.
        passed_over: backend -> why ``auto`` did not take it.
        bundle, bundle_sha256: the bundle's path and the hash of its manifest.
    """

    source: str
    destination: str
    width: int
    height: int
    bands: tuple[int, ...]
    tiles_run: int
    tiles_skipped: int
    tiles_blind: int
    pixels_filled: int
    pixels_redrawn: int
    pixels_left: int
    pixels_collar: int
    seconds: dict[str, float]
    stretch: tuple[float, float, float]
    outside_stretch: float
    engine: str
    backend: str
    arithmetic: str
    passed_over: dict[str, str]
    bundle: str
    bundle_sha256: str


def inpaint(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    engine: Engine,
    *,
    bands: Sequence[int] = DEFAULT_BANDS,
    mask: str | os.PathLike[str] | None = None,
    stretch: Stretch | Sequence[float] | None = None,
    overlap: int | None = None,
    blend: str | None = None,
    reference: bool = False,
    batch: int | None = None,
    on_rows: OnRows | None = None,
) -> Result:
    """Fill the gaps of a scene and write it as a GeoTIFF; every pixel that is not filled keeps its bits.

    Where an alpha band or a mask in the file, and no nodata value, says which pixels hold data, it says so of filled
    ones too, if no other bands are there that still hold nothing.

    Args:
        source: any raster that GDAL opens; integers or floats.
        destination: the GeoTIFF to write; replaced whole if it exists.
        engine: an open engine.
        bands: three 1-based bands, red, green, blue; one may stand for several. The others are copied.
        mask: where the gaps are: ``nodata`` (default), ``zero``, ``qa``, or the path of a raster that is not 0
            there. With ``nodata``, a float that is not finite is a gap too.
        stretch: (minimum, maximum[, gamma]) in the scene's units, mapped to [0, 1] for the generator; None: 0 to 255
            for uint8, else chosen from the scene's values.
        overlap: pixels that neighbouring tiles share at least, 0 to half a tile; None: 20 px of 256, as published.
        blend: ``linear`` (default) or ``mean``, how they are averaged there.
        reference: reproduce the published application on an 8-bit scene: its tiles, mean blending, ``mask="zero"``,
            values ``floor(255 v)``, and the whole generated image written, valid pixels too. Not with a stretch,
            overlap or blending of one's own.
        batch: tiles that a stream of the engine is given at once; None: as many as suit its backend
            (:attr:`ecea.runtime.Engine.batch`).
        on_rows: called from this thread with the rows done so far, the rows of the scene, and the progress.

    Raises:
        RequestError: where the scene, an option or the destination is wrong; nothing is written.
        EceaError: where reading, inference or writing fails; nothing is written.
    """
    start = time.perf_counter()
    target = Path(destination)
    tiles_at_once = engine.batch if batch is None else batch
    _check_request(source, target, tiles_at_once)
    if reference:
        _check_published(overlap=overlap, blend=blend, stretch=stretch)
    selected_by = mask_or_default(mask, reference)
    progress = Progress()
    with (
        rasterio.Env(GDAL_CACHEMAX=_GDAL_CACHE_BYTES),
        Scene(source, bands=bands, mask=selected_by) as scene,
    ):
        _check_not_read(target, scene.files)
        with progress.timed("survey"):
            seen = survey(scene)
        if reference:
            recipe = published_recipe(scene, engine.tile_size)
        else:
            size = engine.tile_size
            shared = default_overlap(size) if overlap is None else overlap
            grid = covering_grid(scene.height, scene.width, size, shared, BLENDS[0] if blend is None else blend)
            recipe = default_recipe(scene, grid, stretch, seen)
        pixels = _fill_and_write(scene, seen, target, engine, recipe, tiles_at_once, progress, on_rows)
        return Result(
            source=os.fspath(source),
            destination=str(target),
            width=scene.width,
            height=scene.height,
            bands=scene.bands,
            tiles_run=progress.tiles_run,
            tiles_skipped=progress.tiles_skipped,
            tiles_blind=progress.tiles_blind,
            pixels_filled=pixels.drawn - pixels.redrawn,
            pixels_redrawn=pixels.redrawn,
            pixels_left=pixels.left,
            pixels_collar=pixels.collar,
            seconds={**progress.seconds, "total": time.perf_counter() - start},
            stretch=(recipe.stretch.minimum, recipe.stretch.maximum, recipe.stretch.gamma),
            outside_stretch=recipe.stretch.outside(seen.sample),
            engine=engine.engine,
            backend=engine.backend,
            arithmetic=engine.arithmetic,
            passed_over=engine.passed_over,
            bundle=str(engine.bundle.path),
            bundle_sha256=engine.bundle.sha256,
        )


def mask_or_default(mask: str | os.PathLike[str] | None, reference: bool) -> str:
    """Where the gaps are, as :class:`ecea.runtime.scene.Scene` is told."""
    return os.fspath(mask) if mask is not None else "zero" if reference else "nodata"


@dataclass
class _Pixels:
    drawn: int = 0
    redrawn: int = 0
    left: int = 0
    collar: int = 0


def _check_request(source: str | os.PathLike[str], target: Path, batch: int) -> None:
    for path in (source, target):
        check_name(path)
    if is_read_through(target, [source]):
        raise RequestError(f"{target}: is the scene itself, which is never changed: name another output")
    check_destination(target)
    check_batch(batch)


def _check_published(**given: object) -> None:
    """Refuse what the reference mode would have to ignore."""
    for name, value in given.items():
        if value is not None:
            raise RequestError(
                f"{name} {value}: the reference mode has its own: leave --{name} out, or run without --reference"
            )


def _check_not_read(target: Path, files: Iterable[str]) -> None:
    real = written_at(target)
    names = {target.absolute(), real.absolute()}
    replaced = (target, *sidecars(target), *sidecars(real))
    for file in files:
        beside = [path.absolute() for path in sidecars(Path(file))]  # where GDAL would look for more of it
        if names.intersection(beside) or any(is_read_through(path, [file]) for path in replaced):
            raise RequestError(f"{target}: is read for this scene, so it is not overwritten: name another output")


def _fill_and_write(
    scene: Scene,
    seen: Survey,
    target: Path,
    engine: Engine,
    recipe: Recipe,
    batch: int,
    progress: Progress,
    on_rows: OnRows | None,
) -> _Pixels:
    pixels = _Pixels()
    rows = _read_rows(scene, seen, recipe.every_tile, pixels, progress)
    filling = fill_rows(
        rows,
        engine=engine,
        recipe=recipe,
        height=scene.height,
        width=scene.width,
        batch=batch,
        progress=progress,
    )
    with (
        whole_or_nothing(target) as temporary,
        _ending_timed(
            progress, geotiff_like(scene.dataset, temporary, named=target, with_mask=scene.has_mask)
        ) as write,
        filling as parts,
    ):
        for part in parts:
            with progress.timed("writing"):
                write(part.bands, part.valid)
            pixels.drawn += part.filled
            pixels.left += part.left
            if on_rows is not None:
                on_rows(part.top + part.bands.shape[1], scene.height, progress)
    return pixels


@contextmanager
def _ending_timed(progress: Progress, writing: AbstractContextManager[WriteRows]) -> Iterator[WriteRows]:
    """Count the end of the writing as such: the rows that were held back, and closing the file."""
    with ExitStack() as stack:
        yield stack.enter_context(writing)
        with progress.timed("writing"):
            stack.close()


def _read_rows(
    scene: Scene, seen: Survey, everything: bool, pixels: _Pixels, progress: Progress
) -> Iterator[SceneRows]:
    """Read the scene from the top, and decide for each pixel whether it is to be filled."""
    for top in range(0, scene.height, _ROWS_AT_ONCE):
        with progress.timed("reading"):
            rows = scene.read(top, min(top + _ROWS_AT_ONCE, scene.height))
            fill = seen.fill(rows)
            if everything:
                fill = np.ones_like(fill)
                pixels.redrawn += int(np.count_nonzero(~rows.missing))
            pixels.collar += int(np.count_nonzero((rows.selected & ~fill).any(axis=0)))
        yield SceneRows(rows.top, rows.bands, rows.missing, fill, rows.declared)


def scene_tiles(
    source: str | os.PathLike[str],
    size: int,
    *,
    bands: Sequence[int] = DEFAULT_BANDS,
    mask: str = "nodata",
    stretch: Stretch | Sequence[float] | None = None,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield the tiles of a scene that an engine would be given, those with a gap, from the top.

    Args:
        source, bands, mask, stretch: as for :func:`inpaint`.
        size: side of a tile.

    Yields:
        Image (3, S, S), edge map (1, S, S) and mask (1, S, S), float32.
    """
    with rasterio.Env(GDAL_CACHEMAX=_GDAL_CACHE_BYTES), Scene(source, bands=bands, mask=mask) as scene:
        seen = survey(scene)
        grid = covering_grid(scene.height, scene.width, size, default_overlap(size))
        recipe = default_recipe(scene, grid, stretch, seen)
        progress = Progress()
        rows = _read_rows(scene, seen, False, _Pixels(), progress)
        for item in prepare_tiles(cut_strips(rows, grid, scene.height), recipe, 1, progress):
            if isinstance(item, TileBatch):
                yield item.image[0], item.edge[0], item.mask[0]
