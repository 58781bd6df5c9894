"""A generator that fills as a U-Net does: what is exported of a U-Net before any generator refines it.

The generator behind the U-Net has the published architecture, small, and adds nothing: whatever the picture is worth,
the U-Net is. Nor is it exported (:mod:`ecea.export.passes.zeros`).
"""

from collections.abc import Sequence
from os import PathLike

import torch

from ecea.model import CheckpointError, Generator, GeneratorConfig, UNet
from ecea.model.checkpoint import load_network
from ecea.model.config import RESIDUAL_SCALE
from ecea.model.untrained import untrained_state_dict

TILE = 128
"""Px, a side. The U-Net has learned from 96; its fill is the same within 0.01 dB on tiles of 128 and of 192."""


def load_exportable(path: str | PathLike[str], num_heads: Sequence[int] | None = None) -> Generator:
    """Load a checkpoint of a generator, or of a U-Net and put it before a generator that adds nothing.

    Args:
        path, num_heads: as :func:`ecea.model.load_generator` takes them.

    Raises:
        CheckpointError: where it is neither's, or a U-Net's of other than three bands or with ``num_heads``.
    """
    network = load_network(path, num_heads)
    if isinstance(network, UNet) and network.bands != 3:
        raise CheckpointError(f"{path} is a U-Net of {network.bands} bands; expected one of 3: train another")
    if isinstance(network, UNet) and num_heads is not None:
        raise CheckpointError(f"{path} is a U-Net, which has no attention heads: leave their numbers out")
    return generator_from_unet(network) if isinstance(network, UNet) else network


def what_draws(generator: Generator) -> Generator | UNet:
    """The network that a generator's pictures come from: the U-Net before it, where it adds nothing itself."""
    if generator.coarse is not None and not generator.get_buffer(RESIDUAL_SCALE).any():
        return generator.coarse
    return generator


def unet_of(generator: Generator) -> UNet | None:
    """The U-Net that :func:`generator_from_unet` makes this very generator of; None where there is none."""
    if generator.coarse is None:
        return None
    again, state = generator_from_unet(generator.coarse), generator.state_dict()
    same = again.config == generator.config and all(
        torch.equal(tensor, state[name]) for name, tensor in again.state_dict().items()
    )
    return generator.coarse if same else None


def generator_from_unet(unet: UNet) -> Generator:
    """Put a generator of weights that nobody has trained, silent, behind a U-Net of three bands.

    Returns:
        It draws what the U-Net draws, in eval mode; its edge map is blank.
    """
    config = GeneratorConfig(img_size=TILE, embed_dim=8, depth=(1, 1, 1, 1), refine=True, coarse=unet.widths)
    generator = Generator(config)
    generator.load_state_dict(untrained_state_dict(config, seed=1))
    assert generator.coarse is not None
    generator.coarse.load_state_dict(unet.state_dict())
    generator.get_buffer(RESIDUAL_SCALE).zero_()
    with torch.no_grad():  # noise in its edge map would differ in bfloat16, and keep exports from computing in that
        generator.get_parameter("out_s.block8.2.weight").zero_()
    return generator.eval()
