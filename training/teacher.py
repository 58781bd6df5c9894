"""A U-Net that refines a smooth fill, to teach a generator what can be told of a gap.

Most of what a smooth fill leaves is unpredictable, and a transformer of few tokens learns too little from so noisy a
truth (docs/training.md). Convolutions from full resolution do learn from it; and what they draw has no noise, so the
generator learns from that.
"""

import hashlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ecea.model.checkpoint import read_state_dict
from ecea.model.errors import CheckpointError
from ecea.model.refinement import level_and_contrast, smooth_fill

WIDTHS = (24, 48, 96, 128, 128)
"""Channels at full resolution, at half of it, and so on: 1.6 M parameters with the three bands of a picture."""

_MOST_LEVELS = 6  # tiles are a multiple of 32 px


class Teacher(nn.Module):
    """Draw what is to be added to a smooth fill, in the units in which a refining generator draws it.

    Args:
        bands: of the picture.
        widths: channels, level by level.
    """

    def __init__(self, bands: int = 3, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        self.bands, self.widths = bands, tuple(widths)
        self.first = nn.Conv2d(bands + 1, widths[0], 3, padding=1)
        self.down = nn.ModuleList(_Block(above, width) for above, width in pairwise((widths[0], *widths)))
        self.up = nn.ModuleList(_Block(below + width, width) for width, below in pairwise(widths))
        self.last = nn.Conv2d(widths[0], bands, 3, padding=1)
        # So that it begins as the smooth fill.
        nn.init.zeros_(self.last.weight)
        assert self.last.bias is not None
        nn.init.zeros_(self.last.bias)

    def forward(self, image: Tensor, edge: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`ecea.model.Generator.forward`, for S a multiple of ``2 ** (levels - 1)``; the edge map is not used.

        Args:
            image: (B, bands, S, S), [0, 1], 0 where missing.
            edge: (B, 1, S, S), given back as it is.
            mask: (B, 1, S, S), 1 where missing, else 0.
        """
        filled = smooth_fill(image, mask)
        level, contrast = level_and_contrast(filled)
        change = self._draw(torch.cat([(filled - level) / contrast, mask], dim=1))
        return (filled + contrast * change).clamp(0, 1), edge

    def fingerprint(self) -> str:
        """Twelve digits that tell teachers apart by their weights."""
        digest = hashlib.sha256()
        for tensor in self.state_dict().values():
            digest.update(tensor.cpu().numpy().tobytes())
        return digest.hexdigest()[:12]

    def _draw(self, x: Tensor) -> Tensor:
        x = self.first(x)
        passed = []
        for depth, block in enumerate(self.down):
            x = block(F.avg_pool2d(x, 2) if depth else x)
            passed.append(x)
        for block, same in zip(reversed(self.up), reversed(passed[:-1]), strict=True):
            x = block(torch.cat([F.interpolate(x, scale_factor=2.0), same], dim=1))
        return self.last(x)


class _Block(nn.Module):
    """``skip(x) + conv2(gelu(conv1(gelu x)))``, 3x3 both."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, padding=1)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1)
        self.skip = nn.Conv2d(before, after, 1) if before != after else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.skip(x) + self.conv2(F.gelu(self.conv1(F.gelu(x))))


def load_teacher(path: Path, bands: int) -> Teacher:
    """Read a teacher from a checkpoint that ``ecea-train --network unet`` wrote; in eval mode.

    Args:
        path: as :func:`ecea.model.checkpoint.read_state_dict` takes it.
        bands: that it has to have.

    Raises:
        CheckpointError: where the file cannot be read or is no teacher's of so many bands.
    """
    state = read_state_dict(path)
    try:
        if not all(tensor.is_floating_point() for tensor in state.values()):
            raise TypeError
        found = len(state["last.bias"])
        levels = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("down."))
        widths = [len(state[f"down.{level}.conv1.bias"]) for level in range(levels)]
        # Without memory of its own, which a damaged file might ask for without end.
        with torch.device("meta"):
            teacher = Teacher(found, widths)
        teacher.load_state_dict({name: tensor.contiguous() for name, tensor in state.items()}, assign=True)
    except (KeyError, ValueError, IndexError, TypeError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} is not a teacher's checkpoint; expected one that ecea-train --network unet wrote, such as "
            "U_10.pth: name that"
        ) from error
    if levels > _MOST_LEVELS:
        raise CheckpointError(f"{path} is a teacher of {levels} levels; expected {_MOST_LEVELS} at most, for any tile")
    if damaged := [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]:
        raise CheckpointError(
            f"{path} holds a NaN or an infinity in {damaged[0]}; expected numbers: take an earlier checkpoint"
        )
    if found != bands:
        raise CheckpointError(f"{path} is a teacher of {found} bands; expected one of {bands}")
    return teacher.eval()
