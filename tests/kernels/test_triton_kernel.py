"""The Triton kernel, under Triton's interpreter, against a float64 reference on the same inputs."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ecea.kernels import eager
from ecea.kernels.tactics import TACTICS, Keys, Tactic

triton_kernel = pytest.importorskip("ecea.kernels.triton_kernel", reason="Triton is not installed")

HALF, BRAIN = torch.float16, torch.bfloat16
# The result is rounded to 11 or 8 bits, and so are the weights before they meet the values, of which they take a mean.
TOLERANCE = {HALF: {"rtol": 1e-3, "atol": 2e-3}, BRAIN: {"rtol": 8e-3, "atol": 1.6e-2}}
SMALL = Tactic(32, 32, 4, 2)  # the interpreter knows neither warps nor stages
FORMS: tuple[Keys, ...] = ("products", "sum", "added")

# (batch, tokens, heads, head_dim, tactic): the four levels of the default network, then tokens that no block divides,
# fewer than a block holds, a single one, and other heads. The first two in blocks larger than a GPU's: the interpreter
# takes its time for each.
SHAPES = [
    (1, 4096, 1, 64, Tactic(1024, 1024, 8, 2)),
    (1, 1024, 2, 64, Tactic(512, 256, 8, 2)),
    (2, 256, 4, 64, Tactic(64, 32, 4, 2)),
    (3, 64, 8, 64, SMALL),
    (2, 100, 2, 64, SMALL),
    (1, 257, 1, 64, Tactic(128, 64, 8, 2)),
    (1, 96, 2, 64, Tactic(32, 64, 4, 2)),
    (1, 96, 2, 64, Tactic(64, 32, 4, 2)),
    (2, 17, 3, 32, SMALL),
    (1, 1, 1, 16, SMALL),
    (1, 40, 1, 128, SMALL),
]


def draw(
    batch: int, tokens: int, heads: int, head_dim: int, dtype: torch.dtype, q: float = 1, k: float = 1, s: float = 1
) -> list[Tensor]:
    """qkv, s and gate; queries, keys and edge features of the standard deviations given."""
    rng = torch.Generator().manual_seed(tokens)
    width = heads * head_dim
    scales = torch.cat([torch.full((width,), value) for value in (q, k, 1.0)])
    qkv = torch.randn(batch, tokens, 3 * width, generator=rng) * scales
    edge, gate = torch.randn(2, batch, tokens, width, generator=rng)
    return [part.to(dtype) for part in (qkv, edge * s, gate)]


def reference(arguments: list[Tensor], heads: int) -> Tensor:
    return eager.expectation_attention(*(part.double() for part in arguments), heads)


def run(
    interpret: Any, arguments: list[Tensor], heads: int, tactic: Tactic = SMALL, scale: float | None = None
) -> Tensor:
    scale = (arguments[2].shape[-1] // heads) ** -0.5 if scale is None else scale
    out: Tensor = interpret(triton_kernel.expectation_attention, *arguments, heads, scale, tactic)
    assert out.dtype == arguments[0].dtype
    return out.double()


# Products everywhere; sums in float16, the largest level left out: its time is the loop's, and the loop is the same.
CASES = [(shape, "products", dtype) for shape in SHAPES for dtype in (HALF, BRAIN)]
CASES += [(shape, keys, HALF) for shape in SHAPES[1:] for keys in FORMS[1:]]
CASES += [((1, 257, 1, 64, Tactic(128, 64, 8, 2)), keys, BRAIN) for keys in FORMS[1:]]


@pytest.mark.parametrize(("shape", "keys", "dtype"), CASES, ids=str)
def test_the_kernel_is_the_definition(interpret: Any, shape: tuple[Any, ...], keys: Keys, dtype: torch.dtype) -> None:
    *size, tactic = shape
    arguments = draw(*size, dtype)
    out = run(interpret, arguments, size[2], replace(tactic, keys=keys))
    torch.testing.assert_close(out, reference(arguments, size[2]), **TOLERANCE[dtype])


# Warps, stages and registers are nothing to the interpreter: one of each shape and form.
CUTS = {(t.block_m, t.block_n, t.keys): number for number, t in TACTICS.items()}


@pytest.mark.parametrize("number", CUTS.values())
def test_every_tactic_computes_the_same(interpret: Any, number: int) -> None:
    arguments = draw(1, 150, 2, 32, HALF)
    out = run(interpret, arguments, 2, TACTICS[number])
    torch.testing.assert_close(out, reference(arguments, 2), **TOLERANCE[HALF])


def test_holding_the_queries_changes_nothing(interpret: Any) -> None:
    arguments = draw(1, 70, 2, 32, HALF)
    assert torch.equal(run(interpret, arguments, 2, replace(SMALL, hold_queries=True)), run(interpret, arguments, 2))


@pytest.mark.parametrize("dtype", [HALF, BRAIN], ids=str)
@pytest.mark.parametrize(
    "spread", [{"q": 20.0}, {"q": 60.0, "k": 20.0}, {"s": 100.0}, {"k": 100.0, "s": 100.0}], ids=str
)
def test_large_logits(interpret: Any, spread: dict[str, float], dtype: torch.dtype) -> None:
    """Logits in the thousands: their exponentials overflow unless the maximum is taken off."""
    arguments = draw(1, 130, 2, 64, dtype, **spread)
    out = run(interpret, arguments, 2, Tactic(64, 32, 4, 2))
    torch.testing.assert_close(out, reference(arguments, 2), **TOLERANCE[dtype])


@pytest.mark.parametrize(("dtype", "spread"), [(HALF, {"q": 4.0}), (HALF, {"s": 20.0}), (BRAIN, {"q": 20.0})], ids=str)
def test_the_sum_of_keys_and_edges_is_not_rounded(interpret: Any, dtype: torch.dtype, spread: dict[str, float]) -> None:
    """Added in half precision before the product, as eager does, keys and edges cost several times the error."""
    arguments = draw(1, 256, 1, 64, dtype, **spread)
    qkv, s, gate = arguments
    width = gate.shape[-1]
    expected = reference(arguments, 1)
    summed = qkv.double()
    summed[..., width : 2 * width] = (qkv[..., width : 2 * width] + s).double()
    of_the_sum = rms(reference([summed, 0 * s, gate], 1) - expected)
    assert rms(run(interpret, arguments, 1) - expected) < of_the_sum / 2


def test_edges_may_be_large_enough_to_swallow_the_keys(interpret: Any) -> None:
    """What is common to all keys leaves the weights as they are, however large; a sum in float16 keeps nothing else."""
    arguments = draw(1, 128, 1, 64, HALF)
    qkv, s, gate = arguments
    s.fill_(1024)
    expected = reference([qkv, 0 * s, gate], 1)
    ours, in_half = run(interpret, arguments, 1), eager.expectation_attention(*arguments, 1).double()
    assert rms(ours - expected) < rms(in_half - expected) / 20


def test_a_sum_beyond_the_range_of_float16(interpret: Any) -> None:
    arguments = draw(1, 64, 1, 64, HALF, q=1e-3)
    qkv, s, _ = arguments
    qkv[..., 64:128] = 4e4
    s.fill_(4e4)
    assert torch.isnan(eager.expectation_attention(*arguments, 1)).any()
    torch.testing.assert_close(run(interpret, arguments, 1), reference(arguments, 1), **TOLERANCE[HALF])


@pytest.mark.parametrize("keys", FORMS)
@pytest.mark.parametrize("tokens", [45, 64])
def test_nothing_is_read_or_written_beyond_the_tokens(interpret: Any, tokens: int, keys: Keys) -> None:
    """The tensors lie amid NaNs, which every wrong read would spread."""
    batch, heads, width = 2, 2, 64
    tactic = Tactic(64, 32, 4, 1, keys)
    arguments = draw(batch, tokens, heads, 32, HALF)
    around = []
    for part in arguments:
        buffer = torch.full((part.numel() + 2 * 64 * 3 * width,), math.nan, dtype=HALF)
        inside = buffer[64 * 3 * width :][: part.numel()].view(part.shape)
        around.append(inside.copy_(part))
    out = run(interpret, around, heads, tactic)
    assert torch.equal(out, run(interpret, arguments, heads, tactic))
    assert torch.isfinite(out).all()


def test_strides_do_not_matter(interpret: Any) -> None:
    arguments = draw(2, 40, 2, 32, HALF)
    views = [part.transpose(0, 1).contiguous().transpose(0, 1) for part in arguments]
    assert torch.equal(run(interpret, views, 2), run(interpret, arguments, 2))


def test_a_scale_that_the_projection_has_absorbed(interpret: Any) -> None:
    qkv, s, gate = draw(1, 64, 2, 64, HALF)
    expected = run(interpret, [qkv, s, gate], 2)
    qkv[..., :128] /= 8  # exactly, 64 ** -0.5
    assert torch.equal(run(interpret, [qkv, s, gate], 2, scale=1.0), expected)


def part(*shape: int, dtype: torch.dtype = HALF) -> Tensor:
    return torch.zeros(shape, dtype=dtype)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((part(1, 4, 96), part(1, 4, 32), part(1, 4, 32), 4, 1.0), "32 channels in 4 heads; expected 16"),
        ((part(1, 4, 96), part(1, 4, 32), part(1, 4, 32), 3, 1.0), "32 channels in 3 heads; expected 16"),
        ((part(1, 4, 64), part(1, 4, 32), part(1, 4, 32), 1, 1.0), r"qkv is \(1, 4, 64\), .* expected \(B, N, 3C\)"),
        ((part(1, 4, 96), part(1, 5, 32), part(1, 4, 32), 1, 1.0), r"s \(1, 5, 32\)"),
        ((part(1, 4, 96), part(1, 4, 32), part(1, 4, 32), 1, -1.0), "scale is -1.0; expected a positive one"),
        ((part(1, 4, 96), part(1, 4, 32, dtype=BRAIN), part(1, 4, 32), 1, 1.0), "expected float16 or bfloat16, alike"),
        ((*(part(1, 4, n, dtype=torch.float32) for n in (96, 32, 32)), 1, 1.0), "expected float16 or bfloat16, alike"),
    ],
)
def test_what_it_does_not_take_is_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        triton_kernel.expectation_attention(*arguments, SMALL)


@pytest.mark.parametrize("keys", FORMS)
def test_the_forms_round_what_they_say(interpret: Any, keys: Keys) -> None:
    """Against the reference of what each computes: with the exact sum of keys and edges, or with the rounded one."""
    qkv, s, gate = draw(1, 128, 1, 64, HALF, q=8.0)
    exact, rounded = qkv.double(), qkv.double()
    exact[..., 64:128] += s.double()
    rounded[..., 64:128] = (qkv[..., 64:128] + s).double()
    expected = [reference([sums, 0 * s, gate], 1) for sums in (exact, rounded)]
    out = run(interpret, [qkv, s, gate], 1, replace(SMALL, keys=keys))
    from_exact, from_rounded = (rms(out - one) for one in expected)
    assert (from_exact < from_rounded / 2) if keys == "products" else (from_rounded < from_exact / 2)


@pytest.mark.parametrize("dtype", [HALF, BRAIN], ids=str)
@pytest.mark.parametrize("shape", [(2, 45, 3, 32), (1, 1, 1, 16), (1, 300, 2, 64)], ids=str)
def test_edges_are_added_to_the_keys(interpret: Any, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    qkv, s, _ = draw(*shape, dtype)
    width = s.shape[-1]
    # The interpreter cuts bfloat16 off where a GPU rounds.
    rtol = 0 if dtype == HALF else torch.finfo(dtype).eps
    expected = qkv[..., width : 2 * width] + s
    torch.testing.assert_close(interpret(triton_kernel.add_edges, qkv, s), expected, rtol=rtol, atol=0)


def rms(error: Tensor) -> float:
    return float(error.square().mean().sqrt())
