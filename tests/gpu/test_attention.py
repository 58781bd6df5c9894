"""Expectation attention on a GPU, against float64 there: what the interpreter cannot show."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ecea.kernels import eager, op
from ecea.kernels.tactics import TACTICS

triton_kernel = pytest.importorskip("ecea.kernels.triton_kernel", reason="Triton is not installed")
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU")]

TOLERANCE = {torch.float16: {"rtol": 1e-3, "atol": 2e-3}, torch.bfloat16: {"rtol": 8e-3, "atol": 1.6e-2}}


def draw(batch: int, tokens: int, heads: int, dtype: torch.dtype) -> list[Tensor]:
    rng = torch.Generator("cuda").manual_seed(1)
    widths = (3 * heads * 64, heads * 64, heads * 64)
    return [torch.randn(batch, tokens, width, generator=rng, device="cuda").to(dtype) for width in widths]


def check(out: Tensor, arguments: list[Tensor], heads: int) -> None:
    expected = eager.expectation_attention(*(part.double() for part in arguments), heads)
    torch.testing.assert_close(out.double(), expected, **TOLERANCE[out.dtype])


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("size", [(4096, 1), (1024, 2), (256, 4), (64, 8), (1000, 2), (1, 1)], ids=str)
def test_the_operator(size: tuple[int, int], dtype: torch.dtype) -> None:
    arguments = draw(3, *size, dtype)
    check(op.expectation_attention(*arguments, size[1]), arguments, size[1])


@pytest.mark.parametrize("tokens", [1024, 1000])
@pytest.mark.parametrize("number", TACTICS)
def test_every_tactic(number: int, tokens: int) -> None:
    arguments = draw(2, tokens, 2, torch.float16)
    try:
        out = triton_kernel.expectation_attention(*arguments, 2, 0.125, TACTICS[number])
    except Exception as error:
        if type(error).__name__ != "OutOfResources":
            raise
        pytest.skip(f"this GPU has too little shared memory: {error}")
    check(out, arguments, 2)


def test_float32_goes_another_way() -> None:
    arguments: list[Any] = [part.float() for part in draw(1, 64, 2, torch.float16)]
    torch.testing.assert_close(op.expectation_attention(*arguments, 2), eager.expectation_attention(*arguments, 2))
