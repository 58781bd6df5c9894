"""From rows to filled rows: which values are filled, with what, and how tiles are joined."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecea.runtime.edges import edge_map
from ecea.runtime.pipeline import Progress, SceneRows, cut_strips, fill_rows
from ecea.runtime.stretch import Stretch
from ecea.runtime.tiles import BLENDS, covering_grid

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")


def rows_of(bands, missing, fill, chunk=128):
    """A scene as the reading stage yields it, ``chunk`` rows at once."""
    fill = np.broadcast_to(fill, (3, *missing.shape))
    declared = np.broadcast_to(~missing, fill.shape)
    for top in range(0, missing.shape[0], chunk):
        part = slice(top, top + chunk)
        yield SceneRows(top, bands[:, part], missing[part], fill[:, part], declared[:, part])


def run(rows, engine, recipe, shape, batch=1):
    """Fill; return the bands, the sums of pixels filled and left, and the progress."""
    progress = Progress()
    with fill_rows(
        rows, engine=engine, recipe=recipe, height=shape[0], width=shape[1], batch=batch, progress=progress
    ) as parts:
        done = list(parts)
    assert [part.top for part in done] == np.cumsum([0, *(part.bands.shape[1] for part in done)])[:-1].tolist()
    bands = np.concatenate([part.bands for part in done], axis=1)
    return bands, sum(part.filled for part in done), sum(part.left for part in done), progress


def places(height, width):
    """Bands that tell each pixel's place: row, column, and 0.5, in (0, 1]."""
    y, x = np.mgrid[1 : height + 1, 1 : width + 1].astype(np.float32)
    return np.stack([y / height, x / width, np.full((height, width), 0.5, np.float32)])


@st.composite
def scenes(draw):
    """A grid over a scene of any size, its missing pixels, those to be filled, and how its rows come."""
    size = 32 * draw(st.integers(1, 3))
    awkward = st.sampled_from([1, 2, 31, 32, 33, 63, 64, 65, 97, 101, 127, 193])
    height, width = draw(awkward), draw(awkward)
    grid = covering_grid(height, width, size, draw(st.integers(0, size // 2)), draw(st.sampled_from(BLENDS)))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 20)))
    missing = rng.random((height, width)) < draw(st.sampled_from([0, 0.01, 0.3, 0.9]))
    fill = rng.random((3, height, width)) < draw(st.sampled_from([0.01, 0.5, 1]))
    return grid, missing, fill, draw(st.sampled_from([1, 7, 128])), draw(st.integers(1, 4)), rng


def blind_tiles(grid, missing, fill):
    """Left top of tiles with something to fill and nothing to fill it from; and where any other tile with it lies."""
    blind, reached = [], np.zeros(missing.shape, bool)
    for row in grid.rows:
        for column in grid.columns:
            tile = np.s_[row : row + grid.size, column : column + grid.size]
            if fill[:, *tile].any() and missing[tile].all():
                blind.append((row, column))
            elif fill[:, *tile].any():
                reached[tile] = True
    return blind, reached


@settings(max_examples=60)
@given(scene=scenes())
def test_an_engine_that_gives_a_constant_fills_with_it_and_nothing_else_changes(engine_of, recipe_of, scene):
    grid, missing, fill, chunk, batch, rng = scene
    shape = missing.shape
    bands = rng.random((4, *shape), np.float32)
    engine = engine_of(0.625, grid.size)
    result, filled, left, progress = run(rows_of(bands, missing, fill, chunk), engine, recipe_of(grid), shape, batch)
    blind, reached = blind_tiles(grid, missing, fill)
    wanted = fill & reached
    assert result[:3][wanted] == pytest.approx(0.625, abs=1e-6)
    assert np.array_equal(result[:3][~wanted], bands[:3][~wanted])
    assert np.array_equal(result[3], bands[3])
    assert (filled, left) == (wanted.any(axis=0).sum(), (fill & ~reached).any(axis=0).sum())
    assert progress.tiles_blind == len(blind)
    assert progress.tiles_run + progress.tiles_skipped + len(blind) == len(grid.rows) * len(grid.columns)


@settings(max_examples=40)
@given(scene=scenes())
def test_an_engine_that_echoes_gives_the_scene_back(engine_of, recipe_of, scene):
    grid, missing, fill, chunk, batch, rng = scene
    bands = rng.random((3, *missing.shape), np.float32)
    echo = engine_of(lambda image, edge, mask: image, grid.size)
    result, *_ = run(rows_of(bands, missing, fill, chunk), echo, recipe_of(grid), missing.shape, batch)
    seen = ~missing
    assert result[:, seen] == pytest.approx(bands[:, seen], abs=2e-6)


def test_only_tiles_with_a_gap_are_run_and_each_sees_its_own_place(engine_of, recipe_of):
    height, width, size = 150, 260, 64
    bands = places(height, width)
    missing = np.zeros((height, width), bool)
    missing[70:75, 100:104] = missing[149, 259] = True
    grid = covering_grid(height, width, size, 16)
    ran = []

    def look(image, edge, mask):
        for tile, hole in zip(image, mask, strict=True):
            row = round(float(tile[0, 0, 0]) * height) - 1
            column = round(float(tile[1, 0, 0]) * width) - 1
            ran.append((row, column))
            own = np.s_[row : row + size, column : column + size]
            assert np.array_equal(hole[0], missing[own])
            assert tile == pytest.approx(bands[:, *own] * ~missing[own], abs=1e-6)
        return image

    progress = run(rows_of(bands, missing, missing), engine_of(look, size), recipe_of(grid), (height, width))[3]
    gaps = np.argwhere(missing)
    expected = {
        (row, column)
        for row in grid.rows
        for column in grid.columns
        for y, x in gaps
        if row <= y < row + size and column <= x < column + size
    }
    assert set(ran) == expected
    assert progress.tiles_run == len(ran) == len(expected)


def test_the_engine_is_given_what_it_expects(engine_of, recipe_of):
    height, width, size = 40, 50, 64
    rng = np.random.default_rng(1)
    values = rng.integers(0, 1000, (3, height, width)).astype(np.uint16)
    missing = rng.random((height, width)) < 0.1
    given_to = []

    def look(image, edge, mask):
        given_to.append((image, edge, mask))
        return image

    recipe = recipe_of(
        covering_grid(height, width, size, 8),
        stretch=Stretch(100, 900),
        to_values=lambda unit, position: (unit * 0).astype(np.uint16),
    )
    run(rows_of(values, missing, missing), engine_of(look, size), recipe, (height, width))
    ((image, edge, mask),) = given_to
    assert (image.shape, edge.shape, mask.shape) == ((1, 3, size, size), (1, 1, size, size), (1, 1, size, size))
    assert {image.dtype, edge.dtype, mask.dtype} == {np.dtype(np.float32)}
    unit = np.clip((values.astype(float) - 100) / 800, 0, 1) * ~missing
    mirrored = np.pad(unit, ((0, 0), (0, size - height), (0, size - width)), mode="reflect")
    assert image[0] == pytest.approx(mirrored, abs=1e-6)
    assert np.array_equal(mask[0, 0], np.pad(missing, ((0, size - height), (0, size - width)), mode="reflect"))
    byte = np.floor(mirrored * 255 + 0.5)
    luma = np.floor((19595 * byte[0] + 38470 * byte[1] + 7471 * byte[2] + 32768) / 65536).astype(np.uint8)
    assert np.array_equal(edge[0, 0], edge_map(luma, mask[0, 0] > 0))


@pytest.mark.parametrize("batch", [1, 2, 3, 50])
def test_batches_are_as_long_as_asked_and_change_nothing(engine_of, recipe_of, batch):
    height, width, size = 120, 400, 64
    bands, lengths = places(height, width), []
    missing = np.random.default_rng(0).random((height, width)) < 0.2
    grid = covering_grid(height, width, size, 16)

    def dim(image, edge, mask):
        lengths.append(len(image))
        return image * 0.5 + edge * 0.1

    result = run(rows_of(bands, missing, missing), engine_of(dim, size), recipe_of(grid), missing.shape, batch)[0]
    lone = run(rows_of(bands, missing, missing), engine_of(dim, size), recipe_of(grid), missing.shape)[0]
    assert np.array_equal(result, lone)
    row = len(grid.columns)
    of_a_row = [min(batch, row - done) for done in range(0, row, batch)]
    assert lengths[: len(of_a_row) * len(grid.rows)] == of_a_row * len(grid.rows)


def test_a_tile_without_a_valid_pixel_is_left_and_counted(engine_of, recipe_of):
    size = 32
    bands = places(96, 96)
    missing = np.zeros((96, 96), bool)
    missing[20:96, 20:80] = True
    grid = covering_grid(96, 96, size, 0)
    result, filled, left, progress = run(
        rows_of(bands, missing, missing), engine_of(0.9, size), recipe_of(grid), (96, 96)
    )
    # Of nine tiles of 32 the middle one and the one below are all gap.
    assert (progress.tiles_run, progress.tiles_skipped, progress.tiles_blind) == (7, 0, 2)
    inside = np.s_[:, 32:96, 32:64]
    assert np.array_equal(result[inside], bands[inside])
    assert (filled, left) == (missing.sum() - 64 * 32, 64 * 32)


def test_one_band_that_stands_for_three_gets_their_mean(engine_of, recipe_of):
    bands = places(40, 40)[2:]
    missing = np.zeros((40, 40), bool)
    missing[10:20] = True

    def grow(image, edge, mask):
        return np.broadcast_to(np.array([0.1, 0.2, 0.6], np.float32)[None, :, None, None], image.shape)

    recipe = recipe_of(covering_grid(40, 40, 32, 8), positions=[0, 0, 0])
    result = run(rows_of(bands, missing, missing), engine_of(grow, 32), recipe, (40, 40))[0]
    assert result[0, missing] == pytest.approx(0.3)


def test_bands_are_filled_in_the_order_they_were_chosen(engine_of, recipe_of):
    bands = np.zeros((5, 40, 40), np.float32)
    missing = np.zeros((40, 40), bool)
    missing[10:20] = True

    def grow(image, edge, mask):
        return np.broadcast_to(np.array([0.1, 0.2, 0.6], np.float32)[None, :, None, None], image.shape)

    recipe = recipe_of(covering_grid(40, 40, 32, 8), positions=[4, 2, 0])
    result = run(rows_of(bands, missing, missing), engine_of(grow, 32), recipe, (40, 40))[0]
    assert result[:, 12, 12] == pytest.approx([0.6, 0, 0.2, 0, 0.1])


@pytest.mark.parametrize(("dtype", "opaque"), [("uint8", 255), ("uint16", 65535), ("int16", 32767), ("float32", 255)])
def test_a_filled_pixel_is_made_opaque(engine_of, recipe_of, dtype, opaque):
    missing = np.zeros((40, 40), bool)
    missing[10:20, 5:9] = True
    bands = np.full((4, 40, 40), 9, dtype)
    bands[3, missing] = 0
    bands[3, 0, 0] = 0  # transparent, not asked to be filled
    bands[3, 12, 6] = 5  # holds data, and is filled all the same
    recipe = recipe_of(
        covering_grid(40, 40, 32, 8), alpha=3, to_values=lambda unit, position: np.full(unit.shape, 7, dtype)
    )
    result = run(rows_of(bands, missing, missing), engine_of(0.5, 32), recipe, (40, 40))[0]
    assert (result[3, 0, 0], result[3, 12, 6]) == (0, 5)
    missing[12, 6] = False
    assert (result[3, missing] == opaque).all()
    assert (np.delete(result[3].ravel(), [0, 12 * 40 + 6, *np.flatnonzero(missing)]) == 9).all()


def steps(filled, borders, axis):
    """The largest step across tile borders, and elsewhere, along an axis of (H, W)."""
    step = np.abs(np.diff(filled, axis=axis)).max(axis=1 - axis)
    across = np.zeros(len(step), bool)
    across[[border - 1 for border in borders if 0 < border < filled.shape[axis]]] = True
    return step[across].max(), step[~across].max()


def uneven_fill(engine_of, recipe_of, overlap, blend, height=320, width=384, size=64):
    """A scene that is gap but for a few pixels, filled by tiles whose brightness differs; and its grid."""
    missing = np.ones((height, width), bool)
    missing[::30, ::30] = False
    level = iter(np.random.default_rng(0).permutation(np.linspace(0.2, 0.6, 200)).tolist() * 3)
    grid = covering_grid(height, width, size, overlap, blend)
    engine = engine_of(lambda image, edge, mask: np.full_like(image, next(level)), size)
    everywhere = np.ones((3, height, width), bool)
    bands = np.zeros((3, height, width), np.float32)
    return run(rows_of(bands, missing, everywhere), engine, recipe_of(grid), (height, width))[0][0], grid


def borders(positions, size):
    return [*positions, *(position + size for position in positions)]


@pytest.mark.parametrize("overlap", [8, 16, 32])
@pytest.mark.parametrize("shape", [(300, 400), (320, 384), (67, 75), (193, 150)])
def test_linear_blending_leaves_no_step_at_tile_borders(engine_of, recipe_of, overlap, shape):
    filled, grid = uneven_fill(engine_of, recipe_of, overlap, "linear", *shape)
    for axis, positions in enumerate((grid.rows, grid.columns)):
        at_borders, elsewhere = steps(filled, borders(positions, grid.size), axis)
        assert at_borders <= 1.15 * elsewhere
        assert at_borders <= 0.4 / (overlap + 1)


@pytest.mark.parametrize(("overlap", "blend"), [(0, "linear"), (0, "mean"), (16, "mean")])
def test_other_blending_shows_its_tile_borders(engine_of, recipe_of, overlap, blend):
    filled, grid = uneven_fill(engine_of, recipe_of, overlap, blend)
    for axis, positions in enumerate((grid.rows, grid.columns)):
        at_borders, elsewhere = steps(filled, borders(positions, grid.size), axis)
        assert at_borders > 0.1
        assert elsewhere < 1e-6


@settings(max_examples=50)
@given(st.integers(1, 300), st.sampled_from([32, 64]), st.integers(0, 16), st.sampled_from([1, 5, 64, 500]))
def test_strips_are_the_rows_under_each_row_of_tiles(height, size, overlap, chunk):
    grid = covering_grid(height, 10, size, overlap)
    bands = places(height, 10)
    missing = bands[0] > 2
    final = 0
    for strip, top in zip(cut_strips(rows_of(bands, missing, missing, chunk), grid, height), grid.rows, strict=True):
        assert strip.rows.top == top
        assert np.array_equal(strip.rows.bands, bands[:, top : top + size])
        assert top == final
        final = top + strip.final
    assert final == height
