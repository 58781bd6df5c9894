"""Ways to cut the attention into programs for a GPU, and which of them to use where.

A tactic's number is what TensorRT writes into timing caches and plans: it is never given to another one. New tactics
get new numbers, those of dropped ones stay unused.
"""

from dataclasses import dataclass
from typing import Literal

# Channels of a head that the kernel takes. A power of two for tl.arange, at least 16 for the tensor cores;
# beyond 128 no block shape fits on the chip.
HEAD_DIMS = (16, 32, 64, 128)

# How the edge features come to the keys:
#   products  q k^T + q s^T: the sum is never rounded; half as much again in the tensor cores.
#   sum       q (k + s)^T: added in registers, one block ahead of its use.
#   added     q (k + s)^T: added by a kernel of its own before, so it is not for TensorRT, which launches one.
Keys = Literal["products", "sum", "added"]


@dataclass(frozen=True)
class Tactic:
    """One way to cut the attention into programs.

    Attributes:
        block_m: queries in a program.
        block_n: keys that it takes at a time.
        num_warps: warps that share it, 32 threads each.
        num_stages: blocks of keys and values that are on their way from memory at once, plus the one in use.
        keys: how the edge features come to them, see ``Keys``.
        hold_queries: in registers, not in shared memory, which the tensor cores of sm_90 can read them from too.
        max_registers: of a thread; None: as many as it takes. Fewer may let one more block onto a multiprocessor.
    """

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int
    keys: Keys = "products"
    hold_queries: bool = False
    max_registers: int | None = None

    @property
    def launches(self) -> int:
        """Kernels that it takes: TensorRT can be given those of one."""
        return 2 if self.keys == "added" else 1

    @property
    def options(self) -> dict[str, int]:
        """What Triton is told besides the kernel's own arguments."""
        options = {"num_warps": self.num_warps, "num_stages": self.num_stages}
        return options if self.max_registers is None else options | {"maxnreg": self.max_registers}


TACTICS: dict[int, Tactic] = {
    1: Tactic(64, 64, 4, 1),
    2: Tactic(64, 32, 4, 2),
    3: Tactic(64, 64, 4, 2),
    4: Tactic(128, 32, 4, 2),
    5: Tactic(128, 32, 8, 2),
    6: Tactic(128, 64, 8, 1),
    7: Tactic(128, 64, 8, 2),
    8: Tactic(128, 64, 8, 3),
    9: Tactic(128, 128, 8, 2),
    10: Tactic(32, 32, 4, 2),
    11: Tactic(64, 32, 4, 3),
    12: Tactic(128, 64, 4, 2),
    13: Tactic(128, 64, 8, 2, "sum"),
    14: Tactic(128, 64, 4, 2, "sum"),
    15: Tactic(64, 64, 4, 2, "sum"),
    16: Tactic(64, 32, 4, 2, "sum"),
    17: Tactic(128, 128, 8, 2, "sum"),
    18: Tactic(128, 64, 4, 3),
    19: Tactic(128, 128, 8, 2, max_registers=128),
    20: Tactic(32, 64, 2, 2),
    21: Tactic(16, 64, 1, 2),
    22: Tactic(128, 64, 4, 2, "added"),
    23: Tactic(128, 64, 4, 3, "added"),
    24: Tactic(128, 64, 4, 4, "added"),
    25: Tactic(128, 64, 4, 3, "added", hold_queries=True),
    26: Tactic(128, 64, 4, 3, "added", hold_queries=True, max_registers=168),
    27: Tactic(128, 64, 8, 3, "added"),
    28: Tactic(128, 64, 8, 3, "added", hold_queries=True),
    29: Tactic(128, 128, 8, 2, "added"),
    30: Tactic(128, 128, 8, 2, "added", max_registers=128),
    31: Tactic(128, 128, 8, 2, "added", hold_queries=True, max_registers=128),
    32: Tactic(128, 128, 4, 2, "added"),
    33: Tactic(64, 128, 4, 2, "added"),
    34: Tactic(64, 128, 4, 2, "added", hold_queries=True),
    35: Tactic(64, 64, 4, 3, "added"),
    36: Tactic(256, 64, 8, 3, "added"),
    37: Tactic(128, 128, 8, 2, "sum", max_registers=128),
}

# Architecture -> (fewest tokens of an image, fewest queries in all, tactic); the first whose numbers are both reached.
# sm_90 as timed on an H200 (``benchmarks/results/gpu.json``); the others by what fits and by occupancy, NOT timed yet.
# ``benchmarks/gpu.py`` prints lines for this table.
_PREFERRED: dict[int, tuple[tuple[int, int, int], ...]] = {
    80: ((1024, 0, 7), (256, 0, 3), (0, 0, 10)),
    90: ((1024, 0, 35), (256, 65536, 15), (256, 0, 11), (0, 0, 15)),
    100: ((1024, 0, 7), (256, 0, 3), (0, 0, 2)),
}
# 86, 89, 120 and whatever else comes: two thirds of the warps of the above, and less shared memory.
_OTHERWISE = ((1024, 0, 5), (256, 0, 2), (0, 0, 10))


def preferred(architecture: int, tokens: int, queries: int) -> Tactic:
    """The tactic for a problem.

    Args:
        architecture: ten times the compute capability.
        tokens: of an image.
        queries: in all, images x heads x tokens: where they are few, large blocks leave multiprocessors idle.
    """
    choices = _PREFERRED.get(architecture, _OTHERWISE)
    return TACTICS[next(number for least, fewest, number in choices if tokens >= least and queries >= fewest)]
