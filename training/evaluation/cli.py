"""``ecea-evaluate``: how good a generator is at filling gaps, beside methods that need no training."""

from pathlib import Path
from typing import Annotated

import typer

from ecea.runtime.command import Debug, Threads, Version, imports, new_app, numbers, sentences, start
from ecea.runtime.stretch import parse_stretch
from ecea.training.split_options import Folds, Group

COMMAND = "ecea-evaluate"

app = new_app()


@app.command()
def evaluate(
    scenes: Annotated[
        list[Path],
        typer.Option(
            metavar="PATH",
            help="Clean scene, folder of scenes, or list of both (.toml), as for ecea-train; repeat for several.",
        ),
    ],
    bundle: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR",
            help="Bundle to evaluate; repeat for several. Default: as for ecea-run, if no method is named.",
        ),
    ] = None,
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Checkpoint to evaluate through PyTorch; repeat for several."),
    ] = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(help="telea, navier-stokes, fillnodata, nearest, laplace, or all; repeat for several."),
    ] = None,
    masks: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PATH",
            help="Mask above 0 in holes, or folder of masks, laid over each scene at random; repeat for several. "
            "Default, without --stripes: NAME_mask.tif beside each scene NAME.tif.",
        ),
    ] = None,
    stripes: Annotated[
        str | None, typer.Option(metavar="W,W,...", help="SLC-off stripes of these widths, px, at random.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the random places.")] = 0,
    folds: Folds = None,
    fold: Annotated[int | None, typer.Option(help="The part that is evaluated on; the first is 1.")] = None,
    group: Group = "number",
    bands: Annotated[str, typer.Option(metavar="R,G,B", help="Three bands of the scenes.")] = "1,2,3",
    stretch: Annotated[
        str | None,
        typer.Option(metavar="MIN,MAX,GAMMA", help="Values mapped to [0, 1]; default: as ecea-run chooses them."),
    ] = None,
    engine: Annotated[str, typer.Option(help="Precision of bundles: fp32, fp16 or int8.")] = "fp32",
    backend: Annotated[
        str, typer.Option(help="What runs bundles, as for ecea-run: auto, tensorrt, cuda, openvino or cpu.")
    ] = "auto",
    num_heads: Annotated[
        str | None, typer.Option(metavar="A,B,C,D", help="Attention heads of checkpoints, if not 1,2,4,8.")
    ] = None,
    threads: Threads = None,
    published: Annotated[
        bool, typer.Option("--published", help="Also measure whole images drawn anew, as the published figures were.")
    ] = False,
    output: Annotated[
        list[Path] | None,
        typer.Option("--output", "-o", metavar="FILE.json|.md", help="Also write the results; repeat for both."),
    ] = None,
    sheet: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Also write a contact sheet.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON instead of tables.")] = False,
    debug: Debug = False,
    version: Version = False,
) -> None:
    """Hide parts of clean scenes, fill them with each method, and measure how near the fills come to the truth."""
    with sentences(COMMAND, debug):
        with imports("evaluating needs scikit-image, scipy and pillow", extra="train"):
            from ecea.training.evaluation.job import Job, run
        job = Job(
            scenes=scenes,
            bundles=bundle or [],
            checkpoints=checkpoint or [],
            baselines=baseline or [],
            masks=masks or [],
            stripes=numbers(stripes, "stripes") or (),
            seed=seed,
            folds=folds,
            fold=fold,
            group=group,
            bands=numbers(bands, "bands") or (),
            stretch=parse_stretch(stretch) if stretch is not None else None,
            engine=engine,
            backend=backend,
            num_heads=numbers(num_heads, "heads", "1,2,4,8"),
            threads=threads,
            published=published,
            outputs=output or [],
            sheet=sheet,
        )
        run(job, as_json=as_json)


def main() -> None:
    """Entry point."""
    start(app, COMMAND)
