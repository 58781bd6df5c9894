"""Expectation attention on a GPU, against float64 there: what the interpreter cannot show."""

from __future__ import annotations

import math
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
triton_kernel = pytest.importorskip("ecea.kernels.triton_kernel", reason="Triton is not installed")
from ecea.kernels import eager, op  # noqa: E402
from ecea.kernels.tactics import TACTICS, Tactic  # noqa: E402

pytestmark = pytest.mark.gpu

DTYPES = [torch.float16, torch.bfloat16]
LEVELS = [(4096, 1), (1024, 2), (256, 4), (64, 8)]
RAGGED = [(1000, 2), (50, 3), (1, 1)]


def attend(arguments: list[Any], heads: int, tactic: Tactic) -> Any:
    """By one tactic; skipped where this GPU has too little shared memory for it."""
    from triton.runtime.errors import OutOfResources

    # What a block does not write stays NaN: the allocator gives out what was freed last.
    del_me = torch.full_like(arguments[2], math.nan)
    del del_me
    try:
        return triton_kernel.expectation_attention(*arguments, heads, 0.125, tactic)
    except OutOfResources as error:
        pytest.skip(f"this GPU has too little for it: {error}")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [*LEVELS, *RAGGED], ids=str)
def test_the_operator(draw: Any, check: Any, size: tuple[int, int], dtype: Any) -> None:
    arguments = draw(3, *size, dtype)
    check(op.expectation_attention(*arguments, size[1]), arguments, size[1])


@pytest.mark.parametrize("batch", [1, 2, 4, 8, 16, 32, 64])
@pytest.mark.parametrize("size", LEVELS, ids=str)
def test_every_batch(draw: Any, check: Any, size: tuple[int, int], batch: int) -> None:
    arguments = draw(batch, *size, torch.float16)
    check(op.expectation_attention(*arguments, size[1]), arguments, size[1])


@pytest.mark.parametrize("size", [*LEVELS, RAGGED[0]], ids=str)
@pytest.mark.parametrize("number", TACTICS)
def test_every_tactic(draw: Any, check: Any, number: int, size: tuple[int, int]) -> None:
    arguments = draw(2, *size, torch.float16)
    check(attend(arguments, size[1], TACTICS[number]), arguments, size[1])


@pytest.mark.parametrize("number", TACTICS)
def test_every_tactic_in_bfloat16(draw: Any, check: Any, number: int) -> None:
    arguments = draw(2, 1000, 2, torch.bfloat16)
    check(attend(arguments, 2, TACTICS[number]), arguments, 2)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("number", [3, 13, 23], ids=["products", "sum", "added"])
def test_large_logits(draw: Any, check: Any, number: int, dtype: Any) -> None:
    """Their exponentials overflow unless the maximum is taken off; only products keep the sum's last bits there."""
    arguments = draw(2, 1024, 2, dtype, q=20 if TACTICS[number].keys == "products" else 2)
    check(attend(arguments, 2, TACTICS[number]), arguments, 2, TACTICS[number].keys != "products")


def test_nothing_is_read_or_written_beyond_the_tokens(draw: Any) -> None:
    """The tensors lie amid NaNs, which every wrong read would spread."""
    for number, tactic in TACTICS.items():
        if number in (3, 13, 22, 33):
            arguments, around = draw(2, 45, 2, torch.float16), []
            for part in arguments:
                margin = 256 * part.shape[-1]
                buffer = part.new_full((part.numel() + 2 * margin,), math.nan)
                around.append(buffer[margin:][: part.numel()].view(part.shape).copy_(part))
            assert torch.equal(attend(around, 2, tactic), attend(arguments, 2, tactic)), number


def test_the_same_comes_out_again(draw: Any) -> None:
    """A difference between runs would be a race."""
    arguments = draw(8, 1024, 2, torch.float16)
    for number in (3, 13, 23, 30):
        first = attend(arguments, 2, TACTICS[number])
        assert all(torch.equal(first, attend(arguments, 2, TACTICS[number])) for _ in range(20)), number


def test_in_a_graph_and_on_another_stream(draw: Any, check: Any) -> None:
    arguments = draw(4, 1024, 2, torch.float16)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        op.expectation_attention(*arguments, 2)  # compiled before it is captured
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = op.expectation_attention(*arguments, 2)
    arguments[0].copy_(draw(4, 1024, 2, torch.float16, seed=2)[0])
    graph.replay()
    torch.cuda.synchronize()
    check(out, arguments, 2)


def test_float32_goes_another_way(draw: Any) -> None:
    arguments = draw(1, 64, 2, torch.float32)
    torch.testing.assert_close(op.expectation_attention(*arguments, 2), eager.expectation_attention(*arguments, 2))
