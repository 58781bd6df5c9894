"""Ours against the published PyTorch path on this machine's processors: single tiles and whole scenes.

    python benchmarks/cpu.py --bundle site.ecea --checkpoint G_500.pth --scene scene.tif

Every path has a process of its own, and in every round each runs once, in turn, so that what else the machine does
falls on all of them alike. For tiles the table gives the ratio to PyTorch eager, the error against it, the share of the
machine's measured peak, the most memory that a process with the engine takes, and how long it takes to open, the
first time and from the cache. For scenes it gives the ratio to the published application's whole way, and of our time
to that of the engine alone.

Shares of the peak count the published network's 62.7 GFLOP, and the peak of the arithmetic that most of the path is
in; a form that needs fewer operations may pass 100 %.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx_ir as ir
import scenes
import torch
import typer
from onnx_ir.passes.common import InlinePass
from peaks import best, peak_rates
from workers import Worker, take_turns

from ecea.export.parity import Tiles, parity_tiles, psnr, tile_sources
from ecea.export.trace import trace
from ecea.model import Generator, load_generator
from ecea.runtime.backends import BACKENDS, Settings
from ecea.runtime.bundle import read_bundle
from ecea.runtime.cli import DEFAULT_STREAMS
from ecea.runtime.command import start_script
from ecea.runtime.engine import open_engine, usable_processors
from ecea.runtime.profiling import describe_machine
from ecea.runtime.writer import check_destination, written_whole

RESULT = Path(__file__).parent / "results" / "cpu.json"
PEER = "PyTorch eager, as published"
ON_CPU = ("openvino", "cpu")  # backends
PUBLISHED_GFLOP = 62.7  # of the default configuration, a tile

# Batches that a path computes in its turn, after one that is not counted: as a scene would, one after another.
BATCHES_A_TURN = 4

Tensors = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class TilePath:
    """One way to compute a tile.

    Attributes:
        name: for the table.
        setup: gives a function that computes a batch and returns image and edge map, of its arguments and the batch.
        arguments: of ``setup``.
        tiles: how many a batch holds.
        arithmetic: ``fp32``, ``bf16`` or ``int8``: what most of it is computed in.
    """

    name: str
    setup: Callable[..., Callable[[], Tensors]]
    arguments: tuple[Any, ...]
    tiles: int = 1
    arithmetic: str = "fp32"


def main(
    bundle: Annotated[Path, typer.Option(help="Bundle of the checkpoint.")],
    checkpoint: Annotated[Path, typer.Option(help="The checkpoint that it was exported from.")],
    scene: Annotated[Path | None, typer.Option(help="8-bit RGB scene whose gaps are zeros; none: tiles alone.")] = None,
    rounds: Annotated[int, typer.Option(help="Timed rounds of tiles.")] = 7,
    scene_rounds: Annotated[int, typer.Option(help="Timed rounds of scenes.")] = 3,
    compiled: Annotated[bool, typer.Option(help="Include torch.compile.")] = True,
    output: Annotated[Path, typer.Option(help="Where the JSON goes.")] = RESULT,
) -> None:
    """Time every path in turn, print the tables and write JSON."""
    check_destination(output)
    threads = usable_processors()
    generator = load_generator(checkpoint)
    with tile_sources([scene] if scene else [], generator.config.img_size, {"mask": "zero"} if scene else {}) as cut:
        tiles = parity_tiles(cut)
    result: dict[str, Any] = {
        "machine": describe_machine(),
        "threads": threads,
        "checkpoint": checkpoint.name,
        "tiles_of": tiles.source,
        "peak_gflops": peak_rates(threads),
        "rounds": rounds,
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plain = _plain_export(generator, folder)
        del generator
        paths = [
            TilePath(PEER, eager, (checkpoint,)),
            *([TilePath("torch.compile", compile_first, (checkpoint,))] if compiled else []),
            *(TilePath(f"plain export, {backend}", plain_export, (plain, backend)) for backend in ON_CPU),
            *_our_paths(bundle, threads),
        ]
        result["tiles"] = _measure_tiles(paths, rounds, tiles, result["peak_gflops"], folder)
        for row in result["tiles"]:
            row |= _measure_start(row["path"], bundle)
        if scene is not None:
            result["scenes"] = scenes.measure(scene, bundle, checkpoint, scene_rounds, folder)
    _print(result)
    with written_whole(output) as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n")


def _our_paths(bundle: Path, threads: int) -> list[TilePath]:
    found = []
    for engine, backend in our_engines(bundle):
        with open_engine(bundle, engine=engine, backend=backend) as opened:
            kind = "int8" if engine == "int8" else "bf16" if opened.arithmetic == "bf16" else "fp32"
        name = f"ours, {engine}, {backend}"
        found.append(TilePath(name, ours, (bundle, engine, backend, 1), 1, kind))
        if threads >= DEFAULT_STREAMS and backend == "openvino":
            arguments = (bundle, engine, backend, DEFAULT_STREAMS)
            found.append(TilePath(f"{name}, {DEFAULT_STREAMS} streams", ours, arguments, DEFAULT_STREAMS, kind))
    return found


def eager(checkpoint: Path, batch: Tensors) -> Callable[[], Tensors]:
    """The published path."""
    return _torch(load_generator(checkpoint), batch)


def compile_first(checkpoint: Path, batch: Tensors) -> Callable[[], Tensors]:
    """What one line more of PyTorch gives."""
    return _torch(torch.compile(load_generator(checkpoint)), batch)


def plain_export(model: Path, backend: str, batch: Tensors) -> Callable[[], Tensors]:
    """The traced model before any pass of ours."""
    session = BACKENDS[backend].load(model, Settings(usable_processors()))
    return lambda: session.infer(*batch)


def ours(bundle: Path, engine: str, backend: str, streams: int, batch: Tensors) -> Callable[[], Tensors]:
    """An engine of the bundle."""
    opened = open_engine(bundle, engine=engine, backend=backend, streams=streams)
    return lambda: opened.infer(*batch)


def timed(setup: Callable[..., Callable[[], Tensors]], arguments: tuple[Any, ...], batch: Tensors, output: Path) -> Any:
    """Set up a path in a worker; its first result is saved, a turn returns seconds for a tile."""
    torch.set_num_threads(usable_processors())
    run = setup(*arguments, batch)
    np.save(output, run()[0][:1])
    run()

    def turn() -> float:
        run()
        begin = time.perf_counter()
        for _ in range(BATCHES_A_TURN):
            run()
        return (time.perf_counter() - begin) / BATCHES_A_TURN / len(batch[0])

    return turn


def our_engines(bundle: Path) -> list[tuple[str, str]]:
    """Engine and backend of every form that runs here."""
    records = read_bundle(bundle).engines
    return [(record.engine, backend) for record in records for backend in ON_CPU if backend in record.backends]


def _torch(network: Any, batch: Tensors) -> Callable[[], Tensors]:
    inputs = [torch.from_numpy(part) for part in batch]

    def run() -> Tensors:
        with torch.inference_mode():
            return tuple(output.numpy() for output in network(*inputs))

    return run


def _plain_export(generator: Generator, folder: Path) -> Path:
    """The traced model before any pass of ours, its attention inlined."""
    model = trace(generator, generator.config.img_size)
    InlinePass()(model)
    path = folder / "plain.onnx"
    ir.save(model, path, external_data="plain.weights")
    return path


def _measure_tiles(
    paths: list[TilePath], rounds: int, tiles: Tiles, peaks: dict[str, dict[str, float]], folder: Path
) -> list[dict[str, Any]]:
    workers = []
    for number, path in enumerate(paths):
        batch = tuple(np.repeat(part, path.tiles, axis=0) for part in tiles.one(0))
        workers.append(Worker(path.name, timed, path.setup, path.arguments, batch, folder / f"{number}.npy"))
    seconds = take_turns(workers, rounds)
    memory = [worker.close() for worker in workers]
    outs = [np.load(folder / f"{number}.npy") for number in range(len(paths))]
    missing = tiles.mask[:1] > 0
    rows = []
    for path, peak, out in zip(paths, memory, outs, strict=True):
        ratios = [peer / own for peer, own in zip(seconds[PEER], seconds[path.name], strict=True)]
        error = np.abs(out - outs[0])
        rate = PUBLISHED_GFLOP / float(np.median(seconds[path.name]))
        rows.append(
            {
                "path": path.name,
                "ratio": float(np.median(ratios)),
                "ratio_range": [min(ratios), max(ratios)],
                "max_error": float(error.max()),
                "missing_psnr_db": psnr(error[np.broadcast_to(missing, error.shape)]),
                "share_of_peak": rate / best(peaks, path.arithmetic),
                "peak_of": path.arithmetic,
                # Workers import torch; of an engine without it, a process of its own tells.
                "memory_mb": round(peak) if path.setup in (eager, compile_first) else None,
            }
        )
    return rows


# Opens an engine in a process of its own, runs a tile, and tells what that took.
_PROBE = """
import json, sys, time
begin = time.perf_counter()
import numpy as np
from ecea.runtime import open_engine
bundle, engine, backend, streams = sys.argv[1:]
opened = open_engine(bundle, engine=engine, backend=backend, streams=int(streams))
ready = time.perf_counter()
size = opened.tile_size
opened.infer(*(np.zeros((int(streams), channels, size, size), np.float32) for channels in (3, 1, 1)))
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024
print(json.dumps({"open_seconds": ready - begin, "first_tile_seconds": time.perf_counter() - ready, "peak_mb": peak}))
"""


def _measure_start(name: str, bundle: Path) -> dict[str, Any]:
    """Open one of our engines in a fresh process with an empty cache, and once more with what that left."""
    if not name.startswith("ours"):
        return {}
    _, engine, backend, *more = name.split(", ")
    streams = str(DEFAULT_STREAMS if more else 1)
    with tempfile.TemporaryDirectory() as cache:
        first, second = (
            run_probe(_PROBE, str(bundle), engine, backend, streams, cache=cache) for _ in ("empty", "filled")
        )
    return {
        "first_start_seconds": first["open_seconds"],
        "second_start_seconds": second["open_seconds"],
        "memory_mb": round(second["peak_mb"]),
    }


def run_probe(code: str, *arguments: str, cache: str) -> dict[str, float]:
    """Run code in a process of its own and read the JSON that it prints."""
    with tempfile.TemporaryFile("w+") as answer:
        child = os.posix_spawn(
            sys.executable,
            [sys.executable, "-c", code, *arguments],
            {**os.environ, "ECEA_CACHE": cache},
            file_actions=[(os.POSIX_SPAWN_DUP2, answer.fileno(), 1)],
        )
        _, status = os.waitpid(child, 0)
        if status:
            raise SystemExit(f"{' '.join(arguments)}: exit status {os.waitstatus_to_exitcode(status)}")
        answer.seek(0)
        found: dict[str, float] = json.load(answer)
    return found


def _print(result: dict[str, Any]) -> None:
    for arithmetic, rates in result["peak_gflops"].items():
        print(f"peak {arithmetic}: " + ", ".join(f"{name} {rate:.0f} G/s" for name, rate in rates.items()))
    print(f"\n{result['machine']}, {result['threads']} threads\n")
    print("| path | ratio to eager (range) | max error | dB in gaps | share of peak | MB | start, cached |")
    print("|---|---|---|---|---|---|---|")
    for row in result["tiles"]:
        low, high = row["ratio_range"]
        start = ""
        if "first_start_seconds" in row:
            start = f"{row['first_start_seconds']:.1f} s, {row['second_start_seconds']:.1f} s"
        print(
            f"| {row['path']} | {row['ratio']:.2f} ({low:.2f} to {high:.2f}) | {row['max_error']:.1e} | "
            f"{row['missing_psnr_db']:.1f} | {100 * row['share_of_peak']:.0f} % of {row['peak_of']} | "
            f"{row['memory_mb'] or ''} | {start} |"
        )
    if "scenes" in result:
        scenes.print_table(result["scenes"])


if __name__ == "__main__":
    start_script("python benchmarks/cpu.py", main)
