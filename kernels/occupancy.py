"""How many blocks of a kernel a multiprocessor holds at once.

Limits from the CUDA programming guide's table of compute capabilities.
"""

from typing import NamedTuple

_REGISTERS = 65536  # 32-bit ones, per multiprocessor
_REGISTER_UNIT = 256  # a warp is given a multiple of this
_RESERVED_SHARED = 1024  # bytes of each block that the system keeps
_TENSOR_MEMORY = 512  # columns, where there are any


class Multiprocessor(NamedTuple):
    """What the blocks on one multiprocessor share."""

    warps: int
    blocks: int
    shared_bytes: int


MULTIPROCESSORS: dict[int, Multiprocessor] = {
    80: Multiprocessor(64, 32, 164 * 1024),
    86: Multiprocessor(48, 16, 100 * 1024),
    89: Multiprocessor(48, 24, 100 * 1024),
    90: Multiprocessor(64, 32, 228 * 1024),
    100: Multiprocessor(64, 32, 228 * 1024),
    120: Multiprocessor(48, 24, 100 * 1024),
}


def blocks_per_multiprocessor(
    architecture: int, warps: int, registers: int, shared_bytes: int, tensor_memory: int = 0
) -> int:
    """How many blocks fit at once.

    Args:
        architecture: a key of ``MULTIPROCESSORS``.
        warps: in a block.
        registers: of a thread.
        shared_bytes: dynamic shared memory of a block.
        tensor_memory: columns of tensor memory of a block.
    """
    limits = MULTIPROCESSORS[architecture]
    registers_per_warp = -(-registers * 32 // _REGISTER_UNIT) * _REGISTER_UNIT
    by_resource = [
        limits.blocks,
        limits.warps // warps,
        _REGISTERS // registers_per_warp // warps,
        limits.shared_bytes // (shared_bytes + _RESERVED_SHARED),
    ]
    if tensor_memory:
        by_resource.append(_TENSOR_MEMORY // tensor_memory)
    return min(by_resource)
