"""Whether there is an NVIDIA GPU here at all, found out without any of the libraries that would use it."""

import ctypes
from typing import Any

from ecea.runtime.errors import BackendUnavailable

_LIBRARY = "libcuda.so.1"  # the driver's; whoever has a GPU has it, whatever else is installed

_SUCCESS, _NO_DEVICE = 0, 100  # CUresult


def require_gpu() -> None:
    """Return where a driver and a GPU are; takes well under a millisecond where there is no driver.

    Raises:
        BackendUnavailable: where they are not.
    """
    try:
        driver = ctypes.CDLL(_LIBRARY)
    except OSError as error:
        raise BackendUnavailable("no NVIDIA driver") from error
    count = ctypes.c_int()
    status = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if status == _NO_DEVICE or (status == _SUCCESS and not count.value):
        raise BackendUnavailable("the NVIDIA driver finds no GPU")
    if status != _SUCCESS:
        raise BackendUnavailable(f"the NVIDIA driver does not start (CUDA error {status})")


def free_bytes() -> int | None:
    """Memory of the first GPU that nobody uses at this moment, in bytes; None where the driver does not tell.

    To be asked where the GPU's context is there already, as it is behind a model that is loaded: making one takes time.
    """
    try:
        driver = ctypes.CDLL(_LIBRARY)
    except OSError:
        return None
    device, context = ctypes.c_int(), ctypes.c_void_p()
    if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0):
        return None
    if driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device):
        return None
    try:
        return _free_in(driver, context)
    finally:
        driver.cuDevicePrimaryCtxRelease_v2(device)


def _free_in(driver: Any, context: ctypes.c_void_p) -> int | None:
    if driver.cuCtxPushCurrent_v2(context):
        return None
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    failed = driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
    driver.cuCtxPopCurrent_v2(ctypes.byref(context))
    return None if failed else free.value
