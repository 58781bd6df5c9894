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
from triton import knobs

from ecea.kernels.tactics import HEAD_DIMS, Tactic

LOG2E = math.log2(math.e)

DTYPES = (torch.float16, torch.bfloat16)

ADD_BLOCK = 1024  # numbers in a program of ``add_edges_kernel``, 16 bytes a thread


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
    KEYS: tl.constexpr,
    HOLD_QUERIES: tl.constexpr,
):
    """``softmax(scale * q (k + s)^T) v * gate`` for BLOCK_M queries of one head of one image.

    Launched on a grid of (ceil(TOKENS / BLOCK_M), NUM_HEADS, batch). TensorRT passes the inputs, then the outputs.

    Args:
        qkv_ptr: (batch, TOKENS, 3, NUM_HEADS, HEAD_DIM), contiguous, float16 or bfloat16.
        s_ptr, gate_ptr, out_ptr: (batch, TOKENS, NUM_HEADS, HEAD_DIM), contiguous, of the same type.
        SCALE_LOG2E: scale * log2(e), positive: exp2 is the instruction that there is.
        KEYS: ``products``, ``sum`` or ``added``, see ``tactics.Keys``; if ``added``, s_ptr is to k + s, not to s.
        HOLD_QUERIES: in registers.
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
    q = _load(qkv_ptr + rows[:, None] * PACKED + channels[None, :], rows < TOKENS, EVEN_M)
    if HOLD_QUERIES:
        # What comes straight from memory stays in shared memory; what has been computed with does not.
        q = tl.inline_asm_elementwise("mov.b32 $0, $1;", "=r,r", [q], dtype=q.dtype, is_pure=True, pack=2)
    k_ptrs = qkv_ptr + CHANNELS + columns[:, None] * PACKED + channels[None, :]
    v_ptrs = k_ptrs + CHANNELS
    s_ptrs = s_ptr + columns[:, None] * CHANNELS + channels[None, :]

    maximum = tl.full([BLOCK_M], -float("inf"), tl.float32)  # of the scaled logits seen so far
    total = tl.zeros([BLOCK_M], tl.float32)  # of their exponentials, relative to the maximum
    attended = tl.zeros([BLOCK_M, HEAD_DIM], tl.float32)
    if KEYS == "sum":
        inside = columns < TOKENS
        keys = _sum(_load(k_ptrs, inside, EVEN_N), _load(s_ptrs, inside, EVEN_N))
    for start in range(0, TOKENS, BLOCK_N):
        inside = columns < TOKENS - start
        if KEYS == "products":
            logits = tl.dot(q, tl.trans(_load(k_ptrs, inside, EVEN_N)))
            logits = tl.dot(q, tl.trans(_load(s_ptrs, inside, EVEN_N)), logits)
        elif KEYS == "added":
            logits = tl.dot(q, tl.trans(_load(s_ptrs, inside, EVEN_N)))
        else:
            logits = tl.dot(q, tl.trans(keys))
        k_ptrs += BLOCK_N * PACKED
        s_ptrs += BLOCK_N * CHANNELS
        if KEYS == "sum":
            # The next block is on its way while the softmax of this one is computed; behind the last there is none.
            following = columns < TOKENS - BLOCK_N - start
            k = _load(k_ptrs, following, False)
            s = _load(s_ptrs, following, False)
        if not EVEN_N:
            logits = tl.where(inside[None, :], logits, -float("inf"))
        # Scaled after the reduction here and within the subtraction below, where it is half of a multiply-add.
        new_maximum = tl.maximum(maximum, tl.max(logits, 1) * SCALE_LOG2E)
        weights = tl.exp2(logits * SCALE_LOG2E - new_maximum[:, None])
        correction = tl.exp2(maximum - new_maximum)
        total = total * correction + tl.sum(weights, 1)
        v = _load(v_ptrs, inside, EVEN_N)
        attended = tl.dot(weights.to(v.dtype), v, attended * correction[:, None])
        maximum = new_maximum
        v_ptrs += BLOCK_N * PACKED
        if KEYS == "sum":
            keys = _sum(k, s)

    offsets = rows[:, None] * CHANNELS + channels[None, :]
    gate = _load(gate_ptr + offsets, rows < TOKENS, EVEN_M)
    out = (attended * (1 / total)[:, None] * gate.to(tl.float32)).to(out_ptr.dtype.element_ty)
    if EVEN_M:
        tl.store(out_ptr + offsets, out)
    else:
        tl.store(out_ptr + offsets, out, mask=(rows < TOKENS)[:, None])


@triton.jit  # type: ignore[untyped-decorator]
def _load(ptrs, inside, EVEN: tl.constexpr):  # type: ignore[no-untyped-def]
    """Rows of a block, zeros for those that are not ``inside``; all of them are if EVEN."""
    return tl.load(ptrs) if EVEN else tl.load(ptrs, mask=inside[:, None], other=0.0)


@triton.jit
def _sum(k, s):  # type: ignore[no-untyped-def]
    """Rounded once; the compiler knows that half precision adds to the same number, two at a time."""
    return (k.to(tl.float32) + s.to(tl.float32)).to(k.dtype)


@triton.jit  # type: ignore[untyped-decorator]
def add_edges_kernel(qkv_ptr, s_ptr, keys_ptr, values, CHANNELS: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """The keys of a packed projection plus the edge features, (batch * tokens, CHANNELS), ``values`` numbers in all."""
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = index < values
    k = tl.load(qkv_ptr + index + (index // CHANNELS * 2 + 1) * CHANNELS, mask=inside, other=0.0)
    s = tl.load(s_ptr + index, mask=inside, other=0.0)
    tl.store(keys_ptr + index, _sum(k, s), mask=inside)


def constants(tokens: int, num_heads: int, head_dim: int, scale: float, tactic: Tactic) -> dict[str, int | float | str]:
    """The kernel's compile-time arguments by name."""
    return {
        "TOKENS": tokens,
        "NUM_HEADS": num_heads,
        "HEAD_DIM": head_dim,
        "SCALE_LOG2E": scale * LOG2E,
        "BLOCK_M": tactic.block_m,
        "BLOCK_N": tactic.block_n,
        "KEYS": tactic.keys,
        # Where the numbers lie changes none of them, and the interpreter knows no instructions.
        "HOLD_QUERIES": tactic.hold_queries and not knobs.runtime.interpret,
    }


def add_edges(qkv: Tensor, s: Tensor) -> Tensor:
    """``k + s``, rounded once: (B, N, C) of the packed (B, N, 3C) and (B, N, C), both contiguous."""
    keys = torch.empty_like(s)
    grid = (triton.cdiv(keys.numel(), ADD_BLOCK),)
    add_edges_kernel[grid](qkv, s, keys, keys.numel(), CHANNELS=s.shape[-1], BLOCK=ADD_BLOCK, num_warps=4)
    return keys


def expectation_attention(qkv: Tensor, s: Tensor, gate: Tensor, num_heads: int, scale: float, tactic: Tactic) -> Tensor:
    """As :func:`ecea.kernels.eager.expectation_attention`, by the kernel, on the GPU that holds the tensors.

    Args:
        qkv: (B, N, 3C), float16 or bfloat16.
        s: (B, N, C), of the same type.
        gate: (B, N, C), of the same type.
        num_heads: how many heads share the C channels, ``C / num_heads`` each: 16, 32, 64 or 128.
        scale: of the logits, positive; ``(C / num_heads) ** -0.5`` unless the projection has absorbed it.
        tactic: how it is cut.

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
    qkv, s, gate = qkv.contiguous(), s.contiguous(), gate.contiguous()
    fixed = constants(tokens, num_heads, head_dim, scale, tactic)
    with torch.cuda.device_of(gate):
        keys = add_edges(qkv, s) if tactic.keys == "added" else s
        expectation_attention_kernel[grid](qkv, keys, gate, out, **fixed, **tactic.options)
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
