"""The Triton kernel as PTX for a named GPU architecture, compiled and assembled where there is no GPU.

``python -m ecea.kernels.ahead_of_time 90`` prints what each block shape takes of that architecture.
"""

import argparse
import functools
import hashlib
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource

from ecea.kernels.occupancy import MULTIPROCESSORS, blocks_per_multiprocessor
from ecea.kernels.ptx import PtxError, entry, required_threads, strip_scratch, target
from ecea.kernels.tactics import HEAD_DIMS, TACTICS
from ecea.kernels.triton_kernel import constants, expectation_attention_kernel

# The oldest PTX ISA, as 10 x version, that knows the architecture: it decides the oldest driver that takes the kernel.
# Named here, because Triton's default is that of the newest toolkit it finds.
PTX_ISA = {80: 80, 86: 80, 89: 80, 90: 80, 100: 86, 120: 87}

# What a kernel may use of shared memory without asking the driver for more, which a TensorRT plugin cannot do.
MAX_SHARED_BYTES = 48 * 1024

_POINTERS = ("qkv_ptr", "s_ptr", "gate_ptr", "out_ptr")
PARAMETER_TYPES = ["u64"] * len(_POINTERS)


@dataclass(frozen=True)
class Problem:
    """What a kernel is compiled for.

    Attributes:
        tokens: of each image.
        num_heads: heads of ``head_dim`` channels each.
        head_dim: 16, 32, 64 or 128.
        dtype: ``fp16`` or ``bf16``.
        scale: of the logits; ``head_dim ** -0.5`` unless the projection has absorbed it.
    """

    tokens: int
    num_heads: int
    head_dim: int
    dtype: str
    scale: float


@dataclass(frozen=True)
class Kernel:
    """A compiled kernel and what it takes.

    Attributes:
        name: of its entry.
        ptx: its text; the parameters are pointers to qkv, s, gate and the result.
        block_m: queries in a block.
        threads: in a block.
        registers: of a thread.
        spill_bytes: of registers that did not fit, of a thread.
        shared_bytes: dynamic shared memory of a block.
        blocks: how many of its blocks a multiprocessor holds at once.
    """

    name: str
    ptx: str
    block_m: int
    threads: int
    registers: int
    spill_bytes: int
    shared_bytes: int
    blocks: int

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.ptx.encode()).hexdigest()

    @property
    def fits(self) -> bool:
        """Whether TensorRT may be offered the kernel: nothing spilled, shared memory that needs no permission."""
        return self.spill_bytes == 0 and self.shared_bytes <= MAX_SHARED_BYTES

    def grid(self, problem: Problem, batch: int) -> tuple[int, int, int]:
        """Blocks in a launch for ``batch`` images."""
        return -(-problem.tokens // self.block_m), problem.num_heads, batch


@functools.cache
def compile_kernel(architecture: int, problem: Problem, tactic: int) -> Kernel:
    """Compile one block shape for one architecture. The same Triton makes the same bytes in any directory.

    Args:
        architecture: a key of ``PTX_ISA``, ten times the compute capability.
        problem: see there.
        tactic: a key of ``TACTICS``.

    Raises:
        ValueError: for an architecture that is not known here, or a size of head that the kernel does not take.
        PtxError: if Triton made something of it that TensorRT cannot launch.
    """
    if architecture not in PTX_ISA:
        raise ValueError(f"the architecture is sm_{architecture}; expected one of {', '.join(map(str, PTX_ISA))}")
    if problem.head_dim not in HEAD_DIMS:
        raise ValueError(f"a head has {problem.head_dim} channels; expected one of {', '.join(map(str, HEAD_DIMS))}")
    shape = TACTICS[tactic]
    fixed = constants(problem.tokens, problem.num_heads, problem.head_dim, problem.scale, shape)
    names = expectation_attention_kernel.arg_names
    source = ASTSource(
        expectation_attention_kernel,
        signature={name: _argument_type(name, fixed, problem.dtype) for name in names},
        constexprs=fixed,
        # Without the promise of alignment there are neither vector loads nor asynchronous copies. TensorRT aligns
        # tensors to 256 bytes, and the rows within them are multiples of 32.
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in _POINTERS},
    )
    options = {
        **shape.options,
        "ptx_version": PTX_ISA[architecture],
        "enable_fp_fusion": True,  # said here, so that no environment variable says otherwise
    }
    with _reproducible():
        compiled = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
    made = compiled.metadata
    _check_launchable(made)
    ptx = strip_scratch(compiled.asm["ptx"], PARAMETER_TYPES)
    warps = made.num_warps  # those asked for, unless Triton has specialized some more
    if required_threads(ptx) != 32 * warps:
        raise PtxError(f"the kernel requires {required_threads(ptx)} threads; expected {32 * warps}")
    registers, spill_bytes = assemble(ptx, architecture)
    return Kernel(
        name=entry(ptx).name,
        ptx=ptx,
        block_m=shape.block_m,
        threads=32 * warps,
        registers=registers,
        spill_bytes=spill_bytes,
        shared_bytes=made.shared,
        blocks=blocks_per_multiprocessor(architecture, warps, registers, made.shared, made.tmem_size),
    )


def offered_tactics(architecture: int, problem: Problem) -> list[int]:
    """The tactics that TensorRT may choose from: one kernel that fits, no block longer than the sequence needs.

    Raises:
        ValueError: if there are none.
    """
    longest = max(32, triton.next_power_of_2(problem.tokens))
    offered = [
        number
        for number, shape in TACTICS.items()
        if shape.launches == 1
        and max(shape.block_m, shape.block_n) <= longest
        and compile_kernel(architecture, problem, number).fits
    ]
    if not offered:
        raise ValueError(f"no block shape fits {problem} on sm_{architecture}; expected smaller heads")
    return offered


def _argument_type(name: str, fixed: dict[str, int | float | str], dtype: str) -> str:
    return "constexpr" if name in fixed else f"*{dtype}"


@contextmanager
def _reproducible() -> Iterator[None]:
    """Without line information, which names directories, and without what an earlier compilation left in a cache."""
    with tempfile.TemporaryDirectory() as cache, knobs.compilation.scope(), knobs.cache.scope():
        knobs.compilation.disable_line_info = True
        knobs.cache.dir = cache
        yield


def _check_launchable(made: object) -> None:
    """PtxError if the kernel needs what the launch parameters of a TensorRT plugin cannot say."""
    wanted = {"global_scratch_size": 0, "profile_scratch_size": 0, "num_ctas": 1}
    wanted |= {"launch_cooperative_grid": False, "launch_pdl": False}
    for name, value in wanted.items():
        if getattr(made, name) != value:
            raise PtxError(
                f"the kernel's {name} is {getattr(made, name)}; expected {value}, all that TensorRT can launch"
            )


def assemble(ptx: str, architecture: int) -> tuple[int, int]:
    """Assemble with the ptxas that Triton brings; the registers of a thread, and the bytes that it spills.

    Raises:
        PtxError: if it is not to be assembled.
    """
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "kernel.ptx"
        path.write_text(ptx)
        command = [
            get_ptxas(architecture).path,
            "-v",
            f"--gpu-name={target(ptx)}",
            path,
            "-o",
            path.with_suffix(".cubin"),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    registers = re.search(r"Used (\d+) registers", done.stderr)
    spilled = re.search(r"(\d+) bytes spill stores", done.stderr)
    if done.returncode or not registers or not spilled:
        raise PtxError(f"ptxas could not assemble the kernel for sm_{architecture}: {done.stderr.strip()}")
    return int(registers[1]), int(spilled[1])


_COLUMNS = "tactic, queries x keys, warps, stages, keys, registers, spilled bytes, shared KiB, blocks, threads, offered"


def table(architecture: int, problem: Problem) -> str:
    """What each tactic takes, as a table in Markdown."""
    columns = _COLUMNS.split(", ")
    rows = [columns, ["---"] * len(columns)]
    for number, shape in TACTICS.items():
        kernel = compile_kernel(architecture, problem, number)
        keys = shape.keys + (", queries held" if shape.hold_queries else "")
        limit = "" if shape.max_registers is None else f" of {shape.max_registers}"
        row = [number, f"{shape.block_m} x {shape.block_n}", shape.num_warps, shape.num_stages, keys]
        row += [f"{kernel.registers}{limit}", kernel.spill_bytes, f"{kernel.shared_bytes / 1024:.1f}"]
        row += [kernel.blocks, kernel.blocks * kernel.threads, "yes" if shape.launches == 1 and kernel.fits else "no"]
        rows.append([*map(str, row)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description="Print what each block shape of expectation attention takes of a GPU.")
    parser.add_argument("architecture", type=int, nargs="+", choices=list(MULTIPROCESSORS))
    parser.add_argument("--dtype", choices=("fp16", "bf16"), default="fp16")
    arguments = parser.parse_args()
    for architecture in arguments.architecture:
        print(f"sm_{architecture}\n")
        print(table(architecture, Problem(4096, 1, 64, arguments.dtype, 64**-0.5)) + "\n")


if __name__ == "__main__":
    main()
