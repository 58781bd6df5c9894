"""Whole scenes: ours against the published application's own way, and against the engine's own time.

Used by ``cpu.py``. One scene is the user's; the other a synthetic one of 7,000 x 8,000 px, of which the first rows of
tiles are measured and the rest is extrapolated from what one more row of them takes.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import published
import rasterio
from memory import peak_megabytes

from ecea.model import Generator
from ecea.runtime import inpaint, open_engine
from ecea.runtime.cli import DEFAULT_STREAMS
from ecea.runtime.engine import Engine
from ecea.runtime.inpaint import scene_tiles
from ecea.runtime.slc_off import slc_off_gaps

PEER = "the published application, PyTorch eager"
LARGE = (7_000, 8_000)  # px, width and height
STRIPS = (1, 3)  # of the large scene that are measured

ENGINES = ("fp32", "fp16", "int8")


def measure(scene: Path, bundle: Path, generator: Generator, rounds: int, folder: Path) -> dict[str, Any]:
    """Time every path on the scene in turn, then on strips of the large one."""
    return {
        "scene": scene.name,
        "paths": _on_scene(scene, bundle, generator, rounds, folder),
        "large": list(LARGE),
        "large_paths": _on_large(bundle, generator, folder),
        "memory": [_memory(scene, bundle, engine) for engine in ENGINES],
    }


def _on_scene(scene: Path, bundle: Path, generator: Generator, rounds: int, folder: Path) -> list[dict[str, Any]]:
    engines = {name: open_engine(bundle, engine=name, streams=DEFAULT_STREAMS) for name in ENGINES}
    tiles = [tuple(part[None] for part in tile) for tile in scene_tiles(scene, generator.config.img_size, mask="zero")]
    runs: dict[str, Callable[[], Any]] = {
        PEER: lambda: published.fill(scene, folder / "image.tif", folder / "edge.tif", generator)
    }
    for name, engine in engines.items():
        runs[f"ours, {name}"] = lambda engine=engine: inpaint(scene, folder / "filled.tif", engine, mask="zero")
        runs[f"engine alone, {name}"] = lambda engine=engine: run_tiles(engine, tiles)
        run_tiles(engine, tiles[:DEFAULT_STREAMS])  # warm up
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            seconds[name].append(_seconds(run))
    for engine in engines.values():
        engine.close()
    return [_row(f"ours, {name}", f"engine alone, {name}", seconds, len(tiles)) for name in ENGINES]


def run_tiles(engine: Engine, tiles: list[tuple[np.ndarray, ...]]) -> None:
    """Give the engine all tiles as fast as it takes them."""
    for started in [engine.submit(*tile) for tile in tiles]:
        started.result()


def _row(ours: str, alone: str, seconds: dict[str, list[float]], tiles: int) -> dict[str, Any]:
    ratios = [peer / own for peer, own in zip(seconds[PEER], seconds[ours], strict=True)]
    return {
        "path": ours,
        "tiles": tiles,
        "ratio": float(np.median(ratios)),
        "ratio_range": [min(ratios), max(ratios)],
        "times_engine_alone": float(np.median(np.divide(seconds[ours], seconds[alone]))),
    }


def _on_large(bundle: Path, generator: Generator, folder: Path) -> list[dict[str, Any]]:
    """Time two heights of the large scene; what lies between them is the time of a strip."""
    size = generator.config.img_size
    rows_of_tiles = -(-(LARGE[1] - size) // (size - size // 8)) + 1
    heights = [size + (strips - 1) * (size - size // 8) for strips in STRIPS]
    files = [_write_large(folder / f"large_{height}.tif", height) for height in heights]
    one_strip = _seconds(lambda: published.fill(files[1], folder / "i.tif", folder / "e.tif", generator, strips=1))
    theirs = one_strip * (-(-LARGE[1] // published.STEP))
    found = []
    for name in ENGINES:
        with open_engine(bundle, engine=name, streams=DEFAULT_STREAMS) as engine:
            inpaint(files[0], folder / "filled.tif", engine, mask="zero")  # warm up
            low, high = (
                _seconds(lambda file=file: inpaint(file, folder / "filled.tif", engine, mask="zero")) for file in files
            )
        strip = (high - low) / (STRIPS[1] - STRIPS[0])
        found.append({"path": f"ours, {name}", "ratio": theirs / (low + (rows_of_tiles - STRIPS[0]) * strip)})
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
    """Peak memory of ecea-run on the scene, and of a process that opens the same engine and runs as many tiles."""
    with tempfile.TemporaryDirectory() as folder:
        command = peak_megabytes(
            "ecea-run", str(scene), "-o", f"{folder}/filled.tif", "--bundle", str(bundle), "--engine", engine,
            "--mask", "zero",
        )  # fmt: skip
    alone = _peak_of_engine(bundle, engine)
    return {
        "engine": engine,
        "command_mb": round(command),
        "engine_mb": round(alone),
        "beside_mb": round(command - alone),
    }


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


def _peak_of_engine(bundle: Path, engine: str) -> float:
    arguments = [sys.executable, "-c", _ENGINE_ALONE, str(bundle), engine, str(DEFAULT_STREAMS)]
    child = os.posix_spawn(sys.executable, arguments, os.environ)
    _, status, usage = os.wait4(child, 0)
    if status:
        raise SystemExit(f"{engine}: exit status {os.waitstatus_to_exitcode(status)}")
    return usage.ru_maxrss / 1024


def _seconds(run: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def print_table(result: dict[str, Any]) -> None:
    """Print what ``measure`` gave."""
    width, height = result["large"]
    print(f"\n| whole scene | ratio to {PEER} (range) | times the engine alone | {width:,} x {height:,} px |")
    print("|---|---|---|---|")
    for row, large in zip(result["paths"], result["large_paths"], strict=True):
        low, high = row["ratio_range"]
        print(
            f"| {row['path']} | {row['ratio']:.2f} ({low:.2f} to {high:.2f}) | {row['times_engine_alone']:.3f} | "
            f"{large['ratio']:.2f} |"
        )
    print("\n| peak memory | ecea-run | engine alone | beside it |\n|---|---|---|---|")
    for row in result["memory"]:
        print(f"| {row['engine']} | {row['command_mb']} MB | {row['engine_mb']} MB | {row['beside_mb']} MB |")
