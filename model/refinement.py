"""The smooth fill that a refining generator starts from.

The published generator draws a tile from nothing: 0 stands where pixels are missing, and the network has to learn where
the level of the ground lies before it learns anything of its texture. A refining generator is the same network with the
same parameters, but it is shown gaps that are filled smoothly, and what it draws is added to that fill. So it begins as
good as an interpolation, and needs a small part of the training; and it has no ceiling at tanh(1).
"""

from math import tanh

import torch
from torch import Tensor
from torch.nn import functional as F

NEUTRAL = tanh(0.5)
"""What the generator's head draws from an input of 0, ``tanh((tanh 0 + 1) / 2)``: the change that is no change."""

# Sweeps on the full grid and on each coarser one. More gain 0.02 dB (eight scenes, stripes of all widths).
_FINE_SWEEPS = 8
_COARSE_SWEEPS = 4


def smooth_fill(image: Tensor, mask: Tensor) -> Tensor:
    """Fill gaps with an approximate solution of Laplace's equation, whose boundary values are the pixels around them.

    A multigrid of pools alone, so that it can be exported as part of the network: the known pixels are averaged to
    coarser and coarser grids; from the coarsest, where the mean of all stands for what is missing, each grid gives the
    next finer one its first guess, which is then relaxed by Jacobi sweeps over 3 x 3 pixels (Briggs et al., *A
    Multigrid Tutorial*, 2000).

    Args:
        image: (B, C, S, S) float; what stands in gaps is not looked at.
        mask: (B, 1, S, S), above 0 in gaps.

    Returns:
        (B, C, S, S): known pixels as they were, gaps within the range of what is known; 0 where nothing is known.
    """
    grids = [(image, mask > 0)]
    while grids[-1][0].shape[-1] % 2 == 0:
        grids.append(_coarser(*grids[-1]))
    known, gaps = grids[-1]
    there = _present(gaps)
    mean = (known * there).sum((2, 3), keepdim=True) / there.sum((2, 3), keepdim=True).clamp_min(1)
    filled = _relax(mean.expand_as(known), known, gaps, _COARSE_SWEEPS)
    for level in range(len(grids) - 2, -1, -1):
        guess = F.interpolate(filled, scale_factor=2.0, mode="nearest")
        filled = _relax(guess, *grids[level], _COARSE_SWEEPS if level else _FINE_SWEEPS)
    return filled


def _present(gaps: Tensor) -> Tensor:
    """1 where there is a value, else 0. Not a cast: exported, that would have a type of its own in FP16 models."""
    return torch.where(gaps, 0.0, 1.0)


def _coarser(values: Tensor, gaps: Tensor) -> tuple[Tensor, Tensor]:
    """Means of the known pixels among each 2 x 2, and where there are none."""
    there = _present(gaps)
    share = F.avg_pool2d(there, 2)
    return F.avg_pool2d(values * there, 2) / share.clamp_min(0.25), share == 0


def _relax(guess: Tensor, known: Tensor, gaps: Tensor, sweeps: int) -> Tensor:
    """Put a guess into the gaps, and move each of its pixels to the mean of those around it, some times."""
    filled = torch.where(gaps, guess, known)
    for _ in range(sweeps):
        filled = torch.where(gaps, F.avg_pool2d(filled, 3, 1, 1, count_include_pad=False), known)
    return filled
