"""A checkpoint as an engine, through PyTorch: evaluated before it is exported."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from ecea.model import Generator, UNet
from ecea.model.checkpoint import load_network
from ecea.model.errors import CheckpointError
from ecea.runtime.bundle import Bundle, sha256
from ecea.runtime.engine import Engine, usable_processors
from ecea.runtime.errors import RequestError

Tensor = npt.NDArray[np.float32]

BACKEND = "pytorch"

_UNET_TILE = 192
"""Pixels that a U-Net is given at once; it would take any multiple of 32."""


class TorchSession:
    """A network in PyTorch, as the runtime's engines expect a session to be (:mod:`ecea.runtime.backends`)."""

    arithmetic = "f32"

    def __init__(self, generator: Generator | UNet) -> None:
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._generator = generator.to(self._device).eval()

    def infer(self, image: Tensor, edge: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Compute (B, 3, S, S), (B, 1, S, S), (B, 1, S, S) -> (B, 3, S, S), (B, 1, S, S)."""
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            out, out_edge = self._generator(*(torch.from_numpy(x).to(self._device) for x in (image, edge, mask)))
            return out.cpu().numpy(), out_edge.cpu().numpy()

    def close(self) -> None:
        """Nothing is held that the last reference does not free."""


def open_checkpoint(path: Path, *, num_heads: Sequence[int] | None = None, threads: int | None = None) -> Engine:
    """Open a checkpoint as an engine of one stream; a GPU computes it where PyTorch sees one.

    Args:
        path, num_heads: as :func:`ecea.model.checkpoint.load_network` takes them.
        threads: that PyTorch computes on; None: the processors that this process may use.

    Raises:
        RequestError: where the file is no checkpoint of a generator of three bands or of a U-Net of as many, or is a
            U-Net's and ``num_heads`` are named.
    """
    try:
        network = load_network(path, num_heads, bands=3)
    except CheckpointError as error:
        raise RequestError(str(error)) from error
    threads = threads or usable_processors()
    torch.set_num_threads(threads)
    tile = network.config.img_size if isinstance(network, Generator) else _UNET_TILE
    source = Bundle(path, sha256(path), {"img_size": tile}, ())
    return Engine(TorchSession(network), bundle=source, found="named", engine="fp32", backend=BACKEND, threads=threads)
