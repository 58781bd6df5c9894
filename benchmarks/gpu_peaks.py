"""What a GPU can do at most: matrix products, copies. Shares of the limit in the other tables refer to these."""

from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import torch
from gpu_timing import Path, measured

_TYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "tf32": torch.float32, "fp32": torch.float32}


def peak_rates(device: str, rounds: int) -> dict[str, Any]:
    """FLOP/s of a large square product in each type, bytes/s of copies; a copy on the device counts both ways."""
    small = device != "cuda"
    size, count = (128, 2**16) if small else (8192, 2**30)
    found: dict[str, Any] = {"matrix_size": size, "copied_bytes": count}
    for name, dtype in _TYPES.items():
        with _tf32(name == "tf32"):
            times, not_run = measured({name: _product(dtype, size, device)}, rounds, least=0.05)
        if name in times:
            found[f"{name}_flops"] = 2 * size**3 / times[name].median
        found |= {f"{name}_not_run": why for why in not_run.values()}
    times, not_run = measured(_copies(count, device), rounds, least=0.05)
    for name, took in times.items():
        found[f"{name}_bytes_per_second"] = count * (2 if name == "device_to_device" else 1) / took.median
    return found | {f"{name}_not_run": why for name, why in not_run.items()}


def _product(dtype: torch.dtype, size: int, device: str) -> Callable[[], Path]:
    def setup() -> Path:
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        out = torch.empty_like(a)
        return Path([lambda: torch.mm(a, b, out=out)], device)

    return setup


def _copies(count: int, device: str) -> dict[str, Callable[[], Path]]:
    def copy(source: str, target: str) -> Callable[[], Path]:
        def setup() -> Path:
            pinned = device == "cuda"
            made = [
                torch.ones(count, dtype=torch.uint8, device=device)
                if place == "device"
                else torch.ones(count, dtype=torch.uint8, pin_memory=pinned)
                for place in (source, target)
            ]
            return Path([lambda: made[1].copy_(made[0], non_blocking=True)], device, graph=False)

        return setup

    return {
        "device_to_device": copy("device", "device"),
        "host_to_device": copy("host", "device"),
        "device_to_host": copy("device", "host"),
    }


@contextmanager
def _tf32(allowed: bool) -> Any:
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
