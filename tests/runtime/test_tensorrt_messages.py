"""What TensorRT's error recorder and logger are told, through the genuine classes."""

from __future__ import annotations

import ctypes
import functools
import gc
import inspect
import signal
import subprocess
import weakref
from pathlib import Path
from types import ModuleType

import pytest

from ecea.runtime import EceaError
from ecea.runtime.backends.tensorrt_library import Messages, interrupts_held


def test_tensorrt_finds_every_method_of_the_recorder_and_the_logger(
    trt: ModuleType, capfd: pytest.CaptureFixture[str]
) -> None:
    """Called as TensorRT calls them, by the methods of its C++ classes, which look for ours by names of their own."""
    messages, genuine = Messages(trt), trt.IErrorRecorder
    code = trt.ErrorCodeTRT.INVALID_CONFIG
    assert genuine.report_error(messages.recorder, code, "wrong") is True
    assert genuine.num_errors(messages.recorder) == 1
    assert genuine.get_error_code(messages.recorder, 0) == code
    assert genuine.get_error_desc(messages.recorder, 0) == "wrong"
    assert genuine.has_overflowed(messages.recorder) is False
    genuine.clear(messages.recorder)
    assert genuine.num_errors(messages.recorder) == 0
    trt.ILogger.log(messages.logger, trt.ILogger.Severity.ERROR, "logged")
    assert messages.first() == "logged"
    assert capfd.readouterr() == ("", "")
    called = {"report_error", "num_errors", "get_error_code", "get_error_desc", "has_overflowed", "clear"}
    assert {name for name, _ in inspect.getmembers(genuine, callable) if not name.startswith("_")} == called


def test_errors_are_kept_and_warnings_are_not(trt: ModuleType) -> None:
    messages = Messages(trt)
    assert messages.first() == "TensorRT gives no reason"
    messages.logger.log(trt.ILogger.Severity.WARNING, "a plan may be slow")
    assert messages.first("nothing") == "nothing"
    assert messages.first_and_last() == "TensorRT gives no reason"
    messages.logger.log(trt.ILogger.Severity.ERROR, "out of\nmemory")
    assert (messages.first(), messages.out_of_memory) == ("out of memory", True)
    messages.reraise()  # what is only logged may have been dealt with


def test_what_is_recorded_goes_before_what_is_logged(trt: ModuleType) -> None:
    messages = Messages(trt)
    recorder, codes = messages.recorder, trt.ErrorCodeTRT
    messages.logger.log(trt.ILogger.Severity.INTERNAL_ERROR, "logged")
    recorder.report_error(codes.INVALID_CONFIG, "first")
    recorder.report_error(codes.INTERNAL_ERROR, "second")
    found = [(recorder.get_error_code(i), recorder.get_error_desc(i)) for i in range(recorder.num_errors())]
    assert found == [(codes.INVALID_CONFIG, "first"), (codes.INTERNAL_ERROR, "second")]
    assert messages.first_and_last() == "first; at last: second"
    assert (messages.first(), recorder.has_overflowed(), messages.out_of_memory) == ("first", False, False)
    with pytest.raises(EceaError, match=r"^TensorRT reports: first$"):
        messages.reraise()
    recorder.clear()
    assert (recorder.num_errors(), messages.first("nothing")) == (0, "nothing")


def test_the_logger_outlives_whoever_listens(trt: ModuleType) -> None:
    """TensorRT keeps a pointer to the first logger that it is given, and tells it of all that come later, too."""
    messages = Messages(trt)
    logger = weakref.ref(messages.logger)
    del messages
    gc.collect()
    first = logger()
    assert first is not None
    later = Messages(trt)
    assert later.logger is first
    first.log(trt.ILogger.Severity.ERROR, "of another engine's")
    assert later.first() == "of another engine's"


def test_memory_that_has_run_out_is_known_by_its_code(trt: ModuleType) -> None:
    messages = Messages(trt)
    messages.recorder.report_error(trt.ErrorCodeTRT.FAILED_ALLOCATION, "so much was asked for")
    assert messages.out_of_memory
    messages.clear()
    assert not messages.out_of_memory


def test_an_error_ends_a_run_and_not_a_build(trt: ModuleType) -> None:
    for ends in (True, False):
        recorder = Messages(trt, every_error_ends=ends).recorder
        assert recorder.report_error(trt.ErrorCodeTRT.INTERNAL_ERROR, "a kernel failed") is ends


def test_an_interrupt_within_tensorrt_is_heard_after_it(
    trt: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Python raises it in the first of its code that runs: our logger, called from C++, whose bindings swallow it."""
    text = "#include <signal.h>\nvoid interrupted(void (*then)(void)) { raise(SIGINT); then(); }\n"
    command = ["cc", "-x", "c", "-shared", "-fPIC", "-o", tmp_path / "library.so", "-"]
    subprocess.run(command, input=text.encode(), check=True)
    library = ctypes.PyDLL(str(tmp_path / "library.so"))
    messages = Messages(trt)
    say = functools.partial(trt.ILogger.log, messages.logger, trt.ILogger.Severity.ERROR, "said")  # no Python of ours
    with pytest.raises(KeyboardInterrupt), interrupts_held():
        library.interrupted(ctypes.CFUNCTYPE(None)(say))
    assert messages.first() == "said"
    assert capfd.readouterr() == ("", "")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
