"""From rows of a scene to filled rows: strips, tiles, edge maps, inference, blending, each a plain generator.

Data moves one way. Every stage takes an iterator and yields, so each can be run and tested alone; ``fill_rows``
puts them into threads of their own.
"""

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ecea.runtime.background import in_background
from ecea.runtime.edges import edge_map, gray
from ecea.runtime.engine import Engine
from ecea.runtime.masks import Mask
from ecea.runtime.recipe import Recipe
from ecea.runtime.tiles import TileGrid, cut_tile

Tensor = npt.NDArray[np.float32]

# How many items a stage may be ahead of the next. A strip is a row of tiles, a batch some 1.3 MB a tile: the
# memory of a run is bounded by these, not by the height of the scene.
_STRIPS_AHEAD = 1
_BATCHES_AHEAD = 2

STAGES = ("survey", "reading", "edges", "inference", "blending", "writing")


@dataclass(frozen=True)
class SceneRows:
    """Consecutive rows of a scene, ready to be tiled.

    Attributes:
        top: index of the first row.
        bands: (bands of the file, h, W), as read.
        missing: (h, W), True where the generator must not look.
        fill: (3, h, W), True for each value of the chosen bands where its result is wanted.
        declared: (3, h, W), True for each value of the chosen bands that the scene declares to be data.
    """

    top: int
    bands: npt.NDArray[Any]
    missing: Mask
    fill: Mask
    declared: Mask


@dataclass(frozen=True)
class Strip:
    """The rows under one row of tiles; the first ``final`` of them are touched by no later strip."""

    rows: SceneRows
    final: int


@dataclass(frozen=True)
class TileBatch:
    """Tiles of one strip: the engine's inputs, (B, C, S, S) each, and the column that each starts at."""

    columns: tuple[int, ...]
    image: Tensor
    edge: Tensor
    mask: Tensor


@dataclass(frozen=True)
class FilledBatch:
    """What the engine made of a batch: (B, 3, S, S)."""

    columns: tuple[int, ...]
    out: Tensor


@dataclass(frozen=True)
class FilledRows:
    """Rows that are ready to be written.

    Attributes:
        top: index of the first row.
        bands: (bands of the file, h, W), the file's dtype.
        valid: (h, W), True where all chosen bands hold data, or have been filled and no other band is there.
        filled: pixels filled among them.
        left: pixels that were to be filled, but in no tile with a valid pixel.
    """

    top: int
    bands: npt.NDArray[Any]
    valid: Mask
    filled: int
    left: int


@dataclass
class Progress:
    """What a run has done so far; written by its threads, each its own fields."""

    tiles_run: int = 0
    tiles_skipped: int = 0
    tiles_blind: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the time in this block to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - start


def cut_strips(rows: Iterator[SceneRows], grid: TileGrid, height: int) -> Iterator[Strip]:
    """Join rows, however they come, into the strips of a grid."""
    buffer: list[SceneRows] = []
    for index, top in enumerate(grid.rows):
        bottom = min(top + grid.size, height)
        while not buffer or buffer[-1].top + buffer[-1].missing.shape[0] < bottom:
            buffer.append(next(rows))
        joined = _join(buffer)
        height_of_strip = bottom - top
        final = grid.rows[index + 1] - top if index + 1 < len(grid.rows) else height_of_strip
        yield Strip(_slice(joined, 0, height_of_strip), final)
        buffer = [_slice(joined, final, joined.missing.shape[0])]


def prepare_tiles(
    strips: Iterator[Strip], recipe: Recipe, batch: int, progress: Progress
) -> Iterator[TileBatch | Strip]:
    """Yield the batches of each strip's tiles that are to run, then the strip itself."""
    for strip in strips:
        pending: list[tuple[int, Tensor, Tensor, Tensor]] = []
        for column in recipe.grid.columns:
            with progress.timed("edges"):
                tile = _prepare_tile(strip.rows, column, recipe, progress)
            if tile is not None:
                pending.append((column, *tile))
            if len(pending) == batch:
                yield _stack(pending)
                pending = []
        if pending:
            yield _stack(pending)
        yield strip


def infer_tiles(
    items: Iterator[TileBatch | Strip], engine: Engine, progress: Progress
) -> Iterator[FilledBatch | Strip]:
    """Run the engine on each batch, as many at once as it has streams; strips pass through, in order."""
    pending: deque[_Started | Strip] = deque()
    try:
        for item in items:
            pending.append(item if isinstance(item, Strip) else _start(item, engine))
            # One more is started than there are streams, so that none has to wait for this thread.
            while pending and (isinstance(pending[0], Strip) or _count(pending) > engine.streams):
                yield _finish(pending.popleft(), engine, progress)
        while pending:
            yield _finish(pending.popleft(), engine, progress)
    finally:
        for left in pending:
            if isinstance(left, _Started):
                left.result.cancel()


@dataclass(frozen=True)
class _Started:
    """A batch that the engine has been given."""

    columns: tuple[int, ...]
    result: Future[tuple[Tensor, Tensor]]


def _start(batch: TileBatch, engine: Engine) -> _Started:
    return _Started(batch.columns, engine.submit(batch.image, batch.edge, batch.mask))


def _count(pending: deque[_Started | Strip]) -> int:
    return sum(isinstance(item, _Started) for item in pending)


def _finish(item: _Started | Strip, engine: Engine, progress: Progress) -> FilledBatch | Strip:
    """Wait for the engine, where that is what this item needs."""
    if isinstance(item, Strip):
        return item
    with progress.timed("inference"):
        out, _ = engine.result(item.result)
    progress.tiles_run += len(item.columns)
    return FilledBatch(item.columns, out)


def blend_strips(
    items: Iterator[FilledBatch | Strip], recipe: Recipe, width: int, progress: Progress
) -> Iterator[FilledRows]:
    """Average tiles where they overlap and yield the rows that no later tile can change."""
    grid, size = recipe.grid, recipe.grid.size
    column_weights = dict(zip(grid.columns, grid.column_weights, strict=True))
    row_weights = iter(grid.row_weights)
    row_weight = next(row_weights)
    padded_width = grid.columns[-1] + size
    total = np.zeros((3, size, padded_width), np.float32)
    weight = np.zeros((size, padded_width), np.float32)
    for item in items:
        with progress.timed("blending"):
            if isinstance(item, FilledBatch):
                for column, out in zip(item.columns, item.out, strict=True):
                    weights = np.outer(row_weight, column_weights[column])
                    total[:, :, column : column + size] += out * weights
                    weight[:, column : column + size] += weights
                continue
            rows = _slice(item.rows, 0, item.final)
            filled = _fill(rows, total[:, : item.final, :width], weight[: item.final, :width], recipe)
            for accumulated in (total, weight):
                accumulated[..., : size - item.final, :] = accumulated[..., item.final :, :]
                accumulated[..., size - item.final :, :] = 0
            row_weight = next(row_weights, row_weight)
        yield filled


@contextmanager
def fill_rows(
    rows: Iterator[SceneRows],
    *,
    engine: Engine,
    recipe: Recipe,
    height: int,
    width: int,
    batch: int,
    progress: Progress,
) -> Iterator[Iterator[FilledRows]]:
    """Run all stages, reading, edges and inference each in a thread; blending runs in the consumer's.

    Leaving the ``with`` block stops every thread.
    """
    strips = cut_strips(rows, recipe.grid, height)
    with in_background(strips, ahead=_STRIPS_AHEAD, name="ecea-read") as read:
        tiles = prepare_tiles(read, recipe, batch, progress)
        with in_background(tiles, ahead=_BATCHES_AHEAD, name="ecea-edges") as prepared:
            inferred = infer_tiles(prepared, engine, progress)
            with in_background(inferred, ahead=_BATCHES_AHEAD, name="ecea-inference") as results:
                yield blend_strips(results, recipe, width, progress)


def _join(parts: list[SceneRows]) -> SceneRows:
    """Put parts below one another."""
    return SceneRows(
        parts[0].top,
        np.concatenate([part.bands for part in parts], axis=1),
        np.concatenate([part.missing for part in parts]),
        np.concatenate([part.fill for part in parts], axis=1),
        np.concatenate([part.declared for part in parts], axis=1),
    )


def _slice(rows: SceneRows, start: int, stop: int) -> SceneRows:
    return SceneRows(
        rows.top + start,
        rows.bands[:, start:stop],
        rows.missing[start:stop],
        rows.fill[:, start:stop],
        rows.declared[:, start:stop],
    )


def _prepare_tile(
    rows: SceneRows, column: int, recipe: Recipe, progress: Progress
) -> tuple[Tensor, Tensor, Tensor] | None:
    """The engine's inputs for one tile, (C, S, S) each; None where the tile is not to run."""
    size = recipe.grid.size
    if not recipe.every_tile:
        if not rows.fill[:, :size, column : column + size].any():
            progress.tiles_skipped += 1
            return None
        if rows.missing[:size, column : column + size].all():
            progress.tiles_blind += 1
            return None
    missing = cut_tile(rows.missing, column, size)
    image = recipe.stretch.to_unit(np.stack([cut_tile(rows.bands[p], column, size) for p in recipe.positions]))
    np.copyto(image, 0, where=missing)
    edge = edge_map(gray((image * 255 + 0.5).astype(np.uint8)), missing)
    return image, edge[None], missing[None].astype(np.float32)


def _stack(tiles: list[tuple[int, Tensor, Tensor, Tensor]]) -> TileBatch:
    columns, image, edge, mask = zip(*tiles, strict=True)
    return TileBatch(columns, np.stack(image), np.stack(edge), np.stack(mask))


def _fill(rows: SceneRows, total: Tensor, weight: Tensor, recipe: Recipe) -> FilledRows:
    """Put the weighted mean where it is wanted; every other value is a copy of the scene's."""
    covered = weight > 0
    bands = rows.bands.copy()
    for position in sorted(set(recipe.positions)):
        channels = [c for c, chosen in enumerate(recipe.positions) if chosen == position]
        here = rows.fill[channels[0]] & covered
        # A mask of two dimensions on an array of two: numpy is many times slower where the array has a third.
        mean = np.mean([total[channel][here] for channel in channels], axis=0) / weight[here]
        bands[position][here] = recipe.to_values(mean, position)
    wanted = rows.fill.any(axis=0)
    whole = rows.declared | (rows.fill & covered) if recipe.completes else rows.declared
    valid: Mask = np.asarray(whole.all(axis=0))
    if recipe.alpha is not None:
        bands[recipe.alpha, wanted & valid & (bands[recipe.alpha] == 0)] = _opaque(bands.dtype)
    filled = int(np.count_nonzero(wanted & covered))
    return FilledRows(rows.top, bands, valid, filled, left=int(np.count_nonzero(wanted)) - filled)


def _opaque(dtype: np.dtype[Any]) -> int:
    """What GDAL writes into an alpha band where there is data."""
    return int(np.iinfo(dtype).max) if dtype.kind in "iu" and dtype.itemsize <= 2 else 255
