"""The launch that TensorRT would make: PTX compiled ahead of time, loaded and launched by the driver alone.

Grid, block, shared memory and arguments are those that the plugin records (``tests/kernels/test_plugin.py`` holds the
two together, with TensorRT's own classes).
"""

from __future__ import annotations

import ctypes
import math
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
aot = pytest.importorskip("ecea.kernels.ahead_of_time", reason="Triton is not installed")
from ecea.kernels.tactics import TACTICS  # noqa: E402

pytestmark = pytest.mark.gpu

LEVELS = [(4096, 1), (1024, 2), (256, 4), (64, 8)]
OFFERED = [number for number, tactic in TACTICS.items() if tactic.launches == 1]
NAMES = {torch.float16: "fp16", torch.bfloat16: "bf16"}


def architecture() -> int:
    major, minor = torch.cuda.get_device_capability()
    found = 10 * major + minor
    if found not in aot.PTX_ISA:
        pytest.skip(f"sm_{found} is none of those that kernels are compiled for ahead of time")
    return found


def launch(driver: Any, kernel: Any, problem: Any, tensors: list[Any]) -> Any:
    """The result for tensors on the GPU, as TensorRT would have it: it gives inputs, then the output."""
    out = torch.full_like(tensors[-1], math.nan)
    module = driver.load(kernel.ptx)
    arguments = [ctypes.c_uint64(tensor.data_ptr()) for tensor in (*tensors, out)]
    stream = torch.cuda.current_stream().cuda_stream
    grid, block = kernel.grid(problem, len(out)), (kernel.threads, 1, 1)
    driver.launch(module, kernel.name, grid, block, kernel.shared_bytes, arguments, stream)
    torch.cuda.synchronize()
    driver.unload(module)
    return out


def check_launch(
    driver: Any, draw: Any, check: Any, size: tuple[int, int], number: int, batch: int, dtype: Any
) -> None:
    problem = aot.Problem(*size, 64, NAMES[dtype], 0.125)
    kernel = aot.compile_kernel(architecture(), problem, number)
    if not kernel.fits:
        pytest.skip(f"not offered: {kernel.spill_bytes} bytes spilled, {kernel.shared_bytes} bytes of shared memory")
    tensors = draw(batch, *size, dtype)
    check(launch(driver, kernel, problem, tensors), tensors, size[1])


@pytest.mark.parametrize("size", [*LEVELS, (1000, 2)], ids=str)
@pytest.mark.parametrize("number", OFFERED)
def test_every_offered_tactic(driver: Any, draw: Any, check: Any, number: int, size: tuple[int, int]) -> None:
    check_launch(driver, draw, check, size, number, 3, torch.float16)


@pytest.mark.parametrize("batch", [1, 8, 64])
@pytest.mark.parametrize("size", LEVELS, ids=str)
def test_every_batch(driver: Any, draw: Any, check: Any, size: tuple[int, int], batch: int) -> None:
    check_launch(driver, draw, check, size, 2, batch, torch.float16)


@pytest.mark.parametrize("number", [2, 13, 15])
def test_bfloat16(driver: Any, draw: Any, check: Any, number: int) -> None:
    check_launch(driver, draw, check, (1024, 2), number, 3, torch.bfloat16)


def test_it_computes_what_triton_s_own_launch_computes(driver: Any, draw: Any) -> None:
    from ecea.kernels import triton_kernel

    tensors = draw(2, 1024, 2, torch.float16)
    problem = aot.Problem(1024, 2, 64, "fp16", 0.125)
    for number in (2, 13):
        kernel = aot.compile_kernel(architecture(), problem, number)
        own = triton_kernel.expectation_attention(*tensors, 2, 0.125, TACTICS[number])
        assert torch.equal(launch(driver, kernel, problem, tensors), own), number


def test_more_than_48_kib_needs_permission(driver: Any, draw: Any) -> None:
    """Why such kernels are not offered: a launch that does not ask is refused."""
    problem = aot.Problem(4096, 1, 64, "fp16", 0.125)
    kernel = aot.compile_kernel(architecture(), problem, 8)
    assert kernel.shared_bytes > aot.MAX_SHARED_BYTES
    with pytest.raises(RuntimeError, match=r"cuLaunchKernel failed with CUDA error 1$"):
        launch(driver, kernel, problem, draw(1, 4096, 1, torch.float16))
