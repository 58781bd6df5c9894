"""TensorRT's Python package, and what it says went wrong: it returns nothing, or False, and tells listeners why."""

import functools
import signal
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from ecea.runtime.entry import STOPPING
from ecea.runtime.errors import BackendUnavailable, EceaError

_MEMORY_HAS_RUN_OUT = ("failed_allocation", "out of memory", "outofmemory")


def import_tensorrt() -> ModuleType:
    """TensorRT's Python package.

    Raises:
        BackendUnavailable: where it, or the library beneath it, is not there.
    """
    try:
        import tensorrt
    except (ImportError, OSError) as error:
        raise BackendUnavailable(
            f"TensorRT cannot be imported ({error}): install ecea with its 'tensorrt' extra"
        ) from error
    module: ModuleType = tensorrt
    return module


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Let whoever wants to stop be answered after the block.

    TensorRT calls our listeners from C++. Python raises an interrupt as soon as one of them begins, before anything in
    it could catch it, and the bindings print what is raised there and forget it.
    """
    if threading.current_thread() is not threading.main_thread():  # the only one that is interrupted
        yield
        return
    held: list[int] = []
    usual = {number: handler for number in STOPPING if callable(handler := signal.getsignal(number))}
    for number in usual:
        signal.signal(number, lambda number, frame: held.append(number))
    try:
        yield
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
        if held:
            signal.raise_signal(held[0])


class Messages:
    """Everything that TensorRT has reported as an error; it does so from any of its threads.

    Args:
        trt: the module ``tensorrt``.
        every_error_ends: what TensorRT is doing ends with the first error; else it goes on where it can, as a build
            does when one kernel of many fails.

    Attributes:
        logger: a ``tensorrt.ILogger``, to create builder, parser and runtime with. It prints nothing. There is one in a
            process, and what it is told, everything hears that is kept at that moment.
        recorder: a ``tensorrt.IErrorRecorder``, to give to them.
    """

    def __init__(self, trt: ModuleType, *, every_error_ends: bool = True) -> None:
        self._heard = _Heard()
        self.logger, listeners = _logger(trt)
        listeners.add(self._heard)
        self.recorder = _recorder(trt, self._heard, every_error_ends)

    @property
    def out_of_memory(self) -> bool:
        """Whether memory has run out, on the device or on the host."""
        said = " ".join([*(f"{code.name} {text}" for code, text in self._heard.errors()), *self._heard.lines()])
        return any(sign in " ".join(said.lower().split()) for sign in _MEMORY_HAS_RUN_OUT)

    def first(self, otherwise: str = "TensorRT gives no reason") -> str:
        """The oldest error, which is the cause of the others, in one line; ``otherwise`` where there is none."""
        return _one_line((self._texts() or [otherwise])[0])

    def first_and_last(self) -> str:
        """The oldest error and, where it is another one, the newest: what TensorRT went on after, and what ended it."""
        texts = self._texts() or ["TensorRT gives no reason"]
        return "; at last: ".join(dict.fromkeys(map(_one_line, (texts[0], texts[-1]))))

    def _texts(self) -> list[str]:
        return [text for _, text in self._heard.errors()] or self._heard.lines()

    def reraise(self) -> None:
        """Raise what TensorRT has recorded although its calls succeeded.

        Raises:
            EceaError: where there is something.
        """
        if self._heard.errors():
            raise EceaError(f"TensorRT reports: {self.first()}")

    def clear(self) -> None:
        """Start anew, after an error that has been dealt with."""
        self._heard.clear()


def _one_line(text: str) -> str:
    return " ".join(text.split())


class _Heard:
    """What recorder and logger keep. They live as long as anything that was made with them, and know nothing else."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._recorded: list[tuple[Any, str]] = []
        self._logged: list[str] = []

    def record(self, code: Any, description: str) -> None:
        with self._lock:
            self._recorded.append((code, description))

    def log(self, message: str) -> None:
        with self._lock:
            self._logged.append(message)

    def errors(self) -> list[tuple[Any, str]]:
        """Code and text of each error that was recorded, the oldest first."""
        with self._lock:
            return list(self._recorded)

    def lines(self) -> list[str]:
        """What was logged as an error, the oldest first."""
        with self._lock:
            return list(self._logged)

    def clear(self) -> None:
        with self._lock:
            self._recorded.clear()
            self._logged.clear()


class _Listeners:
    """Who hears what the logger is told, for as long as something else keeps them."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # the garbage collector may free what logs its end
        self._heard: weakref.WeakSet[_Heard] = weakref.WeakSet()

    def add(self, heard: _Heard) -> None:
        with self._lock:
            self._heard.add(heard)

    def log(self, message: str) -> None:
        with self._lock:
            for heard in self._heard:
                heard.log(message)


@functools.cache
def _logger(trt: ModuleType) -> tuple[Any, _Listeners]:
    """The logger of this process, never to be freed: TensorRT keeps a pointer to the first that it is given."""
    severities = (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR)
    listeners = _Listeners()

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            if severity in severities:
                listeners.log(msg)

    return Logger(), listeners


def _recorder(trt: ModuleType, heard: _Heard, every_error_ends: bool) -> Any:
    class Recorder(trt.IErrorRecorder):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IErrorRecorder.__init__(self)

        def get_num_errors(self) -> int:  # the bindings look for this name, and offer num_errors
            return len(heard.errors())

        def get_error_code(self, index: int) -> Any:
            return heard.errors()[index][0]

        def get_error_desc(self, index: int) -> str:
            return heard.errors()[index][1]

        def has_overflowed(self) -> bool:
            return False

        def clear(self) -> None:
            heard.clear()

        def report_error(self, code: Any, description: str) -> bool:
            heard.record(code, description)
            return every_error_ends

    return Recorder()
