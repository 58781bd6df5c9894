"""What TensorBoard shows of a run: scalars by step, and a grid of pictures by epoch."""

import functools
from collections.abc import Mapping
from pathlib import Path

import torch
from tensorboardX import SummaryWriter
from torch import Tensor

from ecea.training.data.tiles import Batch

_PICTURES = 6  # tiles in a grid
_LOGS = "logs"


class Board:
    """Writes event files into ``logs`` of a run's folder.

    Args:
        folder: the run's.
        step: steps done so far; what an interrupted run wrote beyond them is hidden.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._folder, self._step = folder / _LOGS, step

    @functools.cached_property
    def _writer(self) -> SummaryWriter:
        """Makes the folder: not before there is something to write, or a run that fails at once leaves it empty."""
        return SummaryWriter(str(self._folder), purge_step=self._step + 1 if self._step else None)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Add a point to each curve."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def pictures(self, name: str, batch: Batch, made: Tensor, made_edge: Tensor, step: int) -> None:
        """Add a grid: see :func:`picture_grid`."""
        self._writer.add_image(name, picture_grid(batch, made, made_edge).numpy(), step)
        self._writer.flush()

    def close(self) -> None:
        """Write what is left."""
        if "_writer" in self.__dict__:
            self._writer.close()


def picture_grid(batch: Batch, made: Tensor, made_edge: Tensor) -> Tensor:
    """Lay tiles side by side, and below one another what was published too.

    Rows: clean, its edges, with gaps (white), the edges made, the picture made; and the picture filled, as it is used.

    Returns:
        (3, 6 S, n S) float32 in [0, 1] on the CPU, of at most six tiles.
    """
    mask = batch["mask"]
    filled = batch["image"] + made * mask
    rows = (batch["target"], batch["target_edge"], batch["image"] + mask, made_edge, made, filled)
    return torch.cat([_row(tiles) for tiles in rows], dim=1)


def _row(tiles: Tensor) -> Tensor:
    """(B, 1 or 3, S, S) -> (3, S, n S)."""
    shown = tiles[:_PICTURES].detach().float().cpu().clamp(0, 1).expand(-1, 3, -1, -1)
    return torch.cat(list(shown), dim=2)
