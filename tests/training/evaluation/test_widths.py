"""How wide a gap is at a pixel."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ecea.runtime.masks import Mask
from ecea.runtime.slc_off import slc_off_gaps
from ecea.training.evaluation.widths import CLASSES, class_name, gap_widths, width_classes

MASKS = arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 24)))


def run_through(line: Mask, place: int) -> int:
    """Length of the run through a place of a line; twice that where an end of the line cuts it off."""
    first = last = place
    while first > 0 and line[first - 1]:
        first -= 1
    while last < len(line) - 1 and line[last + 1]:
        last += 1
    return (last - first + 1) * (2 if first == 0 or last == len(line) - 1 else 1)


@given(mask=MASKS)
def test_the_shorter_run_through_each_pixel(mask: Mask) -> None:
    expected = np.zeros(mask.shape, int)
    for row, column in np.argwhere(mask):
        expected[row, column] = min(run_through(mask[row], column), run_through(mask[:, column], row))
    assert np.array_equal(gap_widths(mask), expected)


@given(mask=MASKS)
def test_classes_part_the_missing_pixels(mask: Mask) -> None:
    classes = width_classes(gap_widths(mask))
    assert np.array_equal(sum(where.astype(int) for where in classes.values()), mask.astype(int))


@pytest.mark.parametrize("width", [2, 8, 14])
def test_a_stripe_is_as_wide_as_it_was_drawn(width: int) -> None:
    gap = slc_off_gaps(200, 200, max_width=width, swath_width=1000, centre=-2000)
    widths = gap_widths(gap)
    assert np.mean(widths[gap] == width) > 0.9  # but for some that the border cuts off
    assert set(np.unique(widths[width:-width, 90:-90])) == {0, width}


def test_bounds_and_names_of_classes() -> None:
    assert [class_name(bounds) for bounds in CLASSES] == ["1-2", "3-4", "5-8", "9-14", ">14"]
    classes = width_classes(np.arange(17)[None])
    found = {name: np.flatnonzero(where[0]).tolist() for name, where in classes.items()}
    assert found["1-2"] == [1, 2]
    assert found["5-8"] == [5, 6, 7, 8]
    assert found[">14"] == [15, 16]
