"""Nodata values of every kind: never what gaps are filled with, and no word on other bands."""

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp

from ecea.runtime import RequestError, inpaint

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


@pytest.mark.parametrize("nodata", [np.inf, -np.inf])
def test_infinite_nodata_is_not_what_gaps_are_filled_with(tmp_path, write_scene, read_bands, engine_of, nodata):
    """Any value was taken for one that reads as infinity, and moved beside it: to infinity."""
    values = np.random.default_rng(0).random((3, 40, 40)).astype(np.float32)
    values[:, 20:23] = nodata
    path = write_scene(tmp_path / "s.tif", values, nodata=nodata)
    assert inpaint(path, tmp_path / "o.tif", engine_of(0.5), stretch=(0, 1)).pixels_filled == 120
    values[:, 20:23] = 0.5
    assert np.array_equal(read_bands(tmp_path / "o.tif"), values)


def test_nodata_of_each_band_is_avoided_in_all(tmp_path, write_scene, write_vrt, read_bands, engine_of):
    values = np.random.default_rng(0).integers(1000, 2000, (3, 50, 50)).astype(np.uint16)
    values[0, 10], values[1, 20], values[2, 30] = 500, 501, 502
    write_scene(tmp_path / "s.tif", values)
    path = write_vrt(tmp_path / "s.vrt", "s.tif", (500, 501, 502))
    result = inpaint(path, tmp_path / "o.tif", engine_of(0.5, 64), stretch=(0, 1002))  # 0.5 is 501
    filled = read_bands(tmp_path / "o.tif")
    assert result.pixels_filled == 150
    for band, row in ((0, 10), (1, 20), (2, 30)):
        assert set(filled[band, row].tolist()) <= {499, 503}
        assert np.array_equal(np.delete(filled[band], row, axis=0), np.delete(values[band], row, axis=0))
    with rasterio.open(tmp_path / "o.tif") as written:
        assert written.nodata == 500  # a GeoTIFF has one


@pytest.mark.parametrize("declared", [b"-99", b"300"])
def test_nodata_outside_the_dtype_is_as_good_as_none(tmp_path, write_scene, read_bands, engine_of, declared):
    values = np.random.default_rng(0).integers(1, 254, (3, 40, 40)).astype(np.uint8)
    path = write_scene(tmp_path / "s.tif", values, nodata=255)
    raw = path.read_bytes()
    assert raw.count(b"255\0") == 1
    path.write_bytes(raw.replace(b"255\0", declared + b"\0"))
    with pytest.raises(RequestError, match="declares no nodata"):
        inpaint(path, tmp_path / "o.tif", engine_of(0.5))
    holes = np.zeros((1, 40, 40), np.uint8)
    holes[0, 10:12] = 1
    inpaint(path, tmp_path / "o.tif", engine_of(0.5), mask=write_scene(tmp_path / "m.tif", holes))
    values[:, 10:12] = 128
    assert np.array_equal(read_bands(tmp_path / "o.tif"), values)


def test_a_fourth_band_beside_nodata_is_copied(tmp_path, write_scene, read_bands, engine_of):
    """GDAL calls it alpha in any 8-bit file; it may as well be near infrared."""
    values = np.random.default_rng(0).integers(1, 200, (4, 60, 60)).astype(np.uint8)
    values[:, 30:34] = 0
    path = write_scene(tmp_path / "s.tif", values, nodata=0)
    with rasterio.open(path) as scene:
        assert scene.colorinterp[3] == ColorInterp.alpha
    assert inpaint(path, tmp_path / "o.tif", engine_of(0.5)).pixels_filled == 240
    values[:3, 30:34] = 128
    assert np.array_equal(read_bands(tmp_path / "o.tif"), values)


def test_nodata_of_all_bands_together_is_not_what_gaps_are_filled_with(tmp_path, write_scene, read_bands, engine_of):
    values = np.random.default_rng(0).integers(1, 250, (3, 40, 40)).astype(np.uint8)
    values[:, 20:23] = 0
    path = write_scene(tmp_path / "s.tif", values)
    with rasterio.open(path, "r+") as scene:
        scene.update_tags(NODATA_VALUES="0 0 0")
    assert inpaint(path, tmp_path / "o.tif", engine_of(0.0)).pixels_filled == 120
    assert (read_bands(tmp_path / "o.tif")[:, 20:23] == 1).all()
    with rasterio.open(tmp_path / "o.tif") as written:
        assert written.dataset_mask().all()


def test_bands_not_chosen_stay_missing_where_one_mask_is_for_all(tmp_path, write_scene, engine_of):
    """A second run finds the gaps that the first one has left in them."""
    values = np.random.default_rng(0).integers(1, 250, (6, 40, 40)).astype(np.uint8)
    valid = np.ones((40, 40), bool)
    valid[20:23] = False
    values[:, ~valid] = 0
    path = write_scene(tmp_path / "s.tif", values)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK="YES"), rasterio.open(path, "r+") as scene:
        scene.write_mask(valid)
    inpaint(path, tmp_path / "a.tif", engine_of(0.5), bands=(3, 2, 1))
    assert inpaint(tmp_path / "a.tif", tmp_path / "b.tif", engine_of(0.5), bands=(6, 5, 4)).pixels_filled == 120
    with rasterio.open(tmp_path / "b.tif") as written:
        assert (written.read()[:, ~valid] == 128).all()
        assert ((written.dataset_mask() != 0) == valid).all()
