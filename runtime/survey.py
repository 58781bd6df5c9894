"""The first look over a whole scene: how far valid data reach, and which values they have."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ecea.runtime.errors import RequestError
from ecea.runtime.masks import Mask, collar
from ecea.runtime.scene import Rows, Scene

_SAMPLES = 250_000  # pixels from which an automatic stretch is chosen
_ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class Survey:
    """What has to be known of a whole scene before its first row can be filled.

    Its memory is a few numbers for each row and column, and a bounded sample.

    Attributes:
        row_first, row_last: (H,) first and last column with data of each row; (W, -1) where it has none.
        column_first, column_last: (W,) first and last row with data of each column; (H, -1) where it has none.
        sample: (3, n) values of the chosen bands at valid pixels, spread over the scene.
    """

    row_first: npt.NDArray[np.int64]
    row_last: npt.NDArray[np.int64]
    column_first: npt.NDArray[np.int64]
    column_last: npt.NDArray[np.int64]
    sample: npt.NDArray[Any]

    def fill(self, rows: Rows) -> Mask:
        """(3, h, W), True for each value of these rows that is to be filled: asked for, and not in the collar."""
        columns = np.arange(len(self.column_first))
        index = np.arange(rows.top, rows.bottom)[:, None]
        first, last = self.row_first[index], self.row_last[index]
        outside_rows = (columns < first) | (columns > last)
        outside_columns = (index < self.column_first) | (index > self.column_last)
        return rows.selected & ~collar(rows.void, outside_rows, outside_columns)


def survey(scene: Scene) -> Survey:
    """Read a scene once.

    Raises:
        RequestError: where no pixel of it is valid.
        EceaError: where it cannot be read.
    """
    height, width = scene.height, scene.width
    row_first, row_last = np.full(height, width), np.full(height, -1)
    column_first, column_last = np.full(width, height), np.full(width, -1)
    step = max(1, height * width // _SAMPLES)
    samples: list[npt.NDArray[Any]] = []
    for top in range(0, height, _ROWS_AT_ONCE):
        rows = scene.read(top, min(top + _ROWS_AT_ONCE, height))
        data = ~rows.void
        _extend(row_first[top : rows.bottom], row_last[top : rows.bottom], data, 0)
        _extend(column_first, column_last, data.T, top)
        # A copy: a view would keep the whole block alive.
        samples.append(rows.bands[scene.band_positions][:, ~rows.missing][:, ::step].copy())
    sample = np.concatenate(samples, axis=1)
    if not sample.size:
        raise RequestError(f"{scene.path}: has no valid pixel at all: there is nothing to fill its gaps from")
    return Survey(row_first, row_last, column_first, column_last, sample)


def _extend(first: npt.NDArray[np.int64], last: npt.NDArray[np.int64], data: Mask, offset: int) -> None:
    """Widen ``[first, last]`` of each line, (n,), by where the line holds data, (n, m) starting at ``offset``."""
    present = data.any(axis=1)
    length = data.shape[1]
    np.minimum(first, data.argmax(axis=1) + offset, out=first, where=present)
    np.maximum(last, length - 1 - data[:, ::-1].argmax(axis=1) + offset, out=last, where=present)
