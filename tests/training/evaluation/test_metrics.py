"""Scores against their formulas written out, and what they must not depend on."""

import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from skimage.metrics import peak_signal_noise_ratio

from ecea.training.evaluation.metrics import DARKEST, Comparison, Sums, published_levels, ssim_map

SEEDS = st.integers(0, 2**32 - 1)


def images(seed: int, size: int = 16) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    """Truth, fill and some pixels."""
    rng = np.random.default_rng(seed)
    truth, filled = rng.random((2, 3, size, size + 3), dtype=np.float32)
    return truth, filled, rng.random((size, size + 3)) < 0.3


def test_by_hand() -> None:
    truth = np.full((3, 12, 12), 0.5, np.float32)
    filled = truth.copy()
    filled[:, 0, 0] = 0.4, 0.5, 0.75
    where = np.zeros((12, 12), bool)
    where[0, :2] = True
    scores = Comparison(truth, filled).over(where).scores()
    mse = (0.1**2 + 0.25**2) / 6
    assert scores.pixels == 2
    assert scores.rmse == pytest.approx(math.sqrt(mse), rel=1e-6)
    assert scores.psnr_db == pytest.approx(10 * math.log10(1 / mse), rel=1e-6)
    assert scores.mape_percent == pytest.approx(100 * (0.1 / 0.5 + 0.25 / 0.5) / 6, rel=1e-6)


@settings(max_examples=20)
@given(seed=SEEDS)
def test_formulas(seed: int) -> None:
    truth, filled, where = images(seed)
    scores = Comparison(truth, filled).over(where).scores()
    a, b = truth[:, where].astype(float), filled[:, where].astype(float)
    assert scores.psnr_db == pytest.approx(peak_signal_noise_ratio(a, b, data_range=1))
    assert scores.rmse == pytest.approx(np.sqrt(((a - b) ** 2).mean()))
    bright = a >= DARKEST
    assert scores.mape_percent == pytest.approx(100 * (np.abs(a - b)[bright] / a[bright]).mean())


def test_ssim_is_that_of_wang() -> None:
    truth, filled, _ = images(3, size=30)
    kernel = cv2.getGaussianKernel(11, 1.5)

    def mean(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.stack([cv2.sepFilter2D(band, cv2.CV_64F, kernel, kernel) for band in x])

    a, b = truth.astype(float), filled.astype(float)
    mean_a, mean_b = mean(a), mean(b)
    var_a, var_b, cov = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2, mean(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    expected = (2 * mean_a * mean_b + c1) * (2 * cov + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    inner = (slice(None), slice(5, -5), slice(5, -5))  # where no window reaches beyond the border
    assert ssim_map(truth, filled)[inner] == pytest.approx(expected[inner], abs=1e-9)


def test_ssim_of_two_flat_images() -> None:
    flat = np.full((3, 20, 20), 0.2, np.float32)
    expected = (2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4)
    scores = Comparison(flat, flat + np.float32(0.4)).over(np.ones((20, 20), bool)).scores()
    assert scores.ssim == pytest.approx(expected, rel=1e-6)


def test_ssim_over_pixels_is_the_mean_of_the_map_there() -> None:
    truth, filled, where = images(9)
    filled[:, :8] = truth[:, :8]
    scores = Comparison(truth, filled).over(where).scores()
    assert scores.ssim == pytest.approx(ssim_map(truth, filled)[:, where].mean())
    assert scores.ssim != pytest.approx(ssim_map(truth, filled).mean(), abs=1e-3)


def test_a_perfect_fill() -> None:
    truth, _, where = images(1)
    scores = Comparison(truth, truth).over(where).scores()
    assert scores.psnr_db == math.inf
    assert (scores.rmse, scores.mape_percent) == (0, 0)
    assert scores.ssim == pytest.approx(1)


def test_no_pixels_have_no_scores() -> None:
    scores = Sums().scores()
    assert (scores.pixels, scores.psnr_db, scores.ssim, scores.mape_percent, scores.rmse) == (0, None, None, None, None)


def test_what_is_black_has_no_relative_error() -> None:
    dark = np.full((3, 12, 12), DARKEST / 2, np.float32)
    scores = Comparison(dark, dark + 1 / 2).over(np.ones((12, 12), bool)).scores()
    assert scores.mape_percent is None
    least = np.full((3, 12, 12), DARKEST, np.float32)  # one level of 8 bits is not left out
    assert Comparison(least, 2 * least).over(np.ones((12, 12), bool)).scores().mape_percent == pytest.approx(100)
    assert scores.rmse == pytest.approx(0.5)


@settings(max_examples=20)
@given(seed=SEEDS)
def test_an_error_elsewhere_does_not_count(seed: int) -> None:
    truth, filled, where = images(seed)
    elsewhere = np.where(where, filled, 1 - filled)
    one, other = (Comparison(truth, image).over(where).scores() for image in (filled, elsewhere))
    assert (one.psnr_db, one.rmse, one.mape_percent) == (other.psnr_db, other.rmse, other.mape_percent)


@settings(max_examples=20)
@given(seed=SEEDS)
def test_sums_of_parts_are_the_sum_of_the_whole(seed: int) -> None:
    truth, filled, where = images(seed)
    comparison = Comparison(truth, filled)
    parts, whole = comparison.over(where) + comparison.over(~where), comparison.over(np.ones_like(where))
    assert parts.pixels == whole.pixels
    assert parts.scores().psnr_db == pytest.approx(whole.scores().psnr_db)
    assert parts.scores().ssim == pytest.approx(whole.scores().ssim)
    assert parts.scores().mape_percent == pytest.approx(whole.scores().mape_percent)


def test_published_levels_are_cut_off() -> None:
    levels = np.arange(256, dtype=np.float32)
    assert np.array_equal(np.rint(255 * published_levels(levels / np.float32(255))), levels)
    assert 255 * published_levels(np.float32(99.9 / 255)) == pytest.approx(99)
