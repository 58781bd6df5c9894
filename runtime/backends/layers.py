"""What a backend tells of the time that a model's operators take."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# image, edge and mask of a batch, as an engine takes them
Inputs = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.float32]]


@dataclass(frozen=True)
class LayerTime:
    """Time of one operator in one run.

    Attributes:
        name: the operator's name in the backend's own, optimized graph.
        kind: its type, such as ``Convolution``.
        seconds: wall time.
    """

    name: str
    kind: str
    seconds: float
