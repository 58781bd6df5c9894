"""ONNX Runtime's own CPU provider: runs wherever ONNX Runtime installs."""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ecea.runtime.backends.layers import Inputs, LayerTime
from ecea.runtime.backends.settings import Settings
from ecea.runtime.errors import BackendUnavailable, EceaError

Tensor = npt.NDArray[np.float32]

_KERNEL = "_kernel_time"


class CpuSession:
    """One ONNX Runtime session on the CPU.

    Attributes:
        arithmetic: what it computes in, but for layers that are quantized.
    """

    arithmetic = "f32"

    def __init__(self, session: Any) -> None:
        self._session = session

    def infer(self, image: Tensor, edge: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        out, out_edge = self._session.run(["out", "out_edge"], {"image": image, "edge": edge, "mask": mask})
        return out, out_edge

    def close(self) -> None:
        self._session = None


def load(model: Path, settings: Settings) -> CpuSession:
    """Load an ONNX model."""
    # Runs may overlap. Each computes on the one thread that calls it and on those of the session, one less than it is
    # told, which they share.
    return CpuSession(_create(model, settings.threads - settings.streams + 1))


def layer_times(model: Path, settings: Settings, inputs: Inputs) -> list[LayerTime]:
    """Time each operator of a model that is loaded once more, to count."""
    with tempfile.TemporaryDirectory() as folder:
        session = _create(model, settings.threads, profile=f"{folder}/layers")
        runner = CpuSession(session)
        for _ in range(2):  # the first run allocates
            runner.infer(*inputs)
        events = json.loads(Path(session.end_profiling()).read_text())
    last: dict[str, LayerTime] = {}
    for event in events:
        name = event.get("name", "")
        if event.get("cat") == "Node" and name.endswith(_KERNEL):
            layer = name.removesuffix(_KERNEL)
            last[layer] = LayerTime(layer, event["args"]["op_name"], event["dur"] / 1e6)
    return list(last.values())


def _create(model: Path, threads: int, profile: str | None = None) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendUnavailable(f"onnxruntime cannot be imported ({error})") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors; a warning is for the exporter's eyes
    # Without VNNI an x86 processor adds two products of bytes in 16 bits, which overflows unless both are unsigned.
    options.add_session_config_entry("session.x64quantprecision", "1")
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = profile
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        raise EceaError(f"{model}: ONNX Runtime cannot load it: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
