"""``ecea-export``: a trained checkpoint becomes a bundle."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from ecea.runtime.command import Debug, Version, imports, new_app, numbers, say, sentences, start
from ecea.runtime.errors import EceaError, RequestError
from ecea.runtime.stretch import parse_stretch

COMMAND = "ecea-export"

MASK, BANDS = "nodata", "1,2,3"  # as the built-in scene has them

app = new_app()


@app.command()
def export(
    checkpoint: Annotated[
        Path | None,
        typer.Argument(metavar="CHECKPOINT", help="State dict of a generator or U-Net, .pth or .safetensors."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="NAME.ecea", help="Bundle; default: CHECKPOINT.ecea here.")
    ] = None,
    engine: Annotated[
        list[str] | None, typer.Option(help="fp32, fp16 or int8; repeat for several. Default: all three.")
    ] = None,
    calibrate: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SCENE",
            help="Scene with gaps, to calibrate INT8 and to compare the engines on; repeat for "
            "several. Default: a built-in, synthetic one.",
        ),
    ] = None,
    int8_target_db: Annotated[
        float | None,
        typer.Option(metavar="DB", help="Accuracy of INT8 over missing pixels, against PyTorch. Default: 45."),
    ] = None,
    allow_below_target: Annotated[
        bool, typer.Option("--allow-below-target", help="Do not fail where INT8 stays below it.")
    ] = False,
    mask: Annotated[str, typer.Option(metavar="nodata|zero|qa|FILE", help="Where their gaps are.")] = MASK,
    bands: Annotated[str, typer.Option(metavar="R,G,B", help="Three bands of these scenes.")] = BANDS,
    stretch: Annotated[
        str | None, typer.Option(metavar="MIN,MAX,GAMMA", help="Values of these scenes mapped to [0, 1].")
    ] = None,
    num_heads: Annotated[
        str | None,
        typer.Option(metavar="A,B,C,D", help="Attention heads a level, if not 1,2,4,8; no checkpoint tells."),
    ] = None,
    tensorrt: Annotated[
        bool | None,
        typer.Option(
            "--tensorrt/--no-tensorrt",
            help="Build TensorRT plans, for the GPU of this machine. Default: where TensorRT and a GPU load, and "
            "as far as they can be built.",
        ),
    ] = None,
    batch: Annotated[
        list[int] | None,
        typer.Option(metavar="N", help="Tiles in a batch to build a plan for; repeat for several. Default: 1 and 4."),
    ] = None,
    rebuild_plans: Annotated[
        Path | None,
        typer.Option(
            "--rebuild-plans",
            metavar="NAME.ecea",
            help="Instead of an export: build the plans of this bundle again, for the GPU of this machine.",
        ),
    ] = None,
    debug: Debug = False,
    version: Version = False,
) -> None:
    """Export CHECKPOINT to a bundle that ecea-run can use, and prove that each engine computes what PyTorch does.

    With --rebuild-plans, build the TensorRT plans of a bundle again instead, without the checkpoint.
    """
    with sentences(COMMAND, debug):
        options = {
            "mask": mask,
            "bands": numbers(bands, "bands"),
            "stretch": parse_stretch(stretch) if stretch is not None else None,
        }
        heads = numbers(num_heads, "heads", "1,2,4,8")
        scenes = calibrate or []
        if checkpoint is None and rebuild_plans is None:
            raise RequestError(f"Missing argument 'CHECKPOINT', or --rebuild-plans NAME.ecea: see {COMMAND} -h")
        if checkpoint is not None and rebuild_plans is not None:
            raise RequestError(
                f"{checkpoint}: is not needed to rebuild the plans of {rebuild_plans}: leave out one of the two"
            )
        if rebuild_plans is not None:
            ignored: dict[str, object] = {"--output": output, "--engine": engine, "--no-tensorrt": tensorrt is False}
            ignored |= {"--num-heads": num_heads, "--int8-target-db": int8_target_db is not None}
            in_their_place = f"with --rebuild-plans, which builds all plans of {rebuild_plans} again in their place"
            _refuse_ignored(ignored, in_their_place)
        if not scenes:
            how = {"--mask": mask != MASK, "--bands": bands != BANDS, "--stretch": stretch is not None}
            _refuse_ignored(how, "without --calibrate SCENE, whose scenes it is for")
        if engine and "int8" not in engine:
            target = {"--int8-target-db": int8_target_db is not None, "--allow-below-target": allow_below_target}
            _refuse_ignored(target, "without --engine int8, the only one that has a target")
        if tensorrt is False:
            _refuse_ignored({"--batch": batch}, "with --no-tensorrt, which leaves out the plans that it is for")
        with imports("exporting needs torch, onnx and onnxscript", extra="export"):
            from ecea.export.exporter import ENGINES, below_target, export_bundle
            from ecea.export.int8 import DEFAULT_TARGET_DB
            from ecea.export.plans.bundling import DEFAULT_BATCHES
            from ecea.export.plans.rebuild import rebuild_plans as rebuild
            from ecea.export.table import print_bundle
        if checkpoint is None:
            assert rebuild_plans is not None
            bundle = rebuild(rebuild_plans, batch or (), scenes=scenes, scene_options=options, say=say)
        else:
            bundle = export_bundle(
                checkpoint,
                output,
                engines=tuple(dict.fromkeys(engine)) if engine else ENGINES,
                scenes=scenes,
                scene_options=options,
                num_heads=heads,
                int8_target_db=DEFAULT_TARGET_DB if int8_target_db is None else int8_target_db,
                tensorrt=tensorrt,
                batches=batch or DEFAULT_BATCHES,
                say=say,
            )
        print_bundle(bundle)
        shortfall = below_target(bundle, rebuilt=checkpoint is None)
        if shortfall and not allow_below_target:
            raise EceaError(shortfall)
        if shortfall:
            say(f"warning     {shortfall}")


def main() -> None:
    """Entry point."""
    start(app, COMMAND)


def _refuse_ignored(options: Mapping[str, object], where: str) -> None:
    """What would have to be ignored is refused; ``where``: with or without which other option, and why."""
    given = [name for name, value in options.items() if value]
    if given:
        raise RequestError(f"{' and '.join(given)}: cannot be given {where}: leave it out")
