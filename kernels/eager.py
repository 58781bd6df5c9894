"""Expectation attention in plain PyTorch: the definition that every other form is held against."""

from torch import Tensor


def expectation_attention(qkv: Tensor, s: Tensor, gate: Tensor, num_heads: int) -> Tensor:
    """Attend with keys shifted by the edge features, then gate: ``softmax(q (k + s)^T / sqrt(D)) v * gate``.

    The formula is that of Zhou et al., IEEE JSTARS 18 (2025), doi 10.1109/JSTARS.2025.3559203, without its
    last step, a clip of the result ``a`` to ``[a - kappa * sigma, a + kappa * sigma]``. An interval around
    ``a`` itself, with ``kappa >= 0``, always holds ``a``: the clip changes no finite input and is left out
    (``tests/kernels/test_attention.py`` shows it).

    Args:
        qkv: (B, N, 3C) floating point; per token the query, the key and the value, each as ``num_heads``
            vectors of ``D = C / num_heads``.
        s: (B, N, C), the projected edge features, added to the keys.
        gate: (B, N, C), multiplied into the result.
        num_heads: how many heads share the C channels.

    Returns:
        (B, N, C), of the dtype of ``qkv``.
    """
    head_dim = gate.shape[-1] // num_heads
    q, k, v = qkv.unflatten(-1, (3, num_heads, head_dim)).permute(2, 0, 3, 1, 4)
    k = k + s.unflatten(-1, (num_heads, head_dim)).transpose(1, 2)
    weights = (q @ k.transpose(-2, -1) * head_dim**-0.5).softmax(dim=-1)
    attended = (weights @ v).transpose(1, 2).flatten(2)
    return attended * gate
