"""``ecea-run``: fill the gaps of scenes."""

import dataclasses
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ecea.runtime.command import (
    Debug,
    Threads,
    Version,
    new_app,
    numbers,
    report,
    say,
    say_json,
    sentence,
    sentences,
    start,
)
from ecea.runtime.engine import Engine, by_reason, open_engine, usable_processors
from ecea.runtime.errors import EceaError, RequestError
from ecea.runtime.filling import OnRows, Result, inpaint, mask_or_default
from ecea.runtime.paths import is_read_through, same_file
from ecea.runtime.pipeline import Progress as Done
from ecea.runtime.report import SUFFIX as PAGE_SUFFIX
from ecea.runtime.report import write_report
from ecea.runtime.scene import Scene
from ecea.runtime.stretch import Stretch, parse_stretch
from ecea.runtime.words import counted
from ecea.runtime.writer import check_destination

COMMAND = "ecea-run"

# Measured on two processors: two tiles side by side on one thread each take less than one after the other on two.
DEFAULT_STREAMS = 2

_MUCH = 0.5  # of a scene's values; those of clouds and snow lie outside any stretch

app = new_app()


@app.command()
def run(
    scenes: Annotated[
        list[str], typer.Argument(metavar="SCENE...", help="Rasters with gaps: files or GDAL's /vsi paths.")
    ],
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="FILE|DIR", help="Output; default: SCENE_filled.tif in this folder."),
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Bundle; default: $ECEA_BUNDLE, else the only *.ecea in this folder."),
    ] = None,
    engine: Annotated[str, typer.Option(help="Precision: fp32, fp16 or int8, what the bundle holds.")] = "fp32",
    backend: Annotated[str, typer.Option(help="auto, tensorrt, cuda, openvino or cpu.")] = "auto",
    mask: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|nodata|zero|qa",
            help="Where the gaps are: the scene's nodata (default), zeros, Landsat's quality bands beside it, or a "
            "raster that is not 0 there.",
        ),
    ] = None,
    bands: Annotated[str, typer.Option(metavar="R,G,B", help="Three bands of the file; 1,1,1 for one.")] = "1,2,3",
    stretch: Annotated[
        str | None,
        typer.Option(
            metavar="MIN,MAX,GAMMA", help="Values mapped to [0, 1]; default: 0,255,1 for 8 bits, else chosen."
        ),
    ] = None,
    overlap: Annotated[
        int | None, typer.Option(metavar="PX", help="Shared by tiles; default: 5/64 of one, as published.")
    ] = None,
    blend: Annotated[str | None, typer.Option(help="linear (default) or mean.")] = None,
    reference: Annotated[bool, typer.Option("--reference", help="Reproduce the published application.")] = False,
    batch: Annotated[
        int | None, typer.Option(metavar="N", help="Tiles given to a stream at once; default: what suits the backend.")
    ] = None,
    streams: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Tiles computed side by side; default: 2 where threads allow.")
    ] = None,
    threads: Threads = None,
    report_file: Annotated[
        Path | None, typer.Option("--report", metavar="FILE.html", help="Also write a page with figures and pictures.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")] = False,
    debug: Debug = False,
    version: Version = False,
) -> None:
    """Fill the gaps of SCENE and write a GeoTIFF whose valid pixels are untouched."""
    with sentences(COMMAND, debug):
        with _refusal_as_json(as_json):
            options: dict[str, Any] = {
                "mask": mask,
                "bands": numbers(bands, "bands"),
                "stretch": parse_stretch(stretch) if stretch is not None else None,
                "overlap": overlap,
                "blend": blend,
                "reference": reference,
                "batch": batch,
            }
            targets = _destinations(scenes, output)
            if report_file is not None:
                _check_page(report_file, targets)
            _check_nothing_read_is_replaced(targets, report_file, scenes, options)
            threads = usable_processors() if threads is None else threads
            opened = open_engine(
                bundle,
                engine=engine,
                backend=backend,
                threads=threads,
                streams=min(DEFAULT_STREAMS, threads) if streams is None else streams,
            )
        with opened:
            _say_engine(opened)
            results, errors, status = _fill_all(scenes, targets, opened, options, as_json, debug)
        if report_file is not None:
            write_report(report_file, results, errors)
        if as_json:  # last: nothing else is lost where nobody takes it
            _print_json(results, errors)
        if status:
            raise typer.Exit(status)


def main() -> None:
    """Entry point."""
    start(app, COMMAND)


@contextmanager
def _refusal_as_json(wanted: bool) -> Iterator[None]:
    """Where nothing could be begun, say so on stdout too, for the program that reads it."""
    try:
        yield
    except EceaError as error:
        if wanted:
            _print_json([], [{"source": "", "message": str(error)}])
        raise


def _print_json(results: list[Result], errors: list[dict[str, str]]) -> None:
    say_json(json.dumps({"results": [dataclasses.asdict(result) for result in results], "errors": errors}))


def _fill_all(
    scenes: list[str], targets: list[Path], engine: Engine, options: dict[str, Any], quiet: bool, debug: bool
) -> tuple[list[Result], list[dict[str, str]], int]:
    """Fill each scene; one that fails does not keep the next from being filled."""
    results: list[Result] = []
    errors: list[dict[str, str]] = []
    status = 0
    for scene, target in zip(scenes, targets, strict=True):
        try:
            with _progress(scene) as on_rows:
                results.append(inpaint(scene, target, engine, **options, on_rows=on_rows))
            if not quiet:
                say(closing_line(results[-1]))
        except BrokenPipeError:
            raise
        except Exception as error:
            errors.append({"source": scene, "message": sentence(error)})
            status = max(status, report(COMMAND, error, debug))
    return results, errors, status


def closing_line(result: Result) -> str:
    """What became of a scene, in one line."""
    total = result.width * result.height
    if result.pixels_filled or result.pixels_left:
        filled = f"{result.pixels_filled:,} px filled ({100 * result.pixels_filled / total:.1f} %)"
    else:
        filled = "no gap to fill" if result.pixels_redrawn else "no gap to fill: copied"
    parts = [filled]
    if result.pixels_redrawn:
        parts.append(f"{result.pixels_redrawn:,} valid px drawn anew")
    if result.pixels_left:
        parts.append(f"{result.pixels_left:,} px left in {counted(result.tiles_blind, 'tile')} without a valid pixel")
    if result.pixels_collar:
        parts.append(f"{result.pixels_collar:,} px of collar left")
    stages = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in result.seconds.items())
    parts += [
        f"tiles {result.tiles_run} run, {result.tiles_skipped + result.tiles_blind} skipped",
        stages,
        f"stretch {Stretch(*result.stretch)}" + _outside(result.outside_stretch),
        _engine_used(result),
    ]
    return f"{result.destination}: {'; '.join(parts)}"


def _outside(share: float) -> str:
    """Says that a stretch is not the scene's, where it is not: what is filled then has nothing of its values."""
    return f", {share:.0%} of the scene's values lie outside: is it meant for this scene?" if share > _MUCH else ""


def _engine_used(result: Result) -> str:
    reasons = "".join(f", {names} passed over: {why}" for names, why in by_reason(result.passed_over))
    arithmetic = "" if result.arithmetic == "f32" else f" in {result.arithmetic}"
    return f"{result.engine} of {result.bundle} on {result.backend}{arithmetic}{reasons}"


def _destinations(scenes: list[str], output: str | None) -> list[Path]:
    """Where each scene goes: the file named, or SCENE_filled.tif in the folder named or the current one.

    Raises:
        RequestError: where the folder does not exist, two scenes would go to one file, or one over another.
    """
    if output is not None and not os.path.isdir(output):  # noqa: PTH112 which raises where a name is too long
        if len(scenes) > 1:
            raise RequestError(f"{output}: is not a folder, as {len(scenes)} scenes need: make it, or name another")
        if output.endswith(os.sep):
            raise RequestError(f"{output}: the folder does not exist: make it, or name another output")
        return [Path(output)]
    folder = Path(output or ".")
    targets = [folder / f"{Path(scene).stem}_filled.tif" for scene in scenes]
    written = [os.path.realpath(target) for target in targets]  # links of unlike names may lead to one file
    for target, place in zip(targets, written, strict=True):
        if written.count(place) > 1:
            raise RequestError(f"{target}: is the output of {written.count(place)} scenes: run them one by one with -o")
        if any(same_file(scene, target) for scene in scenes):
            raise RequestError(f"{target}: is itself one of the scenes, which are never changed: name another output")
    return targets


def _check_page(page: Path, targets: list[Path]) -> None:
    """Refuse a page that cannot be written, or takes the place of an output."""
    check_destination(page, PAGE_SUFFIX)
    if os.path.realpath(page) in map(os.path.realpath, targets) or is_read_through(page, targets):
        raise RequestError(f"{page}: is an output of this run, not a place for its report: name another file")


def _check_nothing_read_is_replaced(
    targets: list[Path], page: Path | None, scenes: list[str], options: Mapping[str, Any]
) -> None:
    """Refuse an output or a page that takes the place of what any scene is read from."""
    written = [] if page is None else [page]
    if len(scenes) > 1:  # what one scene is read from, inpaint looks at itself
        written += targets
    replaced = [path for path in written if os.path.lexists(path)]
    if not replaced:
        return
    named = [options["mask"]] if options["mask"] else []
    read = [*scenes, *named, *_files_read(scenes, options)]
    for path in replaced:
        if is_read_through(path, read):
            raise RequestError(f"{path}: is read in this run, so it is not overwritten: name another output")


def _files_read(scenes: Sequence[str], options: Mapping[str, Any]) -> Iterator[str]:
    """What scenes and their masks are read from. Those that cannot be opened say so when their turn comes."""
    mask = mask_or_default(options["mask"], options["reference"])
    for path in scenes:
        with suppress(Exception), Scene(path, bands=options["bands"], mask=mask) as scene:
            yield from scene.files


def _say_engine(engine: Engine) -> None:
    """Say which engine runs and why, to a person who watches."""
    if not _watched():
        return
    reasons = "".join(f"; {names} passed over: {why}" for names, why in by_reason(engine.passed_over))
    print(
        f"{engine.engine} on {engine.backend} in {engine.arithmetic}, bundle {engine.bundle.path} ({engine.found})"
        f"{reasons}",
        file=sys.stderr,
    )


def _watched() -> bool:
    """Whether a person watches stderr."""
    return sys.stderr is not None and sys.stderr.isatty()


@contextmanager
def _progress(scene: str) -> Iterator[OnRows | None]:
    """A progress bar on stderr, where that is a terminal."""
    if not _watched():
        yield None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%  {task.fields[tiles]} tiles  {task.fields[rate]:.1f}/s  left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(Path(scene).name, total=None, tiles=0, rate=0.0)

        def on_rows(rows: int, height: int, done: Done) -> None:
            elapsed = bar.tasks[0].elapsed or 1e-9
            bar.update(task, total=height, completed=rows, tiles=done.tiles_run, rate=done.tiles_run / elapsed)

        yield on_rows
