"""The files of a run: what is read from elsewhere, what is written beside an output, and what is never replaced."""

import shutil
import zipfile

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from rasterio.drivers import raster_driver_extensions

from ecea.runtime import RequestError, inpaint

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def test_what_gdal_kept_beside_an_older_output_goes_with_it(tmp_path, striped, write_scene, engine_of):
    """Its overviews, its mask and its statistics would be believed of the new one."""
    output = tmp_path / "o.tif"
    write_scene(output, np.full((3, 70, 80), 7, np.uint8))
    with rasterio.Env(TIFF_USE_OVR="YES", GDAL_TIFF_INTERNAL_MASK="NO"), rasterio.open(output, "r+") as older:
        older.build_overviews([2])
        older.write_mask(np.zeros((70, 80), bool))
    metadata = '<PAMDataset><Metadata><MDI key="DAY">old</MDI></Metadata></PAMDataset>'
    (tmp_path / "o.tif.aux.xml").write_text(metadata)
    assert {f"o.tif{suffix}" for suffix in (".ovr", ".msk", ".aux.xml")} <= {path.name for path in tmp_path.iterdir()}
    inpaint(striped[0], output, engine_of(0.5))
    with rasterio.open(output) as written:
        assert not written.overviews(1)
        assert (written.read_masks(1) != 0).all()
        assert "DAY" not in written.tags()
    assert sorted(path.name for path in tmp_path.glob("o.tif*")) == ["o.tif"]


def test_a_crs_that_a_geotiff_cannot_hold_is_kept_beside_it(tmp_path, write_scene, engine_of):
    rotated = "+proj=ob_tran +o_proj=longlat +o_lon_p=0 +o_lat_p=40 +lon_0=10 +R=6371229 +type=crs"
    values = np.full((3, 40, 40), 9, np.uint8)
    values[:, 20] = 0
    path = write_scene(tmp_path / "s.tif", values, nodata=0, crs=rotated)
    inpaint(path, tmp_path / "o.tif", engine_of(0.5))
    with rasterio.open(path) as scene, rasterio.open(tmp_path / "o.tif") as written:
        assert scene.crs is not None
        assert written.crs == scene.crs
    assert not list(tmp_path.glob(".*"))


def test_nothing_that_is_read_is_replaced(tmp_path, striped, write_scene, write_vrt, engine_of):
    shutil.copy(striped[0], tmp_path / "LE07_X_SR.TIF")
    for name in ("LE07_X_QA_PIXEL.TIF", "LE07_X_QA_RADSAT.TIF", "mask.tif", "o.tif.msk"):
        write_scene(tmp_path / name, np.zeros((1, 70, 80), np.uint16), driver="GTiff")
    write_vrt(tmp_path / "mask.vrt", "mask.tif", (1,))
    write_vrt(tmp_path / "outer.vrt", "mask.vrt", (1,))
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for mask, target in (
        ("qa", "LE07_X_QA_PIXEL.TIF"),
        ("qa", "LE07_X_QA_RADSAT.TIF"),
        (str(tmp_path / "mask.vrt"), "mask.tif"),
        (str(tmp_path / "outer.vrt"), "mask.tif"),  # a source of a source
        (str(tmp_path / "o.tif.msk"), "o.tif"),
        (str(tmp_path / "mask.tif"), "mask.tif.ovr"),  # which is not there yet
        (str(tmp_path / "mask.tif"), "LE07_X_SR.TIF.aux.xml"),
    ):
        with pytest.raises(RequestError, match=rf"{target}: is read for this scene"):
            inpaint(tmp_path / "LE07_X_SR.TIF", tmp_path / target, engine_of(0.5), mask=mask)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("before", ["", "/vsicurl/"])
def test_a_mask_on_the_web_is_asked_for_where_it_is(tmp_path, striped, engine_of, before):
    """The two slashes of its address were made one."""
    address = f"{before}http://127.0.0.1:1/m.tif"  # where nothing answers
    with pytest.raises(RequestError) as refused:
        inpaint(striped[0], tmp_path / "o.tif", engine_of(0.5), mask=address)
    assert str(refused.value).startswith(f"{address}: is not a mask that can be read (")


def test_a_scene_inside_an_archive(tmp_path, striped, read_bands, engine_of):
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        archive.write(striped[0], "folder/striped.tif")
    inpaint(f"/vsizip/{tmp_path / 's.zip'}/folder/striped.tif", tmp_path / "o.tif", engine_of(0.5))
    assert np.array_equal(read_bands(tmp_path / "o.tif"), striped[2])


def test_a_scene_that_is_a_vrt(tmp_path, striped, write_vrt, engine_of):
    path = write_vrt(tmp_path / "s.vrt", "striped.tif", (0, 0, 0), "Byte")
    inpaint(path, tmp_path / "o.tif", engine_of(0.5))
    with rasterio.open(tmp_path / "o.tif") as written:
        assert np.array_equal(written.read(), striped[2])
        assert (written.driver, written.nodata, written.crs) == ("GTiff", 0, "EPSG:32633")
        assert written.descriptions == ("band 1", "band 2", "band 3")


@pytest.mark.parametrize(
    ("extension", "options"),
    [("png", {}), ("jp2", {"QUALITY": "100", "REVERSIBLE": "YES"}), ("img", {}), ("bsq", {})],
)
def test_scenes_in_other_formats(tmp_path, striped, engine_of, extension, options):
    driver = {**raster_driver_extensions(), "bsq": "ENVI"}.get(extension)
    if driver is None:
        pytest.skip(f"GDAL has no driver that writes .{extension} here")
    path = tmp_path / f"s.{extension}"
    rasterio.shutil.copy(striped[0], path, driver=driver, **options)
    inpaint(path, tmp_path / "o.tif", engine_of(0.5))
    with rasterio.open(path) as source, rasterio.open(tmp_path / "o.tif") as written:
        assert source.driver == driver
        assert np.array_equal(written.read(), striped[2])
        assert (written.nodata, written.crs.to_epsg(), written.transform) == (0, 32633, source.transform)
        assert not [name for name in written.tag_namespaces() if name.startswith("xml:")]
    names = {path.name for path in tmp_path.iterdir()}
    assert not [name for name in names if name.startswith(".") or name.startswith("o.tif.")]
