"""Reading any raster, a few rows at a time."""

import numpy as np
import pytest
import rasterio

from ecea.runtime.errors import EceaError, RequestError
from ecea.runtime.paths import same_file
from ecea.runtime.scene import Scene

DTYPES = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"]


@pytest.fixture
def four_bands(tmp_path, write_scene):
    values = np.arange(4 * 30 * 20, dtype=np.int16).reshape(4, 30, 20)
    return write_scene(tmp_path / "four.tif", values, nodata=-1), values


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_are_read_as_they_are(tmp_path, write_scene, dtype):
    values = np.random.default_rng(0).integers(1, 120, (3, 30, 20)).astype(dtype)
    with Scene(write_scene(tmp_path / "s.tif", values, nodata=0)) as scene:
        assert (scene.height, scene.width, scene.dtype) == (30, 20, np.dtype(dtype))
        rows = scene.read(7, 19)
    assert (rows.top, rows.bottom) == (7, 19)
    assert rows.bands.dtype == dtype
    assert np.array_equal(rows.bands, values[:, 7:19])
    assert not rows.missing.any()


def test_all_bands_are_read_and_the_chosen_ones_looked_at(four_bands):
    path, values = four_bands
    with rasterio.open(path, "r+") as target:
        values[1, 3, 3] = values[3, 4, 4] = -1
        target.write(values)
    with Scene(path, bands=(4, 3, 1)) as scene:
        rows = scene.read(0, 30)
        assert scene.band_positions == [3, 2, 0]
    assert np.array_equal(rows.bands, values)
    assert np.argwhere(rows.selected).tolist() == [[0, 4, 4]]
    assert np.argwhere(rows.missing).tolist() == [[4, 4]]


def test_one_band_may_stand_for_three(four_bands):
    with Scene(four_bands[0], bands=(2, 2, 2)) as scene:
        assert scene.read(0, 5).selected.shape == (3, 5, 20)


@pytest.mark.parametrize("bands", [(), (1, 2), (1, 2, 3, 4), (0, 1, 2), (-1, 1, 2)])
def test_bands_that_are_not_three_indexes_are_refused(four_bands, bands):
    with pytest.raises(RequestError, match="expected three indexes from 1"):
        Scene(four_bands[0], bands=bands)


def test_a_band_that_the_file_lacks_is_refused(four_bands):
    with pytest.raises(RequestError, match=r"four\.tif: has 4 bands, bands 5,1,1 were asked for"):
        Scene(four_bands[0], bands=(5, 1, 1))


def test_complex_values_are_refused(tmp_path, write_scene):
    path = write_scene(tmp_path / "c.tif", np.ones((3, 4, 4), np.complex64))
    with pytest.raises(RequestError, match=r"c\.tif: has values of type complex64"):
        Scene(path)


def test_bands_of_different_types_are_refused(tmp_path, write_scene):
    write_scene(tmp_path / "a.tif", np.ones((1, 4, 4), np.uint8))
    write_scene(tmp_path / "b.tif", np.ones((1, 4, 4), np.float32))
    bands = "".join(
        f'<VRTRasterBand dataType="{kind}" band="{index}"><SimpleSource><SourceFilename relativeToVRT="1">{name}.tif'
        "</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand>"
        for index, (kind, name) in enumerate([("Byte", "a"), ("Float32", "b"), ("Byte", "a")], 1)
    )
    path = tmp_path / "mixed.vrt"
    path.write_text(f'<VRTDataset rasterXSize="4" rasterYSize="4">{bands}</VRTDataset>')
    with pytest.raises(RequestError, match=r"mixed\.vrt: has values of type float32, uint8"):
        Scene(path)


def test_integers_without_nodata_need_a_mask(tmp_path, write_scene):
    path = write_scene(tmp_path / "plain.tif", np.ones((3, 4, 4), np.uint8))
    with pytest.raises(RequestError, match=r"plain\.tif: declares no nodata value.*--mask zero"):
        Scene(path)
    Scene(path, mask="zero").close()


def test_a_path_that_is_not_there_and_one_that_is_no_raster_are_told_apart(tmp_path):
    with pytest.raises(RequestError, match=r"absent\.tif: no such file"):
        Scene(tmp_path / "absent.tif")
    (tmp_path / "text.tif").write_text("not a raster")
    with pytest.raises(RequestError, match=r"text\.tif: is not a raster that GDAL opens"):
        Scene(tmp_path / "text.tif")
    with pytest.raises(RequestError, match="is not a raster that GDAL opens"):
        Scene(f"/vsizip/{tmp_path}/absent.zip/s.tif")


def test_a_truncated_file_is_told_with_the_rows_that_are_lost(tmp_path, write_scene):
    values = np.random.default_rng(0).integers(1, 60_000, (3, 400, 300)).astype(np.uint16)
    path = write_scene(tmp_path / "cut.tif", values, nodata=0)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with Scene(path) as scene:
        scene.read(0, 10)
        with pytest.raises(EceaError, match=r"cut\.tif: rows 390 to 399") as caught:
            scene.read(390, 400)
    assert caught.value.exit_status == 1


def test_a_truncated_mask_is_told_too(tmp_path, write_scene):
    values = np.random.default_rng(0).integers(1, 60_000, (3, 400, 300)).astype(np.uint16)
    path = write_scene(tmp_path / "whole.tif", values, nodata=0)
    mask = write_scene(tmp_path / "cut.tif", values)
    mask.write_bytes(mask.read_bytes()[: mask.stat().st_size // 2])
    with Scene(path, mask=str(mask)) as scene, pytest.raises(EceaError, match="or their mask cannot be read"):
        scene.read(390, 400)


def test_what_says_which_pixels_hold_data_is_known(tmp_path, write_scene):
    values = np.full((4, 8, 8), 200, np.uint8)
    with Scene(write_scene(tmp_path / "nodata.tif", values, nodata=0)) as scene:
        assert (scene.alpha_position, scene.has_mask) == (None, False)
    with Scene(write_scene(tmp_path / "alpha.tif", values, photometric="RGB", alpha="yes")) as scene:
        assert (scene.alpha_position, scene.has_mask) == (3, False)
    with Scene(write_scene(tmp_path / "plain.tif", values[:3]), mask="zero") as scene:
        assert (scene.alpha_position, scene.has_mask) == (None, False)
    path = write_scene(tmp_path / "mask.tif", values[:3])
    with rasterio.open(path, "r+") as target:
        target.write_mask(values[0])
    with Scene(path) as scene:
        assert (scene.alpha_position, scene.has_mask) == (None, True)


def test_two_names_of_one_file_are_the_same(tmp_path):
    (tmp_path / "a").write_text("")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    (tmp_path / "c").write_text("")
    assert same_file(tmp_path / "a", tmp_path / "b")
    assert not same_file(tmp_path / "a", tmp_path / "c")
    assert not same_file(tmp_path / "a", tmp_path / "absent")


def test_complex_integers_are_refused(tmp_path, write_scene):
    """numpy has no such type, so to ask it which it is was an error of its own."""
    path = write_scene(tmp_path / "c.tif", np.ones((1, 4, 4), np.complex64), dtype="complex_int16")
    with pytest.raises(RequestError, match=r"c\.tif: has values of type complex_int16"):
        Scene(path, bands=(1, 1, 1))


@pytest.mark.parametrize(("kind", "nodata"), [("Int64", -(2**63)), ("Int64", 2**63 - 1), ("UInt64", 2**64 - 1)])
def test_nodata_that_would_be_another_in_the_output_is_refused(tmp_path, write_scene, write_vrt, kind, nodata):
    write_scene(tmp_path / "s.tif", np.full((3, 4, 4), 7, kind.lower()))
    path = write_vrt(tmp_path / "s.vrt", "s.tif", (nodata,) * 3, kind)
    with pytest.raises(RequestError, match=r"s\.vrt: band 1 declares a nodata value beyond 2\*\*53"):
        Scene(path)
    assert Scene(write_vrt(tmp_path / "t.vrt", "s.tif", (2**53,) * 3, kind)).dataset.nodata == 2**53
