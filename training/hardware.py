"""The device, the arithmetic and the processes that a run uses, through Lightning Fabric."""

import logging
import os
from typing import Any

import torch
from lightning_fabric import Fabric

from ecea.runtime.errors import RequestError
from ecea.training.options import PRECISIONS

DEVICES = ("auto", "cpu", "cuda")


def slow_precision(device: torch.device, precision: str) -> bool:
    """Whether this arithmetic is emulated on the device, and so slower than FP32.

    Measured on a processor with AVX2 alone: a convolution took ten times as long in bfloat16 as in float32.
    """
    if device.type != "cpu" or precision != "bf16" or not hasattr(torch.cpu, "get_capabilities"):  # from torch 2.11
        return False
    return not any(present for name, present in torch.cpu.get_capabilities().items() if "bf16" in name)


def launch(device: str, devices: int, precision: str) -> Fabric:
    """Start Fabric: with several devices, one process for each (by running the command again).

    Args:
        device: ``auto`` (CUDA where there is a GPU), ``cpu`` or ``cuda``.
        devices: how many.
        precision: of ``PRECISIONS``.

    Raises:
        RequestError: where there are not so many.
    """
    if device not in DEVICES:
        raise RequestError(f"device '{device}' is unknown: expected one of {', '.join(DEVICES)}")
    present = torch.cuda.device_count()
    if device == "auto":
        device = "cuda" if present else "cpu"
    if device == "cuda" and present < devices:
        raise RequestError(
            f"{devices} GPUs were asked for, {present} can be used: choose another --device or --devices"
        )
    if device == "cpu" and precision == "fp16":
        raise RequestError("precision fp16 is for GPUs: use bf16 or fp32 on a processor")
    # What it has to say is said by us.
    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # of the processes started: else a lost one is told in C++
    torch.backends.cudnn.allow_tf32 = False  # by default convolutions of float32 have 10 bits on a GPU
    arithmetic: Any = PRECISIONS[precision]
    fabric = Fabric(
        accelerator=device, devices=devices, strategy="ddp" if devices > 1 else "auto", precision=arithmetic
    )
    fabric.launch()
    return fabric
