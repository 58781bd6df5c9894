"""The torch custom operator ``ecea::expectation_attention``.

A custom operator stays one node when a model is traced, so the exporter can map it to one ONNX node.
Importing this module registers it as ``torch.ops.ecea.expectation_attention``.
"""

import functools
import importlib.util

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ecea.kernels.tactics import HEAD_DIMS, preferred


@torch.library.custom_op("ecea::expectation_attention", mutates_args=())
def expectation_attention(qkv: Tensor, s: Tensor, gate: Tensor, num_heads: int) -> Tensor:
    """As :func:`ecea.kernels.eager.expectation_attention`.

    On CUDA, in float16 and bfloat16, by the Triton kernel; otherwise by ``scaled_dot_product_attention``.
    """
    return _scaled_dot_product(qkv, s, gate, num_heads)


@expectation_attention.register_kernel("cuda")
def _on_cuda(qkv: Tensor, s: Tensor, gate: Tensor, num_heads: int) -> Tensor:
    if not _has_triton():
        return _scaled_dot_product(qkv, s, gate, num_heads)
    from ecea.kernels import triton_kernel

    head_dim = gate.shape[-1] // num_heads
    if gate.dtype not in triton_kernel.DTYPES or head_dim not in HEAD_DIMS:
        return _scaled_dot_product(qkv, s, gate, num_heads)
    major, minor = torch.cuda.get_device_capability(gate.device)
    batch, tokens, _ = gate.shape
    tactic = preferred(10 * major + minor, tokens, batch * num_heads * tokens)
    return triton_kernel.expectation_attention(qkv, s, gate, num_heads, head_dim**-0.5, tactic)


@expectation_attention.register_fake
def _(qkv: Tensor, s: Tensor, gate: Tensor, num_heads: int) -> Tensor:
    return gate.new_empty(gate.shape)


def _scaled_dot_product(qkv: Tensor, s: Tensor, gate: Tensor, num_heads: int) -> Tensor:
    head_dim = gate.shape[-1] // num_heads
    q, k, v = qkv.unflatten(-1, (3, num_heads, head_dim)).permute(2, 0, 3, 1, 4)
    k = k + s.unflatten(-1, (num_heads, head_dim)).transpose(1, 2)
    attended = scaled_dot_product_attention(q, k, v, scale=head_dim**-0.5)
    # Contiguous, as the shape function above promises, even where the gate is a view of something larger.
    return (attended.transpose(1, 2).flatten(2) * gate).contiguous()


@functools.cache
def _has_triton() -> bool:
    """PyTorch for CUDA brings Triton along on Linux; elsewhere it may be missing."""
    return importlib.util.find_spec("triton") is not None
