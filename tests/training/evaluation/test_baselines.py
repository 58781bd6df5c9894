"""Baselines fill what is missing, from what is not, and touch nothing else."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ecea.runtime.stretch import Stretch
from ecea.training.evaluation.baselines import BASELINES, SEARCH_DISTANCE, fill

Mask = NDArray[np.bool_]

DTYPES = ("uint8", "uint16", "int16", "float32", "float64")
STRETCH = Stretch(0, 255)

every_baseline = pytest.mark.parametrize("name", BASELINES)


@pytest.fixture
def missing() -> Mask:
    """(40, 50): two stripes, one of them at the upper border, and a corner."""
    mask = np.zeros((40, 50), bool)
    mask[:3] = mask[20:25] = True
    mask[35:, :6] = True
    return mask


@every_baseline
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_not_missing_keeps_its_bits(name: str, dtype: str, noise: NDArray[Any], missing: Mask) -> None:
    values = noise.astype(dtype)
    filled = fill(name, values, missing, STRETCH)
    assert filled.dtype == dtype
    assert filled[:, ~missing].tobytes() == values[:, ~missing].tobytes()
    assert not np.array_equal(filled, values)


@every_baseline
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_stands_in_gaps_has_no_influence(name: str, dtype: str, noise: NDArray[Any], missing: Mask) -> None:
    one, other = noise.astype(dtype), noise.astype(dtype)
    one[:, missing], other[:, missing] = 0, 255
    assert np.array_equal(fill(name, one, missing, STRETCH), fill(name, other, missing, STRETCH))


@every_baseline
@pytest.mark.parametrize("dtype", DTYPES)
def test_flat_ground_is_filled_flat(name: str, dtype: str, missing: Mask) -> None:
    values = np.full((3, 40, 50), 100, dtype)
    values[:, missing] = 7
    # 255 / 65535, the step of 16 bits, is the most that Telea's and Navier-Stokes' may be off.
    assert fill(name, values, missing, STRETCH) == pytest.approx(np.full((3, 40, 50), 100.0), abs=0.02)


@every_baseline
def test_fills_lie_between_the_values_around(name: str, noise: NDArray[np.uint8], missing: Mask) -> None:
    values = (noise * np.uint16(100)).astype("int16")
    filled = fill(name, values, missing, Stretch(2000, 18000))[:, missing]
    # Methods that look at gradients overshoot.
    margin = 0 if name in ("fillnodata", "nearest", "laplace") else 2000
    assert filled.min() >= 2000 - margin
    assert filled.max() <= 18000 + margin
    assert len(np.unique(filled)) > 50


def test_nearest_by_hand() -> None:
    values = np.tile(np.arange(10, dtype=np.uint8) * 10, (3, 4, 1))
    missing = np.zeros((4, 10), bool)
    missing[:, 3:7] = True
    filled = fill("nearest", values, missing, STRETCH)
    assert filled[0, 0].tolist() == [0, 10, 20, 20, 20, 70, 70, 70, 80, 90]


def test_fillnodata_interpolates() -> None:
    values = np.tile(np.arange(11, dtype=np.float32)[:, None], (3, 1, 40))
    missing = np.zeros((11, 40), bool)
    missing[5] = True
    assert fill("fillnodata", values, missing, STRETCH)[:, 5] == pytest.approx(5)


def test_laplace_makes_each_pixel_the_mean_of_its_neighbours(noise: NDArray[Any], missing: Mask) -> None:
    filled = fill("laplace", noise.astype(np.float64), missing, STRETCH)
    around = np.pad(filled, ((0, 0), (1, 1), (1, 1)), constant_values=np.nan)
    near = np.stack([around[:, :-2, 1:-1], around[:, 2:, 1:-1], around[:, 1:-1, :-2], around[:, 1:-1, 2:]])
    assert filled[:, missing] == pytest.approx(np.nanmean(near, axis=0)[:, missing])


@every_baseline
def test_a_gap_wider_than_gdal_looks(name: str) -> None:
    side = int(3 * SEARCH_DISTANCE)
    values = np.full((3, 8, side), 0, np.uint8)
    missing = np.ones((8, side), bool)
    missing[:, :4], values[:, :, :4] = False, 90
    assert fill(name, values, missing, STRETCH).astype(int) == pytest.approx(np.full(values.shape, 90), abs=1)
