"""Gaps: the geometry of Landsat 7's stripes, real masks, scribbles."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecea.runtime.errors import RequestError
from ecea.training.data.gaps import crop_mask, draw_scribbles, draw_stripes, load_mask, parse_gaps
from ecea.training.evaluation.gaps import read_holes

SEEDS = st.integers(0, 2**32 - 1)


def runs(column):
    """(start, length) of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], column.astype(np.int8), [0]])))
    return list(zip(edges[::2], edges[1::2] - edges[::2], strict=True))


@settings(max_examples=60)
@given(SEEDS, st.sampled_from([64, 128, 256]))
def test_stripes_are_as_wide_and_as_far_apart_as_measured(seed, size):
    gaps = draw_stripes(size, np.random.default_rng(seed))
    assert gaps.shape == (size, size)
    assert 0 < gaps.mean() < 0.6
    for column in gaps.T[::16]:
        found = runs(column)
        # 14 px at 30 m; at 24 m 17.5, and the bands look up to a row beside one another on either side.
        assert all(length <= 20 for _, length in found)
        whole = [start + length / 2 for start, length in found if start > 0 and start + length < size]
        distances = np.diff(whole)
        assert all(distance >= 33 / 1.25 - 3 for distance in distances if distance > 10)


def test_smaller_pixels_have_wider_stripes():
    """Of 24 m, 14 px at 30 m are 17.5; the two rows that bands look beside one another add up to 16."""
    longest = max(
        length
        for seed in range(113)
        for column in draw_stripes(128, np.random.default_rng(seed)).T[::8]
        for _, length in runs(column)
    )
    assert 16 < longest <= 20


def tilt_of(gaps):
    """Degrees by which stripes descend to the right: the best match of one column with another."""
    reach = 32
    shifts = range(-12, 13)
    pairs = [(gaps[:, x], gaps[:, x + reach]) for x in range(0, gaps.shape[1] - reach, 8)]
    score = [sum(np.sum(np.roll(a, shift)[16:-16] == b[16:-16]) for a, b in pairs) for shift in shifts]
    return np.degrees(np.arctan(shifts[int(np.argmax(score))] / reach))


def test_stripes_tilt_both_ways_and_widen_across_the_swath():
    tilts, widest = [], []
    for seed in range(60):
        gaps = draw_stripes(128, np.random.default_rng(seed))
        lengths = [length for column in gaps.T for start, length in runs(column) if 0 < start < 100]
        if len(lengths) > 100 and np.median(lengths) >= 4:
            tilts.append(tilt_of(gaps))
            widest.append(np.median(lengths))
    assert min(tilts) < -7 < 7 < max(tilts)
    assert all(7 <= abs(tilt) <= 13 for tilt in tilts)
    assert min(widest) < 6
    assert max(widest) > 11


def test_narrow_stripes_near_the_centre_line_are_broken():
    pieces = []
    for seed in range(200):
        gaps = draw_stripes(128, np.random.default_rng(seed))
        lengths = [length for column in gaps.T for _, length in runs(column)]
        if np.median(lengths) <= 3:
            pieces.append(cv2.connectedComponents(gaps.astype(np.uint8), connectivity=8)[0] - 1)
    assert len(pieces) > 5
    assert max(pieces) > 8  # unbroken, no more than seven cross a tile


def test_scribbles_cover_what_they_should():
    shares = [draw_scribbles(64, np.random.default_rng(seed)).mean() for seed in range(400)]
    assert 0.05 <= min(shares) < 0.1
    assert 0.4 < max(shares) <= 0.45


@settings(max_examples=30)
@given(SEEDS)
def test_a_mask_is_cropped_where_it_has_gaps(seed):
    mask = np.zeros((200, 150), bool)
    mask[::9] = True
    tile = crop_mask(mask, 64, np.random.default_rng(seed))
    assert tile.shape == (64, 64)
    assert tile.any(axis=1).sum() in (7, 8)
    assert np.array_equal(tile.any(axis=1), tile.all(axis=1))  # rows stay rows


@settings(max_examples=100)
@given(SEEDS, st.integers(0, 999), st.integers(0, 699), st.integers(1, 90))
def test_a_mask_with_few_gaps_is_cropped_where_they_are(seed, top, left, side):
    """Most tiles hid nothing, which one of the losses divided by."""
    mask = np.zeros((1000, 700), bool)
    mask[top : top + side, left : left + side] = True
    tile = crop_mask(mask, 64, np.random.default_rng(seed))
    assert tile.shape == (64, 64)
    assert tile.any()
    assert not tile.all()


def test_a_mask_of_a_tile_s_size_is_laid_four_ways():
    mask = np.random.default_rng(0).random((64, 64)) < 0.2
    drawn = {crop_mask(mask, 64, np.random.default_rng(seed)).tobytes() for seed in range(40)}
    assert drawn == {mask[::down, ::right].tobytes() for down in (-1, 1) for right in (-1, 1)}


def test_a_mask_is_cut_up_to_its_last_row_and_column():
    mask = np.zeros((65, 65), bool)
    mask[[32, 64]] = True
    cut = [crop_mask(mask, 64, np.random.default_rng(seed)).any(axis=1).sum() for seed in range(40)]
    across = [crop_mask(mask.T, 64, np.random.default_rng(seed)).any(axis=0).sum() for seed in range(40)]
    assert set(cut) == set(across) == {1, 2}


def test_a_mask_file_is_a_gap_above_zero(write):
    values = np.zeros((1, 70, 80), np.int16)
    values[0, 10:20], values[0, 30] = 255, -1
    mask = load_mask(write("mask.tif", values), 64)
    assert mask.sum() == 800


def test_masks_that_cannot_be_used_are_refused(write, tmp_path):
    with pytest.raises(RequestError, match=r"small\.tif: is a mask of 40 x 30 px, tiles are 64 x 64"):
        load_mask(write("small.tif", np.ones((1, 30, 40), np.uint8)), 64)
    with pytest.raises(RequestError, match="no gap from side to side"):
        load_mask(write("none.tif", np.zeros((1, 64, 64), np.uint8)), 64)
    (tmp_path / "text.tif").write_text("text")
    with pytest.raises(RequestError, match="is not a mask that can be read"):
        load_mask(tmp_path / "text.tif", 64)


def test_kinds_of_gaps_are_chosen_by_share(write):
    mask = np.zeros((1, 64, 64), np.uint8)
    mask[0, 5] = 1
    path = str(write("mask.tif", mask))
    assert parse_gaps(None, [], 64).shares == (("slc-off", 1.0),)
    assert parse_gaps(None, [path], 64).shares == (("files", 1.0),)
    recipe = parse_gaps("files=3,scribbles=1", [path], 64)
    rng = np.random.default_rng(0)
    drawn = [recipe.draw(64, 0, rng).sum() == 64 for _ in range(400)]
    assert 0.68 < np.mean(drawn) < 0.82


@pytest.mark.parametrize("text", ["holes", "slc-off=0", "slc-off=x", "scribbles=-1", ""])
def test_unknown_gaps_are_refused(text):
    if text:
        with pytest.raises(RequestError, match="are unknown: expected KIND or KIND=SHARE"):
            parse_gaps(text, [], 64)
    else:
        with pytest.raises(RequestError, match="give both or neither"):
            parse_gaps("files", [], 64)


def test_landsat_s_own_masks_are_taken_at_their_word(write):
    dropped, gaps = np.full((64, 64), 0b101, np.uint16), np.ones((64, 64), np.uint8)
    dropped[10:14], gaps[10:14] = 1 << 9, 0
    for name, values in (("LE07_X_QA_RADSAT.TIF", dropped), ("LE07_X_GM_B3.TIF", gaps)):
        path = write(name, values[None])
        for mask in (load_mask(path, 64), read_holes(path)):
            assert set(np.flatnonzero(mask.any(axis=1))) == {10, 11, 12, 13}
