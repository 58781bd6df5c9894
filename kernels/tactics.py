"""Block shapes of the Triton kernel, and which of them to use where.

A tactic's number is what TensorRT writes into timing caches and plans: it is never given to another block shape. New
shapes get new numbers, those of dropped ones stay unused.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Tactic:
    """One way to cut the attention into programs.

    Attributes:
        block_m: queries in a program.
        block_n: keys that it takes at a time.
        num_warps: warps that share it, 32 threads each.
        num_stages: blocks of keys and values that are on their way from memory at once, plus the one in use.
    """

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int


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
}

# Architecture -> (fewest tokens, tactic), falling. Chosen by what fits and by occupancy; NOT yet timed on any GPU.
_PREFERRED: dict[int, tuple[tuple[int, int], ...]] = {
    80: ((1024, 7), (256, 3), (0, 10)),
    90: ((1024, 7), (256, 3), (0, 2)),
    100: ((1024, 7), (256, 3), (0, 2)),
}
# 86, 89, 120 and whatever else comes: two thirds of the warps of the above, and less shared memory.
_OTHERWISE = ((1024, 5), (256, 2), (0, 10))


def preferred(architecture: int, tokens: int) -> Tactic:
    """The block shape for an architecture (ten times its compute capability) and a number of tokens."""
    choices = _PREFERRED.get(architecture, _OTHERWISE)
    return TACTICS[next(number for fewest, number in choices if tokens >= fewest)]
