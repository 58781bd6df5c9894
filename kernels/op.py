"""The torch custom operator ``ecea::expectation_attention``.

A custom operator stays one node when a model is traced, so the exporter can map it to one ONNX node.
Importing this module registers it as ``torch.ops.ecea.expectation_attention``.
"""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


@torch.library.custom_op("ecea::expectation_attention", mutates_args=())
def expectation_attention(qkv: Tensor, s: Tensor, gate: Tensor, num_heads: int) -> Tensor:
    """As :func:`ecea.kernels.eager.expectation_attention`, through ``scaled_dot_product_attention``."""
    head_dim = gate.shape[-1] // num_heads
    q, k, v = qkv.unflatten(-1, (3, num_heads, head_dim)).permute(2, 0, 3, 1, 4)
    k = k + s.unflatten(-1, (num_heads, head_dim)).transpose(1, 2)
    attended = scaled_dot_product_attention(q, k, v, scale=head_dim**-0.5)
    # Contiguous, as the shape function below promises, even where the gate is a view of something larger.
    return (attended.transpose(1, 2).flatten(2) * gate).contiguous()


@expectation_attention.register_fake
def _(qkv: Tensor, s: Tensor, gate: Tensor, num_heads: int) -> Tensor:
    return gate.new_empty(gate.shape)
