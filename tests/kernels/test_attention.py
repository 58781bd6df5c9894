"""Expectation attention: eager against the published formula, written out here in numpy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ecea.kernels.eager import expectation_attention

Array = NDArray[np.float64]

# (batch, tokens, heads, head_dim): the last level of the default network, then ragged and degenerate ones.
SHAPES = [(1, 64, 8, 64), (2, 17, 2, 8), (3, 100, 4, 5), (1, 1, 1, 16), (2, 5, 3, 1)]


def published(qkv: Array, s: Array, gate: Array, heads: int, kappa: float | None) -> Array:
    """The formula, head by head; with ``kappa`` its last step too, a clip around the result itself."""
    batch, tokens, channels = s.shape
    head_dim = channels // heads
    q, k, v = np.moveaxis(qkv.reshape(batch, tokens, 3, heads, head_dim), 2, 0)
    keys = k + s.reshape(batch, tokens, heads, head_dim)
    attended = np.empty((batch, tokens, heads, head_dim))
    for b in range(batch):
        for h in range(heads):
            scores = q[b, :, h] @ keys[b, :, h].T / np.sqrt(head_dim)
            weights = np.exp(scores - scores.max(axis=1, keepdims=True))
            attended[b, :, h] = weights / weights.sum(axis=1, keepdims=True) @ v[b, :, h]
    a = attended.reshape(batch, tokens, channels)
    if kappa is not None:
        sigma = a.std(axis=1, keepdims=True)  # per channel, over the tokens
        a = np.clip(a, a - kappa * sigma, a + kappa * sigma)
    return a * gate


def draw(batch: int, tokens: int, heads: int, head_dim: int, seed: int = 0) -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(seed)
    channels = heads * head_dim
    qkv = rng.standard_normal((batch, tokens, 3 * channels))
    s, gate = rng.standard_normal((2, batch, tokens, channels))
    return qkv, s, gate


def eager(qkv: Array, s: Array, gate: Array, heads: int, dtype: torch.dtype = torch.float64) -> Array:
    a, b, c = (torch.from_numpy(array).to(dtype) for array in (qkv, s, gate))
    out = expectation_attention(a, b, c, heads)
    assert out.dtype == dtype
    result: Array = out.double().numpy()
    return result


@pytest.mark.parametrize("kappa", [None, 0.0, 1e-3, 1.0, 3.0])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_eager_is_the_published_formula(shape: tuple[int, int, int, int], kappa: float | None) -> None:
    arrays = draw(*shape)
    expected = published(*arrays, shape[2], kappa)
    np.testing.assert_allclose(eager(*arrays, shape[2]), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float16, 5e-3), (torch.bfloat16, 5e-2)])
def test_lower_precisions_come_as_near_as_they_can(dtype: torch.dtype, tolerance: float) -> None:
    arrays = draw(2, 64, 2, 16)
    error = eager(*arrays, 2, dtype) - published(*arrays, 2, None)
    assert np.abs(error).max() < tolerance


@settings(max_examples=60)
@given(
    batch=st.integers(1, 2),
    tokens=st.integers(1, 6),
    heads=st.integers(1, 3),
    head_dim=st.integers(1, 4),
    seed=st.integers(0, 2**32 - 1),
    scale=st.sampled_from([0.0, 1e-300, 1e-3, 1.0, 1e3, 1e100]),
    kappa=st.floats(0, 1e6),
)
def test_the_clip_changes_nothing(
    batch: int, tokens: int, heads: int, head_dim: int, seed: int, scale: float, kappa: float
) -> None:
    qkv, s, gate = draw(batch, tokens, heads, head_dim, seed)
    qkv[..., -s.shape[2] :] *= scale  # the values, which the clip's bounds grow with
    clipped = published(qkv, s, gate, heads, kappa)
    assert np.array_equal(clipped, published(qkv, s, gate, heads, None))
    np.testing.assert_allclose(eager(qkv, s, gate, heads), clipped, rtol=1e-9, atol=1e-12 * scale)


@settings(max_examples=300)
@given(
    a=st.floats(-1e300, 1e300),
    sigma=st.floats(0, 1e200),
    kappa=st.floats(0, 1e100),
)
def test_an_interval_around_a_number_holds_it(a: float, sigma: float, kappa: float) -> None:
    """Also where rounding, overflow or an empty interval could have spoiled it."""
    value, width = np.float64(a), np.float64(kappa) * np.float64(sigma)
    assert np.clip(value, value - width, value + width) == value


def test_a_clip_of_negative_width_would_show() -> None:
    """The comparison above can fail: kappa < 0 is the case that the network does not have."""
    arrays = draw(1, 9, 1, 4)
    assert not np.array_equal(published(*arrays, 1, -1.0), published(*arrays, 1, None))


def test_large_scores_do_not_overflow() -> None:
    qkv, s, gate = draw(1, 9, 1, 4)
    assert np.isfinite(eager(qkv * 1e4, s, gate, 1, torch.float32)).all()


def test_edges_shift_the_keys_alone() -> None:
    """A shift common to all keys adds one number to each row of scores, which softmax takes out again."""
    qkv, s, gate = draw(2, 12, 2, 8)
    common = np.broadcast_to(s[:, :1], s.shape).copy()
    np.testing.assert_allclose(eager(qkv, s, gate, 2), eager(qkv, s + common, gate, 2), atol=1e-12)
    assert np.abs(eager(qkv, s, gate, 2) - eager(qkv, 0 * s, gate, 2)).max() > 1e-2
