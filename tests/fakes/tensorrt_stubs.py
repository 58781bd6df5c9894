"""The genuine Python bindings of TensorRT 11 where the library itself is not: over symbols that return nothing.

The bindings (``pip install tensorrt-cu13-bindings``) are a compiled module that links against libnvinfer. Libraries of
the same names with empty functions let it load; the classes of ``tensorrt.plugin``, which are Python, then work as they
are. Where TensorRT itself is installed, it is what the tests get.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

VERSION = "11.4.0.106"

LIBRARIES = ("libnvinfer.so.11", "libnvinfer_plugin.so.11", "libnvonnxparser.so.11")
FUNCTIONS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)


def load(directory: Path) -> ModuleType:
    """The module ``tensorrt``; the test is skipped where neither it nor its bindings can be had.

    Args:
        directory: where the empty libraries are built.
    """
    if importlib.util.find_spec("tensorrt") is not None:
        return importlib.import_module("tensorrt")
    found = importlib.util.find_spec("tensorrt_bindings")
    if found is None or not found.submodule_search_locations:
        pytest.skip(f"TensorRT's bindings are not installed: pip install tensorrt-cu13-bindings=={VERSION}")
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler for the stubs that TensorRT's bindings load")
    source = directory / "stubs.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in FUNCTIONS))
    for library in LIBRARIES:
        path = directory / library
        subprocess.run(["cc", "-shared", "-fPIC", f"-Wl,-soname,{library}", "-o", path, source], check=True)
        ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)  # a library that is loaded is not looked for
    package = Path(found.submodule_search_locations[0])
    spec = importlib.util.spec_from_file_location(
        "tensorrt", package / "__init__.py", submodule_search_locations=[str(package)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["tensorrt"] = module
    spec.loader.exec_module(module)
    return module
