"""Comparing engines with PyTorch on real tiles, before anyone may use them."""

import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from ecea.calibration import TileSource
from ecea.model import Generator, UNet
from ecea.runtime.bundle import OUTPUTS
from ecea.runtime.errors import EceaError, RequestError
from ecea.runtime.filling import scene_tiles
from ecea.runtime.sample import write_sample_scene

Tensor = npt.NDArray[np.float32]
T = TypeVar("T")

BATCHES = (1, 3, 8)
TILES = max(BATCHES)

# Largest difference from PyTorch in FP32 that an engine may show anywhere. One level of 8 bits is 3.9e-3: FP32 may
# err by a fortieth of it. FP16 carries 11 bits, and single pixels may be off by a few levels where the mean is not.
# INT8 is held to the accuracy that was asked for; here only what no sound quantization would do is refused.
MAX_ERROR = {"fp32": 1e-4, "fp16": 3e-2, "int8": 1.0}
MIN_PSNR = {"fp32": 90.0, "fp16": 50.0, "int8": 15.0}  # dB


SYNTHETIC = "the built-in sample scene"


class ParityError(EceaError):
    """An engine that does not compute what PyTorch computes.

    Attributes:
        finding: what was found, without what comes of it.
    """

    def __init__(self, finding: str, advice: str = "") -> None:
        super().__init__(f"{finding}: the bundle is not written{advice}")
        self.finding = finding


class RunError(ParityError):
    """An engine that loads and does not run, which says nothing of what it computes."""


class Runs(Protocol):
    """What can be compared: a backend's session, or an engine that has been opened."""

    def infer(self, image: Tensor, edge: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Compute a batch."""


@dataclass(frozen=True)
class Tiles:
    """Inputs to compare on: (TILES, C, S, S) each, and where they were cut from."""

    image: Tensor
    edge: Tensor
    mask: Tensor
    source: str

    @property
    def synthetic(self) -> bool:
        """Whether they are of the built-in sample scene."""
        return self.source == SYNTHETIC

    def first(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """The first ``count`` tiles as an engine takes them."""
        return self.image[:count], self.edge[:count], self.mask[:count]

    def one(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        """One tile, a batch of its own."""
        return self.image[index : index + 1], self.edge[index : index + 1], self.mask[index : index + 1]


@contextmanager
def tile_sources(
    scenes: Sequence[str | os.PathLike[str]], size: int, options: dict[str, Any]
) -> Iterator[list[TileSource]]:
    """Give the user's scenes, or the built-in sample scene, as sources of tiles with gaps, for the ``with`` block.

    Args:
        scenes: rasters with gaps; none for the sample scene.
        size: side of a tile.
        options: of :func:`ecea.runtime.filling.scene_tiles`.
    """
    with tempfile.TemporaryDirectory() as folder:
        if not scenes:
            sample = Path(folder) / "sample.tif"
            write_sample_scene(sample, height=max(512, 4 * size), width=max(640, 4 * size))
            yield [TileSource(SYNTHETIC, lambda: scene_tiles(sample, size))]
        else:
            yield [TileSource(Path(scene).name, partial(scene_tiles, scene, size, **options)) for scene in scenes]


def parity_tiles(sources: Sequence[TileSource]) -> Tiles:
    """Take tiles with gaps from sources, evenly spread.

    Raises:
        RequestError: where a scene cannot be read or none holds a tile with a gap.
    """
    names = ", ".join(source.name for source in sources)
    found = _spread((tile for source in sources for tile in source.tiles()), TILES)
    if not found:
        raise RequestError(f"{names}: holds no tile with a gap to compare engines on: give another scene")
    image, edge, mask = (np.stack(parts) for parts in zip(*found, strict=True))
    return Tiles(image, edge, mask, names)


def reference(network: Generator | UNet, tiles: Tiles) -> dict[str, Tensor]:
    """What PyTorch makes of the tiles, one at a time, in float32."""
    parts: dict[str, list[Tensor]] = {name: [] for name in OUTPUTS}
    with torch.inference_mode():
        for i in range(TILES):
            inputs = (torch.from_numpy(x[i : i + 1]) for x in tiles.first(TILES))
            for name, output in zip(OUTPUTS, network(*inputs), strict=True):
                parts[name].append(output.numpy())
    return {name: np.concatenate(part) for name, part in parts.items()}


def compare(
    session: Runs,
    engine: str,
    where: str,
    tiles: Tiles,
    expected: dict[str, Tensor],
    *,
    batches: Sequence[int] = BATCHES,
    against: str = "PyTorch",
) -> Iterator[dict[str, Any]]:
    """Run an engine at several batch sizes; yield the worst of each output for the manifest.

    Args:
        session: the engine, loaded.
        engine: the precision, for the tolerance.
        where: the file and the backend, for the message.
        tiles: as many as the largest batch takes.
        expected: the outputs that they should have.
        batches: tiles in a batch, one run each.
        against: what has computed the expected outputs, for the message.

    Raises:
        RunError: where it does not run.
        ParityError: naming the first output that is out of tolerance, not finite or of another shape.
    """
    errors: dict[str, list[Tensor]] = {name: [] for name in OUTPUTS}
    missing = tiles.mask > 0
    for batch in batches:
        try:
            outputs = session.infer(*(np.ascontiguousarray(x) for x in tiles.first(batch)))
        except Exception as failure:  # the backends' exceptions share no base class
            raise RunError(f"{where}: fails at batch {batch} ({failure})") from failure
        for name, output in zip(OUTPUTS, outputs, strict=True):
            wanted = expected[name][:batch]
            if output.shape != wanted.shape:
                raise ParityError(
                    f"{where}: output '{name}' has shape {output.shape} at batch {batch}, expected {wanted.shape}"
                )
            error = np.abs(output - wanted)
            _demand(engine, f"{where}: output '{name}' differs from {against}", batch, error)
            errors[name].append(error)
    for name, parts in errors.items():
        largest = max(parts, key=len)
        yield {
            "output": name,
            "batches": list(batches),
            "max_error": max(float(error.max()) for error in parts),
            "psnr_db": min(psnr(error) for error in parts),
            # Of all tiles at once, which is what INT8 has promised; a single one may be worse, or better.
            "missing_psnr_db": psnr(largest[np.broadcast_to(missing[: len(largest)], largest.shape)]),
        }


def psnr(error: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of differences on a range of 1; at most 150."""
    return decibels(float(np.mean(np.square(error, dtype=np.float64))))


def decibels(mean_squared_error: float) -> float:
    """The same of a mean squared error."""
    value = -10 * math.log10(mean_squared_error or 1e-15)
    return min(value, 150.0)  # in this order a NaN stays one


def _spread(items: Iterable[T], count: int) -> list[T]:
    """Pick ``count`` items evenly from a stream, holding at most twice as many; repeated where there are fewer."""
    kept: list[T] = []
    stride = 1
    for index, item in enumerate(items):
        if index % stride:
            continue
        kept.append(item)
        if len(kept) == 2 * count:
            kept, stride = kept[::2], 2 * stride
    return [kept[i * len(kept) // count] for i in range(count)] if kept else []


def _demand(engine: str, what: str, batch: int, error: Tensor) -> None:
    # Written so that NaN fails.
    largest = float(error.max())
    if largest <= MAX_ERROR[engine] and psnr(error) >= MIN_PSNR[engine]:
        return
    raise ParityError(
        f"{what} by {largest:.2g} ({psnr(error):.1f} dB) at batch {batch}, "
        f"{engine} may differ by {MAX_ERROR[engine]:g} ({MIN_PSNR[engine]:g} dB)",
        "; please report this checkpoint's configuration",
    )
