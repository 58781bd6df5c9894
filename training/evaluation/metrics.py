"""PSNR, SSIM, MAPE and RMSE over any set of pixels.

Everything is measured in the [0, 1] that a scene's stretch maps its values to, where clipped values are the same for
all methods. Sums are kept, not means, so that figures over several scenes weigh every pixel alike.
"""

import math
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
from skimage.metrics import structural_similarity

from ecea.runtime.masks import Mask
from ecea.training.evaluation.scenes import Unit

DARKEST = 1 / 255
"""Values below it are left out of MAPE, which divides by them: less than one 8-bit level."""

_HAIR = 1e-3  # of an 8-bit level: float32 makes 255 * (v / 255) a little less than v


@dataclass(frozen=True)
class Scores:
    """How near a fill comes to the truth, over some pixels and three bands.

    Attributes:
        pixels: how many; the rest is None where there are none.
        psnr_db: ``-10 log10(mean squared error)``, dB of a peak of 1; infinite without any error.
        ssim: mean of the SSIM map at these pixels. The map is computed on the whole image, so that windows see what
            surrounds a gap too; Gaussian windows of 11 x 11 px, sigma 1.5, K1 0.01, K2 0.03 (Wang et al. 2004,
            doi 10.1109/TIP.2003.819861), of each band.
        mape_percent: mean of ``|fill - truth| / truth``, percent, where the truth is not below ``DARKEST``; None where
            it is nowhere.
        rmse: root of the mean squared error, 0 to 1.
    """

    pixels: int
    psnr_db: float | None
    ssim: float | None
    mape_percent: float | None
    rmse: float | None


@dataclass(frozen=True)
class Sums:
    """What scores are computed from, over some pixels and three bands; sums of several sets add up."""

    pixels: int = 0
    squared: float = 0.0
    relative: float = 0.0
    relative_values: int = 0
    ssim: float = 0.0

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))

    def scores(self) -> Scores:
        """The means."""
        if not self.pixels:
            return Scores(0, None, None, None, None)
        values = 3 * self.pixels
        mse = self.squared / values
        return Scores(
            pixels=self.pixels,
            psnr_db=-10 * math.log10(mse) if mse else math.inf,
            ssim=self.ssim / values,
            mape_percent=100 * self.relative / self.relative_values if self.relative_values else None,
            rmse=math.sqrt(mse),
        )


class Comparison:
    """A filled image beside the truth, pixel by pixel.

    Args:
        truth, filled: (3, H, W) float32 in [0, 1], H and W of 11 at least; the same in both where nothing is known.
    """

    def __init__(self, truth: Unit, filled: Unit) -> None:
        error = filled.astype(np.float64) - truth
        self._squared = error**2
        self._bright = truth >= DARKEST
        self._relative = np.abs(error) / np.where(self._bright, truth, 1)
        self._ssim = ssim_map(truth, filled)

    def over(self, where: Mask) -> Sums:
        """Sum over the pixels where ``where``, (H, W), is True."""
        bright = self._bright & where
        return Sums(
            pixels=int(np.count_nonzero(where)),
            squared=float(self._squared[:, where].sum()),
            relative=float(self._relative[bright].sum()),
            relative_values=int(np.count_nonzero(bright)),
            ssim=float(self._ssim[:, where].sum()),
        )


def ssim_map(truth: Unit, filled: Unit) -> npt.NDArray[np.float64]:
    """SSIM around each pixel, mirrored at the border: (3, H, W) each -> (3, H, W)."""
    _, local = structural_similarity(
        truth.astype(np.float64),
        filled.astype(np.float64),
        channel_axis=0,
        data_range=1.0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    return np.asarray(local)


def published_levels(unit: Unit) -> Unit:
    """``floor(255 v) / 255``: the 8 bits that the published application writes, as [0, 1] again."""
    return np.floor(255 * unit + np.float32(_HAIR)) / np.float32(255)
