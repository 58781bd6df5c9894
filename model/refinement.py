"""The smooth fill that a refining generator starts from.

The published generator draws a tile from nothing: 0 stands where pixels are missing, and the network has to learn where
the level of the ground lies before it learns anything of its texture. A refining generator is the same network with the
same parameters, but it is shown gaps that are filled smoothly, and what it draws is added to that fill. So it begins as
good as an interpolation, and needs a small part of the training; and it has no ceiling at tanh(1).

What it is shown and what it draws is in units of the tile's own contrast, so a dark lake is no harder to it than a
bright desert.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from math import tanh

import torch
from torch import Tensor
from torch.nn import functional as F

NEUTRAL = tanh(0.5)
"""What the generator's head draws from an input of 0, ``tanh((tanh 0 + 1) / 2)``: the change that is no change."""

REACH = 4.0
"""What the head draws beside ``NEUTRAL``, -0.46 to +0.30, times this is the change in standard deviations of a band."""

# Bands that vary less, of a range of 1, count as if they varied so much: half a level of 8 bits.
_LEAST_DEVIATION = 2e-3

# Sweeps of the first guess on each grid: with twice as many the fill is 0.01 dB better.
_SWEEPS = 4

# In parts of 256, which every half-precision format holds exactly: if they did not add up to 1, levels would drift.
_CORNER, _KNIGHT, _SECOND, _DIAGONAL = 3 / 256, -2 / 256, -14 / 256, -9 / 256
_NEAREST = (1 - 4 * (_CORNER + 2 * _KNIGHT + _SECOND + _DIAGONAL)) / 4
EXPECTED = (
    (_CORNER, _KNIGHT, _SECOND, _KNIGHT, _CORNER),
    (_KNIGHT, _DIAGONAL, _NEAREST, _DIAGONAL, _KNIGHT),
    (_SECOND, _NEAREST, 0.0, _NEAREST, _SECOND),
    (_KNIGHT, _DIAGONAL, _NEAREST, _DIAGONAL, _KNIGHT),
    (_CORNER, _KNIGHT, _SECOND, _KNIGHT, _CORNER),
)
"""What is expected in the middle of 5 x 5 pixels, as weights of the 24 around it: fitted by least squares to clean
tiles, made alike under rotation and reflection, with a sum of 1 (docs/training.md)."""
_RADIUS = 2

# How far a pattern is from what is expected of it, as a share of its amplitude: a chessboard the farthest. The steps
# take away what lies between the two; what is smoother still, the first guess has right.
_LARGEST = 1 - 4 * (_CORNER - 2 * _KNIGHT + _SECOND + _DIAGONAL - _NEAREST)
_SMALLEST = 0.02
_STEPS = 12


def smooth_fill(image: Tensor, mask: Tensor) -> Tensor:
    """Fill gaps with what is most likely there, if each pixel is expected to be a weighted sum of the 24 around it.

    That is a Gaussian Markov random field, and the most likely fill solves a system of equations (Rue and Held,
    *Gaussian Markov Random Fields*, 2005, section 2.3). A multigrid for Laplace's equation finds a first guess,
    Chebyshev's iteration goes on from there: pools and convolutions in a fixed number, exported as part of the network.

    Args:
        image: (B, C, S, S) float; what stands in gaps is not looked at.
        mask: (B, 1, S, S), above 0 in gaps.

    Returns:
        (B, C, S, S): known pixels as they were; gaps near the range of what is known, past it where a slope goes on; 0
        where nothing is known.
    """
    gaps = mask > 0
    with _full_precision(image):
        return _most_likely(_laplace(image, gaps), gaps)


def level_and_contrast(filled: Tensor) -> tuple[Tensor, Tensor]:
    """The mean and the standard deviation of each band of a tile.

    Args:
        filled: (B, C, S, S) in [0, 1], without gaps.

    Returns:
        (B, C, 1, 1) each; a deviation of 0.002 where it is less.
    """
    with _full_precision(filled):
        mean = _mean(filled)
        # Times 8 and back: squares of small deviations would be subnormal in FP16.
        deviation = _mean(((filled - mean) * 8).square()).sqrt() / 8
        return mean, deviation.clamp_min(_LEAST_DEVIATION)


def _mean(values: Tensor) -> Tensor:
    """(B, C, S, S) -> (B, C, 1, 1), by halves: FP16 could not add up a whole tile."""
    while values.shape[-1] % 2 == 0:
        values = F.avg_pool2d(values, 2)
    return F.avg_pool2d(values, values.shape[-1])


def _most_likely(filled: Tensor, gaps: Tensor) -> Tensor:
    """Bring each pixel in a gap to what is expected of it, by Chebyshev's semi-iteration (Golub and Varga, 1961)."""
    channels = filled.shape[1]
    weights = torch.tensor(EXPECTED, dtype=filled.dtype, device=filled.device).expand(channels, 1, -1, -1)
    change = None
    for momentum, pace in _chebyshev(_SMALLEST, _LARGEST, _STEPS):
        # Computed anew each time, not updated by what the change does to it: in FP16, that is 7 dB worse.
        short = F.conv2d(F.pad(filled, (_RADIUS,) * 4, mode="replicate"), weights, groups=channels) - filled
        step = pace * torch.where(gaps, short, 0.0)
        change = step if change is None else momentum * change + step
        filled = filled + change
    return filled


def _chebyshev(smallest: float, largest: float, steps: int) -> Iterator[tuple[float, float]]:
    """How much of the last change is repeated in each step, and how much is added of what a pixel falls short of.

    After Saad, *Iterative Methods for Sparse Linear Systems*, 2003, algorithm 12.1.
    """
    centre, radius = (largest + smallest) / 2, (largest - smallest) / 2
    yield 0.0, 1 / centre
    rho = radius / centre
    for _ in range(steps - 1):
        following = 1 / (2 * centre / radius - rho)
        yield following * rho, 2 * following / radius
        rho = following


@contextmanager
def _full_precision(like: Tensor) -> Iterator[None]:
    """In training, convolutions may be computed in half precision; those of the fill, which is refined, must not."""
    if not torch.is_autocast_enabled(like.device.type):
        yield  # no context at all, which an export would record
        return
    with torch.autocast(like.device.type, enabled=False):
        yield


def _laplace(image: Tensor, gaps: Tensor) -> Tensor:
    """An approximate solution of Laplace's equation, whose boundary values are the pixels around the gaps.

    A multigrid of pools: the known pixels are averaged to coarser and coarser grids; from the coarsest, where the mean
    of all stands for what is missing, each grid gives the next finer one its first guess, which is then relaxed by
    Jacobi sweeps over 3 x 3 pixels (Briggs et al., *A Multigrid Tutorial*, 2000).
    """
    grids = [(image, gaps)]
    while grids[-1][0].shape[-1] % 2 == 0:
        grids.append(_coarser(*grids[-1]))
    known, gaps = grids[-1]
    there = _present(gaps)
    mean = (known * there).sum((2, 3), keepdim=True) / there.sum((2, 3), keepdim=True).clamp_min(1)
    filled = _relax(mean.expand_as(known), known, gaps, _SWEEPS)
    for level in range(len(grids) - 2, -1, -1):
        guess = F.interpolate(filled, scale_factor=2.0, mode="nearest")
        filled = _relax(guess, *grids[level], _SWEEPS)
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
