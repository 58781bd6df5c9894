"""Changes of a tile after which it is still land seen from above."""

from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from ecea.runtime.errors import RequestError
from ecea.runtime.stretch import GENERATOR_CEILING

Tensor = npt.NDArray[np.float32]

AUGMENTATIONS = ("flips", "jitter", "bands")

_GAIN = (0.8, 1.25)  # of all bands
_BAND_GAIN = (0.95, 1.05)  # of each
_GAMMA = (0.8, 1.25)


def parse_augmentations(text: str) -> tuple[str, ...]:
    """Read ``flips,jitter,bands``, some of them, or ``none``.

    Raises:
        RequestError: where one is unknown.
    """
    chosen = [part.strip() for part in text.split(",") if part.strip() not in ("", "none")]
    if unknown := [part for part in chosen if part not in AUGMENTATIONS]:
        raise RequestError(f"augmentation '{unknown[0]}' is unknown: expected some of {', '.join(AUGMENTATIONS)}, none")
    return tuple(name for name in AUGMENTATIONS if name in chosen)


def augment(image: Tensor, chosen: Collection[str], rng: np.random.Generator) -> Tensor:
    """Change a tile (3, S, S) in [0, 1] at random.

    ``flips``: one of the eight ways to lay a square. ``jitter``: brightness, contrast and colour. ``bands``: another
    order of the bands.
    """
    if "flips" in chosen:
        image = np.rot90(image, int(rng.integers(4)), axes=(1, 2))
        if rng.integers(2):
            image = image[:, :, ::-1]
    if "jitter" in chosen:
        image = _jitter(image, rng)
    if "bands" in chosen:
        image = image[rng.permutation(len(image))]
    return np.ascontiguousarray(image)


def _jitter(image: Tensor, rng: np.random.Generator) -> Tensor:
    """``gain * x ** gamma``; nothing that the generator can paint becomes brighter than it can paint."""
    gain = rng.uniform(*_GAIN) * rng.uniform(*_BAND_GAIN, (len(image), 1, 1))
    changed = gain * image ** rng.uniform(*_GAMMA)
    highest = max(float(image.max()), GENERATOR_CEILING)
    brightest = float(changed.max())
    if brightest > highest:
        changed *= highest / brightest
    return changed.astype(np.float32)
