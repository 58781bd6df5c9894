"""What the launch in tests/gpu hands to the CUDA driver, seen by a driver that writes it down."""

from __future__ import annotations

import ctypes
import importlib
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


class FakeLibrary:
    """Reads what it is given as the driver would, by address."""

    def __init__(self, failing: str | None = None) -> None:
        self.failing = failing
        self.seen: dict[str, Any] = {}

    def _result(self, name: str) -> int:
        return 218 if name == self.failing else 0

    def cuInit(self, flags: ctypes.c_uint) -> int:  # noqa: N802  the driver's own names
        return self._result("cuInit")

    def cuModuleLoadDataEx(self, module: Any, text: Any, count: Any, options: Any, values: Any) -> int:  # noqa: N802
        assert count.value == len(options) == len(values)
        asked = dict(zip(options, values, strict=True))
        ctypes.memmove(asked[5], b"no such instruction\0", min(20, asked[6]))
        self.seen["ptx"] = ctypes.string_at(text)
        module._obj.value = 0xABC
        return self._result("cuModuleLoadDataEx")

    def cuModuleGetFunction(self, function: Any, module: Any, name: Any) -> int:  # noqa: N802
        self.seen["name"] = (module.value, name.value)
        function._obj.value = 0xDEF
        return self._result("cuModuleGetFunction")

    def cuLaunchKernel(self, function: Any, *rest: Any) -> int:  # noqa: N802
        *sizes, stream, addresses, extra = rest
        pointer = ctypes.POINTER(ctypes.c_uint64)
        self.seen["launch"] = (function.value, [size.value for size in sizes], stream.value, extra.value)
        self.seen["first"] = ctypes.cast(addresses[0], pointer)[0]
        self.seen["integer"] = ctypes.cast(addresses[1], ctypes.POINTER(ctypes.c_int32))[0]
        self.seen["last"] = ctypes.cast(addresses[len(addresses) - 1], pointer)[0]
        return self._result("cuLaunchKernel")

    def cuModuleUnload(self, module: Any) -> int:  # noqa: N802
        self.seen["unloaded"] = module.value
        return self._result("cuModuleUnload")


@pytest.fixture
def driver() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[1] / "gpu")
        return importlib.import_module("driver")


def test_the_driver_gets_what_was_recorded(driver: ModuleType) -> None:
    library = FakeLibrary()
    ours = driver.Driver(library)
    module = ours.load(".version 8.0")
    arguments = [ctypes.c_uint64(0x7F00_1234_5678), ctypes.c_int32(-7), ctypes.c_uint64(2**63 + 1)]
    ours.launch(module, "attend", (32, 8, 5), (128, 1, 1), 40960, arguments, 0xBEEF)
    ours.unload(module)
    assert library.seen == {
        "ptx": b".version 8.0",
        "name": (0xABC, b"attend"),
        "launch": (0xDEF, [32, 8, 5, 128, 1, 1, 40960], 0xBEEF, None),
        "first": 0x7F00_1234_5678,
        "integer": -7,
        "last": 2**63 + 1,
        "unloaded": 0xABC,
    }


@pytest.mark.parametrize("call", ["cuInit", "cuModuleLoadDataEx", "cuModuleGetFunction", "cuLaunchKernel"])
def test_a_failing_call_is_named(driver: ModuleType, call: str) -> None:
    with pytest.raises(driver.DriverError, match=f"{call} failed with CUDA error 218") as failure:
        ours = driver.Driver(FakeLibrary(call))
        ours.launch(ours.load(""), "attend", (1, 1, 1), (32, 1, 1), 0, [ctypes.c_uint64(0)] * 2, 0)
    assert bool(re.search("no such instruction", str(failure.value))) == (call == "cuModuleLoadDataEx")
