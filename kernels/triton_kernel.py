"""Expectation attention as one Triton kernel, in the manner of FlashAttention: the N x N weights never leave the chip.

The softmax is computed block by block with a running maximum and a running sum (Milakov and Gimelshein 2018, Dao et al.
2022); sums are FP32. The projection is read as it lies, packed, and the gate is applied before the only store.

Importing this module imports triton: nothing else in ``ecea.kernels`` does so at import.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from ecea.kernels.tactics import Tactic

LOG2E = math.log2(math.e)

# A power of two for tl.arange, at least 16 for the tensor cores; beyond 128 no block shape fits on the chip.
HEAD_DIMS = (16, 32, 64, 128)
DTYPES = (torch.float16, torch.bfloat16)


@triton.jit  # type: ignore[untyped-decorator]
def expectation_attention_kernel(  # type: ignore[no-untyped-def]
    qkv_ptr,
    s_ptr,
    gate_ptr,
    out_ptr,
    TOKENS: tl.constexpr,
    NUM_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    SCALE_LOG2E: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """``softmax(scale * q (k + s)^T) v * gate`` for BLOCK_M queries of one head of one image.

    Launched on a grid of (ceil(TOKENS / BLOCK_M), NUM_HEADS, batch). TensorRT passes the inputs, then the outputs.

    ``q (k + s)^T`` is computed as ``q k^T + q s^T``. Added before the product, k + s would be rounded to half precision
    (or leave its range), and the softmax turns an absolute error of a logit into a relative one of a weight. The second
    product costs half as much again in the tensor cores, but no pass through registers between memory and them.

    Args:
        qkv_ptr: (batch, TOKENS, 3, NUM_HEADS, HEAD_DIM), contiguous, float16 or bfloat16.
        s_ptr, gate_ptr, out_ptr: (batch, TOKENS, NUM_HEADS, HEAD_DIM), contiguous, of the same type.
        SCALE_LOG2E: scale * log2(e), positive: exp2 is the instruction that there is.
    """
    # Where the block size divides the tokens, no access needs a mask.
    EVEN_M: tl.constexpr = TOKENS % BLOCK_M == 0
    EVEN_N: tl.constexpr = TOKENS % BLOCK_N == 0
    CHANNELS: tl.constexpr = NUM_HEADS * HEAD_DIM
    PACKED: tl.constexpr = 3 * CHANNELS
    # Over a whole batch the offsets can leave 32 bits; within an image they cannot (see ``_check``).
    first_token = tl.program_id(2).to(tl.int64) * TOKENS
    head = tl.program_id(1) * HEAD_DIM
    qkv_ptr += first_token * PACKED + head
    s_ptr += first_token * CHANNELS + head
    gate_ptr += first_token * CHANNELS + head
    out_ptr += first_token * CHANNELS + head

    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tl.arange(0, BLOCK_N)
    channels = tl.arange(0, HEAD_DIM)
    packed_keys = columns[:, None] * PACKED + channels[None, :]
    row_mask = rows[:, None] < TOKENS

    q_ptrs = qkv_ptr + rows[:, None] * PACKED + channels[None, :]
    q = tl.load(q_ptrs) if EVEN_M else tl.load(q_ptrs, mask=row_mask, other=0.0)
    k_ptrs = qkv_ptr + CHANNELS + packed_keys
    v_ptrs = qkv_ptr + 2 * CHANNELS + packed_keys
    s_ptrs = s_ptr + columns[:, None] * CHANNELS + channels[None, :]

    maximum = tl.full([BLOCK_M], -float("inf"), tl.float32)  # of the scaled logits seen so far
    total = tl.zeros([BLOCK_M], tl.float32)  # of their exponentials, relative to the maximum
    attended = tl.zeros([BLOCK_M, HEAD_DIM], tl.float32)
    for start in range(0, TOKENS, BLOCK_N):
        inside = columns < TOKENS - start
        k = tl.load(k_ptrs) if EVEN_N else tl.load(k_ptrs, mask=inside[:, None], other=0.0)
        s = tl.load(s_ptrs) if EVEN_N else tl.load(s_ptrs, mask=inside[:, None], other=0.0)
        logits = tl.dot(q, tl.trans(k))
        logits = tl.dot(q, tl.trans(s), logits)
        if not EVEN_N:
            logits = tl.where(inside[None, :], logits, -float("inf"))
        # Scaled after the reduction here and within the subtraction below, where it is half of a multiply-add.
        new_maximum = tl.maximum(maximum, tl.max(logits, 1) * SCALE_LOG2E)
        weights = tl.exp2(logits * SCALE_LOG2E - new_maximum[:, None])
        correction = tl.exp2(maximum - new_maximum)
        total = total * correction + tl.sum(weights, 1)
        v = tl.load(v_ptrs) if EVEN_N else tl.load(v_ptrs, mask=inside[:, None], other=0.0)
        attended = tl.dot(weights.to(v.dtype), v, attended * correction[:, None])
        maximum = new_maximum
        k_ptrs += BLOCK_N * PACKED
        v_ptrs += BLOCK_N * PACKED
        s_ptrs += BLOCK_N * CHANNELS

    offsets = rows[:, None] * CHANNELS + channels[None, :]
    gate = tl.load(gate_ptr + offsets) if EVEN_M else tl.load(gate_ptr + offsets, mask=row_mask, other=0.0)
    out = (attended / total[:, None] * gate.to(tl.float32)).to(out_ptr.dtype.element_ty)
    if EVEN_M:
        tl.store(out_ptr + offsets, out)
    else:
        tl.store(out_ptr + offsets, out, mask=row_mask)


def constants(tokens: int, num_heads: int, head_dim: int, scale: float, tactic: Tactic) -> dict[str, int | float]:
    """The kernel's compile-time arguments by name."""
    return {
        "TOKENS": tokens,
        "NUM_HEADS": num_heads,
        "HEAD_DIM": head_dim,
        "SCALE_LOG2E": scale * LOG2E,
        "BLOCK_M": tactic.block_m,
        "BLOCK_N": tactic.block_n,
    }


def expectation_attention(qkv: Tensor, s: Tensor, gate: Tensor, num_heads: int, scale: float, tactic: Tactic) -> Tensor:
    """As :func:`ecea.kernels.eager.expectation_attention`, by the kernel, on the GPU that holds the tensors.

    Args:
        qkv: (B, N, 3C), float16 or bfloat16.
        s: (B, N, C), of the same type.
        gate: (B, N, C), of the same type.
        num_heads: how many heads share the C channels, ``C / num_heads`` each: 16, 32, 64 or 128.
        scale: of the logits, positive; ``(C / num_heads) ** -0.5`` unless the projection has absorbed it.
        tactic: the block shape.

    Returns:
        (B, N, C), of the same type.

    Raises:
        ValueError: if the tensors are none that the kernel takes.
    """
    batch, tokens, width = gate.shape
    head_dim = width // num_heads
    _check(qkv, s, gate, num_heads, scale)
    out = torch.empty((batch, tokens, width), dtype=gate.dtype, device=gate.device)
    grid = (triton.cdiv(tokens, tactic.block_m), num_heads, batch)
    with torch.cuda.device_of(gate):
        expectation_attention_kernel[grid](
            qkv.contiguous(),
            s.contiguous(),
            gate.contiguous(),
            out,
            **constants(tokens, num_heads, head_dim, scale, tactic),
            num_warps=tactic.num_warps,
            num_stages=tactic.num_stages,
        )
    return out


def _check(qkv: Tensor, s: Tensor, gate: Tensor, num_heads: int, scale: float) -> None:
    batch, tokens, width = gate.shape
    if qkv.shape != (batch, tokens, 3 * width) or s.shape != gate.shape:
        raise ValueError(
            f"qkv is {tuple(qkv.shape)}, s {tuple(s.shape)} and gate {tuple(gate.shape)}; "
            "expected (B, N, 3C), (B, N, C) and (B, N, C)"
        )
    if {qkv.dtype, s.dtype, gate.dtype} - {gate.dtype} or gate.dtype not in DTYPES:
        raise ValueError(
            f"qkv is {qkv.dtype}, s {s.dtype} and gate {gate.dtype}; expected float16 or bfloat16, alike: convert them"
        )
    if num_heads * (width // num_heads) != width or width // num_heads not in HEAD_DIMS:
        raise ValueError(f"{width} channels in {num_heads} heads; expected 16, 32, 64 or 128 channels each")
    if scale <= 0:
        raise ValueError(f"scale is {scale}; expected a positive one: fold the sign into the queries")
    if tokens * 3 * width >= 2**31:
        raise ValueError(f"{tokens} tokens of {width} channels; expected less than 2^31 values of qkv in an image")
