"""How fast an engine is: latency, throughput, the stages of a run, the operators of the model."""

import platform
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ecea.runtime.backends.layers import LayerTime
from ecea.runtime.engine import Engine, usable_processors
from ecea.runtime.filling import inpaint, scene_tiles
from ecea.runtime.sample import write_sample_scene
from ecea.runtime.words import counted

PERCENTILES = (50, 90, 99)
DEFAULT_RUNS = 20

_WARM_UP = 2  # runs that are not counted: the first allocates, the second may still tune


@dataclass(frozen=True)
class Latency:
    """Times of one batch size, in seconds for a whole batch.

    Attributes:
        batch: tiles at once.
        runs: how many were timed.
        percentiles: percentile -> seconds.
        tiles_per_second: the batch over the median.
    """

    batch: int
    runs: int
    percentiles: dict[int, float]
    tiles_per_second: float


@dataclass(frozen=True)
class Profile:
    """What was measured of an engine.

    Attributes:
        machine: its processor, and how many of them this process may use.
        bundle, engine, backend, threads, streams: what was measured.
        arithmetic: that of layers that are not quantized.
        first_tile_seconds: the first run after loading, a batch of one.
        latencies: one for each batch size.
        stages: stage -> seconds, for a scene that was filled in the engine's own batches and streams; they overlap.
        scene_tiles: how many tiles that were.
        layers: the operators, in the order in which they ran, for a batch of one.
    """

    machine: str
    bundle: str
    engine: str
    backend: str
    arithmetic: str
    threads: int
    streams: int
    first_tile_seconds: float
    latencies: tuple[Latency, ...]
    stages: dict[str, float]
    scene_tiles: int
    layers: tuple[LayerTime, ...]


def profile_engine(engine: Engine, *, batches: Sequence[int] = (1,), runs: int = DEFAULT_RUNS) -> Profile:
    """Measure an engine on tiles of the built-in sample scene.

    Args:
        engine: an open engine that has not run yet, so that its first run is the first.
        batches: batch sizes to time.
        runs: timed runs for each of them.
    """
    size = engine.tile_size
    with tempfile.TemporaryDirectory() as folder:
        scene = write_sample_scene(Path(folder) / "scene.tif", height=max(512, 2 * size), width=max(640, 2 * size))
        image, edge, mask = (part[None] for part in next(scene_tiles(scene, size)))
        first = _timed(engine, image, edge, mask)
        latencies = tuple(
            _latency(engine, *(np.repeat(part, batch, axis=0) for part in (image, edge, mask)), runs=runs)
            for batch in batches
        )
        filled = inpaint(scene, Path(folder) / "filled.tif", engine)
        layers = engine.layer_times(image, edge, mask)
    return Profile(
        machine=describe_machine(),
        bundle=str(engine.bundle.path),
        engine=engine.engine,
        backend=engine.backend,
        arithmetic=engine.arithmetic,
        threads=engine.threads,
        streams=engine.streams,
        first_tile_seconds=first,
        latencies=latencies,
        stages=filled.seconds,
        scene_tiles=filled.tiles_run,
        layers=tuple(layers),
    )


def by_kind(layers: Sequence[LayerTime]) -> dict[str, float]:
    """Seconds for each type of operator, the longest first."""
    sums: dict[str, float] = {}
    for layer in layers:
        sums[layer.kind] = sums.get(layer.kind, 0.0) + layer.seconds
    return dict(sorted(sums.items(), key=lambda item: -item[1]))


def describe_machine() -> str:
    """The processor's name, where the system tells it, and how many of them this process may use."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():  # Linux
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        name = names[0] if names else name
    return f"{name}, {counted(usable_processors(), 'processor')}"


def _latency(engine: Engine, image: np.ndarray, edge: np.ndarray, mask: np.ndarray, *, runs: int) -> Latency:
    for _ in range(_WARM_UP):
        engine.infer(image, edge, mask)
    seconds = [_timed(engine, image, edge, mask) for _ in range(runs)]
    percentiles = {percentile: float(np.percentile(seconds, percentile)) for percentile in PERCENTILES}
    return Latency(len(image), runs, percentiles, len(image) / percentiles[50])


def _timed(engine: Engine, image: np.ndarray, edge: np.ndarray, mask: np.ndarray) -> float:
    """Seconds that a batch takes."""
    start = time.perf_counter()
    engine.infer(image, edge, mask)
    return time.perf_counter() - start
