"""The kernel of ``gpu_warp_specialized.py``, in Gluon: a producer, and the consumers of what it brings."""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    warpgroup_mma,
    warpgroup_mma_wait,
)

# Triton has renamed both between 3.6 and 3.9.
_barrier = gl.thread_barrier if hasattr(gl, "thread_barrier") else gl.barrier
_copy_to_shared = async_copy.async_load if hasattr(async_copy, "async_load") else async_copy.async_copy_global_to_shared


@gluon.jit
def _origin(tile, TOKENS: gl.constexpr, NUM_HEADS: gl.constexpr, BLOCK_M: gl.constexpr):
    """First query, head and image of a tile; tiles of one head follow each other, so that they share its keys."""
    BLOCKS: gl.constexpr = (TOKENS + BLOCK_M - 1) // BLOCK_M
    return tile % BLOCKS * BLOCK_M, tile // BLOCKS % NUM_HEADS, tile // (BLOCKS * NUM_HEADS)


@gluon.jit
def _load(ptrs, rows, limit, EVEN: gl.constexpr):
    """Rows below ``limit``, zeros for the others; all are if EVEN."""
    return gl.load(ptrs) if EVEN else gl.load(ptrs, mask=(rows < limit)[:, None], other=0.0)


@gluon.jit
def _copy(buffer, ptrs, rows, limit, EVEN: gl.constexpr):
    """As :func:`_load`, to shared memory and not waited for."""
    if EVEN:
        _copy_to_shared(buffer, ptrs)
    else:
        inside = (rows < limit)[:, None] & gl.full(ptrs.shape, True, gl.int1, ptrs.type.layout)
        _copy_to_shared(buffer, ptrs, mask=inside)


@gluon.jit
def _produce(
    tensors,
    blocks,
    barriers,
    tiles,
    SIZES: gl.constexpr,
    ROWS: gl.constexpr,
    PUBLISHED: gl.constexpr,
):
    """Blocks of keys plus edges and of values, tile after tile, as soon as a stage is free."""
    TOKENS: gl.constexpr = SIZES[0]
    NUM_HEADS: gl.constexpr = SIZES[1]
    BLOCK_M: gl.constexpr = SIZES[2]
    BLOCK_N: gl.constexpr = SIZES[3]
    qkv_ptr, s_ptr, _, _ = tensors
    keys, values = blocks
    keys_ready, keys_free, values_ready, values_free = barriers
    CHANNELS: gl.constexpr = NUM_HEADS * 64
    PACKED: gl.constexpr = 3 * CHANNELS
    STAGES: gl.constexpr = keys.type.shape[0]
    EVEN: gl.constexpr = TOKENS % BLOCK_N == 0
    BLOCKS: gl.constexpr = (TOKENS + BLOCK_N - 1) // BLOCK_N
    layout: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [4, 1], [1, 0])
    channels = gl.arange(0, 64, layout=gl.SliceLayout(0, layout))
    rows = gl.arange(0, ROWS, layout=gl.SliceLayout(1, layout))
    all_rows = gl.arange(0, BLOCK_N, layout=gl.SliceLayout(1, layout))
    in_keys = rows[:, None] * PACKED + channels[None, :]
    in_values = all_rows[:, None] * PACKED + channels[None, :]
    in_edges = rows[:, None] * CHANNELS + channels[None, :]
    programs = gl.num_programs(0)
    steps = (tiles - gl.program_id(0) + programs - 1) // programs * BLOCKS

    _, head, image = _origin(gl.program_id(0), TOKENS, NUM_HEADS, BLOCK_M)
    token = image.to(gl.int64) * TOKENS
    k_ptr = qkv_ptr + token * PACKED + CHANNELS + head * 64
    e_ptr = s_ptr + token * CHANNELS + head * 64
    start = 0
    k = _load(k_ptr + in_keys, rows, TOKENS, EVEN)
    s = _load(e_ptr + in_edges, rows, TOKENS, EVEN)
    for step in range(steps):
        stage = step % STAGES
        phase = step // STAGES & 1
        mbarrier.wait(keys_free.index(stage), phase ^ 1)
        for part in gl.static_range(BLOCK_N // ROWS):
            keys.index(stage).slice(part * ROWS, ROWS, dim=0).store(k + s)
            if (part + 1) * ROWS < BLOCK_N:
                at = start + (part + 1) * ROWS
                k = _load(k_ptr + at * PACKED + in_keys, rows, TOKENS - at, EVEN)
                s = _load(e_ptr + at * CHANNELS + in_edges, rows, TOKENS - at, EVEN)
        v_ptrs = k_ptr + CHANNELS + start * PACKED + in_values
        limit = TOKENS - start
        if PUBLISHED:
            mbarrier.wait(values_free.index(stage), phase ^ 1)
            _copy(values.index(stage), v_ptrs, all_rows, limit, EVEN)
            async_copy.commit_group()
            async_copy.wait_group(1)  # those of the step before have arrived
        fence_async_shared()
        mbarrier.arrive(keys_ready.index(stage), count=1)
        if PUBLISHED:
            mbarrier.arrive(values_ready.index((step + STAGES - 1) % STAGES), count=1, pred=step > 0)
        # The next block's keys and edges are on their way while this one's values are waited for; behind the last
        # there are none, and the last are read again.
        later = gl.minimum(step + 1, steps - 1)
        _, head, image = _origin(gl.program_id(0) + later // BLOCKS * programs, TOKENS, NUM_HEADS, BLOCK_M)
        token = image.to(gl.int64) * TOKENS
        k_ptr = qkv_ptr + token * PACKED + CHANNELS + head * 64
        e_ptr = s_ptr + token * CHANNELS + head * 64
        start = later % BLOCKS * BLOCK_N
        k = _load(k_ptr + start * PACKED + in_keys, rows, TOKENS - start, EVEN)
        s = _load(e_ptr + start * CHANNELS + in_edges, rows, TOKENS - start, EVEN)
        if not PUBLISHED:
            mbarrier.wait(values_free.index(stage), phase ^ 1)
            _copy(values.index(stage), v_ptrs, all_rows, limit, EVEN)
            async_copy.mbarrier_arrive(values_ready.index(stage), increment_count=False)
    if PUBLISHED:
        async_copy.wait_group(0)
        fence_async_shared()
        mbarrier.arrive(values_ready.index((steps + STAGES - 1) % STAGES), count=1)


@gluon.jit
def _release(free, stage):
    """Every thread says for itself that it has done with a stage. ``mbarrier.arrive`` would first wait for them all."""
    async_copy.mbarrier_arrive(free.index(stage), increment_count=False)


@gluon.jit
def _exponentials(logits, maximum, SCALE_LOG2E: gl.constexpr):
    """Weights of logits and their sums, one for each of eight columns of a thread's, summed up at the end."""
    weights = gl.exp2(logits * SCALE_LOG2E - maximum[:, None])
    return weights, gl.sum(weights.reshape([logits.shape[0], logits.shape[1] // 8, 8]), 1)


@gluon.jit
def _rise(logits, maximum, limit, SCALE_LOG2E: gl.constexpr, EVEN: gl.constexpr):
    """Logits of keys that there are, the new maximum, and what the sums so far are to be multiplied by."""
    if not EVEN:
        columns = gl.arange(0, logits.shape[1], layout=gl.SliceLayout(0, logits.type.layout))
        logits = gl.where((columns < limit)[None, :], logits, -float("inf"))
    new = gl.maximum(maximum, gl.max(logits, 1) * SCALE_LOG2E)
    return logits, new, gl.exp2(maximum - new)


@gluon.jit
def _rescaled(sums, correction):
    return sums * gl.convert_layout(correction, gl.SliceLayout(1, sums.type.layout))[:, None]


@gluon.jit
def _consume(
    tensors,
    queries,
    blocks,
    barriers,
    tiles,
    INDEX: gl.constexpr,
    SIZES: gl.constexpr,
    FORM: gl.constexpr,
):
    """Attention for the 64 queries of each tile that are this group's."""
    TOKENS: gl.constexpr = SIZES[0]
    NUM_HEADS: gl.constexpr = SIZES[1]
    BLOCK_M: gl.constexpr = SIZES[2]
    BLOCK_N: gl.constexpr = SIZES[3]
    SCALE_LOG2E: gl.constexpr = SIZES[4]
    OVERLAP: gl.constexpr = FORM[0]
    PUBLISHED: gl.constexpr = FORM[1]
    SPLIT: gl.constexpr = FORM[2]
    HOLD: gl.constexpr = FORM[3]
    qkv_ptr, _, gate_ptr, out_ptr = tensors
    keys, values = blocks
    keys_ready, keys_free, values_ready, values_free = barriers
    M: gl.constexpr = 64
    CHANNELS: gl.constexpr = NUM_HEADS * 64
    PACKED: gl.constexpr = 3 * CHANNELS
    STAGES: gl.constexpr = keys.type.shape[0]
    EVEN_M: gl.constexpr = TOKENS % BLOCK_M == 0
    EVEN_N: gl.constexpr = TOKENS % BLOCK_N == 0
    dtype: gl.constexpr = keys.dtype
    logits_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_N, 16])
    half_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_N // 2, 16])
    out_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 64, 16])
    q_layout: gl.constexpr = gl.DotOperandLayout(0, logits_layout, 2)
    p_layout: gl.constexpr = gl.DotOperandLayout(0, out_layout, 2)
    copy_layout: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [4, 1], [1, 0])
    rows = INDEX * M + gl.arange(0, M, layout=gl.SliceLayout(1, copy_layout))
    channels = gl.arange(0, 64, layout=gl.SliceLayout(0, copy_layout))
    step = 0
    for tile in range(gl.program_id(0), tiles, gl.num_programs(0)):
        first, head, image = _origin(tile, TOKENS, NUM_HEADS, BLOCK_M)
        token = image.to(gl.int64) * TOKENS
        in_rows = (first + rows)[:, None]
        q_ptrs = qkv_ptr + token * PACKED + head * 64 + in_rows * PACKED + channels[None, :]
        if HOLD:
            q = gl.convert_layout(_load(q_ptrs, rows, TOKENS - first, EVEN_M), q_layout)
        else:
            queries.store(_load(q_ptrs, rows, TOKENS - first, EVEN_M))
            fence_async_shared()
            _barrier()
            q = queries
        maximum = gl.full([M], -float("inf"), gl.float32, gl.SliceLayout(1, logits_layout))
        out = gl.full([M, 64], 0.0, gl.float32, out_layout)
        none = gl.full([M, BLOCK_N], 0.0, gl.float32, logits_layout)
        total = gl.sum(none.reshape([M, BLOCK_N // 8, 8]), 1)
        if OVERLAP:
            stage = step % STAGES
            mbarrier.wait(keys_ready.index(stage), step // STAGES & 1)
            logits = warpgroup_mma(q, keys.index(stage).permute((1, 0)), none, use_acc=False, is_async=True)
            logits = warpgroup_mma_wait(0, deps=[logits])
            _release(keys_free, stage)
            logits, maximum, correction = _rise(logits, maximum, TOKENS, SCALE_LOG2E, EVEN_N)
            weights, total = _exponentials(logits, maximum, SCALE_LOG2E)
            weights = gl.convert_layout(weights.to(dtype), p_layout)
            for start in range(BLOCK_N, TOKENS, BLOCK_N):
                before = step % STAGES
                before_phase = step // STAGES & 1
                step += 1
                stage = step % STAGES
                mbarrier.wait(keys_ready.index(stage), step // STAGES & 1)
                later = warpgroup_mma(q, keys.index(stage).permute((1, 0)), none, use_acc=False, is_async=True)
                mbarrier.wait(values_ready.index(before), before_phase)
                if not PUBLISHED:
                    fence_async_shared()
                sums = warpgroup_mma(weights, values.index(before), out, is_async=True)
                logits = warpgroup_mma_wait(1, deps=[later])
                _release(keys_free, stage)
                logits, maximum, correction = _rise(logits, maximum, TOKENS - start, SCALE_LOG2E, EVEN_N)
                new_weights, parts = _exponentials(logits, maximum, SCALE_LOG2E)
                total = _rescaled(total, correction) + parts
                out = warpgroup_mma_wait(0, deps=[sums])
                _release(values_free, before)
                out = _rescaled(out, correction)
                weights = gl.convert_layout(new_weights.to(dtype), p_layout)
            stage = step % STAGES
            mbarrier.wait(values_ready.index(stage), step // STAGES & 1)
            if not PUBLISHED:
                fence_async_shared()
            sums = warpgroup_mma(weights, values.index(stage), out, is_async=True)
            out = warpgroup_mma_wait(0, deps=[sums])
            _release(values_free, stage)
            step += 1
        else:
            for start in range(0, TOKENS, BLOCK_N):
                stage = step % STAGES
                phase = step // STAGES & 1
                mbarrier.wait(keys_ready.index(stage), phase)
                logits = warpgroup_mma(q, keys.index(stage).permute((1, 0)), none, use_acc=False, is_async=True)
                logits = warpgroup_mma_wait(0, deps=[logits])
                _release(keys_free, stage)
                logits, maximum, correction = _rise(logits, maximum, TOKENS - start, SCALE_LOG2E, EVEN_N)
                total = _rescaled(total, correction)
                out = _rescaled(out, correction)
                if SPLIT:
                    left, right = logits.reshape([M, 2, BLOCK_N // 2]).permute(0, 2, 1).split()
                    left = gl.convert_layout(left, half_layout, assert_trivial=True)
                    right = gl.convert_layout(right, half_layout, assert_trivial=True)
                    level = gl.convert_layout(maximum, gl.SliceLayout(1, half_layout))
                    weights, parts = _exponentials(left, level, SCALE_LOG2E)
                    total += gl.convert_layout(parts, total.type.layout, assert_trivial=True)
                    mbarrier.wait(values_ready.index(stage), phase)
                    if not PUBLISHED:
                        fence_async_shared()
                    half = values.index(stage).slice(0, BLOCK_N // 2, dim=0)
                    sums = warpgroup_mma(gl.convert_layout(weights.to(dtype), p_layout), half, out, is_async=True)
                    weights, parts = _exponentials(right, level, SCALE_LOG2E)
                    total += gl.convert_layout(parts, total.type.layout, assert_trivial=True)
                    half = values.index(stage).slice(BLOCK_N // 2, BLOCK_N // 2, dim=0)
                    sums = warpgroup_mma(gl.convert_layout(weights.to(dtype), p_layout), half, sums, is_async=True)
                else:
                    weights, parts = _exponentials(logits, maximum, SCALE_LOG2E)
                    total += parts
                    mbarrier.wait(values_ready.index(stage), phase)
                    if not PUBLISHED:
                        fence_async_shared()
                    weights = gl.convert_layout(weights.to(dtype), p_layout)
                    sums = warpgroup_mma(weights, values.index(stage), out, is_async=True)
                out = warpgroup_mma_wait(0, deps=[sums])
                _release(values_free, stage)
                step += 1
        at = token * CHANNELS + head * 64 + in_rows * CHANNELS + channels[None, :]
        gate = gl.convert_layout(_load(gate_ptr + at, rows, TOKENS - first, EVEN_M), out_layout)
        total = gl.convert_layout(gl.sum(total, 1), gl.SliceLayout(1, out_layout))
        out = gl.convert_layout((out / total[:, None] * gate.to(gl.float32)).to(dtype), copy_layout)
        if EVEN_M:
            gl.store(out_ptr + at, out)
        else:
            gl.store(out_ptr + at, out, mask=(rows < TOKENS - first)[:, None])


@gluon.jit(do_not_specialize=["tiles"])
def attention_kernel(
    qkv_ptr,
    s_ptr,
    gate_ptr,
    out_ptr,
    tiles,
    TOKENS: gl.constexpr,
    NUM_HEADS: gl.constexpr,
    SCALE_LOG2E: gl.constexpr,
    CONSUMERS: gl.constexpr,
    BLOCK_N: gl.constexpr,
    STAGES: gl.constexpr,
    ROWS: gl.constexpr,
    REGISTERS: gl.constexpr,
    OVERLAP: gl.constexpr,
    PUBLISHED: gl.constexpr,
    SPLIT: gl.constexpr,
    HOLD: gl.constexpr,
):
    """``softmax(scale * q (k + s)^T) v * gate``; tensors as ``ecea.kernels.triton_kernel`` takes them, heads of 64."""
    BLOCK_M: gl.constexpr = CONSUMERS * 64
    dtype: gl.constexpr = qkv_ptr.dtype.element_ty
    rows: gl.constexpr = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
    barrier: gl.constexpr = mbarrier.MBarrierLayout()
    queries = gl.allocate_shared_memory(dtype, [CONSUMERS, 64, 64], rows)
    keys = gl.allocate_shared_memory(dtype, [STAGES, BLOCK_N, 64], rows)
    values = gl.allocate_shared_memory(dtype, [STAGES, BLOCK_N, 64], rows)
    keys_ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], barrier)
    keys_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], barrier)
    values_ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], barrier)
    values_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], barrier)
    for stage in gl.static_range(STAGES):
        mbarrier.init(keys_ready.index(stage), count=1)
        mbarrier.init(keys_free.index(stage), count=128 * CONSUMERS)
        mbarrier.init(values_ready.index(stage), count=1 if PUBLISHED else 128)
        mbarrier.init(values_free.index(stage), count=128 * CONSUMERS)
    tensors = (qkv_ptr, s_ptr, gate_ptr, out_ptr)
    blocks = (keys, values)
    barriers = (keys_ready, keys_free, values_ready, values_free)
    SIZES: gl.constexpr = (TOKENS, NUM_HEADS, BLOCK_M, BLOCK_N, SCALE_LOG2E)
    FORM: gl.constexpr = (OVERLAP, PUBLISHED, SPLIT, HOLD)
    if CONSUMERS == 2:
        gl.warp_specialize(
            [
                (_produce, (tensors, blocks, barriers, tiles, SIZES, ROWS, PUBLISHED)),
                (_consume, (tensors, queries.index(0), blocks, barriers, tiles, 0, SIZES, FORM)),
                (_consume, (tensors, queries.index(1), blocks, barriers, tiles, 1, SIZES, FORM)),
            ],
            [4, 4],
            [REGISTERS, REGISTERS],
        )
    elif CONSUMERS == 3:
        gl.warp_specialize(
            [
                (_produce, (tensors, blocks, barriers, tiles, SIZES, ROWS, PUBLISHED)),
                (_consume, (tensors, queries.index(0), blocks, barriers, tiles, 0, SIZES, FORM)),
                (_consume, (tensors, queries.index(1), blocks, barriers, tiles, 1, SIZES, FORM)),
                (_consume, (tensors, queries.index(2), blocks, barriers, tiles, 2, SIZES, FORM)),
            ],
            [4, 4, 4],
            [REGISTERS, REGISTERS, REGISTERS],
        )
    elif CONSUMERS == 4:
        gl.warp_specialize(
            [
                (_produce, (tensors, blocks, barriers, tiles, SIZES, ROWS, PUBLISHED)),
                (_consume, (tensors, queries.index(0), blocks, barriers, tiles, 0, SIZES, FORM)),
                (_consume, (tensors, queries.index(1), blocks, barriers, tiles, 1, SIZES, FORM)),
                (_consume, (tensors, queries.index(2), blocks, barriers, tiles, 2, SIZES, FORM)),
                (_consume, (tensors, queries.index(3), blocks, barriers, tiles, 3, SIZES, FORM)),
            ],
            [4, 4, 4, 4],
            [REGISTERS, REGISTERS, REGISTERS, REGISTERS],
        )
