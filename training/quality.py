"""How well gaps are filled, while training goes on. (``ecea-evaluate`` is for the numbers that are published.)"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf, isfinite, log10, nan

import torch
from torch import Tensor, nn

from ecea.training.data.tiles import Batch


@dataclass
class GapError:
    """The squared error over pixels of gaps, gathered batch by batch on the device; a sum for each batch."""

    squares: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)

    def add(self, made: Tensor, real: Tensor, mask: Tensor) -> None:
        """Args: (B, C, S, S), (B, C, S, S), (B, 1, S, S) with 1 in gaps."""
        with torch.no_grad():
            self.squares.append((((made - real) * mask) ** 2).sum(dtype=torch.float64))
            self.values.append(mask.sum(dtype=torch.float64) * made.shape[1])

    @property
    def psnr(self) -> float:
        """Peak signal to noise ratio over all of them, dB, of a range of 1; infinite where there is no error.

        NaN where an error is no finite number.
        """
        squares, values = float(sum(self.squares)), float(sum(self.values))
        if not isfinite(squares):
            return nan
        return 10 * log10(values / squares) if squares > 0 else inf


@torch.no_grad()
def validate(generator: nn.Module, batches: Sequence[Batch]) -> float:
    """PSNR (dB) over the gaps of all these tiles, in eval mode; the generator's mode is as before afterwards."""
    was_training = generator.training
    generator.eval()
    device = next(generator.parameters()).device
    error = GapError()
    for batch in batches:
        made, _ = generator(*(batch[name].to(device) for name in ("image", "edge", "mask")))
        error.add(made, batch["target"].to(device), batch["mask"].to(device))
    generator.train(was_training)
    return error.psnr
