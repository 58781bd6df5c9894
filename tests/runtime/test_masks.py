"""Where a scene's gaps are known from."""

from contextlib import ExitStack

import numpy as np
import pytest
from rasterio.windows import Window

from ecea.runtime.errors import RequestError
from ecea.runtime.masks import open_mask
from ecea.runtime.scene import Scene

PRODUCT = "LE07_L2SP_225078_20110306_20200911_02_T1"


@pytest.fixture
def scene(tmp_path, write_scene):
    """Four rows of six pixels: 0 is nodata, in one band, in two, and in all."""
    values = np.arange(1, 73, dtype=np.uint16).reshape(3, 4, 6)
    values[0, 0, 1] = 0
    values[1:, 1, 2] = 0
    values[:, 2, 3] = 0
    return write_scene(tmp_path / f"{PRODUCT}_SR_B321.TIF", values, nodata=0)


def read(scene, mask):
    with Scene(scene, mask=str(mask)) as opened:
        return opened.read(0, opened.height)


def where(mask):
    """The pixels of a (h, W) mask, as a set of (row, column)."""
    return set(zip(*(axis.tolist() for axis in np.nonzero(mask)), strict=True))


def test_nodata_selects_the_values_that_are_missing_and_hides_the_pixel(scene):
    rows = read(scene, "nodata")
    assert [where(band) for band in rows.selected] == [{(0, 1), (2, 3)}, {(1, 2), (2, 3)}, {(1, 2), (2, 3)}]
    assert where(rows.missing) == where(rows.void) == {(0, 1), (1, 2), (2, 3)}


def test_floats_that_are_not_finite_are_gaps_whatever_nodata_is_declared(tmp_path, write_scene):
    values = np.ones((3, 2, 4), np.float32)
    values[0, 0, 0], values[1, 0, 1], values[2, 0, 2], values[:, 1, 3] = np.nan, np.inf, -np.inf, -9999
    rows = read(write_scene(tmp_path / "f.tif", values, nodata=-9999), "nodata")
    assert [where(band) for band in rows.selected] == [{(0, 0), (1, 3)}, {(0, 1), (1, 3)}, {(0, 2), (1, 3)}]


def test_floats_need_no_declared_nodata(tmp_path, write_scene):
    values = np.ones((3, 2, 4))
    values[:, 1, 1] = np.nan
    assert where(read(write_scene(tmp_path / "f.tif", values), "nodata").missing) == {(1, 1)}


def test_zero_selects_zeros_and_leaves_other_nodata_alone(tmp_path, write_scene):
    values = np.full((3, 3, 3), 5, np.int16)
    values[0, 0, 0], values[:, 1, 1], values[:, 2, 2] = 0, 0, -1
    rows = read(write_scene(tmp_path / "z.tif", values, nodata=-1), "zero")
    assert [where(band) for band in rows.selected] == [{(0, 0), (1, 1)}, {(1, 1)}, {(1, 1)}]
    assert where(rows.missing) == {(0, 0), (1, 1), (2, 2)}  # what holds nodata is hidden, though not filled


def test_a_file_selects_where_its_first_band_is_not_zero(scene, tmp_path, write_scene):
    holes = np.zeros((2, 4, 6), np.uint8)
    holes[0, 0, 5] = holes[0, 2, 3] = 255
    holes[0, 3, 0] = 1
    holes[1] = 9
    rows = read(scene, write_scene(tmp_path / "mask.tif", holes))
    assert [where(band) for band in rows.selected] == [{(0, 5), (2, 3), (3, 0)}] * 3
    assert where(rows.missing) == {(0, 1), (1, 2), (2, 3), (0, 5), (3, 0)}
    assert where(rows.void) == {(0, 1), (1, 2), (2, 3)}  # covered data still show how far the swath reaches


def test_a_file_is_read_where_the_scene_is(tmp_path, write_scene):
    holes = np.zeros((1, 50, 7), np.uint8)
    holes[0, 41, 3] = 1
    path = write_scene(tmp_path / "mask.tif", holes)
    with ExitStack() as stack:
        mask = open_mask(str(path), "scene.tif", 50, 7, stack)
        selected = mask.select(np.ones((3, 10, 7)), np.zeros((3, 10, 7), bool), Window(0, 40, 7, 10))
    assert where(selected) == {(1, 3)}


def test_a_file_of_another_size_is_refused_with_both_sizes(scene, tmp_path, write_scene):
    path = write_scene(tmp_path / "mask.tif", np.zeros((1, 5, 6), np.uint8))
    with pytest.raises(RequestError, match=r"mask\.tif: is a mask of 6 x 5 px, the scene has 6 x 4"):
        read(scene, path)


def test_a_file_that_is_no_raster_is_refused(scene, tmp_path):
    (tmp_path / "mask.txt").write_text("no raster")
    for name in ("mask.txt", "absent.tif", "nodta"):
        with pytest.raises(RequestError, match=rf"{name}: is not a mask.*nodata, zero or qa"):
            read(scene, tmp_path / name)


def quality(write_scene, folder, suffix, values, product=PRODUCT):
    return write_scene(folder / f"{product}_{suffix}.TIF", values[None])


def test_qa_selects_fill_and_dropped_pixels(scene, tmp_path, write_scene):
    pixel = np.full((4, 6), 0b0101_0100_0000, np.uint16)  # clear, low confidences
    radsat = np.zeros((4, 6), np.uint16)
    pixel[0, 0] |= 1 << 0  # fill
    pixel[0, 1] |= 1 << 1  # dilated cloud
    pixel[0, 2] |= 1 << 9
    radsat[1, 0] |= 1 << 9  # dropped
    radsat[1, 1] |= 1 << 0  # band 1 saturated
    radsat[1, 2] |= 1 << 8
    quality(write_scene, tmp_path, "QA_PIXEL", pixel)
    assert [where(band) for band in read(scene, "qa").selected] == [{(0, 0)}] * 3
    quality(write_scene, tmp_path, "QA_RADSAT", radsat)
    rows = read(scene, "qa")
    assert [where(band) for band in rows.selected] == [{(0, 0), (1, 0)}] * 3
    assert where(rows.missing) == {(0, 0), (1, 0), (0, 1), (1, 2), (2, 3)}


def test_qa_of_another_product_is_not_taken(scene, tmp_path, write_scene):
    with pytest.raises(RequestError, match=r"has 0 files PRODUCT_QA_PIXEL\.TIF"):
        read(scene, "qa")
    other = PRODUCT.replace("20110306", "20110322")
    quality(write_scene, tmp_path, "QA_PIXEL", np.ones((4, 6), np.uint16), other)
    with pytest.raises(RequestError, match="has 0 files"):
        read(scene, "qa")
    quality(write_scene, tmp_path, "QA_PIXEL", np.zeros((4, 6), np.uint16))
    assert not read(scene, "qa").selected.any()


def test_qa_of_another_size_is_refused(scene, tmp_path, write_scene):
    quality(write_scene, tmp_path, "QA_PIXEL", np.zeros((4, 7), np.uint16))
    with pytest.raises(RequestError, match=r"QA_PIXEL\.TIF: is a mask of 7 x 4 px"):
        read(scene, "qa")


def test_a_mask_inside_the_raster_or_an_alpha_band_says_what_is_missing(tmp_path, write_scene):
    import rasterio

    values = np.full((4, 4, 6), 255, np.uint8)
    values[3, 1, 2] = 0
    alpha = write_scene(tmp_path / "alpha.tif", values, photometric="RGB", alpha="yes")
    assert where(read(alpha, "nodata").missing) == {(1, 2)}
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK="YES"):
        inside = write_scene(tmp_path / "inside.tif", values[:3])
        with rasterio.open(inside, "r+") as target:
            target.write_mask(values[3])
    rows = read(inside, "nodata")
    assert [where(band) for band in rows.selected] == [{(1, 2)}] * 3


@pytest.mark.parametrize(("suffix", "kind"), [("QA_PIXEL", np.float32), ("QA_RADSAT", np.uint8)])
def test_quality_bands_of_another_type_are_refused(scene, tmp_path, write_scene, suffix, kind):
    quality(write_scene, tmp_path, "QA_PIXEL", np.zeros((4, 6), np.uint16))
    quality(write_scene, tmp_path, suffix, np.zeros((4, 6), kind))
    with pytest.raises(RequestError, match=rf"{suffix}\.TIF: has values of type {np.dtype(kind).name}, a quality band"):
        read(scene, "qa")


@pytest.mark.parametrize(
    ("name", "gap", "other"),
    [
        (f"{PRODUCT}_QA_RADSAT.TIF", 1 << 9, 0b101),
        (f"{PRODUCT}_GM_B3.TIF", 0, 1),
        (f"{PRODUCT}_qa_radsat.tif", 1 << 9, 0b101),
        (f"{PRODUCT}_gm_b3.tif", 0, 1),
    ],
)
def test_landsat_s_own_masks_are_taken_at_their_word(scene, tmp_path, write_scene, name, gap, other):
    """Of saturated pixels QA_RADSAT is not 0 either; a gap mask is 0 in gaps."""
    values = np.full((1, 4, 6), other, np.uint16)
    values[0, 3, 4] = gap
    mask = write_scene(tmp_path / name, values)
    assert [where(band) for band in read(scene, str(mask)).selected] == [{(3, 4)}] * 3
