"""Makes a new Python process one with TensorRT and a GPU of numpy.

Python imports this by itself where ``$PYTHONPATH`` names the folder; ``$FAKE_LIBCUDA`` names a library for the
driver's, ``$FAKE_STUBS`` a folder for those of TensorRT. Nothing of the project is imported.
"""

import ctypes
import os
import sys
from pathlib import Path
from typing import Any

import pycuda_fake
import tensorrt_runtime
import tensorrt_stubs


class Settings:
    """Stands for pytest's monkeypatch: what is set stays until the process ends."""

    @staticmethod
    def setitem(mapping: Any, name: str, value: Any) -> None:
        mapping[name] = value

    setattr = staticmethod(setattr)


sys.modules["cuda.bindings"] = None  # type: ignore[assignment]  # it would ask a driver that can do nothing
gpu = pycuda_fake.Gpu()
trt = tensorrt_stubs.load(Path(os.environ["FAKE_STUBS"]))
trt.__version__ = "11.4.0.106"  # that of the plans
pycuda_fake.install(gpu, Settings)
tensorrt_runtime.install(trt, gpu, Settings)
ctypes.CDLL(os.environ["FAKE_LIBCUDA"], mode=ctypes.RTLD_GLOBAL)  # a library that is loaded is not looked for
