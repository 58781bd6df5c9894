"""The gaps that clean scenes are given: from mask files, from the geometry of SLC-off, or a scene's own."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from ecea.runtime.errors import RequestError
from ecea.runtime.masks import Mask
from ecea.runtime.slc_off import PERIOD, TILTS, slc_off_gaps
from ecea.training.data.gaps import read_mask
from ecea.training.evaluation.scenes import CleanScene, find_rasters
from ecea.training.rasters import MASK_ENDING, SUFFIXES, rasters_in

_DRAWS = 50  # until a mask is taken to have no hole that falls on this scene


class GapSource(Protocol):
    """Where gaps come from."""

    @property
    def label(self) -> str:
        """What the results call them; no two sources of an evaluation share one."""

    def draw(self, scene: CleanScene, rng: np.random.Generator) -> Mask:
        """Gaps for a scene: (H, W), True where it is to lose its values."""


@dataclass(frozen=True)
class Stripes:
    """SLC-off stripes of one width: random phase, tilted by 9.5 to 11.3 degrees to either side.

    Attributes:
        width: rows (px) that a stripe is wide down a column.
    """

    width: int

    @property
    def label(self) -> str:
        """``stripes of 8 px``."""
        return f"stripes of {self.width} px"

    def draw(self, scene: CleanScene, rng: np.random.Generator) -> Mask:
        """See :class:`GapSource`."""
        height, width = scene.valid.shape
        tilt = rng.uniform(*TILTS) * rng.choice((-1, 1))
        # So far from the centre line that every stripe of the frame has its full width.
        swath = 10 * (height + width)
        return slc_off_gaps(
            height,
            width,
            phase=rng.uniform(0, PERIOD),
            tilt=tilt,
            max_width=self.width,
            swath_width=swath,
            centre=-swath,
        )


@dataclass(frozen=True)
class MaskFiles:
    """Masks as rasters, above 0 in holes: one drawn for each scene, flipped and laid over it at a random place.

    Where the scene is larger, the mask is continued by its mirror image.
    """

    label: str
    masks: tuple[Mask, ...]

    def draw(self, scene: CleanScene, rng: np.random.Generator) -> Mask:
        """See :class:`GapSource`."""
        mask = self.masks[rng.integers(len(self.masks))]
        mask = mask[:: rng.choice((-1, 1)), :: rng.choice((-1, 1))]
        height, width = scene.valid.shape
        rows, columns = (_mirrored(*sizes, rng) for sizes in zip((height, width), mask.shape, strict=True))
        return mask[np.ix_(rows, columns)]


def own_masks(scene: Path) -> list[Path]:
    """Where a scene's own mask may lie."""
    return [scene.with_name(f"{scene.stem}{MASK_ENDING}{suffix}") for suffix in SUFFIXES]


@dataclass(frozen=True)
class OwnMasks:
    """For each scene ``NAME`` the mask ``NAME_mask`` beside it, on the scene's own grid, laid over it as it is."""

    label: str = "own masks"

    def draw(self, scene: CleanScene, rng: np.random.Generator) -> Mask:
        """See :class:`GapSource`.

        Raises:
            RequestError: where there is no such file, or it has another size than the scene.
        """
        beside = own_masks(scene.path)
        path = next((file for file in beside if file.exists()), None)
        if path is None:
            raise RequestError(
                f"{scene.path}: has no mask {beside[0].name} beside it: put one there, or give its gaps with --masks "
                "or --stripes"
            )
        mask = read_holes(path)
        if mask.shape != scene.valid.shape:
            (height, width), (own_height, own_width) = mask.shape, scene.valid.shape
            raise RequestError(
                f"{path}: is a mask of {width} x {height} px, the scene has {own_width} x {own_height}: give a mask on "
                "the scene's own grid"
            )
        return mask


def mask_source(path: Path) -> MaskFiles:
    """Read a mask, or a folder of them.

    Raises:
        RequestError: where there is none, one cannot be read, or one has no hole.
    """
    files = find_rasters([path], "masks", rasters_in)
    return MaskFiles(path.stem if path.is_file() else path.resolve().name, tuple(read_holes(file) for file in files))


def read_holes(path: Path) -> Mask:
    """A mask, True in holes.

    Raises:
        RequestError: where it cannot be read, or has no hole.
    """
    mask = read_mask(path)
    if not mask.any():
        raise RequestError(f"{path}: has no hole, all of its values are 0 or less: expected values above 0 in holes")
    return mask


def stripes(widths: Sequence[int]) -> list[Stripes]:
    """Stripes of these widths.

    Raises:
        RequestError: where one is not narrower than the period of 33 px, or below 1.
    """
    for width in widths:
        if not 1 <= width < PERIOD:
            raise RequestError(
                f"stripes of {width} px are impossible: expected 1 to {PERIOD - 1:.0f} px, as they repeat every "
                f"{PERIOD:.0f}"
            )
    return [Stripes(width) for width in dict.fromkeys(widths)]


def draw_gaps(source: GapSource, scene: CleanScene, seed: int) -> Mask:
    """Draw gaps that hide some valid pixels of a scene, but not all: (H, W), True on valid pixels only.

    The draw depends on the seed, the scene's name and the source's label alone: the same whatever else is evaluated.

    Raises:
        RequestError: where the source has none.
    """
    rng = np.random.default_rng([seed, scene.key, zlib.crc32(source.label.encode())])
    for _ in range(_DRAWS):
        gap = source.draw(scene, rng) & scene.valid
        if gap.any() and not np.array_equal(gap, scene.valid):
            return gap
    found = "hide all of its valid pixels" if gap.any() else "fall on none of its valid pixels"
    raise RequestError(f"{scene.path}: the gaps of '{source.label}' {found}: give other gaps or leave the scene out")


def _mirrored(length: int, period: int, rng: np.random.Generator) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """``length`` consecutive indexes into ``period`` elements and their mirror image, from a random start."""
    # A shorter scene is laid on the mask itself; only what is longer runs into the mirror image.
    start = rng.integers(max(period - length, 0) + 1) if length <= period else rng.integers(2 * period)
    index = (start + np.arange(length)) % (2 * period)
    return np.where(index < period, index, 2 * period - 1 - index)
