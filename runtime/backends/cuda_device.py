"""A GPU through pycuda, on the context that it shares with everything else in the process.

Whatever is asked of the GPU in a thread stands in a ``with device.current():`` block of that thread.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from ecea.runtime.errors import BackendUnavailable, EceaError

# Not kept back by, nor keeping back, what others do on the default stream. pycuda has no name for it.
_NON_BLOCKING_STREAM = 0x1


class Device:
    """The first GPU that ``CUDA_VISIBLE_DEVICES`` leaves visible, and what is held of it.

    The context is the primary one, which PyTorch and ONNX Runtime use too: a second one would cost memory, and could
    not work at the same time.

    Attributes:
        name: as its driver gives it.
        compute_capability: such as ``9.0``.

    Raises:
        BackendUnavailable: where pycuda cannot be imported or finds no GPU.
    """

    def __init__(self) -> None:
        try:
            import pycuda.driver as driver
        except ImportError as error:
            raise BackendUnavailable(
                f"pycuda cannot be imported ({error}): install ecea with its 'tensorrt' extra"
            ) from error
        self._driver: Any = driver
        try:
            driver.init()
            self._device = driver.Device(0)
            self.name: str = self._device.name()
            major, minor = self._device.compute_capability()
        except driver.Error as error:
            raise BackendUnavailable(f"the GPU does not answer ({error})") from error
        self.compute_capability = f"{major}.{minor}"
        self._context: Any = None
        self._owned: list[Any] = []

    def open(self) -> None:
        """Hold the context until :meth:`close`."""
        self._context = self._device.retain_primary_context()

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make the GPU this thread's for the length of a block."""
        self._context.push()
        try:
            yield
        finally:
            self._driver.Context.pop()

    def stream(self) -> Any:
        """A new queue of work."""
        return self._keep(self._driver.Stream(_NON_BLOCKING_STREAM))

    def event(self) -> Any:
        """A new mark in a stream. Whoever waits for it sleeps: processors have edges to draw meanwhile."""
        flags = self._driver.event_flags
        return self._keep(self._driver.Event(flags.BLOCKING_SYNC | flags.DISABLE_TIMING))

    def host_array(self, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """A float32 array of zeros in page-locked memory, which the GPU copies from and to by itself."""
        array: npt.NDArray[np.float32] = self._keep(self._driver.pagelocked_empty(shape, np.float32))
        array.fill(0)
        return array

    def memory(self, size: int) -> int:
        """The address of ``size`` new bytes on the GPU, aligned to 256.

        Raises:
            EceaError: where so much is not free.
        """
        try:
            return int(self._keep(self._driver.mem_alloc(max(size, 1))))
        except self._driver.MemoryError as error:
            free, total = self._driver.mem_get_info()
            raise EceaError(
                f"the GPU has {free >> 20} of its {total >> 20} MiB free, {size >> 20} MiB more are needed: end what "
                "else uses it, or choose another with --backend"
            ) from error

    def copy_in(self, address: int, array: npt.NDArray[np.float32], stream: Any) -> None:
        """Begin to copy a page-locked array to the GPU."""
        self._driver.memcpy_htod_async(address, array, stream)

    def copy_out(self, array: npt.NDArray[np.float32], address: int, stream: Any) -> None:
        """Begin to copy from the GPU into a page-locked array."""
        self._driver.memcpy_dtoh_async(array, address, stream)

    def close(self) -> None:
        """Release all that was handed out, the newest first, and then the context.

        After an error from which a GPU does not recover, nothing more is asked of it: it refuses everything from this
        process, and takes back what the process holds when that ends.
        """
        if self._context is None:
            return
        context, self._context = self._context, None
        owned, self._owned = self._owned, []
        # In a thread of its own: pycuda leaves a primary context that it releases on the stack of the thread in which
        # it does that. And one that never was that thread's, it forgets without asking the driver, or complaining.
        thread = threading.Thread(target=self._release, args=(context, owned))
        thread.start()
        thread.join()

    def _release(self, context: Any, owned: list[Any]) -> None:
        with suppress(self._driver.Error):
            context.push()
            try:
                self._driver.Context.synchronize()
            except self._driver.Error:
                self._driver.Context.pop()
            else:
                while owned:
                    _free(owned.pop())
        context.detach()
        owned.clear()  # of a context that is detached, pycuda frees nothing

    def free_bytes(self) -> int:
        """Memory of the GPU that nobody uses at this moment.

        Raises:
            EceaError: where not even that much is left that CUDA can start.
        """
        held = self._context is not None
        try:
            if not held:
                self.open()
            with self.current():
                free, _ = self._driver.mem_get_info()
        except self._driver.Error as error:
            raise EceaError(f"{self.name}: cannot be used ({error}): end what else runs on it") from error
        finally:
            if not held:
                self.close()
        return int(free)

    def _keep(self, resource: Any) -> Any:
        self._owned.append(resource)
        return resource


def _free(resource: Any) -> None:
    """Free memory now; streams and events go with their last reference, which this is."""
    allocation: Any = resource.base if isinstance(resource, np.ndarray) else resource
    if hasattr(allocation, "free"):
        allocation.free()
