"""What runs an engine. A backend is one module with two functions.

``load(model, threads)`` returns a :class:`Session`, or raises ``BackendUnavailable`` with the reason.
``layer_times(model, threads, inputs)`` runs the model once and says how long each of its operators took.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ecea.runtime.backends import cpu, openvino
from ecea.runtime.backends.layers import Inputs, LayerTime

Tensor = npt.NDArray[np.float32]


class Session(Protocol):
    """A model that is loaded and ready to run."""

    def infer(self, image: Tensor, edge: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, S, S), (B, 1, S, S), (B, 1, S, S) -> (B, 3, S, S), (B, 1, S, S); the caller owns the result."""

    def close(self) -> None:
        """Release what the backend holds."""


@dataclass(frozen=True)
class Backend:
    """How to use one backend; see the module's own text."""

    load: Callable[[Path, int], Session]
    layer_times: Callable[[Path, int, Inputs], list[LayerTime]]


# In the order in which ``auto`` tries them.
BACKENDS: dict[str, Backend] = {
    "openvino": Backend(openvino.load, openvino.layer_times),
    "cpu": Backend(cpu.load, cpu.layer_times),
}
