"""The first look over a whole scene: how far valid data reach, and which values they have."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ecea.runtime.errors import RequestError
from ecea.runtime.masks import Mask
from ecea.runtime.scene import Rows, Scene
from ecea.runtime.stretch import sample_step

# Pixels that a collar is deep at least, at its corner of the scene, along both sides: one period of SLC-off stripes,
# which are 14 px wide at most, and 28 where a scene was resampled to half its pixel size.
SHALLOW = 32

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
        return rows.selected & ~self.collar(rows)

    def collar(self, rows: Rows) -> Mask:
        """(h, W), True where these rows lie outside the swath.

        A missing pixel does where data end before it both along its row and along its column: a stripe that opens
        into the collar still has scan lines above and below, a lake has shore on all sides. A stripe that the
        scene's corner cuts off has neither, but is not as deep as a collar; see ``SHALLOW``.
        """
        columns = np.arange(len(self.column_first))
        index = np.arange(rows.top, rows.bottom)[:, None]
        left, right = columns < self.row_first[index], columns > self.row_last[index]
        above, below = index < self.column_first, index > self.column_last
        # In a row or column without data, above or beside all data.
        margin = (left & right & (above | below)) | (above & below & (left | right))
        top_left, top_right, bottom_left, bottom_right = self._deep_corners()
        cut_off = (
            (left & above & top_left)
            | (right & above & top_right)
            | (left & below & bottom_left)
            | (right & below & bottom_right)
        )
        return rows.void & (margin | cut_off)

    def _deep_corners(self) -> tuple[bool, bool, bool, bool]:
        """Whether no data lie within ``SHALLOW`` of the four corners along both sides of the box around all data.

        Of the box, not of the raster, which may have a frame without data: one that was reprojected or cut out.
        """
        left, right = self.row_first.min(), self.row_last.max()
        top, bottom = self.column_first.min(), self.column_last.max()
        above_left, above_right = self.column_first[left] - top, self.column_first[right] - top
        below_left, below_right = bottom - self.column_last[left], bottom - self.column_last[right]
        along_top = self.row_first[top] - left, right - self.row_last[top]
        along_bottom = self.row_first[bottom] - left, right - self.row_last[bottom]
        return (
            min(above_left, along_top[0]) >= SHALLOW,
            min(above_right, along_top[1]) >= SHALLOW,
            min(below_left, along_bottom[0]) >= SHALLOW,
            min(below_right, along_bottom[1]) >= SHALLOW,
        )


def survey(scene: Scene) -> Survey:
    """Read a scene once.

    Raises:
        RequestError: where no pixel of it is valid.
        EceaError: where it cannot be read.
    """
    height, width = scene.height, scene.width
    row_first, row_last = np.full(height, width), np.full(height, -1)
    column_first, column_last = np.full(width, height), np.full(width, -1)
    step = sample_step(height * width)
    samples: list[npt.NDArray[Any]] = []
    for top in range(0, height, _ROWS_AT_ONCE):
        rows = scene.read(top, min(top + _ROWS_AT_ONCE, height))
        data = ~rows.void
        _extend(row_first[top : rows.bottom], row_last[top : rows.bottom], data, 0)
        _extend(column_first, column_last, data.T, top)
        valid = np.flatnonzero(~rows.missing)[::step]
        samples.append(rows.bands.reshape(len(rows.bands), -1)[:, valid][scene.band_positions])
    sample = np.concatenate(samples, axis=1)
    if not sample.size:
        raise RequestError(
            f"{scene.path}: has no valid pixel at all, so there is nothing to fill its gaps from: look at what it "
            "declares as nodata, and at --mask"
        )
    return Survey(row_first, row_last, column_first, column_last, sample)


def _extend(first: npt.NDArray[np.int64], last: npt.NDArray[np.int64], data: Mask, offset: int) -> None:
    """Widen ``[first, last]`` of each line, (n,), by where the line holds data, (n, m) starting at ``offset``."""
    present = data.any(axis=1)
    length = data.shape[1]
    np.minimum(first, data.argmax(axis=1) + offset, out=first, where=present)
    np.maximum(last, length - 1 - data[:, ::-1].argmax(axis=1) + offset, out=last, where=present)
