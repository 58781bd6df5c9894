"""CUDA graphs: a sequence of kernels that is recorded once and then started as one."""

from collections.abc import Callable
from types import ModuleType
from typing import Any


class Graph:
    """What was recorded of a stream, ready to be started again on that stream."""

    def __init__(self, driver: ModuleType, executable: Any, stream: Any) -> None:
        self._driver: Any = driver
        self._executable = executable
        self._stream = stream

    def launch(self) -> None:
        """Begin to compute; the addresses are those of the recording."""
        _values(self._driver, self._driver.cuGraphLaunch(self._executable, self._stream))

    def close(self) -> None:
        """Release it."""
        executable, self._executable = self._executable, None
        if executable is not None:
            self._driver.cuGraphExecDestroy(executable)


def record(stream: int, enqueue: Callable[[], bool]) -> Graph | None:
    """Record what ``enqueue`` puts into a stream, which then computes nothing of it.

    Args:
        stream: its handle; not the default stream. The context is current.
        enqueue: says whether it succeeded. It has run on that stream before, so that nothing is left to be set up.

    Returns:
        The graph; None where cuda-bindings are not installed, or where what was put there cannot be recorded.
    """
    try:
        from cuda.bindings import driver
    except ImportError:
        return None
    handle = driver.CUstream(stream)
    # What other threads do meanwhile does not spoil a recording of this mode.
    mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
    try:
        _values(driver, driver.cuStreamBeginCapture(handle, mode))
        try:
            complete = enqueue()
        finally:
            (graph,) = _values(driver, driver.cuStreamEndCapture(handle))
        try:
            (executable,) = _values(driver, driver.cuGraphInstantiate(graph, 0)) if complete else (None,)
        finally:
            driver.cuGraphDestroy(graph)
    except RuntimeError:
        return None
    return Graph(driver, executable, handle) if complete else None


def _values(driver: ModuleType, answer: tuple[Any, ...]) -> tuple[Any, ...]:
    """What a call returns besides its status."""
    status, *values = answer
    if status != driver.CUresult.CUDA_SUCCESS:
        raise RuntimeError(f"CUDA answers {status.name}")
    return tuple(values)
