"""The torch custom operator computes what eager computes, and keeps torch's contract for operators."""

from typing import Any

import pytest
import torch
from torch import Tensor

from ecea.kernels import eager, op
from ecea.kernels.tactics import preferred

# (batch, tokens, heads, head_dim): two levels of the default network, then ragged token counts.
SHAPES = [(1, 256, 4, 64), (3, 64, 8, 64), (2, 17, 2, 8), (1, 257, 1, 64), (2, 100, 3, 20), (1, 1, 1, 16)]


def draw(
    batch: int, tokens: int, heads: int, head_dim: int, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor, int]:
    rng = torch.Generator().manual_seed(1)
    widths = (3 * heads * head_dim, heads * head_dim, heads * head_dim)
    qkv, s, gate = (torch.randn(batch, tokens, width, generator=rng).to(dtype) for width in widths)
    return qkv, s, gate, heads


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-12), (torch.float32, 5e-6), (torch.float16, 1e-2), (torch.bfloat16, 8e-2)],
    ids=str,
)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_operator_equals_eager(shape: tuple[int, int, int, int], dtype: torch.dtype, tolerance: float) -> None:
    arguments = draw(*shape, dtype)
    out = op.expectation_attention(*arguments)
    torch.testing.assert_close(out, eager.expectation_attention(*arguments), rtol=0, atol=tolerance)


def as_views(*tensors: Tensor) -> list[Tensor]:
    """The same numbers, strided as a transpose leaves them."""
    views = [tensor.transpose(0, 1).contiguous().transpose(0, 1) for tensor in tensors]
    assert not any(view.is_contiguous() for view in views)
    return views


def test_strides_of_the_inputs_do_not_matter() -> None:
    qkv, s, gate, heads = draw(2, 20, 2, 8)
    out = op.expectation_attention(*as_views(qkv, s, gate), heads)
    torch.testing.assert_close(out, op.expectation_attention(qkv, s, gate, heads), rtol=0, atol=5e-6)


def test_the_operator_keeps_torch_s_contract_for_views() -> None:
    qkv, s, gate, heads = draw(2, 20, 2, 8)
    torch.library.opcheck(op.expectation_attention, (*as_views(qkv, s, gate), heads))


@pytest.mark.parametrize("shape", [(2, 17, 2, 8), (1, 64, 1, 64)], ids=str)
def test_the_operator_keeps_torch_s_contract(shape: tuple[int, int, int, int]) -> None:
    torch.library.opcheck(op.expectation_attention, draw(*shape))


def test_the_operator_is_registered_under_its_name() -> None:
    arguments = draw(1, 9, 1, 8)
    assert torch.equal(torch.ops.ecea.expectation_attention(*arguments), op.expectation_attention(*arguments))


def test_tracing_keeps_one_node() -> None:
    class Network(torch.nn.Module):
        def forward(self, qkv: Tensor, s: Tensor, gate: Tensor) -> Tensor:
            out: Tensor = op.expectation_attention(qkv, s, gate, 2)
            return out

    program = torch.export.export(Network(), draw(3, 9, 2, 8)[:3])
    called = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert called == [torch.ops.ecea.expectation_attention.default]


@pytest.mark.parametrize("shape", [(1, 9, 2, 8), (1, 9, 2, 48)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_on_cuda_what_the_kernel_does_not_take_goes_the_other_way(
    shape: tuple[int, int, int, int], dtype: torch.dtype
) -> None:
    arguments = draw(*shape, dtype)
    assert torch.equal(op._on_cuda(*arguments), op.expectation_attention(*arguments))


def test_on_cuda_half_precision_goes_to_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    triton_kernel = pytest.importorskip("ecea.kernels.triton_kernel", reason="Triton is not installed")
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(triton_kernel, "expectation_attention", lambda *given: calls.append(given) or given[2])
    arguments = draw(1, 1024, 2, 64, torch.float16)
    op._on_cuda(*arguments)
    ((qkv, s, gate, heads, scale, tactic),) = calls
    assert all(given is wanted for given, wanted in zip((qkv, s, gate), arguments[:3], strict=True))
    assert (heads, scale, tactic) == (2, 0.125, preferred(90, 1024, 2 * 1024))


def test_on_cuda_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(op, "_has_triton", lambda: False)
    arguments = draw(1, 16, 2, 64, torch.float16)
    assert torch.equal(op._on_cuda(*arguments), op.expectation_attention(*arguments))
