"""The edge map that conditions the generator: Canny and Sobel of the gray tile, as the published application.

The published formulas stand in ``docs/architecture.md``; here the same bits are computed with less work.
"""

import cv2
import numpy as np
import numpy.typing as npt

_CANNY_THRESHOLDS = (50, 120)
_FILL_RADIUS = 1  # px
_KERNEL = np.ones((3, 3), np.uint8)


def gray(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """(3, H, W) uint8 -> (H, W) uint8: ITU-R 601 luma in 16-bit fixed point, as Pillow's mode ``L``."""
    red, green, blue = rgb.astype(np.uint32)
    return ((19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16).astype(np.uint8)


def edge_map(gray_tile: npt.NDArray[np.uint8], missing: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """Draw the edges of a tile with gaps.

    Half of it is ``Canny(50, 120)`` of the tile with its gaps filled by Telea's method (radius 1), half the norm of
    the three 3x3 Sobel derivatives (1,0), (0,1), (1,1) with gaps as NaN, so it vanishes beside a gap; the sum is
    scaled to [0, 1] within the tile. Pixels of row 0 and column 0 that are missing are never filled: OpenCV's
    inpainting leaves the border, and the published edge maps have it so.

    Args:
        gray_tile: (H, W) uint8, at least 2 x 2.
        missing: (H, W), True where there is a gap.

    Returns:
        (H, W) float32 in [0, 1]; zeros for a tile of one gray.
    """
    mask = missing.astype(np.uint8)
    any_missing = bool(mask.any())
    filled = gray_tile
    if any_missing:
        filled = np.asarray(cv2.inpaint(gray_tile, mask, _FILL_RADIUS, cv2.INPAINT_TELEA), np.uint8)
    sobel = _sobel_norm(gray_tile)
    if any_missing:
        # A NaN reaches the 3 x 3 pixels around it, mirrored at the border as Sobel mirrors.
        sobel[cv2.dilate(mask, _KERNEL, borderType=cv2.BORDER_REFLECT_101) > 0] = 0
    return scaled(_halves(filled, sobel))


def edge_strength(gray_tile: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Draw the edges of a tile without gaps, as :func:`edge_map` does before it scales them.

    Training hides the gaps of this, not of the tile: that is how the published generator was trained.

    Args:
        gray_tile: (H, W) uint8, at least 2 x 2.

    Returns:
        (H, W) float32, 0 and above.
    """
    return _halves(gray_tile, _sobel_norm(gray_tile))


def scaled(edges: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Scale edges to [0, 1] within the tile; zeros where all are alike."""
    low, high = edges.min(), edges.max()
    if high == low:
        return np.zeros_like(edges)
    return np.asarray((edges - low) / (high - low), np.float32)


def _halves(gray_tile: npt.NDArray[np.uint8], sobel: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    canny = cv2.Canny(gray_tile, *_CANNY_THRESHOLDS)
    return np.asarray(np.float32(0.5) * canny + np.float32(0.5) * sobel, np.float32)


def _sobel_norm(gray_tile: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    # Sums of 8-bit integers are exact in float32, so this equals the published float64 to the last bit kept.
    squares = np.zeros(gray_tile.shape, np.float32)
    for dx, dy in ((1, 0), (0, 1), (1, 1)):
        cv2.accumulateSquare(cv2.Sobel(gray_tile, cv2.CV_32F, dx, dy, ksize=3), squares)
    return np.asarray(np.sqrt(squares, out=squares))
