"""Steps at the edges of gaps."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ecea.training.evaluation.seams import NEAR, step_sums

Unit = NDArray[np.float32]
Mask = NDArray[np.bool_]

EVERYWHERE = np.ones((40, 50), bool)


def ramp(slope: float) -> Unit:
    """(3, 40, 50) that rises by ``slope`` from row to row."""
    return np.broadcast_to(np.float32(slope) * np.arange(40, dtype=np.float32)[:, None], (3, 40, 50)).copy()


def test_the_truth_cannot_be_found(hole: Mask) -> None:
    steps = step_sums(ramp(0.01), hole, EVERYWHERE).steps()
    assert steps.pairs == 2 * 50
    assert steps.edge == pytest.approx(1, rel=1e-4)
    assert steps.inside == pytest.approx(1, rel=1e-4)


def test_a_shifted_fill(hole: Mask) -> None:
    image = ramp(0.01)
    image[:, hole] += 0.05  # a step of 0.06 into the gap and one of 0.04 out of it, where the ground has 0.01
    steps = step_sums(image, hole, EVERYWHERE).steps()
    assert steps.edge == pytest.approx((6 + 4) / 2, rel=1e-4)
    assert steps.inside == pytest.approx(1, rel=1e-4)


def test_a_flat_fill(hole: Mask) -> None:
    image = ramp(0.01)
    image[:, hole] = 0.195  # between rows 17 and 22 at 0.17 and 0.22
    steps = step_sums(image, hole, EVERYWHERE).steps()
    assert steps.edge == pytest.approx(2.5, rel=1e-4)
    assert steps.inside == 0


def test_directions_are_kept_apart() -> None:
    """Ground that steps down columns alone says nothing of an edge crossed along rows."""
    gap = np.zeros((40, 50), bool)
    gap[10:30, 20:24] = True
    image = ramp(0.01)
    image[:, gap] += 0.02
    sums = step_sums(image, gap, EVERYWHERE)
    assert sums.edge_pairs.tolist() == [2 * 4, 2 * 20]
    assert sums.edge / 3 == pytest.approx([4 * (0.03 + 0.01), 40 * 0.02], rel=1e-4)
    # Expected of the ground: 8 x 0.01 down columns, 40 x 0 along rows.
    assert sums.steps().edge == pytest.approx((4 * 0.04 + 40 * 0.02) / (8 * 0.01), rel=1e-4)


def test_ground_is_near_and_valid(hole: Mask) -> None:
    image = ramp(0.01)
    valid = EVERYWHERE.copy()
    valid[:, 40:] = False
    before = step_sums(image, hole & valid, valid)
    image[:, : 18 - NEAR] = np.random.default_rng(0).random((3, 18 - NEAR, 50))
    image[:, :, 40:] = 7
    after = step_sums(image, hole & valid, valid)
    assert after.steps() == before.steps()
    image[:, 18 - NEAR] += 0.5  # the farthest row that counts
    assert step_sums(image, hole & valid, valid).ground[0] > after.ground[0]


def test_nothing_to_compare_with(hole: Mask) -> None:
    flat = np.full((3, 40, 50), 0.5, np.float32)
    assert step_sums(flat, hole, EVERYWHERE).steps().edge is None
    steps = step_sums(flat, np.zeros((40, 50), bool), EVERYWHERE).steps()
    assert (steps.pairs, steps.edge, steps.inside) == (0, None, None)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1))
def test_rows_and_columns_are_alike(seed: int) -> None:
    rng = np.random.default_rng(seed)
    image, gap = rng.random((3, 12, 15), dtype=np.float32), rng.random((12, 15)) < 0.3
    valid = gap | (rng.random((12, 15)) < 0.9)
    upright, turned = step_sums(image, gap, valid), step_sums(image.transpose(0, 2, 1), gap.T, valid.T)
    assert upright.edge == pytest.approx(turned.edge[::-1])
    assert upright.ground_pairs.tolist() == turned.ground_pairs[::-1].tolist()


def test_noise_is_a_good_fill_for_noise(hole: Mask) -> None:
    image = np.random.default_rng(0).random((3, 400, 500), dtype=np.float32)
    steps = step_sums(image, np.tile(hole, (10, 10)), np.tile(EVERYWHERE, (10, 10))).steps()
    assert steps.edge == pytest.approx(1, abs=0.02)
    assert steps.inside == pytest.approx(1, abs=0.02)
