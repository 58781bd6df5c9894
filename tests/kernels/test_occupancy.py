"""How many blocks fit on a multiprocessor: worked out by hand from each architecture's limits."""

import pytest

from ecea.kernels.occupancy import blocks_per_multiprocessor

KIB = 1024


@pytest.mark.parametrize(
    ("architecture", "warps", "registers", "shared_bytes", "blocks"),
    [
        (80, 1, 32, 0, 32),  # by the limit of blocks
        (86, 1, 32, 0, 16),
        (120, 1, 32, 0, 24),
        (80, 4, 32, 0, 16),  # by warps
        (86, 4, 32, 0, 12),
        (90, 8, 32, 0, 8),
        (90, 8, 33, 0, 6),  # by registers, of which a warp gets 256 more
        (90, 4, 168, 0, 3),
        (90, 4, 255, 0, 2),
        (80, 4, 32, 40 * KIB, 4),  # by shared memory: 164 KiB, and 1 KiB of each block is the system's
        (80, 4, 32, 41 * KIB, 3),
        (86, 4, 32, 48 * KIB, 2),
        (89, 4, 32, 99 * KIB, 1),
        (89, 4, 32, 100 * KIB, 0),
        (90, 4, 32, 56 * KIB, 4),
    ],
)
def test_what_runs_out_first_decides(
    architecture: int, warps: int, registers: int, shared_bytes: int, blocks: int
) -> None:
    assert blocks_per_multiprocessor(architecture, warps, registers, shared_bytes) == blocks


def test_tensor_memory_runs_out_too() -> None:
    assert [blocks_per_multiprocessor(100, 4, 32, 0, columns) for columns in (0, 128, 256, 512)] == [16, 4, 2, 1]
