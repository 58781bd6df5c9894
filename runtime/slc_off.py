"""Where Landsat 7 sees nothing since its scan line corrector failed in 2003, and where a scene ends."""

import math

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

PERIOD = 33.0
"""Rows of 30 m from one gap to the next, down a column."""
TILT = 10.0
"""Degrees by which a scan line descends to the right in a north-up scene."""
TILTS = (9.5, 11.3)
"""Degrees between which that lies in scenes that were measured."""
MAX_WIDTH = 14.0
"""Rows that a gap is wide at the sides of the swath."""
FREE_SHARE = 0.2
"""Share of the swath, around its centre line, without gaps."""


def slc_off_gaps(
    height: int,
    width: int,
    *,
    phase: float = 0.0,
    tilt: float = TILT,
    period: float = PERIOD,
    max_width: float = MAX_WIDTH,
    swath_width: float | None = None,
    centre: float | None = None,
    free_share: float = FREE_SHARE,
) -> Mask:
    """Draw the gaps that Landsat 7 leaves since its scan line corrector failed, in a north-up frame.

    Measured on five scenes at 30 m: gaps repeat every 33 rows down a column, descend to the right by 9.5 to
    11.3 degrees, are 0.004 px wide per px from the swath's centre line and at most 14 px, are absent in the
    central fifth, and lie half a period lower in one half of the swath than in the other.

    The frame may be any window of a swath: a 256 px tile far from the centre line of a full scene is
    ``slc_off_gaps(256, 256, swath_width=7000, centre=-2000)``.

    Args:
        height, width: of the frame, px.
        phase: rows (px, any real number) by which the pattern is moved down. At 0 a gap of the left half points
            at where the centre line crosses the frame's middle row.
        tilt: degrees by which scan lines descend to the right; negative: they ascend. The centre line is at a
            right angle to them.
        period: rows (px) from one gap to the next down a column; above 0.
        max_width: rows (px) that a gap is wide, down a column, at and beyond the sides of the swath.
        swath_width: columns (px) from side to side of the swath; 7000 in a real scene. Default: ``width``.
            Gaps widen by ``max_width / (swath_width / 2)`` px per px from the centre line: 0.004 at 7000.
        centre: column of the centre line in the frame's middle row, in the frame or outside. Default: its middle.
        free_share: share of ``swath_width`` without gaps, around the centre line, 0 to 1.

    Returns:
        (height, width) bool, True in a gap.
    """
    half = (width if swath_width is None else swath_width) / 2
    along, across = _scan_grid(height, width, tilt, centre)
    stripe = along - phase - np.where(across > 0, period / 2, 0.0)
    from_gap = (stripe + period / 2) % period - period / 2
    wide = np.minimum(max_width / half * np.abs(across), max_width)
    # Half open, so that a gap `w` rows wide never covers more than ceil(w) of them.
    inside = (from_gap >= -wide / 2) & (from_gap < wide / 2)
    return np.asarray(inside & (np.abs(across) >= free_share * half))


def collar(height: int, width: int, angle: float = TILT) -> Mask:
    """The part of a frame outside the scene: the frame is the bounding box of a turned rectangle.

    Args:
        height, width: of the frame, px.
        angle: degrees by which the rectangle's upper side descends to the right; negative: it ascends.

    Returns:
        (height, width) bool, True outside. Four triangles, one in each corner; nothing at 0 degrees.

    Raises:
        ValueError: no rectangle turned by ``angle`` has a bounding box as long and narrow as the frame.
    """
    across_size, along_size = swath_size(height, width, angle)
    along, across = _scan_grid(height, width, angle, None)
    return np.asarray((np.abs(across) > across_size / 2) | (np.abs(along) > along_size / 2))


def swath_size(height: int, width: int, angle: float = TILT) -> tuple[float, float]:
    """Size of the scene that :func:`collar` leaves: columns along a row, rows down a column (px).

    The first is what :func:`slc_off_gaps` takes as ``swath_width``. Arguments and errors are as for ``collar``.
    """
    tan = abs(_tangent(angle))
    # A rectangle of sides a, b turned by t: width = a cos t + b sin t, height = a sin t + b cos t. Solved for
    # a / cos t and b / cos t, its extent along a row and along a column.
    stretch = (1 + tan * tan) / (1 - tan * tan) if tan < 1 else 0.0
    across, along = (width - height * tan) * stretch, (height - width * tan) * stretch
    if not (across > 0 and along > 0):
        raise ValueError(
            f"a swath turned by {angle} degrees does not fit a frame of {width} x {height} px: "
            f"make its sides more alike or the angle smaller"
        )
    return across, along


def _tangent(degrees: float) -> float:
    return round(math.tan(math.radians(degrees)), 9)  # libraries differ in the last bit


def _scan_grid(
    height: int, width: int, tilt: float, centre: float | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rows below the scan line through the frame's centre, columns right of the centre line: (H, W), px."""
    tan = _tangent(tilt)
    y = np.arange(height, dtype=np.float64)[:, None] - (height - 1) / 2
    x = np.arange(width, dtype=np.float64)[None, :] - ((width - 1) / 2 if centre is None else centre)
    return y - x * tan, x + y * tan
