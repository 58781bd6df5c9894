"""The output: a GeoTIFF with all of the scene but its pixels, whole or not at all."""

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio import Affine
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp
from rasterio.rpc import RPC

from ecea.runtime.errors import EceaError, RequestError
from ecea.runtime.writer import _AlignedRows, check_destination, geotiff_like, whole_or_nothing, written_whole

CHILD = Path(__file__).with_name("child.py")
DTYPES = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"]

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def copy_of(path, chunk=100, **options):
    """Write a raster again, through ``geotiff_like``; return where."""
    output = path.with_name(f"{path.stem}_copy.tif")
    with rasterio.open(path) as source:
        values, valid = source.read(), source.dataset_mask() != 0
        with geotiff_like(source, output, **options) as write:
            for top in range(0, source.height, chunk):
                write(values[:, top : top + chunk], valid[top : top + chunk])
    return output


def facts(path):
    """All that a dataset says of itself, but for its layout in the file."""
    with rasterio.open(path) as source:
        return {
            "size": (source.count, source.height, source.width),
            "dtypes": source.dtypes,
            "nodatavals": source.nodatavals,
            "crs": source.crs,
            "transform": source.transform,
            "gcps": [(p.row, p.col, p.x, p.y, p.z) for p in source.gcps[0]],
            "gcps_crs": source.gcps[1],
            "rpcs": source.rpcs.to_gdal() if source.rpcs else None,
            "descriptions": source.descriptions,
            "units": source.units,
            "scales": source.scales,
            "offsets": source.offsets,
            "colorinterp": source.colorinterp,
            "tags": source.tags(),
            "band_tags": [source.tags(band) for band in source.indexes],
            "mask_flags": source.mask_flag_enums,
        }


def assert_alike(first, second):
    expected, found = facts(first), facts(second)
    assert {name: found[name] for name in expected} == expected


def test_everything_that_a_scene_says_of_itself_is_kept(tmp_path, write_scene):
    values = np.random.default_rng(0).integers(1, 60_000, (4, 40, 50)).astype(np.uint16)
    path = write_scene(
        tmp_path / "rich.tif",
        values,
        nodata=0,
        crs="EPSG:3577",
        transform=Affine(25, 0, 1_200_000.5, 0, -25, -4_000_000.25),
    )
    with rasterio.open(path, "r+") as target:
        target.descriptions = ("SR_B3 red", "SR_B2 green", None, "near infrared")
        target.units = ("reflectance", "", "K", "m")
        target.scales, target.offsets = (2.75e-5, 1, 0.5, 2), (-0.2, 0, 3, 4)
        target.colorinterp = (ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.undefined)
        target.update_tags(acquired="2010-01-16", AREA_OR_POINT="Point", TIFFTAG_SOFTWARE="made by hand")
        target.update_tags(ns="MISSION", satellite="Landsat 7")
        target.update_tags(2, wavelength="0.56", STATISTICS_MEAN="7", STATISTICS_VALID_PERCENT="99")
        target.update_tags(3, ns="CALIBRATION", gain="1.5")
    output = copy_of(path)
    with rasterio.open(path, "r+") as target:
        target.update_tags(2, STATISTICS_MEAN="7")
        assert "STATISTICS_MEAN" in target.tags(2)
    expected, found = facts(path), facts(output)
    expected["band_tags"] = [{}, {"wavelength": "0.56"}, {}, {}]
    assert {name: found[name] for name in expected} == expected
    assert found["transform"] == Affine(25, 0, 1_200_000.5, 0, -25, -4_000_000.25)
    assert found["tags"]["AREA_OR_POINT"] == "Point"
    with rasterio.open(output) as written:
        assert written.tags(ns="MISSION") == {"satellite": "Landsat 7"}
        assert written.tags(3, ns="CALIBRATION") == {"gain": "1.5"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["rich.tif", "rich_copy.tif"]


def test_ground_control_points_are_kept(tmp_path, write_scene):
    points = [GroundControlPoint(row, col, 10 + col / 50, 50 - row / 40, 7) for row in (0, 40) for col in (0, 50)]
    values = np.ones((3, 40, 50), np.uint8)
    path = write_scene(tmp_path / "gcps.tif", values, nodata=0, gcps=points, crs="EPSG:4326", transform=None)
    assert len(facts(path)["gcps"]) == 4
    assert_alike(path, copy_of(path))


def test_rational_polynomials_are_kept(tmp_path, write_scene):
    offsets = {f"{axis}_{kind}": 1.5 for axis in ("height", "lat", "line", "long", "samp") for kind in ("off", "scale")}
    terms = {f"{axis}_{kind}_coeff": [0.5] * 20 for axis in ("line", "samp") for kind in ("num", "den")}
    path = write_scene(tmp_path / "rpcs.tif", np.ones((3, 40, 50), np.uint8), nodata=0, crs=None, transform=None)
    with rasterio.open(path, "r+") as target:
        target.rpcs = RPC(err_bias=1, err_rand=2, **offsets, **terms)
    assert facts(path)["rpcs"]["LINE_NUM_COEFF"].startswith("0.5")
    assert_alike(path, copy_of(path))


def test_a_colour_table_is_kept(tmp_path, write_scene):
    colours = {index: (index, 0, 255 - index, 255) for index in range(256)}
    path = write_scene(tmp_path / "palette.tif", np.ones((1, 40, 50), np.uint8), photometric="palette")
    with rasterio.open(path, "r+") as target:
        target.write_colormap(1, colours)
    output = copy_of(path)
    assert_alike(path, output)
    with rasterio.open(output) as written:
        assert written.colormap(1) == colours


def test_colour_tables_of_several_bands_are_left_out(tmp_path, write_scene):
    """No GeoTIFF holds them; GDAL's refusal was taken for a mistake of ours."""
    path = write_scene(tmp_path / "p.tif", np.ones((1, 40, 50), np.uint8), photometric="palette")
    with rasterio.open(path, "r+") as target:
        target.write_colormap(1, {1: (1, 2, 3, 255)})
    both = tmp_path / "both.vrt"
    band = (
        '<VRTRasterBand dataType="Byte" band="{}"><ColorInterp>Palette</ColorInterp><ColorTable><Entry c1="9"/>'
        '</ColorTable><SimpleSource><SourceFilename relativeToVRT="1">p.tif</SourceFilename></SimpleSource>'
        "</VRTRasterBand>"
    )
    both.write_text(f'<VRTDataset rasterXSize="50" rasterYSize="40">{band.format(1)}{band.format(2)}</VRTDataset>')
    with rasterio.open(copy_of(both)) as written:
        assert (written.read() == 1).all()


def test_an_alpha_band_stays_one(tmp_path, write_scene):
    values = np.random.default_rng(0).integers(0, 2, (4, 40, 50)).astype(np.uint8) * 255
    path = write_scene(tmp_path / "alpha.tif", values, photometric="RGB", alpha="yes")
    assert_alike(path, copy_of(path))


def test_a_mask_is_written_into_the_file(tmp_path, write_scene, read_bands):
    height, width = 600, 300
    values = np.random.default_rng(0).integers(0, 255, (3, height, width)).astype(np.uint8)
    valid = np.random.default_rng(1).random((height, width)) < 0.7
    path = write_scene(tmp_path / "masked.tif", values)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK="YES"), rasterio.open(path, "r+") as target:
        target.write_mask(valid)
    output = copy_of(path, with_mask=True)
    assert_alike(path, output)
    with rasterio.open(output) as written:
        assert np.array_equal(written.dataset_mask() == 255, valid)
    assert np.array_equal(read_bands(output), values)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["masked.tif", "masked_copy.tif"]


@pytest.mark.parametrize("nodata", [0, 7, -9999, float("nan"), -3.4028234663852886e38])
def test_nodata_of_floats_is_kept(tmp_path, write_scene, nodata):
    path = write_scene(tmp_path / "float.tif", np.ones((3, 9, 9), np.float32), nodata=nodata)
    with rasterio.open(copy_of(path)) as written:
        assert written.nodata == pytest.approx(nodata, nan_ok=True, rel=0)


def test_a_scene_that_says_nothing_gets_nothing(tmp_path, write_scene):
    path = write_scene(tmp_path / "bare.tif", np.ones((3, 9, 9), np.int16), crs=None, transform=None)
    assert_alike(path, copy_of(path))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_file_is_tiled_by_256_and_compressed_without_loss(tmp_path, write_scene, read_bands, dtype):
    limits = np.iinfo(dtype) if np.dtype(dtype).kind in "iu" else np.finfo(dtype)
    values = np.random.default_rng(0).integers(0, 10, (3, 300, 300)).astype(dtype)
    values[:, 0, :2] = limits.min, limits.max
    output = copy_of(write_scene(tmp_path / "s.tif", values))
    with rasterio.open(output) as written:
        assert written.driver == "GTiff"
        assert set(written.block_shapes) == {(256, 256)}
        assert written.compression.value == "DEFLATE"
    assert np.array_equal(read_bands(output), values)
    assert output.stat().st_size < values.nbytes * 0.7


@settings(max_examples=25)
@given(st.integers(1, 700), st.integers(1, 40), st.data())
def test_rows_may_come_in_any_number(tmp_path_factory, write_scene, read_bands, height, width, data):
    folder = tmp_path_factory.mktemp("rows")
    values = np.random.default_rng(height).integers(0, 255, (2, height, width)).astype(np.uint8)
    path = write_scene(folder / "s.tif", values)
    with rasterio.open(path) as source, geotiff_like(source, folder / "o.tif") as write:
        top = 0
        while top < height:
            count = data.draw(st.integers(1, min(400, height - top)))
            write(values[:, top : top + count], np.ones((count, width), bool))
            top += count
    assert np.array_equal(read_bands(folder / "o.tif"), values)


def test_rows_are_handed_to_gdal_in_whole_blocks():
    class Target:
        """Remembers which rows it was given."""

        def __init__(self):
            self.rows = []

        def write(self, rows, window):
            assert (window.col_off, window.width, window.height) == (0, 30, rows.shape[1])
            self.rows.append((window.row_off, window.height))

    target = Target()
    aligned = _AlignedRows(target, Path("o.tif"), with_mask=False)
    for count in (100, 100, 100, 1, 255, 600, 44):
        aligned.add(np.zeros((3, count, 30), np.uint8), np.ones((count, 30), bool))
    aligned.flush()
    assert target.rows == [(0, 256), (256, 256), (512, 512), (1024, 176)]


def test_the_output_appears_when_the_block_succeeds(tmp_path):
    target = tmp_path / "out.tif"
    with whole_or_nothing(target) as temporary:
        assert temporary.parent == tmp_path
        temporary.write_text("new")
        assert not target.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out.tif"]
    assert target.read_text() == "new"


def test_the_output_is_on_the_disk_before_it_appears(tmp_path, monkeypatch):
    target, synced = tmp_path / "out.tif", []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append((os.fstat(file).st_size, target.exists())))
    with whole_or_nothing(target) as temporary:
        temporary.write_text("new")
    assert synced == [(3, False)]


def test_a_link_that_leads_to_itself_is_refused(tmp_path):
    first, second = tmp_path / "first.tif", tmp_path / "second.tif"
    first.symlink_to(second)
    second.symlink_to(first)
    with pytest.raises(RequestError, match=r"first\.tif: is a link that leads to itself: remove it, or name another"):
        check_destination(first)


@pytest.mark.parametrize("there", [True, False])
def test_an_output_that_is_a_link_stays_one_and_leads_to_the_new_file(tmp_path, there):
    """With what GDAL keeps beside it, which it looks for beside the link."""
    real, link = tmp_path / "disk" / "real.dat", tmp_path / "here" / "o.tif"
    for path in (real, link):
        path.parent.mkdir()
    link.symlink_to("../disk/real.dat")
    for path in (real, link) if there else ():
        path.write_text("old")
        path.with_name(f"{path.name}.ovr").write_text("old")
    check_destination(link)
    with whole_or_nothing(link) as temporary:
        assert (temporary.parent, temporary.suffix) == (real.parent, ".tif")
        temporary.write_text("new")
        temporary.with_name(f"{temporary.name}.aux.xml").write_text("new")
    assert link.is_symlink()
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob("*/*")) == [
        "disk/real.dat", "disk/real.dat.aux.xml", "here/o.tif", "here/o.tif.aux.xml",
    ]  # fmt: skip
    assert real.read_text() == link.with_name("o.tif.aux.xml").read_text() == "new"
    with whole_or_nothing(link) as temporary:
        temporary.write_text("newer")
    assert sorted(path.name for path in tmp_path.glob("*/*")) == ["o.tif", "real.dat"]
    assert real.read_text() == "newer"


def test_a_link_is_no_way_around_what_is_refused(tmp_path, tiny_bundle):
    links = {"a.tif": tiny_bundle() / "o.tif", "b.tif": tmp_path / "absent" / "o.tif", "c.tif": tmp_path}
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    for name, said in (("a.tif", "lies in a bundle"), ("b.tif", "absent does not exist"), ("c.tif", "is a folder")):
        with pytest.raises(RequestError, match=rf"{name}: .*{said}"):
            check_destination(tmp_path / name)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_failure_leaves_what_was_there(tmp_path, error):
    target = tmp_path / "out.tif"
    target.write_text("old")
    with pytest.raises(error), whole_or_nothing(target) as temporary:
        temporary.write_text("half")
        temporary.with_name(f"{temporary.name}.aux.xml").write_text("GDAL writes such")
        raise error
    assert [path.name for path in tmp_path.iterdir()] == ["out.tif"]
    assert target.read_text() == "old"


def test_a_rename_that_fails_is_told_and_leaves_nothing(tmp_path):
    target = tmp_path / "out.tif"
    with pytest.raises(EceaError, match=r"out\.tif: cannot be put in place"), whole_or_nothing(target) as temporary:
        temporary.write_text("new")
        target.mkdir()
        (target / "in the way").write_text("")
    assert [path.name for path in tmp_path.iterdir()] == ["out.tif"]


def test_a_destination_that_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(RequestError, match=r"the folder .*absent does not exist"):
        check_destination(tmp_path / "absent" / "o.tif")
    with pytest.raises(RequestError, match="is a folder"):
        check_destination(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="does not exist"):
        check_destination(tmp_path / "file" / "o.tif")
    check_destination(tmp_path / "o.tif")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(RequestError, match="may not be written"):
        check_destination(tmp_path / "o.tif")


def test_only_errors_of_writing_are_told_as_such(tmp_path, write_scene):
    path = write_scene(tmp_path / "s.tif", np.ones((3, 9, 9), np.uint8))
    with (
        rasterio.open(path) as source,
        pytest.raises(FileNotFoundError, match="of the caller"),
        geotiff_like(source, tmp_path / "o.tif"),
    ):
        raise FileNotFoundError("of the caller")
    with (
        rasterio.open(path) as source,
        pytest.raises(EceaError, match=r"o\.tif: cannot be written \("),
        geotiff_like(source, tmp_path / "absent" / "o.tif"),
    ):
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files as Linux does")
@pytest.mark.parametrize("threads", ["1", "4"])
def test_a_full_disk_is_told_and_leaves_nothing(tmp_path, threads):
    shares = ["0.001", "0.5", "0.99", "0.9999", "1", "1.1"]
    done = subprocess.run(
        [sys.executable, CHILD, "limited", tmp_path, *shares],
        env={**os.environ, "GDAL_NUM_THREADS": threads},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *failed, last = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(failed) == len(shares) - 1
    for run in failed:  # the last of them lacks one byte
        assert re.search(r"filled\.tif: cannot be written \((?!.*See previous).*is the disk full", run["outcome"]), run
        assert run["left"] == []
    assert (last["outcome"], last["left"], last["whole"]) == ("done", ["filled.tif"], True)


def test_what_stops_a_small_file_is_a_sentence(tmp_path: Path) -> None:
    """Of a table, a page, a picture: whoever writes it need not say so."""
    with (
        pytest.raises(EceaError, match=r"table\.json: cannot be written \(No space left on device\): is the disk full"),
        written_whole(tmp_path / "table.json") as temporary,
    ):
        temporary.write_text("{")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert not list(tmp_path.iterdir())


def test_what_lies_in_the_way_beside_the_output_is_told_as_such(tmp_path):
    (tmp_path / "o.tif.ovr").mkdir()
    with (
        pytest.raises(EceaError, match=r"o\.tif: was written, but .*o\.tif\.ovr beside it .* remove that"),
        whole_or_nothing(tmp_path / "o.tif") as temporary,
    ):
        temporary.write_text("new")
    assert (tmp_path / "o.tif").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["o.tif", "o.tif.ovr"]


def test_nothing_is_written_into_a_bundle(tmp_path):
    """Whatever its name, it would take the place of a part, or be lost with the next export."""
    bundle = tmp_path / "site.ecea"
    bundle.mkdir()
    (bundle / "manifest.json").write_text("{}")
    (tmp_path / "link").symlink_to(bundle)
    for path in (bundle / "manifest.json", bundle / "o.tif", tmp_path / "link" / "o.tif"):
        with pytest.raises(RequestError, match="lies in a bundle"):
            check_destination(path)


def test_a_bundle_is_known_by_its_manifest(tmp_path, tiny_bundle):
    renamed, other = tiny_bundle("site"), tmp_path / "web"
    other.mkdir()
    for path in (renamed / "manifest.json", renamed / "o.tif"):
        with pytest.raises(RequestError, match="lies in a bundle"):
            check_destination(path)
    for manifest in ('{"name": "a page", "icons": []}', "[]", "{"):
        (other / "manifest.json").write_text(manifest)
        check_destination(other / "o.tif")
