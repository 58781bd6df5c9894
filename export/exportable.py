"""What can be exported: a generator, or a U-Net, which takes and gives the same."""

import dataclasses
from collections.abc import Sequence
from os import PathLike
from typing import Any

from ecea.model import Generator, UNet
from ecea.model.checkpoint import load_network

UNET_TILE = 128
"""Px, a side. The U-Net has learned from 96; its fill is the same within 0.01 dB on tiles of 128 to 384."""


@dataclasses.dataclass(frozen=True)
class Exportable:
    """A network whose tiles the runtime has.

    Attributes:
        network: in eval mode, float32; takes (B, 3, S, S), (B, 1, S, S) and (B, 1, S, S), gives the first two.
        tile_size: S that it is exported for, in px.
        configuration: what a bundle's manifest says of it.
    """

    network: Generator | UNet
    tile_size: int
    configuration: dict[str, Any]

    @property
    def parameters(self) -> int:
        """How many numbers it has learned."""
        return sum(parameter.numel() for parameter in self.network.parameters())


def load_exportable(path: str | PathLike[str], num_heads: Sequence[int] | None = None) -> Exportable:
    """Load the checkpoint of a generator or of a U-Net.

    Args:
        path, num_heads: as :func:`ecea.model.load_generator` takes them.

    Raises:
        CheckpointError: where it is neither's, of other than three bands, or is a U-Net's and ``num_heads`` are named.
    """
    network = load_network(path, num_heads, bands=3)
    if isinstance(network, UNet):
        configuration = {"network": "unet", "img_size": UNET_TILE, "widths": list(network.widths)}
        return Exportable(network, UNET_TILE, configuration)
    return Exportable(network, network.config.img_size, dataclasses.asdict(network.config))
