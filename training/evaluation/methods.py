"""What fills gaps: a baseline, or a generator through the pipeline that users have."""

import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import rasterio

from ecea.runtime.engine import Engine
from ecea.runtime.filling import inpaint
from ecea.runtime.masks import Mask
from ecea.training.evaluation.baselines import fill
from ecea.training.evaluation.metrics import published_levels
from ecea.training.evaluation.scenes import CleanScene, Unit

Values = npt.NDArray[Any]


@dataclass(frozen=True)
class Case:
    """A clean scene and the gaps that it is given.

    Attributes:
        scene: the truth.
        gaps: the label of the source of the gaps.
        gap: (H, W), True on the valid pixels that are hidden.
    """

    scene: CleanScene
    gaps: str
    gap: Mask

    @cached_property
    def truth(self) -> Unit:
        """(3, H, W) float32 in [0, 1], 0 where the clean scene has no data."""
        return self.scene.to_unit(self.scene.values)

    @cached_property
    def holed(self) -> Values:
        """(3, H, W): the scene's values, but in gaps the stretch's minimum: the truth is not there to be seen."""
        forbidden = [] if self.scene.nodata is None else [self.scene.nodata]
        values = self.scene.values
        dark = self.scene.stretch.from_unit(np.zeros(1, np.float32), values.dtype, forbidden)
        return np.where(self.gap, dark, values)


@dataclass(frozen=True)
class Filled:
    """What a method made of a case.

    Attributes:
        values: (3, H, W), the scene's dtype.
        left: gap pixels that it did not fill; they hold the stretch's minimum, and count as that.
    """

    values: Values
    left: int


class Method(Protocol):
    """A way to fill gaps.

    Attributes:
        name: what the results call it.
        is_baseline: whether it is one of the named ones.
        about: what else is to be known of it.
    """

    name: str
    is_baseline: bool
    about: dict[str, str]

    def fill(self, case: Case) -> Filled:
        """Fill the gaps of a case; nothing else may change."""

    def generate(self, case: Case) -> Unit | None:
        """(3, H, W) in [0, 1]: the whole image drawn anew, valid pixels too; None where that is not done."""


class BaselineMethod:
    """A named baseline."""

    is_baseline = True

    def __init__(self, name: str) -> None:
        self.name = name
        self.about: dict[str, str] = {}

    def fill(self, case: Case) -> Filled:
        """Fill from valid pixels alone: what the clean scene lacks is as missing as the gaps."""
        scene = case.scene
        filled = fill(self.name, case.holed, case.gap | ~scene.valid, scene.stretch)
        return Filled(np.where(case.gap, filled, case.holed), left=0)

    def generate(self, case: Case) -> Unit | None:
        """A baseline draws nothing but gaps."""
        return None


class GeneratorMethod:
    """A generator, through :func:`ecea.runtime.inpaint`, as ``ecea-run`` runs it.

    Args:
        engine: an open engine; whoever opened it closes it.
        name: what the results call it.
        published: draw whole images too, as the published application does.
    """

    is_baseline = False

    def __init__(self, engine: Engine, name: str, *, published: bool = False) -> None:
        self.name = name
        self._published = published
        self._engine = engine
        self.about = {
            "path": str(engine.bundle.path),
            "sha256": engine.bundle.sha256,
            "engine": engine.engine,
            "backend": engine.backend,
            "arithmetic": engine.arithmetic,
        }

    def fill(self, case: Case) -> Filled:
        """Write the scene with its gaps and a mask of them, run, and read what comes back."""
        with tempfile.TemporaryDirectory(prefix="ecea-evaluate-") as name:
            folder = Path(name)
            source, mask, target = folder / "scene.tif", folder / "mask.tif", folder / "filled.tif"
            _write_scene(source, case)
            _write(mask, case.gap[None].astype(np.uint8))
            result = inpaint(source, target, self._engine, mask=mask, stretch=case.scene.stretch)
            with rasterio.open(target) as dataset:
                return Filled(dataset.read(), result.pixels_left)

    def generate(self, case: Case) -> Unit | None:
        """Run the scene in 8 bits, gaps as zeros, in reference mode. Data that are 0 count as gaps, as published."""
        if not self._published:
            return None
        with tempfile.TemporaryDirectory(prefix="ecea-evaluate-") as name:
            source, target = Path(name) / "scene.tif", Path(name) / "generated.tif"
            levels = np.rint(255 * published_levels(case.truth)).astype(np.uint8)
            _write(source, np.where(case.gap, np.uint8(0), levels))
            inpaint(source, target, self._engine, reference=True)
            with rasterio.open(target) as dataset:
                generated = dataset.read().astype(np.float32) / np.float32(255)
        return np.where(case.scene.valid, generated, np.float32(0))


def _write_scene(path: Path, case: Case) -> None:
    scene = case.scene
    # A mask in the file, which comes before nodata: alpha, a mask or a list may have said what is valid.
    valid = None if scene.valid.all() else scene.valid
    _write(path, case.holed, valid, nodata=scene.nodata)


def _write(path: Path, values: Values, valid: Mask | None = None, **profile: Any) -> None:
    count, height, width = values.shape
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(
            path, "w", driver="GTiff", dtype=values.dtype, count=count, height=height, width=width, **profile
        ) as target,
    ):
        target.write(values)
        if valid is not None:
            target.write_mask(valid)
