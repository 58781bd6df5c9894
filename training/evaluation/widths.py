"""How wide a gap is where a pixel lies in it."""

import numpy as np
import numpy.typing as npt

from ecea.runtime.masks import Mask

CLASSES: tuple[tuple[int, int | None], ...] = ((1, 2), (3, 4), (5, 8), (9, 14), (15, None))
"""Least and greatest width of each class in px, both included; the last is open."""


def class_name(bounds: tuple[int, int | None]) -> str:
    """``5-8``, or ``>14``."""
    least, greatest = bounds
    return f">{least - 1}" if greatest is None else f"{least}-{greatest}"


def gap_widths(missing: Mask) -> npt.NDArray[np.int64]:
    """The width of the gap at each missing pixel.

    It is the shorter of two runs of missing pixels through it, along its row and along its column: for SLC-off stripes
    their height down a column, as the width of such a gap is usually given. A run that the border of the scene cuts off
    counts double: half of it, as likely as not, is what the scene shows.

    Args:
        missing: (H, W), True in gaps, and where the scene itself has no data.

    Returns:
        (H, W) px; 0 where nothing is missing.
    """
    return np.minimum(_run_lengths(missing), _run_lengths(missing.T).T)


def width_classes(widths: npt.NDArray[np.int64]) -> dict[str, Mask]:
    """Class -> (H, W), True where the width is of that class; each width above 0 is of exactly one."""
    return {
        class_name((least, greatest)): (widths >= least) & (widths <= (np.inf if greatest is None else greatest))
        for least, greatest in CLASSES
    }


def _run_lengths(mask: Mask) -> npt.NDArray[np.int64]:
    """(n, m), for each True the length of the run along axis 1 that it is part of, twice that at the border; else 0."""
    flat = np.pad(mask, ((0, 0), (1, 1))).ravel()  # no run goes on in the next row
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    first, last = changes[::2] + 1, changes[1::2]
    lengths = last - first + 1
    row = mask.shape[1] + 2
    at_border = (first % row == 1) | (last % row == row - 2)
    result = np.zeros(flat.size, np.int64)
    result[flat] = np.repeat(lengths * (1 + at_border), lengths)
    return result.reshape(mask.shape[0], -1)[:, 1:-1]
