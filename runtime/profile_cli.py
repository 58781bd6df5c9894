"""``ecea-profile``: how fast an engine is on this machine."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from ecea.runtime.backends.batch import check_batch
from ecea.runtime.command import Debug, Threads, Version, new_app, numbers, say, sentences, start
from ecea.runtime.engine import open_engine
from ecea.runtime.profile_page import profile_page
from ecea.runtime.profiling import DEFAULT_RUNS, Profile, by_kind, profile_engine
from ecea.runtime.words import counted
from ecea.runtime.writer import check_destination, written_whole

COMMAND = "ecea-profile"

app = new_app()


@app.command()
def profile(
    bundle: Annotated[Path | None, typer.Option(metavar="DIR", help="Bundle; default: as for ecea-run.")] = None,
    engine: Annotated[str, typer.Option(help="fp32, fp16 or int8.")] = "fp32",
    backend: Annotated[str, typer.Option(help="auto, tensorrt, cuda, openvino or cpu.")] = "auto",
    batch: Annotated[str, typer.Option(metavar="N,N,...", help="Batch sizes to time.")] = "1",
    runs: Annotated[int, typer.Option(min=1, help="Timed runs for each.")] = DEFAULT_RUNS,
    threads: Threads = None,
    streams: Annotated[int, typer.Option(min=1, max=1024, help="Tiles of a batch computed side by side.")] = 1,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE.json|.html", help="Also write it, with every operator."),
    ] = None,
    debug: Debug = False,
    version: Version = False,
) -> None:
    """Time an engine: latency, throughput, stages of a scene, operators."""
    with sentences(COMMAND, debug):
        batches = numbers(batch, "batches") or ()
        for size in batches:
            check_batch(size)
        if output is not None:
            check_destination(output, ".json", ".html")
        with open_engine(bundle, engine=engine, backend=backend, threads=threads, streams=streams) as opened:
            measured = profile_engine(opened, batches=batches, runs=runs)
        if output is not None:
            _write(measured, output)
        say("\n".join(_lines(measured)))


def main() -> None:
    """Entry point."""
    start(app, COMMAND)


def _write(measured: Profile, path: Path) -> None:
    as_page = path.suffix.lower() == ".html"
    text = profile_page(measured) if as_page else json.dumps(dataclasses.asdict(measured), indent=1)
    with written_whole(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def _lines(measured: Profile) -> Iterator[str]:
    yield (
        f"{measured.engine} on {measured.backend} in {measured.arithmetic}, {counted(measured.threads, 'thread')} in "
        f"{counted(measured.streams, 'stream')}, {measured.machine}"
    )
    yield f"first tile  {1e3 * measured.first_tile_seconds:.0f} ms"
    for latency in measured.latencies:
        times = ", ".join(
            f"p{percentile} {1e3 * seconds:.1f} ms" for percentile, seconds in latency.percentiles.items()
        )
        yield f"batch {latency.batch:<5} {times}; {latency.tiles_per_second:.2f} tiles/s"
    stages = ", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in measured.stages.items())
    yield f"{counted(measured.scene_tiles, 'tile')}    {stages}"
    total = sum(layer.seconds for layer in measured.layers)
    for kind, seconds in list(by_kind(measured.layers).items())[:8]:
        yield f"{kind:<24} {1e3 * seconds:8.2f} ms {100 * seconds / total:5.1f} %"
