"""Whole scenes: ours against the published application's own way, and against the engine's own time.

Used by ``cpu.py``. One scene is the user's; the other a synthetic one of 7,000 x 8,000 px, of which the first rows of
tiles are measured and the rest is extrapolated from what one more row of them takes.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import published
import rasterio
import torch
from memory import peak_megabytes
from workers import Worker, take_turns

from ecea.model import load_generator
from ecea.runtime import inpaint, open_engine
from ecea.runtime.bundle import read_bundle
from ecea.runtime.cli import DEFAULT_STREAMS
from ecea.runtime.engine import Engine, usable_processors
from ecea.runtime.filling import scene_tiles
from ecea.runtime.slc_off import slc_off_gaps
from ecea.runtime.tiles import default_overlap

PEER = "the published application, PyTorch eager"
PEER_ALONE = "PyTorch eager alone"
LARGE = (7_000, 8_000)  # px, width and height
STRIPS = (1, 3)  # of the large scene that are measured

ENGINES = ("fp32", "fp16", "int8")


def measure(scene: Path, bundle: Path, checkpoint: Path, rounds: int, folder: Path) -> dict[str, Any]:
    """Time every path on the scene in turn, then on strips of the large one."""
    return {
        "scene": scene.name,
        "rounds": rounds,
        "paths": _on_scene(scene, bundle, checkpoint, rounds, folder),
        "large": list(LARGE),
        "large_paths": _on_large(bundle, checkpoint, folder),
        "memory": [_memory(scene, bundle, engine) for engine in ENGINES],
    }


def _on_scene(scene: Path, bundle: Path, checkpoint: Path, rounds: int, folder: Path) -> list[dict[str, Any]]:
    workers = [
        Worker(PEER, publish, checkpoint, scene, folder),
        Worker(PEER_ALONE, run_tiles_eagerly, checkpoint, scene),
    ]
    for engine in ENGINES:
        workers.append(Worker(f"ours, {engine}", fill, bundle, engine, scene, folder))
        workers.append(Worker(f"engine alone, {engine}", run_tiles, bundle, engine, scene))
    seconds = take_turns(workers, rounds)
    for worker in workers:
        worker.close()
    return [_row(f"ours, {engine}", f"engine alone, {engine}", seconds) for engine in ENGINES]


def publish(checkpoint: Path, scene: Path, folder: Path, strips: int | None = None) -> Callable[[], float]:
    """The published application's way."""
    torch.set_num_threads(usable_processors())
    generator = load_generator(checkpoint)
    image, edge = folder / f"image_{scene.stem}.tif", folder / f"edge_{scene.stem}.tif"
    return lambda: _seconds(lambda: published.fill(scene, image, edge, generator, strips=strips))


def fill(bundle: Path, engine: str, scene: Path, folder: Path) -> Callable[[], float]:
    """Ours."""
    opened = open_engine(bundle, engine=engine, streams=DEFAULT_STREAMS)
    _warm_up(opened)
    return lambda: _seconds(lambda: inpaint(scene, folder / f"filled_{engine}.tif", opened, mask="zero"))


def run_tiles(bundle: Path, engine: str, scene: Path) -> Callable[[], float]:
    """The engine alone, given all tiles of the scene as fast as it takes them."""
    opened = open_engine(bundle, engine=engine, streams=DEFAULT_STREAMS)
    tiles = [tuple(part[None] for part in tile) for tile in scene_tiles(scene, opened.tile_size, mask="zero")]
    _warm_up(opened)

    def run() -> None:
        for started in [opened.submit(*tile) for tile in tiles]:
            started.result()

    return lambda: _seconds(run)


def run_tiles_eagerly(checkpoint: Path, scene: Path) -> Callable[[], float]:
    """PyTorch eager alone, given the same tiles one after another."""
    torch.set_num_threads(usable_processors())
    generator = load_generator(checkpoint)
    tiles = [
        [torch.from_numpy(part)[None] for part in tile]
        for tile in scene_tiles(scene, generator.config.img_size, mask="zero")
    ]

    def run() -> None:
        with torch.inference_mode():
            for tile in tiles:
                generator(*tile)

    return lambda: _seconds(run)


def _warm_up(engine: Engine) -> None:
    size, streams = engine.tile_size, engine.streams
    for _ in range(2):
        engine.infer(*(np.zeros((streams, channels, size, size), np.float32) for channels in (3, 1, 1)))


def _row(ours: str, alone: str, seconds: dict[str, list[float]]) -> dict[str, Any]:
    ratios = [peer / own for peer, own in zip(seconds[PEER], seconds[ours], strict=True)]
    return {
        "path": ours,
        "ratio": float(np.median(ratios)),
        "ratio_range": [min(ratios), max(ratios)],
        "ratio_of_tiles_alone": float(np.median(np.divide(seconds[PEER_ALONE], seconds[alone]))),
        "times_engine_alone": float(np.median(np.divide(seconds[ours], seconds[alone]))),
    }


def _on_large(bundle: Path, checkpoint: Path, folder: Path) -> list[dict[str, Any]]:
    """Time two heights of the large scene; what lies between them is the time of a strip."""
    size = read_bundle(bundle).tile_size
    step = size - default_overlap(size)
    rows_of_tiles = -(-(LARGE[1] - size) // step) + 1
    low, high = (_write_large(folder / f"large_{strips}.tif", size + (strips - 1) * step) for strips in STRIPS)
    peer = Worker(PEER, publish, checkpoint, low, folder, 1)
    theirs = peer.run() * -(-LARGE[1] // published.STEP)
    peer.close()
    found = []
    for engine in ENGINES:
        workers = [Worker(file.stem, fill, bundle, engine, file, folder) for file in (low, high)]
        short, tall = (worker.run() for worker in workers)
        for worker in workers:
            worker.close()
        strip = (tall - short) / (STRIPS[1] - STRIPS[0])
        found.append({"path": f"ours, {engine}", "ratio": theirs / (short + (rows_of_tiles - STRIPS[0]) * strip)})
    return found


def _write_large(path: Path, height: int) -> Path:
    values = np.random.default_rng(0).integers(40, 200, (3, height, LARGE[0]), np.uint8)
    values[:, slc_off_gaps(height, LARGE[0])] = 0
    with rasterio.open(
        path, "w", driver="GTiff", count=3, height=height, width=LARGE[0], dtype="uint8", tiled=True
    ) as target:
        target.write(values)
    return path


def _memory(scene: Path, bundle: Path, engine: str) -> dict[str, Any]:
    """Peak memory of ecea-run on the scene, and of a process that opens the same engine and computes the same tiles."""
    with tempfile.TemporaryDirectory() as folder:
        command = peak_megabytes(
            "ecea-run", str(scene), "-o", f"{folder}/filled.tif", "--bundle", str(bundle), "--engine", engine,
            "--mask", "zero", "--json",
        )  # fmt: skip
    alone = peak_megabytes(Path(sys.executable).name, "-c", _ENGINE_ALONE, str(bundle), engine, str(DEFAULT_STREAMS))
    return {
        "engine": engine,
        "command_mb": round(command),
        "engine_mb": round(alone),
        "beside_mb": round(command - alone),
    }


# An engine that runs as many tiles at once, and nothing else.
_ENGINE_ALONE = """
import sys
import numpy as np
from ecea.runtime import open_engine
bundle, engine, streams = sys.argv[1], sys.argv[2], int(sys.argv[3])
opened = open_engine(bundle, engine=engine, streams=streams)
size = opened.tile_size
for _ in range(4):
    opened.infer(*(np.zeros((streams, channels, size, size), np.float32) for channels in (3, 1, 1)))
"""


def _seconds(run: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def print_table(result: dict[str, Any]) -> None:
    """Print what ``measure`` gave."""
    width, height = result["large"]
    print(
        f"\n| whole scene | ratio to {PEER} (range) | its tiles alone | times the engine alone | "
        f"{width:,} x {height:,} px |"
    )
    print("|---|---|---|---|---|")
    for row, large in zip(result["paths"], result["large_paths"], strict=True):
        low, high = row["ratio_range"]
        print(
            f"| {row['path']} | {row['ratio']:.2f} ({low:.2f} to {high:.2f}) | {row['ratio_of_tiles_alone']:.2f} | "
            f"{row['times_engine_alone']:.3f} | "
            f"{large['ratio']:.2f} |"
        )
    print("\n| peak memory | ecea-run | engine alone | beside it |\n|---|---|---|---|")
    for row in result["memory"]:
        print(f"| {row['engine']} | {row['command_mb']} MB | {row['engine_mb']} MB | {row['beside_mb']} MB |")
