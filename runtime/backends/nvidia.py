"""Whether there is an NVIDIA GPU here at all, found out without any of the libraries that would use it."""

import ctypes

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
