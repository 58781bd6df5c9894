"""ONNX Runtime's own CPU provider: runs wherever ONNX Runtime installs."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ecea.runtime.errors import BackendUnavailable, EceaError

Tensor = npt.NDArray[np.float32]


class CpuSession:
    """One ONNX Runtime session on the CPU."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def infer(self, image: Tensor, edge: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        out, out_edge = self._session.run(["out", "out_edge"], {"image": image, "edge": edge, "mask": mask})
        return out, out_edge

    def close(self) -> None:
        self._session = None


def load(model: Path, threads: int) -> CpuSession:
    """Load an ONNX model to run on ``threads`` threads."""
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendUnavailable(f"onnxruntime cannot be imported ({error})") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors; a warning is for the exporter's eyes
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        raise EceaError(f"{model}: ONNX Runtime cannot load it: {_first_line(error)}") from error
    return CpuSession(session)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
