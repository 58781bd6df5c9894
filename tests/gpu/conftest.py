"""What the tests on a GPU share. They need PyTorch for CUDA and Triton, and nothing else of the project's."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from torch import Tensor

Draw = Callable[..., "list[Tensor]"]
Check = Callable[..., None]

TOLERANCE = {"torch.float16": {"rtol": 1e-3, "atol": 2e-3}, "torch.bfloat16": {"rtol": 8e-3, "atol": 1.6e-2}}
# A sum that is rounded costs the logits some of their last bits; where queries are large, the weights feel it.
ROUNDED_SUM = {"torch.float16": {"rtol": 2e-3, "atol": 4e-3}, "torch.bfloat16": {"rtol": 1.6e-2, "atol": 3.2e-2}}


@pytest.fixture(autouse=True)
def cuda() -> Any:
    """The module torch, where it sees a GPU."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA GPU")
    return torch


@pytest.fixture(scope="session")
def draw() -> Draw:
    """qkv, s and gate of normal numbers; queries of the standard deviation given."""

    def drawn(batch: int, tokens: int, heads: int, dtype: Any, q: float = 1, seed: int = 1) -> list[Tensor]:
        import torch

        rng = torch.Generator("cuda").manual_seed(seed)
        width = heads * 64
        qkv, s, gate = (
            torch.randn(batch, tokens, size, generator=rng, device="cuda") for size in (3 * width, width, width)
        )
        qkv[..., :width] *= q
        return [part.to(dtype) for part in (qkv, s, gate)]

    return drawn


@pytest.fixture(scope="session")
def check() -> Check:
    """Compare with the definition in float64, image by image, for its weights are large."""

    def checked(out: Tensor, arguments: list[Tensor], heads: int, rounded_sum: bool = False) -> None:
        import torch

        from ecea.kernels import eager

        tolerance = (ROUNDED_SUM if rounded_sum else TOLERANCE)[str(out.dtype)]
        for one in range(len(out)):
            expected = eager.expectation_attention(*(part[one : one + 1].double() for part in arguments), heads)
            torch.testing.assert_close(out[one : one + 1].double(), expected, **tolerance)

    return checked


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The CUDA driver, for launches that neither PyTorch nor Triton makes."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    return importlib.import_module("driver").Driver()
