"""OpenVINO's CPU plugin through OpenVINO's own API: the fastest on x86-64, and on ARM.

ONNX Runtime's OpenVINO provider is not used: it offers a device on Intel processors alone, while OpenVINO itself
runs as well on AMD's.
"""

import importlib
import platform
import queue
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from ecea.runtime.backends.layers import Inputs, LayerTime
from ecea.runtime.backends.settings import Settings
from ecea.runtime.cache import Entry, entry_for
from ecea.runtime.errors import BackendUnavailable, EceaError

Tensor = npt.NDArray[np.float32]

FLOAT32, BFLOAT16 = "f32", "bf16"

# What Linux calls the instructions that multiply bfloat16 in hardware. Where they are only emulated it is 13 times
# slower than float32.
_BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})

# And those that add up products of 8-bit numbers in 32 bits. Other x86 processors add two of them in 16 bits, which
# overflows: a small quantized network came within 36 dB of the exact one instead of 57.
_INT8_FLAGS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
_X86 = frozenset({"x86_64", "amd64"})


_IMPORT = threading.Lock()


class OpenVinoSession:
    """A model compiled for the CPU, and one infer request for each of its streams.

    Attributes:
        arithmetic: what it computes in, but for layers that are quantized.
    """

    def __init__(self, requests: Sequence[Any], arithmetic: str = FLOAT32) -> None:
        self.arithmetic = arithmetic
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for request in requests:
            self._idle.put(request)

    def infer(self, image: Tensor, edge: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        request = self._idle.get()
        try:
            results = request.infer({"image": image, "edge": edge, "mask": mask}, share_inputs=True)
            # The request writes into the same memory next time.
            return np.array(results["out"]), np.array(results["out_edge"])
        finally:
            self._idle.put(request)

    def close(self) -> None:
        self._idle = queue.SimpleQueue()


def native_arithmetic() -> tuple[str, ...]:
    """What this machine's processor computes in without emulation, the fastest first."""
    return (BFLOAT16, FLOAT32) if _processor_flags() & _BFLOAT16_FLAGS else (FLOAT32,)


def sums_of_bytes_overflow() -> bool:
    """Whether OpenVINO's integer kernels may give wrong sums: on x86, unless the processor is known to have better."""
    return platform.machine().lower() in _X86 and not _processor_flags() & _INT8_FLAGS


def _processor_flags() -> set[str]:
    """What Linux says that the processor can do; elsewhere nothing is assumed."""
    info = Path("/proc/cpuinfo")
    return set(info.read_text().split()) if info.exists() else set()


def load(model: Path, settings: Settings) -> OpenVinoSession:
    """Compile an ONNX model without local functions, or take what an earlier start compiled."""
    compiled = _compile(model, settings)
    requests = [compiled.create_infer_request() for _ in range(settings.streams)]
    return OpenVinoSession(requests, _arithmetic(settings))


def layer_times(model: Path, settings: Settings, inputs: Inputs) -> list[LayerTime]:
    """Time each operator of a model that is compiled once more, to count."""
    request = _compile(model, replace(settings, streams=1, cache=None), PERF_COUNT=True).create_infer_request()
    session = OpenVinoSession([request])
    for _ in range(2):  # the first run allocates
        session.infer(*inputs)
    return [
        LayerTime(layer.node_name, layer.node_type, layer.real_time.total_seconds())
        for layer in request.get_profiling_info()
        if layer.real_time
    ]


def _arithmetic(settings: Settings) -> str:
    """The first of the arithmetics allowed that the processor has."""
    native = native_arithmetic()
    return next((kind for kind in settings.arithmetic if kind in native), FLOAT32)


def _import_quietly() -> ModuleType:
    """Import openvino without its telemetry, which would report every start over the network.

    It is a package of its own, and openvino does without where it is absent.
    """
    absent = object()
    with _IMPORT:
        telemetry = sys.modules.get("openvino_telemetry", absent)
        if telemetry is absent:
            sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
        try:
            openvino = importlib.import_module("openvino")
        finally:
            if telemetry is absent:
                del sys.modules["openvino_telemetry"]
        # Its bindings find numpy when they meet the first array. Two threads that bring theirs at once wait for one
        # another for ever, so one array is brought here.
        np.array(openvino.Tensor(np.zeros(1, np.float32)).data)
    return openvino


def _compile(model: Path, settings: Settings, **more: Any) -> Any:
    try:
        openvino = _import_quietly()
    except ImportError as error:
        raise BackendUnavailable(f"the openvino package cannot be imported ({error})") from error
    core = openvino.Core()
    if "CPU" not in core.available_devices:
        raise BackendUnavailable("OpenVINO has no CPU device on this machine")
    properties = {
        # Always said: the plugin's own choice would be bfloat16 wherever it can be had, which costs accuracy.
        "INFERENCE_PRECISION_HINT": _arithmetic(settings),
        "INFERENCE_NUM_THREADS": settings.threads,
        "NUM_STREAMS": settings.streams,
        # Without integer kernels quantized layers are computed in floating point: as slow as FP32, and right.
        **({"LP_TRANSFORMS_MODE": "NO"} if sums_of_bytes_overflow() else {}),
        **more,
    }
    if settings.cache is not None:
        # The name alone does not tell the processors of virtual machines apart.
        kernels = "float" if sums_of_bytes_overflow() else "integer"
        processor = core.get_property("CPU", "FULL_DEVICE_NAME")
        compiler = f"openvino-{openvino.__version__} for {processor}, {kernels} kernels"
        with entry_for(model, settings.content, settings.cache, compiler) as entry:
            if entry is not None:
                return _compile_in(entry, core, model, properties, settings)
    settings.verify()
    try:
        return core.compile_model(model, "CPU", properties)
    except RuntimeError as error:
        raise EceaError(f"{model}: OpenVINO cannot load it: {str(error).strip().splitlines()[-1]}") from error


def _compile_in(entry: Entry, core: Any, model: Path, properties: dict[str, Any], settings: Settings) -> Any:
    """Fill an entry of the cache, or take what is in it: then the model's own files are neither read nor verified."""
    if not entry.known:
        settings.verify()
    compiled = core.compile_model(model, "CPU", {**properties, "CACHE_DIR": str(entry.folder)})
    if entry.known and not compiled.get_property("LOADED_FROM_CACHE"):
        settings.verify()  # it had no use for the entry and has read them
    return compiled
