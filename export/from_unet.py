"""A generator that fills as a U-Net does: what makes a bundle of a U-Net before any generator refines it.

    python -m ecea.export.from_unet UNET CHECKPOINT

UNET is a checkpoint of ``ecea-train --network unet``, or of a generator that refines one; CHECKPOINT is what
``ecea-export`` takes. The generator behind the U-Net has the published architecture, small, and adds nothing: whatever
the picture is worth, the U-Net is. Nor is it exported (:mod:`ecea.export.passes.zeros`).
"""

import io
import sys
from pathlib import Path

import torch

from ecea.model import CheckpointError, Generator, GeneratorConfig, UNet, load_unet
from ecea.model.config import RESIDUAL_SCALE
from ecea.model.untrained import untrained_state_dict
from ecea.runtime.errors import EceaError
from ecea.runtime.writer import check_destination, whole_or_nothing

TILE = 128
"""Px, a side. The U-Net has learned from 96; its fill is the same within 0.01 dB on tiles of 128 and of 192."""


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


def write_checkpoint(unet: Path, destination: Path) -> None:
    """Read a U-Net and write the state dict of its generator, whole or not at all.

    Raises:
        CheckpointError: where ``unet`` cannot be read or has no U-Net of three bands.
        EceaError: where the destination cannot be written.
    """
    check_destination(destination)
    buffer = io.BytesIO()
    torch.save(generator_from_unet(load_unet(unet, 3)).state_dict(), buffer)
    with whole_or_nothing(destination) as partial:
        try:
            partial.write_bytes(buffer.getvalue())
        except OSError as error:
            raise EceaError(f"{destination}: cannot be written ({error.strerror}): is the disk full?") from error


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m ecea.export.from_unet UNET CHECKPOINT")
    try:
        write_checkpoint(Path(sys.argv[1]), Path(sys.argv[2]))
    except (CheckpointError, EceaError) as failed:
        sys.exit(str(failed))
