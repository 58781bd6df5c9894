"""A checkpoint as an engine, through PyTorch: evaluated before it is exported."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from ecea.model import load_generator
from ecea.model.errors import CheckpointError
from ecea.model.generator import Generator
from ecea.runtime.bundle import Bundle
from ecea.runtime.engine import Engine, usable_processors
from ecea.runtime.errors import RequestError

Tensor = npt.NDArray[np.float32]

BACKEND = "pytorch"


class TorchSession:
    """A generator in PyTorch, as the runtime's engines expect a session to be (:mod:`ecea.runtime.backends`)."""

    arithmetic = "f32"

    def __init__(self, generator: Generator) -> None:
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._generator = generator.to(self._device).eval()

    def infer(self, image: Tensor, edge: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Compute (B, 3, S, S), (B, 1, S, S), (B, 1, S, S) -> (B, 3, S, S), (B, 1, S, S)."""
        with torch.inference_mode():
            out, out_edge = self._generator(*(torch.from_numpy(x).to(self._device) for x in (image, edge, mask)))
            return out.cpu().numpy(), out_edge.cpu().numpy()

    def close(self) -> None:
        """Nothing is held that the last reference does not free."""


def open_checkpoint(path: Path, *, num_heads: Sequence[int] | None = None, threads: int | None = None) -> Engine:
    """Open a checkpoint as an engine of one stream; a GPU computes it where PyTorch sees one.

    Args:
        path, num_heads: as :func:`ecea.model.load_generator` takes them.
        threads: that PyTorch computes on; None: the processors that this process may use.

    Raises:
        RequestError: where the file is no checkpoint of a generator.
    """
    try:
        generator = load_generator(path, num_heads)
    except CheckpointError as error:
        raise RequestError(str(error)) from error
    threads = threads or usable_processors()
    torch.set_num_threads(threads)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    source = Bundle(path, sha256, {"img_size": generator.config.img_size}, ())
    return Engine(
        TorchSession(generator), bundle=source, found="named", engine="fp32", backend=BACKEND, threads=threads
    )
