"""The synthetic scene: its gaps as measured on real ones, its file as Landsat's, and the picture of it."""

import hashlib
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio

from ecea.runtime.errors import RequestError
from ecea.runtime.picture import DIVIDER, LONGEST_SIDE, NODATA_COLOUR, before_after
from ecea.runtime.sample import terrain, write_sample_scene
from ecea.runtime.slc_off import collar, slc_off_gaps, swath_size

FULL_SWATH = 7000
SIZE = {"height": 256, "width": 320}


def longest_run(mask: np.ndarray) -> int:
    """Rows of the longest run of True down a column."""
    longest, run = 0, np.zeros(mask.shape[1], dtype=int)
    for row in mask:
        run = np.where(row, run + 1, 0)
        longest = max(longest, int(run.max()))
    return longest


def measured_period(column: np.ndarray) -> int:
    centred = column - column.mean()
    correlation = np.correlate(centred, centred, mode="full")[column.size - 1 :]
    return int(np.argmax(correlation[10:60])) + 10


def measured_tilt(mask: np.ndarray, period: float = 33.0) -> float:
    """Degrees by which gaps descend to the right, from the phase of the period in every column."""
    wave = np.exp(2j * np.pi * np.arange(mask.shape[0]) / period)
    rows = np.unwrap(np.angle(wave @ mask)) * period / (2 * np.pi)
    return math.degrees(math.atan(np.polyfit(np.arange(rows.size), rows, 1)[0]))


# ---- gaps


@pytest.mark.parametrize("centre", [3400, -3000], ids=["left half", "right half"])
def test_gaps_repeat_every_33_rows_and_descend_to_the_right(centre: int) -> None:
    gaps = slc_off_gaps(660, 400, swath_width=FULL_SWATH, centre=centre)
    assert measured_period(gaps[:, 200]) == 33
    assert 9.5 <= measured_tilt(gaps) <= 11.3
    assert measured_tilt(slc_off_gaps(660, 400, swath_width=FULL_SWATH, centre=centre, tilt=-10)) < -9.5


def test_gaps_cover_about_a_fifth_of_a_full_swath_and_are_14_rows_wide_at_its_sides() -> None:
    gaps = slc_off_gaps(330, FULL_SWATH)
    assert 0.15 < gaps.mean() < 0.30
    assert longest_run(gaps) == 14
    # 0.004 rows per column from the centre line: 8 rows of 33 at 2000 columns
    assert gaps[:, 1450:1550].mean() == pytest.approx(8 / 33, abs=0.01)


def test_a_gap_whose_edges_fall_on_rows_is_not_wider() -> None:
    gaps = slc_off_gaps(331, 10, tilt=0, swath_width=100, centre=1000)
    assert np.count_nonzero(gaps[:33]) == 14 * 10


def test_small_swaths_have_gaps_as_wide_at_their_sides() -> None:
    gaps = slc_off_gaps(330, 300)
    assert longest_run(gaps) == 14
    assert 0.15 < gaps.mean() < 0.30


def test_no_gap_in_the_central_fifth() -> None:
    height, width = 330, 500
    y, x = np.mgrid[:height, :width]
    from_centre = (x - (width - 1) / 2) + (y - (height - 1) / 2) * math.tan(math.radians(10))
    gaps = slc_off_gaps(height, width)
    assert not gaps[np.abs(from_centre) < 0.0999 * width].any()
    assert gaps[np.abs(from_centre) < 0.12 * width].any()
    assert slc_off_gaps(height, width, free_share=0)[np.abs(from_centre) < 0.0999 * width].any()


def test_the_halves_are_offset_by_half_a_period() -> None:
    gaps = slc_off_gaps(320, 400, tilt=0, period=32, phase=0.5)
    np.testing.assert_array_equal(gaps[:, ::-1], np.roll(gaps, 16, axis=0))


def test_phase_moves_gaps_down() -> None:
    gaps = slc_off_gaps(331, 400, tilt=0)
    np.testing.assert_array_equal(slc_off_gaps(331, 400, tilt=0, phase=1)[1:], gaps[:-1])
    np.testing.assert_array_equal(slc_off_gaps(331, 400, tilt=0, phase=33), gaps)


def test_a_window_of_a_swath_is_drawn_as_the_swath_is() -> None:
    swath = slc_off_gaps(257, 1001, swath_width=1001)
    window = slc_off_gaps(257, 257, swath_width=1001, centre=128 + 300)
    np.testing.assert_array_equal(window, swath[:, 72 : 72 + 257])


# ---- collar


def test_the_collar_is_four_corners_and_gaps_reach_it_at_both_sides() -> None:
    outside = collar(400, 500)
    assert outside[[0, 0, -1, -1], [0, -1, 0, -1]].all()
    assert not outside[100:300, 100:400].any()
    np.testing.assert_array_equal(outside, outside[::-1, ::-1])
    np.testing.assert_array_equal(outside[:, ::-1], collar(400, 500, -10))
    across, along = swath_size(400, 500)
    assert (~outside).sum() == pytest.approx(across * along * math.cos(math.radians(10)) ** 2, rel=0.005)
    inside = ~outside
    assert all(side.any() for side in (inside[:3], inside[-3:], inside[:, :3], inside[:, -3:]))

    gaps = slc_off_gaps(400, 500, swath_width=across) & ~outside
    left, right = (outside & np.roll(gaps, shift, axis=1) for shift in (-1, 1))
    assert left[:, :250].sum() > 50
    assert right[:, 250:].sum() > 50


def test_there_is_no_collar_around_a_level_swath() -> None:
    assert not collar(40, 50, 0).any()


@pytest.mark.parametrize(("height", "width", "angle"), [(100, 1000, 10), (1000, 100, 10), (100, 100, 50)])
def test_a_swath_that_does_not_fit_is_refused(height: int, width: int, angle: float) -> None:
    with pytest.raises(ValueError, match=f"does not fit a frame of {width} x {height} px"):
        collar(height, width, angle)


# ---- land


def test_land_looks_like_reflectance() -> None:
    land = terrain(200, 300, seed=5)
    assert (land.shape, land.dtype) == ((3, 200, 300), np.float32)
    assert land.min() >= 0.02
    assert land.max() <= 0.75
    assert np.percentile(land, 5) > 0.03
    assert land.std(axis=(1, 2)).min() > 0.05
    assert np.corrcoef(land.reshape(3, -1)).min() > 0.8


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (2, 3)])
def test_land_of_any_size(size: tuple[int, int]) -> None:
    assert np.isfinite(terrain(*size)).all()


# ---- file


def test_the_same_seed_gives_the_same_file(tmp_path: Path) -> None:
    paths = [write_sample_scene(tmp_path / f"{n}.tif", **SIZE, seed=seed) for n, seed in enumerate((3, 3, 4))]
    first, second, other = (path.read_bytes() for path in paths)
    assert first == second
    assert first != other
    assert sorted(tmp_path.iterdir()) == paths  # and nothing else


def test_values_are_the_same_on_every_machine(tmp_path: Path) -> None:
    with rasterio.open(write_sample_scene(tmp_path / "scene.tif", **SIZE, seed=1)) as scene:
        digest = hashlib.sha256(scene.read().astype("<u2").tobytes()).hexdigest()
    assert digest == "3c21dcf86665d4d4aa1a2cd5c645e1a898244eed7224709d1d6f56c32902eb1d"


def test_the_file_is_as_landsat_writes_it(tmp_path: Path) -> None:
    with rasterio.open(write_sample_scene(tmp_path / "scene.tif", **SIZE)) as scene:
        assert (scene.count, scene.height, scene.width) == (3, 256, 320)
        assert scene.dtypes == ("uint16",) * 3
        assert scene.crs.to_epsg() == 32610
        assert scene.res == (30, 30)
        assert scene.nodata == 0
        assert scene.scales == (2.75e-5,) * 3
        assert scene.offsets == (-0.2,) * 3
        assert scene.descriptions == ("SR_B3 red", "SR_B2 green", "SR_B1 blue")
        assert scene.profile["tiled"]
        assert scene.compression.name == "deflate"
        bands = scene.read()
    valid = bands[bands > 0]
    assert valid.min() >= 8000
    assert valid.max() <= 34545


def test_gaps_differ_by_band_and_only_they_differ_from_the_truth(tmp_path: Path) -> None:
    truth_path = tmp_path / "truth.tif"
    path = write_sample_scene(tmp_path / "scene.tif", **SIZE, truth_path=truth_path)
    with rasterio.open(path) as scene, rasterio.open(truth_path) as whole:
        bands, truth = scene.read(), whole.read()
    outside = collar(**SIZE)
    np.testing.assert_array_equal(truth == 0, np.broadcast_to(outside, truth.shape))
    np.testing.assert_array_equal(bands[bands > 0], truth[bands > 0])
    gaps = (bands == 0) & ~outside
    assert not np.array_equal(gaps[0], gaps[1])
    assert not np.array_equal(gaps[1], gaps[2])
    for share in (*gaps.mean(axis=(1, 2)), gaps.any(axis=0).mean()):
        assert 0.15 < share / (~outside).mean() < 0.30


def test_the_file_holds_the_reflectance_of_the_land(tmp_path: Path) -> None:
    with rasterio.open(write_sample_scene(tmp_path / "scene.tif", **SIZE)) as scene:
        bands = scene.read(masked=True).astype(np.float64)
        reflectance = bands * scene.scales[0] + scene.offsets[0]
        half_a_step = scene.scales[0] * 0.51
    missing = np.ma.getmaskarray(reflectance)
    assert missing.mean() == pytest.approx(0.45, abs=0.1)
    np.testing.assert_allclose(reflectance[~missing], terrain(**SIZE, seed=1)[~missing], atol=half_a_step)


# ---- picture


def write_bands(path: Path, bands: np.ndarray, nodata: float | None = None) -> Path:
    count, height, width = bands.shape
    shape = {"count": count, "height": height, "width": width}
    transform = rasterio.Affine(1, 0, 0, 0, -1, height)
    with rasterio.open(
        path, "w", driver="GTiff", dtype=bands.dtype, nodata=nodata, transform=transform, **shape
    ) as scene:
        scene.write(bands)
    return path


def test_a_picture_shows_both_scenes_side_by_side(tmp_path: Path) -> None:
    truth = tmp_path / "truth.tif"
    scene = write_sample_scene(tmp_path / "scene.tif", **SIZE, truth_path=truth)
    png = before_after(scene, truth, tmp_path / "picture.png")
    picture = cv2.imread(str(png))
    assert picture.shape == (256, 2 * 320 + DIVIDER, 3)
    assert (picture[:, 320 : 320 + DIVIDER] == 255).all()
    before, after = picture[40:, :320], picture[40:, 320 + DIVIDER :]  # below the labels
    dark = [(half == NODATA_COLOUR[::-1]).all(axis=2) for half in (before, after)]
    np.testing.assert_array_equal(dark[1], collar(**SIZE)[40:])
    assert dark[0].mean() > dark[1].mean() + 0.1
    np.testing.assert_array_equal(before[~dark[0]], after[~dark[0]])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["picture.png", "scene.tif", "truth.tif"]


def test_a_picture_shows_bands_as_told_from_the_1st_to_the_99th_percentile(tmp_path: Path) -> None:
    ramp = np.broadcast_to(np.arange(101, dtype=np.float32), (60, 101))
    bands = np.stack([ramp, ramp[:, ::-1] / 1000, np.full_like(ramp, 7)])
    bands[:, 50, 90] = bands[1, 51, 90] = np.nan
    scene = write_bands(tmp_path / "scene.tif", bands)
    picture = cv2.imread(str(before_after(scene, scene, tmp_path / "p.png", (3, 2, 1))))
    for column, blue in ((0, 0), (1, 0), (25, 62), (75, 193), (99, 255), (100, 255)):
        assert picture[55, column].tolist() == [blue, 255 - blue, 0]  # blue, green, red
    assert (picture[50:52, 90] == NODATA_COLOUR[::-1]).all()


def test_a_picture_is_stretched_as_the_scene_before(tmp_path: Path) -> None:
    before = np.broadcast_to(np.arange(100, 200, dtype=np.uint8), (3, 60, 100))
    after = before.copy()
    after[:, 50:] = 0
    first, second = write_bands(tmp_path / "before.tif", before), write_bands(tmp_path / "after.tif", after)
    picture = cv2.imread(str(before_after(first, second, tmp_path / "p.png")))
    alone = cv2.imread(str(before_after(first, first, tmp_path / "p.png")))
    assert np.array_equal(picture[40:50], alone[40:50])  # below the labels
    assert not picture[50:, 100 + DIVIDER :].any()


def test_a_long_scene_is_read_decimated(tmp_path: Path) -> None:
    scene = write_bands(tmp_path / "scene.tif", np.ones((3, 100, 2 * LONGEST_SIDE), dtype=np.uint8))
    picture = cv2.imread(str(before_after(scene, scene, tmp_path / "p.png")))
    assert picture.shape == (50, 2 * LONGEST_SIDE + DIVIDER, 3)


def test_a_scene_without_a_valid_pixel_is_drawn_as_such(tmp_path: Path) -> None:
    scene = write_bands(tmp_path / "scene.tif", np.zeros((3, 60, 90), dtype=np.uint8), nodata=0)
    picture = cv2.imread(str(before_after(scene, scene, tmp_path / "p.png")))
    assert (picture[40:, :90] == NODATA_COLOUR[::-1]).all()


def test_scenes_of_two_sizes_are_refused(tmp_path: Path) -> None:
    one = write_bands(tmp_path / "one.tif", np.ones((3, 60, 90), dtype=np.uint8))
    other = write_bands(tmp_path / "other.tif", np.ones((3, 60, 91), dtype=np.uint8))
    with pytest.raises(RequestError, match=r"other.tif: is 91 x 60 px, .*one.tif is 90 x 60"):
        before_after(one, other, tmp_path / "p.png")
    assert not (tmp_path / "p.png").exists()


def test_overviews_do_not_change_the_picture(tmp_path: Path) -> None:
    """A filled scene has none, and would look sharper than the scene that it was made of."""
    values = np.random.default_rng(0).integers(0, 255, (3, 2 * LONGEST_SIDE, 2 * LONGEST_SIDE)).astype(np.uint8)
    plain, rich = (write_bands(tmp_path / name, values) for name in ("plain.tif", "rich.tif"))
    with rasterio.open(rich, "r+") as scene:
        scene.build_overviews([2, 4], rasterio.enums.Resampling.average)
    picture = cv2.imread(str(before_after(plain, rich, tmp_path / "p.png")))
    side = (picture.shape[1] - DIVIDER) // 2
    assert np.array_equal(picture[80:, :side], picture[80:, -side:])  # below their labels
