"""Whether plans can be built here, and if not, what is missing."""

from __future__ import annotations

import importlib
import re
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ecea.export.plans import machine
from ecea.export.plans.machine import find_machine, machine_if, required_machine
from ecea.runtime.backends import nvidia
from ecea.runtime.errors import BackendUnavailable, EceaError, RequestError


@pytest.fixture
def gpu(trt: ModuleType, libcuda: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A machine on which everything loads: the driver, also through pycuda, TensorRT; to be broken."""
    fake = importlib.import_module("pycuda_fake")
    made = fake.Gpu()
    fake.install(made, monkeypatch)
    monkeypatch.setattr(nvidia, "_LIBRARY", str(libcuda()))
    version = tmp_path / "version"
    version.write_text("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build\nGCC 13.3.0")
    monkeypatch.setattr(machine, "_DRIVER_FILE", version)
    return made


def lacks(name: str, why: str) -> Callable[..., None]:
    """An importer that fails for one module."""

    class Finder:
        def find_spec(self, wanted: str, path: Any = None, target: Any = None) -> None:
            if wanted == name:
                raise ImportError(why)

    def apply(monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])

    return apply


def test_all_is_there(gpu: Any) -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    gpu.free = 5_000_000_000
    found = find_machine()
    assert found.gpu == machine.Gpu("NVIDIA H100 80GB HBM3", "9.0", "580.95.05")
    assert found.gpu.architecture == 90
    assert found.free_bytes() == 5_000_000_000
    assert gpu.stack() == []
    assert gpu.released == ["context"]
    assert gpu.violations == []
    assert machine_if(True)[0] is not None
    assert machine_if(False) == (None, "not asked for")


@pytest.mark.parametrize(
    ("name", "why", "said"),
    [
        ("tensorrt", "No module named 'tensorrt'", "TensorRT cannot be imported (No module named 'tensorrt')"),
        ("tensorrt", "libnvinfer.so.11: cannot open", "TensorRT cannot be imported (libnvinfer.so.11: cannot open)"),
        (
            "pycuda.driver",
            "libcuda.so.1: cannot open",
            "pycuda cannot be imported (libcuda.so.1: cannot open)",
        ),
        (
            "ecea.kernels.ahead_of_time",
            "No module named 'triton'",
            "Triton, which compiles the attention kernel, cannot",
        ),
    ],
    ids=["no tensorrt", "no libnvinfer", "no pycuda", "no triton"],
)
def test_what_cannot_be_imported_is_named(
    name: str, why: str, said: str, gpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacks(name, why)(monkeypatch)
    with pytest.raises(BackendUnavailable) as failure:
        find_machine()
    assert said in str(failure.value)
    assert machine_if(None) == (None, str(failure.value))
    told = f"TensorRT plans cannot be built here, {failure.value}"
    assert told.endswith(": install ecea with its 'tensorrt' extra")
    with pytest.raises(RequestError, match=rf"^{re.escape(told)}; --no-tensorrt leaves plans out$"):
        machine_if(True)
    with pytest.raises(RequestError, match=rf"^{re.escape(told)}$"):
        required_machine()


def test_an_older_tensorrt(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["tensorrt"], "__version__", "10.14.1")
    with pytest.raises(BackendUnavailable, match=r"TensorRT is 10.14.1, expected 11 or newer"):
        find_machine()


def test_no_gpu(gpu: Any, libcuda: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Told before anything is said of what is installed."""
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    for library, message in (("libcuda.absent.so", "no NVIDIA driver"), (libcuda(0, 0), "driver finds no GPU")):
        monkeypatch.setattr(nvidia, "_LIBRARY", str(library))
        with pytest.raises(BackendUnavailable, match=message):
            find_machine()
        elsewhere = rf"^TensorRT plans cannot be built here, .*{message}: run this on the machine that has the GPU"
        with pytest.raises(RequestError, match=elsewhere + "$"):
            required_machine()
        with pytest.raises(RequestError, match=elsewhere + "; --no-tensorrt leaves plans out$"):
            machine_if(True)


def test_a_gpu_that_the_kernel_is_not_compiled_for(gpu: Any) -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    gpu.capability = (7, 5)
    with pytest.raises(BackendUnavailable, match="the GPU is sm_75, expected one of sm_80, sm_86"):
        find_machine()


@pytest.mark.parametrize("call", ["mem_get_info", "Device.retain_primary_context"])
def test_a_gpu_that_is_full(call: str, gpu: Any) -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    found = find_machine()
    fake = importlib.import_module("pycuda_fake")
    gpu.failures[call] = deque([fake.LogicError(f"{call} failed: out of memory")])
    with pytest.raises(EceaError, match=r"^NVIDIA H100 80GB HBM3: cannot be used \(.*out of memory\): end what else"):
        found.free_bytes()
    assert gpu.stack() == []
    assert gpu.violations == []


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.95.05  Tue Sep 23", "580.95.05"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.124.06  Release Build", "570.124.06"),
        ("something else", "unknown"),
    ],
)
def test_the_driver_s_version(text: str, version: str, gpu: Any) -> None:
    machine._DRIVER_FILE.write_text(text)
    assert machine._driver_version() == version
