"""The first look over a scene: what is collar, and what its values are like."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ecea.runtime.errors import RequestError
from ecea.runtime.scene import Rows, Scene
from ecea.runtime.slc_off import collar, slc_off_gaps, swath_size
from ecea.runtime.survey import survey


class ArrayScene:
    """A scene of one value, with holes, without a file."""

    path = "array"
    band_positions = property(lambda self: [0, 1, 2])

    def __init__(self, void):
        self.void = void
        self.height, self.width = void.shape

    def read(self, top, bottom):
        void = self.void[top:bottom]
        three = np.broadcast_to(void, (3, *void.shape))
        return Rows(top, np.where(three, 0, 1000).astype(np.uint16), void, three, void, ~three)


def filled(void):
    scene = ArrayScene(void)
    return survey(scene).fill(scene.read(0, scene.height))[0]


@settings(max_examples=100)
@given(arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_a_gap_has_data_before_and_after_it_in_its_row_or_column(void):
    if void.all():
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ecea.runtime.survey.SHALLOW", 0)  # every corner counts as deep
        fill = filled(void)
    assert not (fill & ~filled(void)).any()  # and where some do not, more is filled
    for row in range(void.shape[0]):
        for column in range(void.shape[1]):
            data = ~void
            in_row = data[row, :column].any() and data[row, column + 1 :].any()
            in_column = data[:row, column].any() and data[row + 1 :, column].any()
            assert fill[row, column] == (void[row, column] and (in_row or in_column))


@pytest.mark.parametrize("height", [255, 256, 257, 600])
def test_the_survey_reaches_over_the_rows_it_reads_at_once(height):
    void = np.ones((height, 5), bool)
    void[0, 2] = void[-1, 2] = False
    assert filled(void)[1:-1, 2].all()
    assert filled(void).sum() == height - 2


@pytest.mark.parametrize("phase", [0, 5, 11, 20, 28])
def test_stripes_and_lakes_are_filled_and_the_collar_of_a_slanted_swath_is_not(phase):
    height, width = 400, 500
    outside = collar(height, width)
    stripes = slc_off_gaps(height, width, phase=phase, swath_width=swath_size(height, width)[0])
    y, x = np.mgrid[:height, :width]
    lake = (y - 200) ** 2 + (x - 250) ** 2 < 70**2
    fill = filled(outside | stripes | lake)
    assert not fill[outside].any()
    assert not fill[~(stripes | lake)].any()
    # At its very edge the swath is open: a stripe may end a stripe's width before it.
    edge = cv2.dilate(outside.astype(np.uint8), np.ones((31, 31), np.uint8)) > 0
    edge[:15], edge[-15:], edge[:, :15], edge[:, -15:] = True, True, True, True
    inner = (stripes | lake) & ~edge
    assert inner.sum() > 20_000
    assert fill[inner].all()
    gaps = (stripes | lake) & ~outside
    assert fill.sum() > 0.93 * gaps.sum()


@pytest.mark.parametrize("frame", [0, 1, 40])  # px without data around the scene, as reprojected ones have
@pytest.mark.parametrize("turn", range(4))
def test_a_stripe_cut_off_by_the_scenes_corner_is_filled_a_deep_corner_is_not(turn, frame):
    y, x = np.mgrid[:120, :200]
    shallow, deep = (np.rot90(corner, turn) for corner in (y + x / 6 < 12, y + x / 6 < 33))
    assert np.array_equal(filled(np.pad(shallow, frame, constant_values=True)), np.pad(shallow, frame))
    assert not filled(np.pad(deep, frame, constant_values=True)).any()


def test_a_margin_is_collar_however_narrow_but_a_stripe_across_the_whole_width_is_a_gap():
    void = np.zeros((60, 50), bool)
    void[:2], void[:, :3], void[30:34] = True, True, True
    fill = filled(void)
    assert fill[30:34, 3:].all()
    assert fill.sum() == 4 * 47


def test_a_mask_over_data_does_not_make_a_collar_of_them(tmp_path, write_scene):
    values = np.full((3, 40, 40), 9, np.uint8)
    values[:, :10] = 0
    scene = write_scene(tmp_path / "s.tif", values, nodata=0)
    holes = np.zeros((1, 40, 40), np.uint8)
    holes[0, 5:20, :5] = 1  # over the collar and over the corner of the data
    mask = write_scene(tmp_path / "m.tif", holes)
    with Scene(scene, mask=str(mask)) as opened:
        fill = survey(opened).fill(opened.read(0, 40))
    assert fill[:, 10:20, :5].all()
    assert fill.sum() == 3 * 10 * 5


def test_only_what_the_mask_selects_is_filled(tmp_path, write_scene):
    values = np.full((3, 20, 20), 9, np.int16)
    values[:, 5] = -1
    values[1, 10, 4:8] = 0
    scene = write_scene(tmp_path / "s.tif", values, nodata=-1)
    with Scene(scene, mask="zero") as opened:
        fill = survey(opened).fill(opened.read(0, 20))
    assert fill[1, 10, 4:8].all()
    assert fill.sum() == 4


def test_the_sample_holds_valid_values_of_the_chosen_bands_in_their_order(tmp_path, write_scene):
    values = np.stack([np.full((30, 30), value, np.int16) for value in (10, 20, 30, 40)])
    values[:, ::2] = -1
    values[0, :, 3] = -1
    scene = write_scene(tmp_path / "s.tif", values, nodata=-1)
    with Scene(scene, bands=(4, 1, 2)) as opened:
        sample = survey(opened).sample
    assert sample.shape == (3, 15 * 29)
    assert [set(band.tolist()) for band in sample] == [{40}, {10}, {20}]


def test_the_sample_holds_nothing_that_a_mask_covers(tmp_path, write_scene):
    values = np.full((3, 30, 30), 100, np.uint16)
    values[:, 10:20] = 60_000  # cloud
    scene = write_scene(tmp_path / "s.tif", values)
    mask = write_scene(tmp_path / "m.tif", (values[:1] == 60_000).astype(np.uint8))
    with Scene(scene, mask=str(mask)) as opened:
        sample = survey(opened).sample
    assert sample.shape == (3, 600)
    assert (sample == 100).all()


def test_the_sample_of_a_large_scene_is_bounded_and_spread_over_it():
    void = np.zeros((1200, 1500), bool)
    scene = ArrayScene(void)
    scene.read = lambda top, bottom: Rows(
        top,
        np.broadcast_to(np.arange(top, bottom, dtype=np.uint16)[:, None], (3, bottom - top, 1500)),
        void[top:bottom],
        np.broadcast_to(void[top:bottom], (3, bottom - top, 1500)),
        void[top:bottom],
        np.broadcast_to(~void[top:bottom], (3, bottom - top, 1500)),
    )
    sample = survey(scene).sample
    assert 200_000 < sample.shape[1] < 300_000
    assert len(np.unique(sample[0])) == 1200


@settings(max_examples=25)
@given(st.integers(0, 1000), st.integers(1, 3000), st.permutations([0, 1, 2, 3]))
def test_the_sample_is_every_nth_valid_pixel_of_the_rows_read_at_once(seed, samples, order):
    height, width, positions = 300, 37, order[:3]
    rng = np.random.default_rng(seed)
    void = rng.random((height, width)) < rng.random()
    void[0, 0] = False
    values = rng.integers(0, 1000, (4, height, width)).astype(np.uint16)
    scene = ArrayScene(void)

    def read(top, bottom):
        part = void[top:bottom]
        three = np.broadcast_to(part, (3, *part.shape))
        return Rows(top, values[:, top:bottom], part, three, part, ~three)

    scene.read = read
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ecea.runtime.stretch._SAMPLES", samples)
        patch.setattr(ArrayScene, "band_positions", positions)
        sample = survey(scene).sample
    step = max(1, height * width // samples)
    expected = []
    for top in (0, 256):
        valid = [(y, x) for y in range(top, min(top + 256, height)) for x in range(width) if not void[y, x]]
        expected += [[values[band, y, x] for band in positions] for y, x in valid[::step]]
    assert np.array_equal(sample, np.array(expected).T)


def test_a_scene_that_is_all_gap_is_refused(tmp_path, write_scene):
    scene = write_scene(tmp_path / "void.tif", np.zeros((3, 10, 10), np.uint8), nodata=0)
    with Scene(scene) as opened, pytest.raises(RequestError, match=r"void\.tif: has no valid pixel"):
        survey(opened)
