"""What TensorRT says went wrong. It returns nothing, or False, and tells a recorder and a logger why."""

from types import ModuleType
from typing import Any


class Messages:
    """Everything that TensorRT has reported as an error.

    TensorRT calls both receivers from any of its threads, for as long as anything made with them lives.

    Attributes:
        logger: a ``tensorrt.ILogger``, to create builder, parser and runtime with. It prints nothing.
        recorder: a ``tensorrt.IErrorRecorder``, to give to them.
        reported: (name of the error's code, text), in the order of arrival.
        logged: texts of what was logged as an error.
    """

    def __init__(self, trt: ModuleType) -> None:
        self.reported: list[tuple[str, str]] = []
        self.logged: list[str] = []
        self.logger = _logger(trt, self.logged)
        self.recorder = _recorder(trt, self.reported)

    @property
    def out_of_memory(self) -> bool:
        """Whether memory has run out, on the device or on the host."""
        said = " ".join(" ".join([*(f"{code} {text}" for code, text in self.reported), *self.logged]).lower().split())
        return any(sign in said for sign in ("failed_allocation", "out of memory", "outofmemory"))

    def why(self) -> str:
        """The first error, which the others follow from; one line."""
        texts = [text for _, text in self.reported] or self.logged
        if not texts:
            return "TensorRT gives no reason"
        return " ".join(texts[0].split())

    def forget(self) -> None:
        """Start anew, after an error that has been dealt with."""
        self.reported.clear()
        self.logged.clear()


def _logger(trt: ModuleType, logged: list[str]) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
                logged.append(msg)

    return Logger()


def _recorder(trt: ModuleType, reported: list[tuple[str, str]]) -> Any:
    codes: list[Any] = []

    class Recorder(trt.IErrorRecorder):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()

        def report_error(self, code: Any, description: str) -> bool:
            codes.append(code)
            reported.append((code.name, description))
            return False  # TensorRT knows best whether it can go on

        def num_errors(self) -> int:
            return len(reported)

        def get_error_code(self, index: int) -> Any:
            return codes[index]

        def get_error_desc(self, index: int) -> str:
            return reported[index][1]

        def has_overflowed(self) -> bool:
            return False

        def clear(self) -> None:
            codes.clear()
            reported.clear()

    return Recorder()
