"""Launching PTX as TensorRT does: by the CUDA driver, with pointers and 32-bit integers, in PyTorch's context."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

_ERROR_LOG, _ERROR_LOG_BYTES = 5, 6  # CU_JIT_ERROR_LOG_BUFFER and its size
_LOG_BYTES = 8192


class DriverError(RuntimeError):
    """A call of the CUDA driver that failed."""


class Driver:
    """The few calls that a launch takes.

    Args:
        library: has the driver's functions; None: the one of this machine.
    """

    def __init__(self, library: Any = None) -> None:
        self.library = library if library is not None else ctypes.CDLL("libcuda.so.1")
        self._call("cuInit", ctypes.c_uint(0))

    def load(self, ptx: str) -> ctypes.c_void_p:
        """The module of PTX text, compiled by the driver for the GPU of the current context."""
        log = ctypes.create_string_buffer(_LOG_BYTES)
        options = (ctypes.c_int * 2)(_ERROR_LOG, _ERROR_LOG_BYTES)
        values = (ctypes.c_void_p * 2)(ctypes.addressof(log), _LOG_BYTES)
        module = ctypes.c_void_p()
        text = ctypes.c_char_p(ptx.encode())
        try:
            self._call("cuModuleLoadDataEx", ctypes.byref(module), text, ctypes.c_uint(2), options, values)
        except DriverError as error:
            raise DriverError(f"{error}: {log.value.decode().strip()}") from None
        return module

    def unload(self, module: ctypes.c_void_p) -> None:
        self._call("cuModuleUnload", module)

    def launch(
        self,
        module: ctypes.c_void_p,
        name: str,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        shared_bytes: int,
        arguments: Sequence[ctypes.c_uint64 | ctypes.c_int32],
        stream: int,
    ) -> None:
        """Launch a kernel without asking for anything: no more shared memory, no attributes.

        Args:
            module: that has the kernel.
            name: of its entry.
            grid: blocks.
            block: threads.
            shared_bytes: dynamic shared memory of a block.
            arguments: in the order of the kernel's parameters: inputs, integers, outputs.
            stream: handle.
        """
        function = ctypes.c_void_p()
        self._call("cuModuleGetFunction", ctypes.byref(function), module, ctypes.c_char_p(name.encode()))
        # The driver wants the address of each argument.
        addresses = (ctypes.c_void_p * len(arguments))(*map(ctypes.addressof, arguments))
        sizes = [ctypes.c_uint(size) for size in (*grid, *block, shared_bytes)]
        self._call("cuLaunchKernel", function, *sizes, ctypes.c_void_p(stream), addresses, ctypes.c_void_p())

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self.library, name)(*arguments)
        if status:
            raise DriverError(f"{name} failed with CUDA error {status}")
