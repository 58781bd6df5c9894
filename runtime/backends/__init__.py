"""What runs an engine. A backend is one module with one function, ``load``.

``load(model, threads)`` returns a :class:`Session`, or raises ``BackendUnavailable`` with the reason.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ecea.runtime.backends import cpu, openvino

Tensor = npt.NDArray[np.float32]


class Session(Protocol):
    """A model that is loaded and ready to run."""

    def infer(self, image: Tensor, edge: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, S, S), (B, 1, S, S), (B, 1, S, S) -> (B, 3, S, S), (B, 1, S, S); the caller owns the result."""

    def close(self) -> None:
        """Release what the backend holds."""


Loader = Callable[[Path, int], Session]

# In the order in which ``auto`` tries them.
BACKENDS: dict[str, Loader] = {"openvino": openvino.load, "cpu": cpu.load}
