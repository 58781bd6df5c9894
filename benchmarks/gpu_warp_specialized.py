"""An experiment for sm_90: expectation attention whose warps have different tasks. The product does not use it.

One group of four warps, the producer, copies keys, edge features and values to shared memory and adds keys and edges on
the way, so that neither a kernel before nor the warps that compute have to. Each of the other groups, the consumers,
attends for 64 queries, and all share the blocks of keys: the division of labour of FlashAttention-3 (Shah et al.,
2024) without its bulk copies, which a TensorRT plugin cannot have. A launch is as many programs as fit on the GPU at
once; each takes one tile of queries after another, and its producer is ahead of its consumers from tile to tile too.

It is written in Gluon, the part of Triton that leaves layouts and barriers to the author. That interface is
experimental and the interpreter does not know it, so only a GPU shows whether a cut is right: ``gpu.py --only
specialized`` compares each with the definition before it times it. ``docs/tensorrt.md`` has what was measured.
By itself this file compiles every cut, with no GPU, and prints what it takes.
"""

import math
from dataclasses import astuple, dataclass
from typing import Any

import torch
import triton
from gpu_warp_specialized_kernel import attention_kernel
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.experimental.gluon._runtime import GluonASTSource

from ecea.kernels.ahead_of_time import assemble
from ecea.runtime.command import start_script

LOG2E = math.log2(math.e)
HEAD_DIM = 64
QUERIES = 64  # of a consumer: the rows of one matrix instruction of a warp group
ALL_REGISTERS = 65536  # of a multiprocessor


@dataclass(frozen=True)
class Cut:
    """One way to cut the attention.

    Attributes:
        consumers: groups of four warps that attend, for 64 queries each; 2 to 4.
        block_n: keys in a block.
        stages: blocks in shared memory at once.
        rows: keys and edges that the producer has in registers at once.
        registers: of a consumer's thread; the producer has what is left.
        max_registers: of a thread on average.
        overlap: the logits of a block are computed while the values of the one before are summed.
        published: the producer says when values have arrived, with the keys of the next block; otherwise the copies do,
            and each consumer has to fence before it uses them.
        split: the first half of a block's weights meets its values while the exponentials of the other are computed.
        hold: queries in registers, not in shared memory.
    """

    consumers: int
    block_n: int
    stages: int
    rows: int
    registers: int
    max_registers: int
    overlap: bool = False
    published: bool = False
    split: bool = False
    hold: bool = False

    @property
    def programs(self) -> int:
        """On a multiprocessor at once, as far as registers decide."""
        return ALL_REGISTERS // (128 * (self.consumers + 1) * self.max_registers)

    @property
    def options(self) -> dict[str, int]:
        """What Triton is told besides the kernel's own arguments; a group's warps, it adds those of the others."""
        return {"num_warps": 4, "maxnreg": self.max_registers}

    def __str__(self) -> str:
        flags = [name for name in ("overlap", "published", "split", "hold") if getattr(self, name)]
        sizes = f"{self.consumers} x {QUERIES} queries, {self.block_n} keys, {self.stages} stages of {self.rows}"
        return ", ".join([sizes, *flags])


CUTS = (
    Cut(3, 128, 2, 32, 152, 128),
    Cut(3, 128, 2, 32, 152, 128, published=True),
    Cut(3, 128, 2, 32, 152, 128, split=True),
    Cut(3, 128, 2, 32, 152, 128, published=True, split=True),
    Cut(4, 64, 3, 64, 104, 96),
    Cut(4, 64, 3, 64, 104, 96, published=True),
    Cut(4, 64, 3, 64, 104, 96, split=True),
    Cut(3, 64, 3, 64, 144, 128, overlap=True, published=True, hold=True),
    Cut(2, 128, 2, 64, 208, 168, overlap=True, hold=True),
    Cut(2, 128, 2, 64, 208, 168, overlap=True, published=True, hold=True),
    Cut(2, 64, 2, 32, 96, 80),
)


def constants(tokens: int, num_heads: int, scale: float, cut: Cut) -> dict[str, Any]:
    """The kernel's compile-time arguments by name."""
    names = ("CONSUMERS", "BLOCK_N", "STAGES", "ROWS", "REGISTERS", "OVERLAP", "PUBLISHED", "SPLIT", "HOLD")
    consumers, block_n, stages, rows, registers, _, *flags = astuple(cut)
    sizes = dict(zip(names, (consumers, block_n, stages, rows, registers, *flags), strict=True))
    return {"TOKENS": tokens, "NUM_HEADS": num_heads, "SCALE_LOG2E": scale * LOG2E, **sizes}


def expectation_attention(qkv: Tensor, s: Tensor, gate: Tensor, num_heads: int, cut: Cut) -> Tensor:
    """As :func:`ecea.kernels.eager.expectation_attention`, for contiguous tensors and heads of 64 channels."""
    batch, tokens, width = gate.shape
    assert width == HEAD_DIM * num_heads, "heads of 64 channels"
    out = torch.empty_like(gate)
    tiles = -(-tokens // (cut.consumers * QUERIES)) * num_heads * batch
    at_once = torch.cuda.get_device_properties(gate.device).multi_processor_count * cut.programs
    fixed = constants(tokens, num_heads, HEAD_DIM**-0.5, cut)
    launch = attention_kernel[(min(tiles, at_once),)]
    launch(qkv, s, gate, out, tiles, **fixed, **cut.options)
    return out


def main() -> None:
    """Compile every cut for sm_90, with no GPU, and print what it takes."""
    print("| cut | registers | spilled bytes | shared KiB | threads |\n|---|---|---|---|---|")
    for cut in CUTS:
        fixed = constants(4096, 1, HEAD_DIM**-0.5, cut)
        types = {"tiles": "i32"} | dict.fromkeys(fixed, "constexpr")
        source = GluonASTSource(
            attention_kernel,
            signature={name: types.get(name, "*fp16") for name in attention_kernel.arg_names},
            constexprs=fixed,
            attrs={(pointer,): [["tt.divisibility", 16]] for pointer in range(4)},
        )
        options = {**cut.options, "enable_fp_fusion": True}
        made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
        registers, spilled = assemble(made.asm["ptx"], 90)
        threads = 32 * made.metadata.num_warps
        print(f"| {cut} | {registers} | {spilled} | {made.metadata.shared / 1024:.1f} | {threads} |", flush=True)


if __name__ == "__main__":
    start_script("python benchmarks/gpu_warp_specialized.py", main)
