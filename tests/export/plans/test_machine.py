"""Whether plans can be built here, and if not, what is missing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from ecea.export.plans import machine
from ecea.export.plans.machine import find_machine, machine_if
from ecea.runtime.errors import BackendUnavailable, EceaError, RequestError


class DriverError(Exception):
    pass


class Device:
    """A GPU as pycuda shows it; two contexts may be on top of one another."""

    stack: list[int] = []  # noqa: RUF012
    capability = (9, 0)

    def __init__(self, number: int) -> None:
        assert number == 0

    @staticmethod
    def count() -> int:
        return 1

    def name(self) -> str:
        return "NVIDIA H100 80GB HBM3"

    def compute_capability(self) -> tuple[int, int]:
        return self.capability

    def retain_primary_context(self) -> Any:
        return SimpleNamespace(push=lambda: self.stack.append(1))


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A machine on which everything loads: the driver through pycuda, TensorRT 11; to be broken."""
    driver: Any = ModuleType("pycuda.driver")
    driver.Error, driver.Device = DriverError, type("Device", (Device,), {"stack": []})
    driver.init = lambda: None
    driver.Context = SimpleNamespace(pop=driver.Device.stack.pop)
    driver.mem_get_info = lambda: (5_000_000_000, 80_000_000_000)
    package: Any = ModuleType("pycuda")
    package.driver, package.__path__ = driver, []
    trt: Any = ModuleType("tensorrt")
    trt.__version__ = "11.4.0.106"
    for name, module in (("pycuda", package), ("pycuda.driver", driver), ("tensorrt", trt)):
        monkeypatch.setitem(sys.modules, name, module)
    version = tmp_path / "version"
    version.write_text("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build\nGCC 13.3.0")
    monkeypatch.setattr(machine, "_DRIVER_FILE", version)
    return driver


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


def test_all_is_there(cuda: Any) -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    found = find_machine()
    assert found.gpu == machine.Gpu("NVIDIA H100 80GB HBM3", "9.0", "580.95.05")
    assert found.gpu.architecture == 90
    assert found.free_bytes() == 5_000_000_000
    assert cuda.Device.stack == []
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
            "the NVIDIA driver cannot be loaded (libcuda.so.1: cannot open)",
        ),
        (
            "ecea.kernels.ahead_of_time",
            "No module named 'triton'",
            "Triton, which compiles the attention kernel, cannot",
        ),
    ],
    ids=["no tensorrt", "no libnvinfer", "no driver", "no triton"],
)
def test_what_cannot_be_imported_is_named(
    name: str, why: str, said: str, cuda: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacks(name, why)(monkeypatch)
    with pytest.raises(BackendUnavailable) as failure:
        find_machine()
    assert said in str(failure.value)
    assert machine_if(None) == (None, str(failure.value))
    with pytest.raises(RequestError, match=r"^TensorRT plans cannot be built here, .*--no-tensorrt$"):
        machine_if(True)


def test_an_older_tensorrt(cuda: Any) -> None:
    sys.modules["tensorrt"].__version__ = "10.14.1"  # type: ignore[attr-defined]
    with pytest.raises(BackendUnavailable, match=r"TensorRT is 10.14.1, expected 11 or newer"):
        find_machine()


def test_no_gpu(cuda: Any) -> None:
    cuda.Device.count = staticmethod(lambda: 0)
    with pytest.raises(BackendUnavailable, match="the NVIDIA driver finds no GPU"):
        find_machine()

    def init() -> None:
        raise DriverError("cuInit failed: no CUDA-capable device is detected")

    cuda.init = init
    with pytest.raises(BackendUnavailable, match=r"finds no GPU .cuInit failed"):
        find_machine()


def test_a_gpu_that_the_kernel_is_not_compiled_for(cuda: Any) -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    cuda.Device.capability = (7, 5)
    with pytest.raises(BackendUnavailable, match="the GPU is sm_75, expected one of sm_80, sm_86"):
        find_machine()


def test_a_gpu_that_is_full(cuda: Any) -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    found = find_machine()

    def full() -> None:
        raise DriverError("cuMemGetInfo failed: out of memory")

    cuda.mem_get_info = full
    with pytest.raises(EceaError, match=r"^NVIDIA H100 80GB HBM3: cannot be used \(.*out of memory\): end what else"):
        found.free_bytes()
    assert cuda.Device.stack == []


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.95.05  Tue Sep 23", "580.95.05"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.124.06  Release Build", "570.124.06"),
        ("something else", "unknown"),
    ],
)
def test_the_driver_s_version(text: str, version: str, cuda: Any) -> None:
    machine._DRIVER_FILE.write_text(text)
    assert machine._driver_version() == version
