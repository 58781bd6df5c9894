"""OpenVINO's CPU plugin through OpenVINO's own API: the fastest on x86-64, and on ARM.

ONNX Runtime's OpenVINO provider is not used: it offers a device on Intel processors alone, while OpenVINO itself
runs as well on AMD's.
"""

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from ecea.runtime.backends.layers import Inputs, LayerTime
from ecea.runtime.errors import BackendUnavailable, EceaError

Tensor = npt.NDArray[np.float32]

# float32 throughout: the plugin's own choice would be bfloat16 on processors that have it, which costs
# accuracy, and where only emulated is 13 times slower.
_PROPERTIES = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}


class OpenVinoSession:
    """One infer request of a model compiled for the CPU."""

    def __init__(self, request: Any) -> None:
        self._request = request

    def infer(self, image: Tensor, edge: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        results = self._request.infer({"image": image, "edge": edge, "mask": mask}, share_inputs=True)
        # The request writes into the same memory next time.
        return np.array(results["out"]), np.array(results["out_edge"])

    def close(self) -> None:
        self._request = None


def load(model: Path, threads: int) -> OpenVinoSession:
    """Compile an ONNX model without local functions to run on ``threads`` threads."""
    return OpenVinoSession(_compile(model, threads).create_infer_request())


def layer_times(model: Path, threads: int, inputs: Inputs) -> list[LayerTime]:
    """Time each operator of a model that is compiled once more, to count."""
    request = _compile(model, threads, PERF_COUNT=True).create_infer_request()
    session = OpenVinoSession(request)
    for _ in range(2):  # the first run allocates
        session.infer(*inputs)
    return [
        LayerTime(layer.node_name, layer.node_type, layer.real_time.total_seconds())
        for layer in request.get_profiling_info()
        if layer.real_time
    ]


def _import_quietly() -> ModuleType:
    """Import openvino without its telemetry, which would report every start over the network.

    It is a package of its own, and openvino does without where it is absent.
    """
    absent = object()
    telemetry = sys.modules.get("openvino_telemetry", absent)
    if telemetry is absent:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    try:
        return importlib.import_module("openvino")
    finally:
        if telemetry is absent:
            del sys.modules["openvino_telemetry"]


def _compile(model: Path, threads: int, **properties: Any) -> Any:
    try:
        openvino = _import_quietly()
    except ImportError as error:
        raise BackendUnavailable(f"the openvino package cannot be imported ({error})") from error
    core = openvino.Core()
    if "CPU" not in core.available_devices:
        raise BackendUnavailable("OpenVINO has no CPU device on this machine")
    try:
        return core.compile_model(model, "CPU", {**_PROPERTIES, "INFERENCE_NUM_THREADS": threads, **properties})
    except RuntimeError as error:
        raise EceaError(f"{model}: OpenVINO cannot load it: {str(error).strip().splitlines()[-1]}") from error
