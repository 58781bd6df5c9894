"""Expectation attention with dropout of its weights, which no engine needs."""

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


class TrainingAttention(nn.Module):
    """:func:`ecea.kernels.eager.expectation_attention`, with dropout after the softmax in training mode.

    It goes through torch's fused attention, which keeps no (N, N) weights for the way back where the dropout is 0.

    Args:
        dropout: share of the attention's weights dropped in training mode; 0.3 as published.
    """

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout

    def forward(self, qkv: Tensor, s: Tensor, gate: Tensor, num_heads: int) -> Tensor:
        head_dim = gate.shape[-1] // num_heads
        q, k, v = qkv.unflatten(-1, (3, num_heads, head_dim)).permute(2, 0, 3, 1, 4)
        k = k + s.unflatten(-1, (num_heads, head_dim)).transpose(1, 2)
        attended = scaled_dot_product_attention(q, k, v, dropout_p=self.dropout if self.training else 0.0)
        return attended.transpose(1, 2).flatten(2) * gate
