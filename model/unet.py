"""A U-Net that refines a smooth fill: what a generator refines in turn, or is taught by.

Most of what a smooth fill leaves is unpredictable, and a transformer of few tokens learns too little from so noisy a
truth (docs/training.md). Convolutions from full resolution do learn from it. The order, a coarse network and one that
refines its fill, is that of Yu et al., *Generative Image Inpainting with Contextual Attention*, 2018.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ecea.model.refinement import level_and_contrast, smooth_fill

WIDTHS = (24, 48, 96, 128, 128)
"""Channels at full resolution, at half of it, and so on: 1.6 M parameters with the three bands of a picture."""


class UNet(nn.Module):
    """Draw what is to be added to a smooth fill, in the units in which a refining generator draws it.

    The form is that of Ronneberger et al., *U-Net*, 2015, with residual blocks.

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

    def forward(self, image: Tensor, edge: Tensor, mask: Tensor, smooth: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As :meth:`ecea.model.Generator.forward`, for S a multiple of ``2 ** (levels - 1)``; the edge map is not used.

        Args:
            image: (B, bands, S, S), [0, 1], 0 where missing.
            edge: (B, 1, S, S), given back as it is.
            mask: (B, 1, S, S), 1 where missing, else 0.
            smooth: the smooth fill of the image; made here where it is not given.
        """
        filled = smooth_fill(image, mask) if smooth is None else smooth
        level, contrast = level_and_contrast(filled)
        change = self._draw(torch.cat([(filled - level) / contrast, mask], dim=1))
        # A copy, because what an exported graph is given cannot be what it gives.
        return (filled + contrast * change).clamp(0, 1), edge.clone()

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
