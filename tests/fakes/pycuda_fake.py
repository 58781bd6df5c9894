"""A GPU made of numpy behind the interface of ``pycuda.driver``.

Work waits in its streams until somebody waits for it, and is then done in an order that the test chooses, of all those
that a GPU may choose. So what reads too early or overwrites too early computes something wrong. What pycuda does not
forgive is a violation: calls in threads that have not pushed the context, memory that is left or freed under way.
"""

from __future__ import annotations

import inspect
import re
import sys
import threading
from collections import deque
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

VERSION = "2026.1"

# The first lines of the genuine docstrings: read from pycuda 2026.1 over an empty libcuda, and compared with what is
# installed where pycuda is.
SIGNATURES = {
    "init": "init([  (int)flags=0]) -> None",
    "mem_alloc": "mem_alloc( (int)arg1) -> DeviceAllocation",
    "mem_get_info": "mem_get_info() -> tuple",
    "memcpy_dtoh_async": "memcpy_dtoh_async( (object)dest, (object)src [, (object)stream=None]) -> None",
    "memcpy_htod_async": "memcpy_htod_async( (object)dest, (object)src [, (object)stream=None]) -> None",
    "pagelocked_empty": (
        "pagelocked_empty( (object)shape, (object)dtype [, (object)order='C' [, (int)mem_flags=0]]) -> object"
    ),
    "Context.detach": "detach( (Context)arg1) -> None",
    "Context.pop": "pop() -> None",
    "Context.push": "push( (Context)arg1) -> None",
    "Context.synchronize": "synchronize() -> None",
    "Device.__init__": "__init__( (object)arg1, (int)arg2) -> object",
    "Device.compute_capability": "compute_capability( (Device)arg1) -> tuple",
    "Device.name": "name( (Device)arg1) -> str",
    "Device.retain_primary_context": "retain_primary_context( (Device)self) -> Context",
    "DeviceAllocation.__int__": "__int__( (DeviceAllocation)arg1) -> int",
    "DeviceAllocation.free": "free( (DeviceAllocation)arg1) -> None",
    "Event.__init__": "__init__( (object)arg1 [, (int)flags]) -> None",
    "Event.record": "record( (Event)arg1 [, (object)stream=None]) -> Event",
    "Event.synchronize": "synchronize( (Event)arg1) -> Event",
    "PagelockedHostAllocation.free": "free( (PagelockedHostAllocation)arg1) -> None",
    "Stream.__init__": "__init__( (object)arg1 [, (int)flags=0]) -> None",
    "Stream.synchronize": "synchronize( (Stream)arg1) -> None",
    "Stream.wait_for_event": "wait_for_event( (Stream)arg1, (Event)arg2) -> None",
}
ATTRIBUTES = ("Stream.handle", "event_flags.BLOCKING_SYNC", "event_flags.DISABLE_TIMING")
ERRORS = ("Error", "LogicError", "MemoryError")

Policy = Callable[[list[tuple[str, int]]], int]


class Gpu:
    """The state of the GPU and of the driver.

    Attributes:
        policy: given (what, stream) of each piece of work that may be done next, says which is: its index.
        done: what was done, in that order.
        failures: name of a call -> the exceptions that its next calls raise; None lets one pass.
        broken: an error from which the GPU does not recover has happened: every call fails.
        released: what was released, in that order.
        clock: seconds that its work has taken, of work that says so.
        violations: what a real GPU or pycuda would have punished later, and elsewhere.
    """

    def __init__(self, name: str = "NVIDIA H100 80GB HBM3", capability: tuple[int, int] = (9, 0)) -> None:
        self.name, self.capability = name, capability
        self.total = self.free = 80 << 30
        self.policy: Policy = lambda ready: 0
        self.done: list[tuple[str, int]] = []
        self.failures: dict[str, deque[Exception | None]] = {}
        self.broken: Exception | None = None
        self.calls: list[str] = []
        self.released: list[str] = []
        self.clock = 0.0
        self.violations: list[str] = []
        self.blocks: dict[int, np.ndarray] = {}
        self.pinned = 0
        self.streams: dict[int, deque[tuple[str, Callable[[], bool], Callable[[], None]]]] = {}
        self.capturing: dict[int, list[tuple[str, Callable[[], None]]]] = {}
        self.lock = threading.RLock()
        self.threads = threading.local()
        self._next = 1 << 20

    def call(self, name: str, context: bool = True) -> None:
        """Begin a call of the driver."""
        self.calls.append(name)
        pending = self.failures.get(name)
        if pending and (failure := pending.popleft()) is not None:
            raise failure
        if self.broken is not None:
            raise self.broken
        if context and not self.stack():
            self.violations.append(f"{name} in a thread without a context")
            raise LogicError(f"{name} failed: invalid device context")

    def stack(self) -> list[Any]:
        if not hasattr(self.threads, "stack"):
            self.threads.stack = []
        return list(self.threads.stack)

    def put(self, stream: int, what: str, work: Callable[[], None], ready: Callable[[], bool] = lambda: True) -> None:
        """Put a piece of work into a stream."""
        with self.lock:
            if stream in self.capturing:
                self.capturing[stream].append((what, work))
            else:
                self.streams[stream].append((what, ready, work))

    def run_until(self, reached: Callable[[], bool]) -> None:
        """Do work until something is true."""
        with self.lock:
            while not reached():
                heads = [(queue[0], stream) for stream, queue in self.streams.items() if queue]
                ready = [(what, stream) for (what, may, _), stream in heads if may()]
                assert ready, "the GPU waits for ever"
                what, stream = ready[self.policy(ready)]
                _, _, work = self.streams[stream].popleft()
                self.done.append((what, stream))
                work()

    def idle(self) -> bool:
        return not any(self.streams.values())

    def allocate(self, size: int) -> int:
        if size > self.free:
            raise OutOfMemory("cuMemAlloc failed: out of memory")
        address, self._next = self._next, self._next + -(-size // 256) * 256 + 256
        self.blocks[address] = np.full(size, 0xFF, np.uint8)  # NaN, read as float32
        self.free -= size
        return address

    def floats(self, address: int, count: int) -> np.ndarray:
        """A view of float32 numbers at an address."""
        for base, block in self.blocks.items():
            if base <= address < base + block.nbytes:
                part = block[address - base : address - base + 4 * count]
                assert part.nbytes == 4 * count, "beyond what was allocated"
                return part.view(np.float32)
        raise AssertionError(f"address {address} is not allocated")


class Error(Exception):
    pass


class LogicError(Error):
    pass


class OutOfMemory(Error):
    pass


def driver_of(gpu: Gpu) -> ModuleType:
    """The module ``pycuda.driver`` for a GPU."""

    class Context:
        def __init__(self) -> None:
            self.thread = threading.get_ident()
            self.valid = True
            self.memory = 0

        def push(self) -> None:
            gpu.call("Context.push", context=False)
            gpu.threads.stack = [*gpu.stack(), self]

        @staticmethod
        def pop() -> None:
            assert gpu.stack(), "pop without push"
            gpu.threads.stack = gpu.stack()[:-1]

        @staticmethod
        def synchronize() -> None:
            gpu.call("Context.synchronize")
            gpu.run_until(gpu.idle)

        def detach(self) -> None:
            assert self.valid
            self.valid = False
            if self in gpu.stack():
                gpu.threads.stack = []
                gpu.released.append("context")
                if threading.get_ident() == self.thread:
                    gpu.violations.append("the driver is left with a context that is no more in its opener's thread")
                if self.memory:
                    gpu.violations.append("memory is left")
            elif threading.get_ident() == self.thread:
                gpu.violations.append("a context that is released is left on this thread's stack")
            else:
                gpu.released.append("nothing: the context is forgotten")

    class Device:
        def __init__(self, arg2: int) -> None:
            gpu.call("Device", context=False)
            assert arg2 == 0

        def name(self) -> str:
            return gpu.name

        def compute_capability(self) -> tuple[int, int]:
            return gpu.capability

        def retain_primary_context(self) -> Context:
            gpu.call("Device.retain_primary_context", context=False)
            return Context()

    class Memory:
        """Belongs to the context that it was made in, and is nobody's where that is no more."""

        def __init__(self) -> None:
            self._context = gpu.stack()[-1]
            self._context.memory += 1

        def _may_be_freed(self, name: str) -> bool:
            if not self._context.valid:
                return False
            gpu.call(name)
            if not gpu.idle():
                gpu.violations.append("memory is freed under way")
            self._context.memory -= 1
            return True

    class DeviceAllocation(Memory):
        def __init__(self, size: int) -> None:
            self._address = gpu.allocate(size)
            self._size = size
            super().__init__()

        def __int__(self) -> int:
            return self._address

        def free(self) -> None:
            if not self._may_be_freed("DeviceAllocation.free"):
                return
            del gpu.blocks[self._address]
            gpu.free += self._size
            gpu.released.append("memory")

    class PagelockedHostAllocation(Memory):
        def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
            super().__init__()
            self._array = np.full(shape, np.nan, dtype)
            self.__array_interface__ = self._array.__array_interface__
            gpu.pinned += 1

        def free(self) -> None:
            if not self._may_be_freed("PagelockedHostAllocation.free"):
                return
            gpu.pinned -= 1
            gpu.released.append("page-locked memory")

    class Stream:
        def __init__(self, flags: int = 0) -> None:
            gpu.call("Stream")
            assert flags == 1, "the default stream would hold it up"
            self._context = gpu.stack()[-1]
            self.handle = len(gpu.streams) + 7
            gpu.streams[self.handle] = deque()

        def synchronize(self) -> None:
            gpu.call("Stream.synchronize")
            gpu.run_until(lambda: not gpu.streams[self.handle])

        def wait_for_event(self, arg2: Any) -> None:
            gpu.call("Stream.wait_for_event")
            number = arg2.recorded
            gpu.put(self.handle, "wait", lambda: None, lambda: arg2.reached >= number)

        def __del__(self) -> None:
            _destroyed(self, "stream")

    class Event:
        def __init__(self, flags: int = 0) -> None:
            gpu.call("Event")
            assert flags & event_flags.BLOCKING_SYNC, "waiting would take a processor"
            self._context = gpu.stack()[-1]
            self.recorded = self.reached = 0

        def record(self, stream: Any = None) -> Any:
            gpu.call("Event.record")
            assert isinstance(stream, Stream)
            self.recorded += 1
            number = self.recorded

            def reach() -> None:
                self.reached = number

            gpu.put(stream.handle, "event", reach)
            return self

        def synchronize(self) -> Any:
            gpu.call("Event.synchronize")
            number = self.recorded
            gpu.run_until(lambda: self.reached >= number)
            return self

        def __del__(self) -> None:
            _destroyed(self, "event")

    def _destroyed(resource: Any, kind: str) -> None:
        if hasattr(resource, "_context") and resource._context.valid:
            if not gpu.stack():
                gpu.violations.append(f"a {kind} is destroyed in a thread without a context")
            gpu.released.append(kind)

    event_flags = SimpleNamespace(BLOCKING_SYNC=1, DISABLE_TIMING=2)

    def init(flags: int = 0) -> None:
        gpu.call("init", context=False)

    def mem_alloc(arg1: int) -> DeviceAllocation:
        gpu.call("mem_alloc")
        return DeviceAllocation(arg1)

    def mem_get_info() -> tuple[int, int]:
        gpu.call("mem_get_info")
        return gpu.free, gpu.total

    def pagelocked_empty(shape: Any, dtype: Any, order: str = "C", mem_flags: int = 0) -> Any:
        gpu.call("pagelocked_empty")
        return np.asarray(PagelockedHostAllocation(shape, dtype))

    def memcpy_htod_async(dest: Any, src: Any, stream: Any = None) -> None:
        gpu.call("memcpy_htod_async")
        assert src.flags.c_contiguous
        gpu.put(stream.handle, "in", lambda: np.copyto(gpu.floats(int(dest), src.size), src.ravel()))

    def memcpy_dtoh_async(dest: Any, src: Any, stream: Any = None) -> None:
        gpu.call("memcpy_dtoh_async")
        assert dest.flags.c_contiguous
        gpu.put(stream.handle, "out", lambda: np.copyto(dest.reshape(-1), gpu.floats(int(src), dest.size)))

    module = ModuleType("pycuda.driver")
    vars(module).update({name: value for name, value in locals().items() if name not in ("gpu", "module")})
    vars(module).update(Error=Error, LogicError=LogicError, MemoryError=OutOfMemory)
    return module


def install(gpu: Gpu, monkeypatch: Any) -> None:
    """Let ``pycuda.driver`` be the fake."""
    package = ModuleType("pycuda")
    package.__path__ = []  # a package, whose modules may be missing
    package.driver = driver_of(gpu)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pycuda", package)
    monkeypatch.setitem(sys.modules, "pycuda.driver", package.driver)


def parameters(line: str) -> list[tuple[str, bool]]:
    """Name and whether it may be left out, of each parameter in a line of Boost.Python's."""
    inside, _, _ = line.partition(" -> ")
    required, *optional = inside[inside.index("(") + 1 :].split("[")
    found = [(name, False) for name in re.findall(r"\(\w+\)(\w+)", required)]
    return found + [(name, True) for part in optional for name in re.findall(r"\(\w+\)(\w+)", part)]


def parameters_of(function: Any) -> list[tuple[str, bool]]:
    """The same of a function of the fake."""
    values = inspect.signature(function).parameters.values()
    return [(value.name, value.default is not inspect.Parameter.empty) for value in values]


def lookup(module: Any, dotted: str) -> Any:
    """``Stream.handle`` of a module."""
    for name in dotted.split("."):
        module = getattr(module, name)
    return module
