"""The five terms that the generator learns from, and the discriminator's own, as published.

Zhou et al., IEEE JSTARS 18 (2025), doi 10.1109/JSTARS.2025.3559203; the perceptual and the style term after Johnson
et al. 2016 in the form that Nazeri et al. 2019 (EdgeConnect) gave them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

PERCEPTUAL_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
STYLE_LAYERS = ("relu2_2", "relu3_4", "relu4_4", "relu5_2")
PUBLISHED_TERMS = ("adversarial", "perceptual", "style", "l1", "edge")

# A tile whose smooth fill has an error as small as this (root mean square, of a range of 1) has nothing to gain.
_NEGLIGIBLE = 0.01


@dataclass(frozen=True)
class LossWeights:
    """What each term is multiplied by; the published weights, and 0 for the term that is not published."""

    adversarial: float = 1.0
    perceptual: float = 0.5
    style: float = 10_000.0
    l1: float = 100.0
    edge: float = 80.0
    relative: float = 0.0


def total(terms: Mapping[str, Tensor], weights: LossWeights) -> Tensor:
    """The generator's loss: the mean of the five weighted terms; what is not published is added to their sum.

    A term that is absent counts as 0, and the sum is divided by five all the same, so that the others weigh as they
    do in the published loss.
    """
    weighted = [getattr(weights, name) * value for name, value in terms.items()]
    return torch.stack(weighted).sum() / len(PUBLISHED_TERMS)


def deceived(judgement_of_made: Tensor) -> Tensor:
    """The adversarial term: how far the discriminator is from taking what was made for real; L1 to ones."""
    return F.l1_loss(judgement_of_made, torch.ones_like(judgement_of_made))


def discriminator_loss(judgement_of_made: Tensor, judgement_of_real: Tensor) -> Tensor:
    """L1 to zeros for what was made and to ones for what is real, their mean."""
    made = F.l1_loss(judgement_of_made, torch.zeros_like(judgement_of_made))
    real = F.l1_loss(judgement_of_real, torch.ones_like(judgement_of_real))
    return (made + real) / 2


def perceptual(made: Mapping[str, Tensor], real: Mapping[str, Tensor]) -> Tensor:
    """The sum over five layers of the L1 between activations."""
    return torch.stack([F.l1_loss(made[layer], real[layer]) for layer in PERCEPTUAL_LAYERS]).sum()


def style(made: Mapping[str, Tensor], real: Mapping[str, Tensor]) -> Tensor:
    """The sum over four layers of the L1 between Gram matrices."""
    return torch.stack([F.l1_loss(gram(made[layer]), gram(real[layer])) for layer in STYLE_LAYERS]).sum()


def gram(activations: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, C): products of channels summed over pixels, divided by ``C * H * W``; in float32."""
    flat = activations.float().flatten(2)
    return flat @ flat.transpose(1, 2) / (flat.shape[1] * flat.shape[2])


def weighted_l1(made: Tensor, real: Tensor, mask: Tensor, gap_weight: float = 1.0) -> Tensor:
    """The mean absolute error, in which pixels of gaps count ``gap_weight`` times.

    At 1 it is the published term: all pixels alike. At any weight it stays a mean, so that the weight of the term
    keeps its meaning.

    Args:
        made, real: (B, C, H, W).
        mask: (B, 1, H, W), 1 in gaps, else 0.
        gap_weight: above 0.
    """
    if gap_weight == 1:
        return F.l1_loss(made, real)
    weight = 1 + (gap_weight - 1) * mask
    return ((made - real).abs() * weight).mean() / weight.mean()


def relative_error(made: Tensor, wanted: Tensor, smooth: Tensor, real: Tensor, mask: Tensor) -> Tensor:
    """The squared error over gaps as a share of the smooth fill's, in the mean over tiles: below 1 is a gain.

    Not published. The plain error is that of the roughest scenes: a dark scene of little contrast, whose error is a
    hundredth of theirs, teaches nothing. Did all tiles weigh alike, the roughest of a scene would teach no more than a
    calm sea, though its scene is judged by it. So they weigh as much as the root of the smooth fill's error on them.

    Args:
        made, wanted, smooth, real: (B, C, H, W); ``smooth`` of :func:`ecea.model.refinement.smooth_fill`. What is
            wanted is what is real, or what a teacher draws.
        mask: (B, 1, H, W), 1 in gaps, else 0.
    """
    left = ((made - wanted).square() * mask).sum((1, 2, 3))
    before = ((smooth - real).square() * mask).sum((1, 2, 3))
    values = (mask.sum((1, 2, 3)) * made.shape[1]).clamp_min(1)  # a tile without a gap counts as nothing
    root = (before + _NEGLIGIBLE**2 * values).sqrt()
    return (left / root).sum() / root.sum()
