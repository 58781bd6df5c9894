"""What is dropped at random while a generator learns; nothing of it is there when it fills."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Regularization:
    """Shares that are dropped in training, each in [0, 1); by default nothing is, and no layer for it is built.

    None of it has parameters, so checkpoints are alike with and without. Where each sits, as in vision transformers
    (timm) and in the published code:

    Attributes:
        dropout: of single activations: after the position is added, after the attention's last projection, and in
            the MLP after its GELU and after its second layer.
        attention: of the attention's weights, after the softmax. It belongs to the form of attention that the
            generator is given (``ecea.training.attention``), for those that engines run know no dropout.
        drop_path: of whole tiles on each branch beside a residual. It rises linearly from 0 at the first block of a
            stage to this at its last; a stage of one block has none.
    """

    dropout: float = 0.0
    attention: float = 0.0
    drop_path: float = 0.0

    def path_rates(self, depth: int) -> list[float]:
        """The rate at each block of a stage."""
        return [self.drop_path * index / (depth - 1) if depth > 1 else 0.0 for index in range(depth)]


NONE = Regularization()
PUBLISHED = Regularization(dropout=0.2, attention=0.3, drop_path=0.2)


class DropPath(nn.Module):
    """Drop a branch for whole tiles of a batch at random, and scale it up for the others; in training only."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        keep = 1 - self.rate
        kept = torch.empty(x.shape[0], *(1,) * (x.ndim - 1), dtype=x.dtype, device=x.device).bernoulli_(keep)
        return x * kept / keep


def dropout(rate: float) -> nn.Module:
    """``nn.Dropout``, or nothing at all where the rate is 0, so that a traced graph holds no trace of it."""
    return nn.Dropout(rate) if rate else nn.Identity()


def drop_path(rate: float) -> nn.Module:
    """As :func:`dropout`, for whole branches."""
    return DropPath(rate) if rate else nn.Identity()
