"""What runs an engine. A backend is one module with two functions.

``load(model, settings)`` returns a :class:`Session`, or raises ``BackendUnavailable`` with the reason.
``layer_times(model, settings, inputs)`` runs the model once and says how long each of its operators took.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ecea.runtime.backends import cpu, cuda, openvino, tensorrt
from ecea.runtime.backends.layers import Inputs, LayerTime
from ecea.runtime.backends.nvidia import require_gpu
from ecea.runtime.backends.settings import Settings

__all__ = ["BACKENDS", "Backend", "Session", "Settings", "automatic_order"]

Tensor = npt.NDArray[np.float32]


class Session(Protocol):
    """A model that is loaded and ready to run.

    Attributes:
        arithmetic: what it computes in, but for layers that are quantized: ``f32``, ``bf16`` or ``f16``.
    """

    arithmetic: str

    def infer(self, image: Tensor, edge: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Compute (B, 3, S, S), (B, 1, S, S), (B, 1, S, S) -> (B, 3, S, S), (B, 1, S, S); the caller owns the result.

        As many threads may be in here at once as the session has streams.
        """

    def close(self) -> None:
        """Release what the backend holds."""


@dataclass(frozen=True)
class Backend:
    """How to use one backend; see the module's own text.

    Attributes:
        verifies: it calls ``settings.verify`` itself, because it does not always read the model's files.
        require: given an engine, raises ``BackendUnavailable`` where it takes no look at a model, and hardly any time,
            to know that the backend is not for this machine, or not for that engine.
    """

    load: Callable[[Path, Settings], Session]
    layer_times: Callable[[Path, Settings, Inputs], list[LayerTime]]
    require: Callable[[str], None] = lambda engine: None
    verifies: bool = False


# The fastest first.
BACKENDS: dict[str, Backend] = {
    "tensorrt": Backend(tensorrt.load, tensorrt.layer_times, lambda engine: require_gpu()),
    "cuda": Backend(cuda.load, cuda.layer_times, cuda.require),
    "openvino": Backend(openvino.load, openvino.layer_times, verifies=True),
    "cpu": Backend(cpu.load, cpu.layer_times),
}


def automatic_order(engine: str) -> tuple[str, ...]:
    """The backends in the order in which ``auto`` tries them for an engine.

    Where OpenVINO has to do without integer kernels, ONNX Runtime is 2.5 times as fast for ``int8``.
    """
    names = list(BACKENDS)
    if engine == "int8" and openvino.sums_of_bytes_overflow():
        names.remove("cpu")
        names.insert(names.index("openvino"), "cpu")
    return tuple(names)
