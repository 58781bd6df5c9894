"""The edge map, against golden data and against the published formulas written plainly."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecea.runtime.edges import edge_map, gray

SIZE = 48


def tile(seed, gaps):
    """A gray tile with structure, 0 in its gaps; and the gaps."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(1, 256, (SIZE // 8 + 1, SIZE // 8 + 1)).astype(np.uint8)
    values = cv2.resize(coarse, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
    missing = np.zeros((SIZE, SIZE), bool)
    for _ in range(gaps):
        top, left = rng.integers(0, SIZE, 2)
        missing[top : top + rng.integers(1, 12), left : left + rng.integers(1, 30)] = True
    values[missing] = 0
    return values, missing


def published(values, missing):
    """The formulas of the published application, in float64 with NaN in the gaps."""
    filled = cv2.inpaint(values, missing.astype(np.uint8), 1, cv2.INPAINT_TELEA) if missing.any() else values
    canny = cv2.Canny(filled, 50, 120).astype(np.float64)
    holes = values.astype(np.float64)
    holes[missing] = np.nan
    derivatives = [cv2.Sobel(holes, cv2.CV_64F, dx, dy, ksize=3) for dx, dy in ((1, 0), (0, 1), (1, 1))]
    sobel = np.nan_to_num(np.sqrt(sum(d**2 for d in derivatives)))
    edges = 0.5 * canny + 0.5 * sobel
    return (edges - edges.min()) / (edges.max() - edges.min())


def test_golden_edges(shared):
    with np.load(shared / "golden" / "edges.npz") as golden:
        for image, mask, edge in zip(golden["image"], golden["mask"], golden["edge"], strict=True):
            bands = image.transpose(2, 0, 1)
            assert np.array_equal(mask != 0, (bands == 0).any(axis=0))
            made = edge_map(gray(bands), mask != 0)
            assert made.dtype == np.float32
            assert np.abs(made - edge).max() <= 1e-6


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(0, 6))
def test_the_map_is_that_of_the_published_formulas(seed, gaps):
    values, missing = tile(seed, gaps)
    if missing.all():
        return
    assert np.abs(edge_map(values, missing) - published(values, missing)).max() <= 1e-6


def whole_number_edges(values, missing):
    """The same map from whole numbers: nothing is rounded before the root."""
    filled = cv2.inpaint(values, missing.astype(np.uint8), 1, cv2.INPAINT_TELEA) if missing.any() else values
    padded = np.pad(values.astype(np.int64), 1, mode="reflect")
    height, width = values.shape

    def correlate(down, right):
        return sum(
            down[i] * right[j] * padded[i : i + height, j : j + width] for i in range(3) for j in range(3)
        )  # fmt: skip

    smooth, slope = (1, 2, 1), (-1, 0, 1)
    squares = correlate(smooth, slope) ** 2 + correlate(slope, smooth) ** 2 + correlate(slope, slope) ** 2
    sobel = np.sqrt(squares.astype(np.float32))
    reach = np.pad(missing, 1, mode="reflect")
    for i in range(3):
        for j in range(3):
            sobel[reach[i : i + height, j : j + width]] = 0
    edges = np.float32(0.5) * cv2.Canny(filled, 50, 120) + np.float32(0.5) * sobel
    return (edges - edges.min()) / (edges.max() - edges.min())


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(0, 6), st.sampled_from(["land", "noise", "black and white"]))
def test_no_bit_is_lost_to_rounding(seed, gaps, kind):
    values, missing = tile(seed, gaps)
    if kind != "land":
        values = np.random.default_rng(seed).integers(0, 256, values.shape).astype(np.uint8)
        values = np.where(values > 127, 255, 0).astype(np.uint8) if kind == "black and white" else values
        values[missing] = 0
    if missing.all():
        return
    assert np.array_equal(edge_map(values, missing), whole_number_edges(values, missing))


def test_gray_is_pillows():
    image = pytest.importorskip("PIL.Image")
    rgb = np.random.default_rng(0).integers(0, 256, (3, 200, 300), dtype=np.uint8)
    rgb[:, 0, :3] = [[0, 255, 255], [0, 255, 0], [0, 255, 0]]
    expected = np.asarray(image.fromarray(np.ascontiguousarray(rgb.transpose(1, 2, 0))).convert("L"))
    assert np.array_equal(gray(rgb), expected)


def test_the_map_spans_0_to_1():
    edges = edge_map(*tile(1, 3))
    assert (edges.min(), edges.max()) == (0, 1)


@pytest.mark.parametrize("missing", [False, True])
def test_a_tile_of_one_gray_has_no_edges(missing):
    mask = np.zeros((32, 32), bool)
    mask[8:12] = missing
    edges = edge_map(np.full((32, 32), 90, np.uint8) * ~mask, mask)
    assert not edges.any()


def test_a_tile_of_gaps_alone_has_no_edges():
    assert not edge_map(np.zeros((32, 32), np.uint8), np.ones((32, 32), bool)).any()


def test_edges_vanish_beside_a_gap_and_stand_elsewhere():
    values = np.full((64, 64), 40, np.uint8)
    values[:, 32:] = 200  # one vertical edge
    missing = np.zeros((64, 64), bool)
    missing[20:30] = True
    values[missing] = 0
    edges = edge_map(values, missing)
    assert (edges[:10, 31:33].max(axis=1) == 1).all()
    # Canny sees the filled tile, where the edge goes on; Sobel sees nothing up to the pixel beside the gap.
    assert edges[19:31].max() <= 0.5
    assert edges[18, 31:33].max() > 0.5
