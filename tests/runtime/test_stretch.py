"""Values to [0, 1] and back."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from rasterio.io import MemoryFile

from ecea.runtime.errors import RequestError
from ecea.runtime.stretch import Stretch, automatic_stretch, parse_stretch

INTEGERS = ["uint8", "int8", "uint16", "int16", "uint32", "int32"]
FLOATS = ["float32", "float64"]

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")


@st.composite
def integer_stretches(draw, widest):
    """A dtype and a stretch with whole ends in its range."""
    dtype = np.dtype(draw(st.sampled_from(INTEGERS)))
    limits = np.iinfo(dtype)
    low = draw(st.integers(limits.min, limits.max - 1))
    high = draw(st.integers(low + 1, min(limits.max, low + widest)))
    return dtype, low, high


def test_values_are_scaled_clipped_and_raised_to_the_gamma():
    unit = Stretch(0, 0.4, 1.4).to_unit(np.array([-1, 0, 0.1, 0.2, 0.4, 9], np.float32))
    assert unit.dtype == np.float32
    assert unit == pytest.approx([0, 0, 0.25**1.4, 0.5**1.4, 1, 1], abs=1e-6)


def test_values_that_are_no_numbers_become_zero():
    values = np.array([np.nan, -np.inf, np.inf, -3.4028234663852886e38, 0.1], np.float32)
    assert Stretch(0, 0.2).to_unit(values) == pytest.approx([0, 0, 1, 0, 0.5])


def test_32_bit_integers_keep_their_digits():
    values = np.array([2_000_000_001, 2_000_000_003], np.uint32)
    assert Stretch(2_000_000_000, 2_000_000_004).to_unit(values) == pytest.approx([0.25, 0.75])


@settings(max_examples=150)
@given(integer_stretches(widest=1 << 20), st.data())
def test_integers_within_the_stretch_come_back(case, data):
    dtype, low, high = case
    values = np.array(data.draw(st.lists(st.integers(low, high), min_size=1, max_size=20)), dtype)
    stretch = Stretch(low, high)
    back = stretch.from_unit(stretch.to_unit(values), dtype)
    assert back.dtype == dtype
    assert back.tolist() == values.tolist()


@settings(max_examples=50)
@given(st.floats(0.3, 3), st.lists(st.integers(0, 255), min_size=1))
def test_bytes_come_back_through_any_usual_gamma(gamma, values):
    stretch = Stretch(0, 255, gamma)
    assert stretch.from_unit(stretch.to_unit(np.array(values, np.uint8)), np.dtype("uint8")).tolist() == values


@settings(max_examples=200)
@given(integer_stretches(widest=1 << 31), st.data())
def test_integers_are_the_nearest_and_never_a_forbidden_one(case, data):
    dtype, low, high = case
    assume(high - low >= 4)
    units = data.draw(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=20))
    forbidden = data.draw(st.lists(st.sampled_from([low, low + 1, high, high - 1, 0, -9999]), max_size=3))
    # Some units stand exactly where a forbidden value does.
    units += [(value - low) / (high - low) for value in forbidden if low <= value <= high]
    unit = np.array(units, np.float32)
    result = Stretch(low, high).from_unit(unit, dtype, [float(value) for value in forbidden])
    assert result.dtype == dtype
    taken = set(forbidden)
    for one, value in zip(unit.astype(float), result.tolist(), strict=True):
        exact = one * (high - low) + low
        assert value not in taken
        assert low <= value <= high
        free = [v for v in range(math.floor(exact) - 4, math.ceil(exact) + 5) if v not in taken and low <= v <= high]
        assert abs(value - exact) <= min(abs(v - exact) for v in free) + 1e-6


@pytest.mark.parametrize(
    ("unit", "forbidden", "expected"),
    [
        (0.0, [0.0], 1),
        (0.0, [0.0, 1.0], 2),
        (0.0, [1.0, 0.0], 2),
        (1.0, [255.0], 254),
        (100.3 / 255, [100.0], 101),
        (99.7 / 255, [100.0], 99),
        (100 / 255, [101.0, 99.0], 100),
        (100.4 / 255, [100.0, 101.0], 99),
    ],
)
def test_a_forbidden_byte_gives_way_to_its_nearest_neighbour(unit, forbidden, expected):
    assert Stretch(0, 255).from_unit(np.array([unit], np.float32), np.dtype("uint8"), forbidden).tolist() == [expected]


def test_a_forbidden_end_of_the_stretch_is_not_left_to_the_outside():
    stretch, dtype = Stretch(100, 1000), np.dtype("int16")
    assert stretch.from_unit(np.array([0, 1], np.float32), dtype, [100.0, 1000.0]).tolist() == [101, 999]


def test_values_beyond_the_dtype_are_clipped():
    unit = np.array([0, 0.5, 1], np.float32)
    assert Stretch(-1000, 1000).from_unit(unit, np.dtype("uint8")).tolist() == [0, 0, 255]
    assert Stretch(-1000, 1000).from_unit(unit, np.dtype("int8")).tolist() == [-128, 0, 127]
    assert np.isfinite(Stretch(-1e300, 1e300).from_unit(unit, np.dtype("float32"))).all()


@settings(max_examples=100)
@given(
    st.sampled_from(FLOATS),
    st.floats(-1e6, 1e6),
    st.floats(1e-3, 1e6),
    st.lists(st.floats(0, 1, width=32), min_size=1, max_size=20),
)
def test_floats_come_out_within_the_stretch(dtype, low, width, units):
    result = Stretch(low, low + width).from_unit(np.array(units, np.float32), np.dtype(dtype))
    slack = 1e-6 * (abs(low) + width)
    assert result.dtype == dtype
    assert ((result >= low - slack) & (result <= low + width + slack)).all()
    assert result == pytest.approx([u * width + low for u in units], abs=slack)


@settings(max_examples=50)
@given(st.sampled_from(FLOATS), st.sampled_from([0.0, 0.5, -9999.0, 1e-30, 3e30, -1e30]), st.data())
def test_gdal_takes_no_filled_float_for_nodata(dtype, nodata, data):
    # GDAL takes a float that is merely near nodata for nodata too.
    near = data.draw(st.lists(st.floats(-2e-6, 2e-6), min_size=1, max_size=10))
    low, high = (nodata * 1.5, nodata / 2) if nodata < 0 else (nodata / 2, nodata * 1.5 + (nodata == 0))
    unit = np.array([(nodata * (1 + n) - low) / (high - low) for n in near], np.float32)
    result = Stretch(low, high).from_unit(unit, np.dtype(dtype), [nodata])
    assert result == pytest.approx(unit.astype(float) * (high - low) + low, rel=5e-6, abs=1e-30)
    with MemoryFile() as file:
        options = {"driver": "GTiff", "height": 1, "width": len(result), "count": 1, "dtype": dtype, "nodata": nodata}
        with file.open(**options) as target:
            target.write(result[None, None])
        with file.open() as source:
            assert (source.read_masks(1) == 255).all()


@pytest.mark.parametrize(
    ("text", "expected"), [("0,4000,1", (0, 4000, 1)), ("-0.2,0.4", (-0.2, 0.4, 1)), ("0,1,1.4", (0, 1, 1.4))]
)
def test_a_stretch_is_read_from_text(text, expected):
    assert parse_stretch(text) == Stretch(*expected)


@pytest.mark.parametrize("text", ["", "1", "0,a,1", "0,1,1,1", "0;1;1"])
def test_text_that_is_no_stretch_is_refused(text):
    with pytest.raises(RequestError, match="expected MIN,MAX,GAMMA"):
        parse_stretch(text)


@pytest.mark.parametrize(
    "numbers", [(1, 1), (2, 1), (0, 1, 0), (0, 1, -1), (math.nan, 1), (0, math.inf), (0, 1, math.nan)]
)
def test_a_stretch_without_an_inverse_is_refused(numbers):
    with pytest.raises(RequestError, match="MIN below MAX, a finite range and GAMMA above 0"):
        Stretch(*numbers)


def test_bytes_are_stretched_over_their_whole_range():
    assert automatic_stretch(np.dtype("uint8"), np.array([7, 9], np.uint8)) == Stretch(0, 255)


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32", "float64"])
def test_other_values_leave_the_generator_room_above(dtype):
    # The generator's brightest is tanh(1): 99.5 % of the values must lie below what that stands for.
    sample = np.linspace(100, 20_000, 10_001).astype(dtype)
    chosen = automatic_stretch(np.dtype(dtype), sample)
    unit = chosen.to_unit(sample)
    assert np.mean(unit > math.tanh(1) + 1e-4) == pytest.approx(0.005, abs=1e-3)
    assert np.mean(unit == 0) == pytest.approx(0.005, abs=1e-3)
    assert chosen.gamma == 1


@pytest.mark.parametrize("value", [0, 7, -3])
def test_a_scene_of_one_value_has_a_stretch_that_holds_it(value):
    chosen = automatic_stretch(np.dtype("int16"), np.full(5, value, np.int16))
    assert chosen.minimum < value < chosen.maximum


@pytest.mark.parametrize("kind", [np.int64, np.uint64])
def test_the_largest_integers_do_not_wrap_around(kind):
    filled = Stretch(0, 1e20).from_unit(np.array([0.0, 1.0], np.float32), np.dtype(kind))
    assert filled[0] == 0
    assert filled[1] > 0.999 * np.iinfo(kind).max


@pytest.mark.parametrize("value", [1e20, -3e38, 2.0**60, 7.0])
def test_a_stretch_is_found_for_a_scene_of_one_value(value):
    stretch = automatic_stretch(np.dtype(np.float64), np.full((3, 5), value))
    assert stretch.minimum < value < stretch.maximum


def test_values_too_far_apart_ask_for_a_stretch():
    with pytest.raises(RequestError, match="give one with --stretch"):
        automatic_stretch(np.dtype(np.float64), np.array([-1.7e308, 1.7e308]))


def test_values_outside_are_counted_at_both_ends():
    values = np.array([-1, 0, 50, 100, 101, 200], np.int16)
    assert Stretch(0, 100).outside(values) == pytest.approx(3 / 6)


@settings(max_examples=200)
@given(
    low=st.floats(-1e12, 1e12, allow_nan=False),
    span=st.floats(1e-3, 1e9),
    dtype=st.sampled_from([np.float64, np.int64]),
)
def test_an_automatic_stretch_is_the_same_when_what_is_printed_is_given(low, span, dtype):
    chosen = automatic_stretch(np.dtype(dtype), np.linspace(low, low + span, 100).astype(dtype))
    assert parse_stretch(str(chosen)) == chosen


def test_values_over_the_whole_range_of_float32_are_told_apart():
    stretch = Stretch(-3e38, 3e38)
    assert stretch.to_unit(np.float32([-3e38, 0, 3e38])) == pytest.approx([0, 0.5, 1])
