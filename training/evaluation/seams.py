"""Whether a filled gap can be found again: how far values step at its edge, against the ground beside it."""

from dataclasses import dataclass, fields

import cv2
import numpy as np
import numpy.typing as npt

from ecea.runtime.masks import Mask
from ecea.training.evaluation.scenes import Unit

NEAR = 8
"""Pixels from a gap, along rows, columns and diagonals alike, within which the ground is compared with its edge."""


@dataclass(frozen=True)
class Steps:
    """Mean absolute steps, relative to those of valid ground near the gaps.

    Attributes:
        pairs: of neighbours across the edges of gaps.
        edge: across edges; 1 where they step as the ground does. None where there is nothing to compare.
        inside: between neighbours within gaps; below 1 where a fill is smoother than the ground. None likewise.
    """

    pairs: int
    edge: float | None
    inside: float | None


@dataclass(frozen=True)
class StepSums:
    """Absolute steps summed over pairs and bands, and the pairs, of each direction: down columns, along rows."""

    edge: npt.NDArray[np.float64]
    edge_pairs: npt.NDArray[np.int64]
    inside: npt.NDArray[np.float64]
    inside_pairs: npt.NDArray[np.int64]
    ground: npt.NDArray[np.float64]
    ground_pairs: npt.NDArray[np.int64]

    def __add__(self, other: "StepSums") -> "StepSums":
        return StepSums(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))

    def steps(self) -> Steps:
        """The ratios."""
        return Steps(
            int(self.edge_pairs.sum()),
            self._ratio(self.edge, self.edge_pairs),
            self._ratio(self.inside, self.inside_pairs),
        )

    def _ratio(self, steps: npt.NDArray[np.float64], pairs: npt.NDArray[np.int64]) -> float | None:
        known = (pairs > 0) & (self.ground_pairs > 0)
        expected = float((pairs[known] * self.ground[known] / self.ground_pairs[known]).sum())
        return float(steps[known].sum()) / expected if expected else None


def step_sums(image: Unit, gap: Mask, valid: Mask) -> StepSums:
    """Sum the steps between 4-neighbours of an image.

    A step is ``|a - b|``, summed over bands, of two pixels a, b that share a side. Three kinds are told apart:

    - *edge*: a in a gap, b valid and in none. The step goes straight across the edge.
    - *inside*: both in a gap.
    - *ground*: both valid, in no gap, and within ``NEAR`` px of one: the same distance apart, in the same area.

    Ground differs by direction, and so do edges: those of stripes are crossed down columns most of the time. Each
    direction's mean over the ground is therefore weighted by how many edges are crossed in it:

        ratio = sum over edge pairs of |a - b| / sum over edge pairs of (mean ground step in their direction)

    Args:
        image: (3, H, W), [0, 1].
        gap: (H, W), True in gaps, which are subsets of ``valid``.
        valid: (H, W), True where the clean scene has data.
    """
    near = cv2.dilate(gap.astype(np.uint8), np.ones((2 * NEAR + 1, 2 * NEAR + 1), np.uint8)) > 0
    outside = valid & ~gap
    ground = outside & near
    kinds = {"edge": (gap, outside), "inside": (gap, gap), "ground": (ground, ground)}
    sums: dict[str, npt.NDArray[np.float64]] = {kind: np.zeros(2) for kind in kinds}
    pairs: dict[str, npt.NDArray[np.int64]] = {kind: np.zeros(2, np.int64) for kind in kinds}
    for direction in (0, 1):
        step = np.abs(np.diff(image.astype(np.float64), axis=1 + direction)).sum(axis=0)
        for kind, (one, other) in kinds.items():
            chosen = _pairs(one, other, direction)
            sums[kind][direction] = step[chosen].sum()
            pairs[kind][direction] = np.count_nonzero(chosen)
    return StepSums(sums["edge"], pairs["edge"], sums["inside"], pairs["inside"], sums["ground"], pairs["ground"])


def _pairs(one: Mask, other: Mask, direction: int) -> Mask:
    """True for each pair of neighbours along an axis of which one pixel is in ``one`` and the next in ``other``."""
    first, second = (slice(None, -1), slice(1, None))
    if direction == 1:
        return (one[:, first] & other[:, second]) | (other[:, first] & one[:, second])
    return (one[first] & other[second]) | (other[first] & one[second])
