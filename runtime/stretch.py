"""Between a scene's own values and the [0, 1] that the generator works in."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ecea.runtime.errors import RequestError

# The generator cannot paint above tanh(1); an automatic stretch leaves room for it.
GENERATOR_CEILING = 0.7616

_SAMPLES = 250_000  # pixels
_AUTO_PERCENTILES = (0.5, 99.5)
# GDAL takes floats for one another within 4 epsilons of float32, those of 64 bits too (ARE_REAL_EQUAL).
_SAME = 8 * float(np.finfo(np.float32).eps)


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
        numbers = (self.minimum, self.maximum, self.gamma, self.maximum - self.minimum)
        if not np.isfinite(numbers).all() or self.maximum <= self.minimum or self.gamma <= 0:
            raise RequestError(
                f"stretch {self} is impossible: expected MIN,MAX,GAMMA with MIN below MAX, a finite range and GAMMA "
                "above 0"
            )

    def __str__(self) -> str:
        # As many digits as it takes to read the same numbers again.
        numbers = (self.minimum, self.maximum, self.gamma)
        return ",".join(repr(float(number)).removesuffix(".0") for number in numbers)

    def outside(self, values: npt.NDArray[Any]) -> float:
        """The share of the values, of any shape, that are below the minimum or above the maximum, 0 to 1."""
        return float(np.mean((values < self.minimum) | (values > self.maximum)))

    def to_unit(self, values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Map values of any real dtype to float32 in [0, 1]; NaN gives 0."""
        # float64 values and 32-bit integers would lose digits in float32 before the offset is taken off.
        wide = values.dtype == np.float64 or (values.dtype.kind in "iu" and values.dtype.itemsize > 2)
        wide |= self.maximum - self.minimum > float(np.finfo(np.float32).max)
        unit: npt.NDArray[Any] = values.astype(np.float64 if wide else np.float32)
        # What is hidden anyway, a NaN or a nodata value of -3.4e38, may overflow or signal.
        with np.errstate(over="ignore", invalid="ignore"):
            np.subtract(unit, self.minimum, out=unit)
            np.divide(unit, self.maximum - self.minimum, out=unit)
            np.clip(unit, 0, 1, out=unit)
            if self.gamma != 1:
                np.power(unit, self.gamma, out=unit)
        unit[np.isnan(unit)] = 0
        return unit.astype(np.float32, copy=False)

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
            # The largest 64-bit integer is no float64: the one that it would be rounded to lies beyond it.
            highest = float(limits.max) if dtype.itemsize < 8 else np.nextafter(float(limits.max), 0)
            result = np.clip(np.rint(values), limits.min, highest).astype(dtype)
        else:
            limits_float = np.finfo(dtype)
            result = np.clip(values, limits_float.min, limits_float.max).astype(dtype)
        return _avoid(result, values, forbidden, self)


def parse_stretch(text: str) -> Stretch:
    """Read ``MIN,MAX,GAMMA`` or ``MIN,MAX``.

    Raises:
        RequestError: where it is neither.
    """
    return stretch_of(text.split(","))


def stretch_of(parts: Sequence[float | str]) -> Stretch:
    """The stretch of two or three numbers: minimum, maximum and gamma.

    Raises:
        RequestError: where they are not that.
    """
    try:
        numbers = [float(part) for part in parts]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) not in (2, 3):
        shown = ",".join(map(str, parts))
        raise RequestError(f"stretch '{shown}' is not three numbers: expected MIN,MAX,GAMMA such as 0,4000,1")
    return Stretch(*numbers)


def sample_step(pixels: int) -> int:
    """Of so many pixels, every how many are enough to choose a stretch from."""
    return max(1, pixels // _SAMPLES)


def automatic_stretch(dtype: np.dtype[Any], sample: npt.NDArray[Any]) -> Stretch:
    """Choose a stretch: 0..255 for uint8; else so that 99.5 % of the valid pixels lie below the generator's ceiling.

    Args:
        dtype: the scene's.
        sample: valid values, any shape, at least one.
    """
    if dtype == np.uint8:
        return Stretch(0, 255)
    with np.errstate(over="ignore", invalid="ignore"):  # values near the ends of float64; found out below
        low, high = np.percentile(sample.astype(np.float64), _AUTO_PERCENTILES)
        if high <= low:  # a scene of one value: any interval that holds it
            margin = max(0.5, 1e-3 * abs(low))
            low, high = low - margin, low + margin
        maximum = low + (high - low) / GENERATOR_CEILING
    if not np.isfinite([low, maximum]).all():
        raise RequestError(
            f"values from {sample.min():g} to {sample.max():g} are too far apart to choose a stretch: give one with "
            "--stretch"
        )
    # To a hundred-thousandth of what lies between: short enough to be printed, given again, and be the same.
    decimals = 5 - math.floor(math.log10(maximum - low))
    return Stretch(round(float(low), decimals), round(float(maximum), decimals))


def _avoid(
    result: npt.NDArray[Any], exact: npt.NDArray[np.float64], forbidden: Sequence[float], stretch: Stretch
) -> npt.NDArray[Any]:
    """Move what reads as a forbidden value to the nearest value beside it that is none, inside the stretch."""
    for value in forbidden:
        hit = _reads_as(result, value)
        if not hit.any():
            continue
        below, above = (_beside(value, side, forbidden, result.dtype) for side in (-1, 1))
        up = above - exact[hit] <= exact[hit] - below
        if (above <= stretch.maximum) != (below >= stretch.minimum):  # only one of them is inside
            up[:] = above <= stretch.maximum
        arms = (result.dtype.type(side if np.isfinite(side) else value) for side in (above, below))
        result[hit] = np.where(up, *arms)
    return result


def _reads_as(values: Any, value: float) -> npt.NDArray[np.bool_]:
    """Whether GDAL takes values of this dtype for ``value``: equal integers, floats that are nearly equal."""
    if values.dtype.kind in "iu":
        return np.asarray(values == value)
    with np.errstate(over="ignore"):
        distance = np.abs(values.astype(np.float64) - value)
    return np.asarray(distance <= _SAME * abs(value))


def _beside(value: float, side: int, forbidden: Sequence[float], dtype: np.dtype[Any]) -> float:
    """The nearest value below (-1) or above (1) ``value`` that reads as none of ``forbidden``; infinite if none."""
    low: float
    high: float
    step: float
    if dtype.kind in "iu":
        value, step = int(value), 1
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    else:
        limits = np.finfo(dtype)
        step = max(2 * _SAME * abs(value), float(limits.tiny))
        low, high = float(limits.min), float(limits.max)
    while low <= (value := value + side * step) <= high:
        if not any(_reads_as(dtype.type(value), taken) for taken in forbidden):
            return value
    return side * np.inf
