"""Between a scene's own values and the [0, 1] that the generator works in."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ecea.runtime.errors import RequestError

# The generator cannot paint above tanh(1); an automatic stretch leaves room for it.
GENERATOR_CEILING = 0.7616

_AUTO_PERCENTILES = (0.5, 99.5)


@dataclass(frozen=True)
class Stretch:
    """``unit = ((value - minimum) / (maximum - minimum)) ** gamma``, clipped to [0, 1], and its inverse.

    The gamma is the power that the values are raised to, as in the published application (0, 0.4, 1.4 for
    top-of-atmosphere reflectance); Earth Engine's visualisation gamma is its inverse.
    """

    minimum: float
    maximum: float
    gamma: float = 1.0

    def __post_init__(self) -> None:
        numbers = (self.minimum, self.maximum, self.gamma)
        if not np.isfinite(numbers).all() or self.maximum <= self.minimum or self.gamma <= 0:
            raise RequestError(
                f"stretch {self} is impossible: expected MIN,MAX,GAMMA with MIN below MAX and GAMMA above 0"
            )

    def __str__(self) -> str:
        return f"{self.minimum:g},{self.maximum:g},{self.gamma:g}"

    def to_unit(self, values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Map values of any real dtype to float32 in [0, 1]; NaN gives 0."""
        # float64 values and 32-bit integers would lose digits in float32 before the offset is taken off.
        wide = values.dtype == np.float64 or (values.dtype.kind in "iu" and values.dtype.itemsize > 2)
        unit: npt.NDArray[Any] = values.astype(np.float64 if wide else np.float32)
        np.subtract(unit, self.minimum, out=unit)
        np.divide(unit, self.maximum - self.minimum, out=unit)
        np.clip(unit, 0, 1, out=unit)
        if self.gamma != 1:
            np.power(unit, self.gamma, out=unit)
        return np.nan_to_num(unit, copy=False, nan=0.0).astype(np.float32, copy=False)

    def from_unit(
        self, unit: npt.NDArray[np.float32], dtype: np.dtype[Any], forbidden: Sequence[float] = ()
    ) -> npt.NDArray[Any]:
        """Map [0, 1] back to the scene's values: rounded to nearest for integers, clipped to what ``dtype`` holds.

        Args:
            unit: float32 of any shape.
            dtype: an integer or floating dtype.
            forbidden: values that mean "no data"; a result that meets one moves to the nearest value beside it.
        """
        values = np.clip(unit.astype(np.float64), 0, 1) ** (1 / self.gamma)
        values = values * (self.maximum - self.minimum) + self.minimum
        if dtype.kind in "iu":
            limits = np.iinfo(dtype)
            result = np.clip(np.rint(values), limits.min, limits.max).astype(dtype)
        else:
            limits_float = np.finfo(dtype)
            result = np.clip(values, limits_float.min, limits_float.max).astype(dtype)
        return _avoid(result, values, forbidden)


def parse_stretch(text: str) -> Stretch:
    """Read ``MIN,MAX,GAMMA`` or ``MIN,MAX``.

    Raises:
        RequestError: where it is neither.
    """
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (2, 3):
        raise RequestError(f"stretch '{text}' is not three numbers: expected MIN,MAX,GAMMA such as 0,4000,1")
    return Stretch(*numbers)


def automatic_stretch(dtype: np.dtype[Any], sample: npt.NDArray[Any]) -> Stretch:
    """Choose a stretch: 0..255 for uint8; else so that 99 % of the valid pixels lie below the generator's ceiling.

    Args:
        dtype: the scene's.
        sample: valid values, any shape, at least one.
    """
    if dtype == np.uint8:
        return Stretch(0, 255)
    low, high = np.percentile(sample.astype(np.float64), _AUTO_PERCENTILES)
    if high <= low:  # a scene of one value: any interval that holds it
        low, high = low - 0.5, low + 0.5
    return Stretch(float(low), float(low + (high - low) / GENERATOR_CEILING))


def _avoid(result: npt.NDArray[Any], exact: npt.NDArray[np.float64], forbidden: Sequence[float]) -> npt.NDArray[Any]:
    """Move what equals a forbidden value one step to the side of the exact value, or off the dtype's edge."""
    for value in forbidden:
        hit = result == value
        if not hit.any():
            continue
        up = exact[hit] >= value
        if result.dtype.kind in "iu":
            limits = np.iinfo(result.dtype)
            up = (up | (value == limits.min)) & (value != limits.max)
            result[hit] = np.where(up, value + 1, value - 1).astype(result.dtype)
        else:
            target = np.where(up, np.inf, -np.inf).astype(result.dtype)
            result[hit] = np.nextafter(result[hit], target)
    return result
