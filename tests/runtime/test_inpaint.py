"""Whole scenes: what is filled, with what, and that nothing else changes."""

import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio._env import get_gdal_config

from ecea.runtime import filling, inpaint
from ecea.runtime.filling import scene_tiles
from ecea.runtime.writer import geotiff_like

INTEGERS = ["uint8", "int8", "uint16", "int16", "uint32", "int32"]
FLOATS = ["float32", "float64"]

pytestmark = [
    pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning"),
    pytest.mark.filterwarnings("error::RuntimeWarning"),
]


def bits(values):
    """Values as unsigned integers of their size: floats that differ in a NaN's payload differ here."""
    return np.ascontiguousarray(values).view(f"u{values.dtype.itemsize}")


def random_values(rng, dtype, shape):
    """Values over the whole range of a dtype; among floats NaNs with payloads, infinities, zeros and denormals."""
    dtype = np.dtype(dtype)
    raw = rng.integers(0, 256, (*shape, dtype.itemsize), dtype=np.uint8).view(dtype)[..., 0].copy()
    if dtype.kind == "f":
        ordinary = rng.normal(0, 1000, shape).astype(dtype)
        # GDAL takes anything below -1e31 for the lowest float32, when that is nodata.
        with np.errstate(invalid="ignore"):
            huge = np.isfinite(raw) & (np.abs(raw) > 1e30)
        return np.where((rng.random(shape) < 0.9) | huge, ordinary, raw)
    return raw


@st.composite
def integer_scenes(draw):
    """A scene of integers, its nodata, and where each band holds it."""
    dtype = np.dtype(draw(st.sampled_from(INTEGERS)))
    limits = np.iinfo(dtype)
    nodata = draw(st.sampled_from([0, 1, limits.min, limits.max, limits.max - 1]))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 20)))
    shape = (draw(st.sampled_from([3, 4])), draw(st.integers(1, 90)), draw(st.integers(1, 90)))
    values = random_values(rng, dtype, shape)
    values[values == nodata] = 77
    gaps = rng.random(shape) < draw(st.sampled_from([0, 0.02, 0.5]))
    if draw(st.booleans()):
        gaps[:] = gaps[:1]  # in all bands alike
    return np.where(gaps, dtype.type(nodata), values), nodata, gaps, rng


@settings(max_examples=60)
@given(scene=integer_scenes(), level=st.sampled_from([0.0, 0.3, 0.5, 0.7616, 1.0]))
def test_integers_that_are_valid_keep_their_bits(tmp_path_factory, write_scene, read_bands, engine_of, scene, level):
    values, nodata, gaps, rng = scene
    if gaps[:3].any(axis=0).all():
        return
    folder = tmp_path_factory.mktemp("integers")
    path = write_scene(folder / "s.tif", values, nodata=nodata)
    limits = np.iinfo(values.dtype)
    # A stretch whose ends are nodata, or that reaches beyond the dtype, is where filled values could go wrong.
    stretch = (float(limits.min), float(limits.max)) if rng.random() < 0.5 else (nodata - 2.0, nodata + 2.0)
    result = inpaint(path, folder / "o.tif", engine_of(level, 32), stretch=stretch)
    filled = read_bands(folder / "o.tif")
    changed = filled != values
    assert not (changed & ~gaps).any()
    assert np.array_equal(filled[3:], values[3:])
    assert (filled[:3] != nodata)[changed[:3]].all()
    new = filled[:3][changed[:3]].astype(float)
    exact = min(max(stretch[0] + level * (stretch[1] - stretch[0]), limits.min), limits.max)
    assert (np.abs(new - exact) <= 1 + 1e-6 * abs(exact)).all()
    assert (new >= max(stretch[0], limits.min)).all()
    assert (new <= min(stretch[1], limits.max)).all()
    assert result.pixels_filled == changed[:3].any(axis=0).sum()
    assert result.pixels_filled + result.pixels_left + result.pixels_collar == gaps[:3].any(axis=0).sum()
    with rasterio.open(folder / "o.tif") as written:
        assert written.nodata == nodata


@settings(max_examples=40)
@given(
    st.sampled_from(FLOATS),
    st.sampled_from([None, -9999.0, 0.0, float("nan"), -3.4028234663852886e38]),
    st.integers(0, 1 << 20),
    st.booleans(),
)
def test_floats_that_are_valid_keep_their_bits(
    tmp_path_factory, write_scene, read_bands, engine_of, dtype, nodata, seed, alike
):
    rng = np.random.default_rng(seed)
    values = random_values(rng, dtype, (4, 50, 70))
    values[:3, 0, 0] = values[:3, -1, -1] = 5  # no collar, and something valid
    if nodata is not None:
        holes = rng.random((1 if alike else 4, 50, 70)) < 0.1
        holes[:, 0, 0] = holes[:, -1, -1] = False
        values = np.where(holes, np.dtype(dtype).type(nodata), values)
    folder = tmp_path_factory.mktemp("floats")
    path = write_scene(folder / "s.tif", values, nodata=nodata)
    inpaint(path, folder / "o.tif", engine_of(0.5, 64), stretch=(-1000, 1000))
    filled = read_bands(folder / "o.tif")
    gaps = ~np.isfinite(values)
    if nodata is not None and not np.isnan(nodata):
        gaps |= values == np.dtype(dtype).type(nodata)
    assert np.array_equal(bits(filled)[:3][~gaps[:3]], bits(values)[:3][~gaps[:3]])
    assert np.array_equal(bits(filled)[3], bits(values)[3])  # not chosen: copied, its NaNs too
    changed = bits(filled) != bits(values)
    new = filled[:3][changed[:3]]
    assert new == pytest.approx(0, abs=1e-30)
    assert np.isfinite(new).all()
    if nodata == 0:
        assert (new != 0).all()


@pytest.mark.parametrize("mask", ["nodata", "zero"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "float64"])
@pytest.mark.parametrize("level", [0, 1 / 3, 0.5, 1])
def test_the_output_has_no_gap_where_it_was_filled(tmp_path, write_scene, read_bands, engine_of, mask, dtype, level):
    # The engine paints nodata, zero, and what lies beside them.
    values = np.full((3, 40, 40), 100, dtype)
    values[:, 10:14] = 0 if mask == "zero" else 30
    path = write_scene(tmp_path / "s.tif", values, nodata=1 if mask == "zero" else 30)
    result = inpaint(path, tmp_path / "o.tif", engine_of(level, 32), mask=mask, stretch=(0, 90))
    assert result.pixels_filled == 160
    again = inpaint(tmp_path / "o.tif", tmp_path / "again.tif", engine_of(0.9, 32), mask=mask, stretch=(0, 90))
    assert (again.tiles_run, again.pixels_filled) == (0, 0)
    filled = read_bands(tmp_path / "o.tif")
    assert np.array_equal(read_bands(tmp_path / "again.tif"), filled)
    assert not np.isin(filled, [0, 1] if mask == "zero" else [30]).any()
    assert filled[:, 10:14].astype(float) == pytest.approx(level * 90, abs=2.1)


def test_a_value_that_a_band_holds_stays_where_another_lacks_its_own(tmp_path, write_scene, read_bands, engine_of):
    values = np.random.default_rng(0).integers(1, 200, (3, 40, 40)).astype(np.uint8)
    before = values.copy()
    values[0, 10:13], values[1, 12:16] = 0, 0
    result = inpaint(write_scene(tmp_path / "s.tif", values, nodata=0), tmp_path / "o.tif", engine_of(0.8, 32))
    filled = read_bands(tmp_path / "o.tif")
    assert np.array_equal(filled[2], before[2])
    assert np.array_equal(filled[0, 13:], before[0, 13:])
    assert np.array_equal(filled[1, :12], before[1, :12])
    assert (filled[0, 10:13] == 204).all()
    assert (filled[1, 12:16] == 204).all()
    assert result.pixels_filled == 6 * 40


AWKWARD = [
    (1, 1),
    (1, 7),
    (7, 1),
    (1, 200),
    (200, 1),
    (2, 2),
    (31, 33),
    (64, 64),
    (65, 65),
    (64, 65),
    (127, 61),
    (257, 131),
]


@pytest.mark.parametrize("shape", AWKWARD)
@pytest.mark.parametrize("blend", ["linear", "mean"])
def test_scenes_of_any_size(tmp_path, write_scene, read_bands, engine_of, shape, blend):
    height, width = shape
    rng = np.random.default_rng(0)
    values = rng.integers(1, 10_000, (3, height, width)).astype(np.uint16)
    holes = rng.random(shape) < 0.3
    holes.flat[[0, -1]] = False
    before = values.copy()
    values[:, holes] = 0
    path = write_scene(tmp_path / "s.tif", values, nodata=0)
    echo = engine_of(lambda image, edge, mask: np.where(mask > 0, np.float32(0.25), image), 64)
    result = inpaint(path, tmp_path / "o.tif", echo, stretch=(0, 10_000), blend=blend)
    filled = read_bands(tmp_path / "o.tif")
    assert np.array_equal(filled[:, ~holes], before[:, ~holes])
    done = (filled != 0).all(axis=0) & holes
    assert (filled[:, done] == 2500).all()
    assert result.pixels_filled == done.sum()
    assert result.pixels_collar == (holes & ~done).sum()
    assert result.pixels_left == 0
    assert (result.width, result.height) == (width, height)
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["o.tif", "s.tif"]


def test_the_result_counts_what_was_done(tmp_path, write_scene, engine_of):
    size = 32
    values = np.full((4, 96, 128), 50, np.uint8)
    values[:, :, 96:] = 0  # beyond data in its rows, not in its columns' rows: collar
    values[:, 20:96, 30:70] = 0
    path = write_scene(tmp_path / "s.tif", values, nodata=0)
    engine = engine_of(0.5, size)
    result = inpaint(path, tmp_path / "o.tif", engine, bands=(4, 2, 1), overlap=0)
    assert result.pixels_collar == 96 * 32
    assert result.pixels_left == 64 * 32
    assert result.pixels_filled == 76 * 40 - 64 * 32
    assert (result.tiles_run, result.tiles_skipped, result.tiles_blind) == (7, 3, 2)
    assert result.bands == (4, 2, 1)
    assert result.stretch == (0, 255, 1)
    assert (result.engine, result.backend, result.bundle) == ("fp32", "fake", "fake.ecea")
    assert set(result.seconds) == {"survey", "reading", "edges", "inference", "blending", "writing", "total"}
    assert all(seconds >= 0 for seconds in result.seconds.values())
    assert (result.source, result.destination) == (str(path), str(tmp_path / "o.tif"))


def test_the_end_of_the_writing_is_counted_as_writing(tmp_path, striped, engine_of, monkeypatch):
    """All rows of a low scene are held back until then."""

    @contextmanager
    def slow(*arguments, **options):
        with geotiff_like(*arguments, **options) as write:
            yield write
            time.sleep(0.2)

    monkeypatch.setattr(filling, "geotiff_like", slow)
    assert inpaint(striped[0], tmp_path / "o.tif", engine_of(0.5)).seconds["writing"] >= 0.2


def test_a_tile_without_a_valid_pixel_keeps_its_nodata(tmp_path, write_scene, read_bands, engine_of):
    values = np.full((3, 160, 160), 50, np.int16)
    values[:, 20:140, 20:140] = -999
    path = write_scene(tmp_path / "lake.tif", values, nodata=-999)
    result = inpaint(path, tmp_path / "o.tif", engine_of(0.5, 32), overlap=0, stretch=(0, 100))
    filled = read_bands(tmp_path / "o.tif")
    assert result.tiles_blind == 9
    assert (filled[:, 32:128, 32:128] == -999).all()
    assert (filled == -999).sum() == 3 * 96 * 96 == 3 * result.pixels_left
    assert set(np.unique(filled)) == {-999, 50}


def test_a_scene_without_a_gap_is_copied(tmp_path, write_scene, read_bands, engine_of):
    values = np.random.default_rng(0).integers(1, 255, (3, 70, 70)).astype(np.uint8)
    path = write_scene(tmp_path / "s.tif", values, nodata=0)
    result = inpaint(path, tmp_path / "o.tif", engine_of(0.5))
    assert (result.tiles_run, result.pixels_filled, result.pixels_left) == (0, 0, 0)
    assert result.tiles_skipped > 0
    assert np.array_equal(read_bands(tmp_path / "o.tif"), values)


def test_a_mask_file_may_cover_valid_data(tmp_path, write_scene, read_bands, engine_of):
    values = np.random.default_rng(0).integers(1, 200, (3, 50, 60)).astype(np.uint8)
    before = values.copy()
    values[:, 5, 5] = 0
    holes = np.zeros((1, 50, 60), np.uint8)
    holes[0, 20:30, 10:50] = 255
    path = write_scene(tmp_path / "s.tif", values, nodata=0)
    seen = []

    def look(image, edge, mask):
        seen.append(mask[0, 0, :50, :60] > 0)
        assert not image[:, :, 20:30, 10:50].any()  # the generator is not shown what it is to paint
        return np.full_like(image, 0.8)

    mask = write_scene(tmp_path / "m.tif", holes)
    result = inpaint(path, tmp_path / "o.tif", engine_of(look, 64), mask=mask)
    filled = read_bands(tmp_path / "o.tif")
    covered = holes[0] > 0
    assert (filled[:, covered] == 204).all()
    assert np.array_equal(filled[:, ~covered], values[:, ~covered])
    assert result.pixels_filled == covered.sum()
    expected = covered.copy()
    expected[5, 5] = True
    assert np.array_equal(seen[0], expected)
    assert (before[:, 5, 5] != 0).all()


def test_a_mask_inside_the_scene_is_kept_and_opened_where_it_was_filled(tmp_path, write_scene, engine_of):
    values = np.random.default_rng(0).integers(1, 200, (3, 300, 60)).astype(np.uint8)
    valid = np.ones((300, 60), bool)
    valid[140:144], valid[:40, :40] = False, False
    path = write_scene(tmp_path / "s.tif", values)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK="YES"), rasterio.open(path, "r+") as target:
        target.write_mask(valid)
    result = inpaint(path, tmp_path / "o.tif", engine_of(0.5))
    assert (result.pixels_filled, result.pixels_collar) == (240, 1600)
    valid[140:144] = True
    with rasterio.open(tmp_path / "o.tif") as written:
        filled, mask = written.read(), written.dataset_mask()
    assert np.array_equal(mask == 255, valid)
    assert (filled[:, 140:144] == 128).all()
    assert np.array_equal(np.delete(filled, np.s_[140:144], axis=1), np.delete(values, np.s_[140:144], axis=1))


def test_a_filled_pixel_is_opaque_and_the_collar_stays_transparent(tmp_path, write_scene, read_bands, engine_of):
    values = np.random.default_rng(0).integers(1, 200, (4, 120, 60)).astype(np.uint8)
    values[3] = 255
    values[3, 70:74] = values[3, :40, :40] = 0
    values[3, 50, 50] = 128
    path = write_scene(tmp_path / "s.tif", values, photometric="RGB", alpha="yes")
    assert inpaint(path, tmp_path / "o.tif", engine_of(0.5)).pixels_filled == 240
    filled = read_bands(tmp_path / "o.tif")
    values[:3, 70:74], values[3, 70:74] = 128, 255
    assert np.array_equal(filled, values)


def test_the_generator_sees_the_stretched_scene_and_paints_in_its_units(tmp_path, write_scene, read_bands, engine_of):
    values = np.full((3, 40, 40), 2000, np.int16)
    values[:, 5] = -5000
    values[:, 20:25] = -999
    path = write_scene(tmp_path / "s.tif", values, nodata=-999)

    def look(image, edge, mask):
        assert image[0, :, 0, 0] == pytest.approx(0.5**2)
        assert not image[0, :, 5].any()
        return np.full_like(image, 0.49)

    inpaint(path, tmp_path / "o.tif", engine_of(look, 64), stretch=(0, 4000, 2))
    assert (read_bands(tmp_path / "o.tif")[:, 20:25] == 2800).all()


@pytest.mark.parametrize("batch", [2, 5])
def test_batches_change_nothing(tmp_path, striped, read_bands, engine_of, batch):
    engine = engine_of(lambda image, edge, mask: image * 0.5 + edge * 0.25 + 0.1, 32)
    one = inpaint(striped[0], tmp_path / "one.tif", engine)
    many = inpaint(striped[0], tmp_path / "many.tif", engine, batch=batch)
    assert np.array_equal(read_bands(tmp_path / "one.tif"), read_bands(tmp_path / "many.tif"))
    assert one.tiles_run == many.tiles_run > 0


def test_progress_is_told_from_the_calling_thread(tmp_path, striped, engine_of):
    told = []

    def on_rows(rows, height, progress):
        told.append((rows, height, progress.tiles_run, threading.current_thread()))

    inpaint(striped[0], tmp_path / "o.tif", engine_of(0.5, 32), on_rows=on_rows)
    rows = [row for row, *_ in told]
    assert rows == sorted(rows)
    assert rows[-1] == 70
    assert {height for _, height, *_ in told} == {70}
    assert {thread for *_, thread in told} == {threading.current_thread()}
    assert told[-1][2] > 0


def test_gdal_keeps_the_blocks_of_a_wide_scene_and_no_more(tmp_path, striped, engine_of):
    seen = []

    def look(done, height, progress):
        seen.append(get_gdal_config("GDAL_CACHEMAX"))  # what GDAL took, in bytes

    inpaint(striped[0], tmp_path / "o.tif", engine_of(0.5, 64), on_rows=look)
    # Two rows of blocks, one read and one written, of 8,000 px in three bands of 16 bits; and not 5 % of the memory.
    assert 2 * 256 * 8_000 * 3 * 2 < min(seen) == max(seen) <= 1 << 26


def test_tiles_of_a_scene_are_those_the_engine_is_given(tmp_path, striped, engine_of):
    given = []

    def look(image, edge, mask):
        given.append((image[0].copy(), edge[0].copy(), mask[0].copy()))
        return image

    inpaint(striped[0], tmp_path / "o.tif", engine_of(look, 64))
    tiles = list(scene_tiles(striped[0], 64))
    assert len(tiles) == len(given) > 0
    for tile, seen in zip(tiles, given, strict=True):
        for one, other in zip(tile, seen, strict=True):
            assert np.array_equal(one, other)
