"""One tile on this machine's processors: ours against the published PyTorch path, in one interleaved run.

    python benchmarks/cpu.py --bundle site.ecea --checkpoint G_500.pth

Every round runs every path once, in turn, so that what else the machine does falls on all of them alike. Printed are
the median and the ratio to PyTorch eager, the largest error against it, the share of the measured peak that the path
reaches on the published network's 62.7 GFLOP, and the time from opening to the first tile.
"""

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx_ir as ir
import torch
import typer
from onnx_ir.passes.common import InlinePass

from ecea.export.parity import Tiles, parity_tiles
from ecea.export.trace import trace
from ecea.model import Generator, load_generator
from ecea.runtime.backends import BACKENDS
from ecea.runtime.engine import open_engine, usable_processors
from ecea.runtime.profiling import describe_machine

RESULT = Path(__file__).parent / "results" / "cpu.json"
PEER = "PyTorch eager, as published"
PUBLISHED_GFLOP = 62.7  # of the default configuration, a tile

Tile = tuple[np.ndarray, np.ndarray, np.ndarray]
Run = Callable[[], tuple[np.ndarray, np.ndarray]]


def main(
    bundle: Annotated[Path, typer.Option(help="Bundle of the checkpoint.")],
    checkpoint: Annotated[Path, typer.Option(help="The checkpoint that it was exported from.")],
    rounds: Annotated[int, typer.Option(help="Timed rounds.")] = 9,
) -> None:
    """Time every path in turn and print the table."""
    threads = usable_processors()
    torch.set_num_threads(threads)
    generator = load_generator(checkpoint)
    tiles: Tiles = parity_tiles([], generator.config.img_size, {})
    image, edge, mask = (np.ascontiguousarray(part) for part in tiles.first(1))
    tile: Tile = (image, edge, mask)
    with tempfile.TemporaryDirectory() as folder:
        paths: dict[str, Run] = {PEER: _eager(generator, tile)}
        start_seconds: dict[str, float] = {}
        for backend, model in _plain_exports(generator, Path(folder)).items():
            session = BACKENDS[backend].load(model, threads)
            paths[f"plain export, {backend}"] = lambda session=session: session.infer(*tile)
        for engine, backend in _engines(bundle):
            name = f"ours {engine}, {backend}"
            begin = time.perf_counter()
            opened = open_engine(bundle, engine=engine, backend=backend)
            opened.infer(*tile)
            start_seconds[name] = time.perf_counter() - begin
            paths[name] = lambda opened=opened: opened.infer(*tile)
        seconds, outputs = _interleave(paths, rounds)
    peak = peak_gflops()
    rows = [_row(name, seconds, outputs, start_seconds, peak, generator) for name in paths]
    result = {
        "machine": describe_machine(),
        "threads": threads,
        "peak_gflops": peak,
        "rounds": rounds,
        "checkpoint": checkpoint.name,
        "paths": rows,
    }
    _print(result)
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


def peak_gflops(size: int = 2048, runs: int = 7) -> dict[str, float]:
    """The best rate of a large FP32 matrix product and of a large convolution, in GFLOP/s."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    x, w = torch.randn(1, 256, 128, 128), torch.randn(256, 256, 3, 3)
    convolve = torch.nn.functional.conv2d
    work = {
        "matrix product": (lambda: a @ b, 2 * size**3),
        "convolution": (lambda: convolve(x, w, padding=1), 2 * 256 * 256 * 9 * 128 * 128),
    }
    best = {}
    with torch.inference_mode():
        for name, (run, operations) in work.items():
            times = [_timed(run)[0] for _ in range(runs)]
            best[name] = round(operations / min(times) / 1e9, 1)
    return best


def _eager(generator: Generator, tile: Tile) -> Run:
    inputs = [torch.from_numpy(part) for part in tile]

    def run() -> tuple[np.ndarray, np.ndarray]:
        with torch.inference_mode():
            out, out_edge = generator(*inputs)
        return out.numpy(), out_edge.numpy()

    return run


def _plain_exports(generator: Generator, folder: Path) -> dict[str, Path]:
    """The traced model before any pass of ours, its attention inlined."""
    model = trace(generator)
    InlinePass()(model)
    path = folder / "plain.onnx"
    ir.save(model, path, external_data="plain.weights")
    return dict.fromkeys(BACKENDS, path)


def _engines(bundle: Path) -> list[tuple[str, str]]:
    with open_engine(bundle) as opened:
        records = opened.bundle.engines
    return [(record.engine, backend) for record in records for backend in record.backends if backend in BACKENDS]


def _interleave(paths: dict[str, Run], rounds: int) -> tuple[dict[str, list[float]], dict[str, Any]]:
    outputs = {name: run() for name, run in paths.items()}  # and warm up
    seconds: dict[str, list[float]] = {name: [] for name in paths}
    for _ in range(rounds):
        for name, run in paths.items():
            seconds[name].append(_timed(run)[0])
    return seconds, outputs


def _timed(run: Callable[[], Any]) -> tuple[float, Any]:
    begin = time.perf_counter()
    result = run()
    return time.perf_counter() - begin, result


def _row(
    name: str,
    seconds: dict[str, list[float]],
    outputs: dict[str, Any],
    start_seconds: dict[str, float],
    peak: dict[str, float],
    generator: Generator,
) -> dict[str, Any]:
    ratios = [peer / own for peer, own in zip(seconds[PEER], seconds[name], strict=True)]
    error = max(float(np.abs(a - b).max()) for a, b in zip(outputs[name], outputs[PEER], strict=True))
    share = None
    if generator.config.embed_dim == 64 and generator.config.img_size == 256:
        share = PUBLISHED_GFLOP / float(np.median(seconds[name])) / max(peak.values())
    return {
        "path": name,
        "ratio": float(np.median(ratios)),
        "ratio_range": [min(ratios), max(ratios)],
        "median_seconds": float(np.median(seconds[name])),
        "max_error": error,
        "share_of_peak": share,
        "start_seconds": start_seconds.get(name),
    }


def _print(result: dict[str, Any]) -> None:
    peak = ", ".join(f"{name} {rate:.0f} GFLOP/s" for name, rate in result["peak_gflops"].items())
    print(f"{result['machine']}, {result['threads']} threads; measured peak, FP32: {peak}\n")
    print("| path | ratio to eager (range) | max error | share of peak | first tile after |")
    print("|---|---|---|---|---|")
    for row in result["paths"]:
        low, high = row["ratio_range"]
        share = f"{100 * row['share_of_peak']:.0f} %" if row["share_of_peak"] else ""
        start = f"{row['start_seconds']:.1f} s" if row["start_seconds"] else ""
        ratio = f"{row['ratio']:.2f} ({low:.2f} to {high:.2f})"
        print(f"| {row['path']} | {ratio} | {row['max_error']:.1e} | {share} | {start} |")


if __name__ == "__main__":
    typer.run(main)
