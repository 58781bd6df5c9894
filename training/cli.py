"""``ecea-train``: train a generator."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ecea.runtime.command import Debug, Threads, Version, imports, new_app, numbers, say, sentences, start
from ecea.runtime.stretch import parse_stretch
from ecea.training.processes import one_voice
from ecea.training.split_options import Folds, Group

if TYPE_CHECKING:
    from ecea.training.trainer import OnStep, Step

COMMAND = "ecea-train"

app = new_app()


@app.command()
def train(
    data: Annotated[
        list[str],
        typer.Argument(
            metavar="DATA...", help="Clean rasters, folders of clean patches, or lists of both (.toml); see docs."
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Where checkpoints and TensorBoard's logs go.")
    ] = Path("training"),
    bands: Annotated[str, typer.Option(metavar="R,G,B", help="Three bands of the rasters; 1,1,1 for one.")] = "1,2,3",
    stretch: Annotated[
        str | None,
        typer.Option(metavar="MIN,MAX,GAMMA", help="Values mapped to [0, 1]; default: as ecea-run chooses, by raster."),
    ] = None,
    mask: Annotated[
        str,
        typer.Option(
            metavar="nodata|zero|none",
            help="Where rasters hold nothing to learn from: what they declare, zeros, nowhere.",
        ),
    ] = "nodata",
    group: Group = "number",
    gaps: Annotated[
        str | None,
        typer.Option(
            metavar="KIND=SHARE,...", help="slc-off, scribbles, files. Default: files with --masks, else slc-off."
        ),
    ] = None,
    masks: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE|FOLDER", help="Masks for the gaps, above 0 where there is one; repeat for several."),
    ] = None,
    augment: Annotated[
        str,
        typer.Option(
            metavar="KIND,...", help="flips (and turns), jitter (of brightness and colour), bands (their order)."
        ),
    ] = "none",
    edges: Annotated[
        str,
        typer.Option(
            metavar="clean|filled", help="What the edge map is drawn from: the clean tile, or as ecea-run does."
        ),
    ] = "clean",
    folds: Folds = None,
    fold: Annotated[int | None, typer.Option(help="The part that is held out; the first is 1.")] = None,
    tiles_per_epoch: Annotated[
        int | None, typer.Option(min=1, help="Tiles in an epoch; default: as many as would cover the data.")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that make tiles; 0: a thread.")] = 0,
    image_size: Annotated[int, typer.Option(metavar="PX", help="Side of a tile, a multiple of 32.")] = 256,
    embed_dim: Annotated[int, typer.Option(help="Channels at the first level.")] = 64,
    depth: Annotated[str, typer.Option(metavar="A,B,C,D", help="Attention blocks a level.")] = "1,2,3,4",
    num_heads: Annotated[str, typer.Option(metavar="A,B,C,D", help="Attention heads a level.")] = "1,2,4,8",
    refine: Annotated[
        bool, typer.Option("--refine", help="Draw what is to be added to a smooth fill, not the whole picture.")
    ] = False,
    network: Annotated[
        str,
        typer.Option(metavar="ecea|unet", help="The generator, or a U-Net for it to refine or to learn from."),
    ] = "ecea",
    teacher: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A U-Net's checkpoint (U_10.pth): learn what it draws, not the truth."),
    ] = None,
    coarse: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A U-Net's checkpoint: refine what it draws. It becomes a fixed part."),
    ] = None,
    start_from: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A checkpoint of the same configuration to begin with.")
    ] = None,
    dropout: Annotated[float, typer.Option(help="Share of activations dropped.")] = 0.2,
    attention_dropout: Annotated[float, typer.Option(help="Share of the attention's weights dropped.")] = 0.3,
    drop_path: Annotated[float, typer.Option(help="Share of branches dropped.")] = 0.2,
    epochs: Annotated[int, typer.Option(help="Passes over the data.")] = 500,
    batch_size: Annotated[int, typer.Option(help="Tiles in a batch, on each device.")] = 10,
    lr: Annotated[float, typer.Option(help="Learning rate; the discriminator's is a hundredth.")] = 5e-4,
    optimizer: Annotated[
        str,
        typer.Option(metavar="adam|muon", help="Of the generator; muon, for matrices and kernels, needs fewer steps."),
    ] = "adam",
    beta1: Annotated[float, typer.Option(min=0, max=0.999999, help="Adam's.")] = 0.95,
    beta2: Annotated[float, typer.Option(min=0, max=0.999999, help="Adam's.")] = 0.9995,
    clip_gradient: Annotated[
        float, typer.Option(metavar="NORM", help="Scale larger gradients down to this norm; 0: as they are.")
    ] = 0.0,
    schedule: Annotated[str, typer.Option(metavar="constant|cosine", help="Of the learning rate.")] = "constant",
    ema: Annotated[
        float, typer.Option(metavar="DECAY", help="Save a running mean of the weights; 0: the last ones.")
    ] = 0.0,
    vgg: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="VGG-19's ImageNet weights, for the perceptual and the style term."),
    ] = None,
    adversarial_weight: Annotated[float, typer.Option(help="0: no discriminator.")] = 1.0,
    perceptual_weight: Annotated[float, typer.Option(help="Needs --vgg.")] = 0.5,
    style_weight: Annotated[float, typer.Option(help="Needs --vgg.")] = 10_000.0,
    l1_weight: Annotated[float, typer.Option(help="Of the error in the image.")] = 100.0,
    edge_weight: Annotated[float, typer.Option(help="Of the error in the edge map.")] = 80.0,
    relative_weight: Annotated[
        float, typer.Option(help="Of the squared error in gaps as a share of a smooth fill's.")
    ] = 0.0,
    gap_weight: Annotated[float, typer.Option(help="How many times pixels of gaps count in the L1 term.")] = 1.0,
    precision: Annotated[str, typer.Option(metavar="fp32|bf16|fp16", help="Arithmetic.")] = "fp32",
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="What computes.")] = "auto",
    devices: Annotated[int, typer.Option(min=1, help="How many of them, each with a batch of its own.")] = 1,
    threads: Threads = None,
    seed: Annotated[int, typer.Option(min=0, max=2**31, help="Of everything that is drawn.")] = 0,
    save_every: Annotated[int, typer.Option(metavar="EPOCHS", help="How often a checkpoint is written.")] = 10,
    validation_tiles: Annotated[int, typer.Option(help="Tiles of the held-out part looked at, each time.")] = 64,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the output folder.")] = False,
    debug: Debug = False,
    version: Version = False,
) -> None:
    """Train a generator on clean DATA, parts of which are hidden.

    Defaults are as published, but for the gaps that are drawn where no masks are named, the stretch that is chosen for
    each raster, bands 1,2,3, and the terms that need VGG-19's weights (--vgg).
    """
    with sentences(COMMAND, debug), one_voice():
        with imports("training needs torch, lightning-fabric and tensorboardX", extra="train"):
            import torch

            from ecea.model import GeneratorConfig, Regularization
            from ecea.training.losses import LossWeights
            from ecea.training.options import TrainingOptions
            from ecea.training.run import DataRequest, prepare
        options = TrainingOptions(
            config=GeneratorConfig(
                img_size=image_size,
                embed_dim=embed_dim,
                depth=_integers(depth, "depth", "1,2,3,4"),
                num_heads=_integers(num_heads, "heads", "1,2,4,8"),
                refine=refine,
            ),
            network=network,
            regularization=Regularization(dropout, attention_dropout, drop_path),
            weights=LossWeights(
                adversarial_weight, perceptual_weight, style_weight, l1_weight, edge_weight, relative_weight
            ),
            gap_weight=gap_weight,
            epochs=epochs,
            batch_size=batch_size,
            lr=lr,
            optimizer=optimizer,
            betas=(beta1, beta2),
            clip_gradient=clip_gradient,
            schedule=schedule,
            ema=ema,
            precision=precision,
            seed=seed,
            save_every=save_every,
            validation_tiles=validation_tiles,
        )
        request = DataRequest(
            data,
            bands=_integers(bands, "bands", "3,2,1"),
            stretch=parse_stretch(stretch) if stretch is not None else None,
            mask=mask,
            group=group,
            gaps=gaps,
            masks=masks or (),
            augment=augment,
            edges=edges,
            folds=folds,
            fold=fold,
            tiles_per_epoch=tiles_per_epoch,
            workers=workers,
        )
        if threads is not None:
            torch.set_num_threads(threads)
        run = prepare(
            options,
            request,
            output,
            vgg=vgg,
            start_from=start_from,
            teacher=teacher,
            coarse=coarse,
            device=device,
            devices=devices,
            resume=resume,
        )
        for line in run.description:
            _say(line, run.is_main)
        with _progress(run.is_main) as on_step:
            last = run.trainer.run(lambda line: _say(line, run.is_main), on_step)
        or_else = ", or let a generator refine what it draws (--coarse)" if network == "unet" else ""
        _say(f"trained     {last}: make a bundle of it with ecea-export{or_else}", run.is_main)


def main() -> None:
    """Entry point."""
    start(app, COMMAND)


def _integers(text: str, what: str, example: str) -> tuple[int, ...]:
    return numbers(text, what, example) or ()


def _say(line: str, wanted: bool) -> None:
    if wanted:
        say(line)


@contextmanager
def _progress(wanted: bool) -> Iterator["OnStep"]:
    """A progress bar on stderr, where that is a terminal."""
    if not wanted or sys.stderr is None or not sys.stderr.isatty():
        yield lambda step: None
        return
    columns = (
        TextColumn("epoch {task.fields[epoch]}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%  {task.fields[rate]:.1f} tiles/s "),
        TimeElapsedColumn(),
        TextColumn(" left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None, epoch=0, rate=0.0)

        def on_step(step: "Step") -> None:
            elapsed = bar.tasks[0].elapsed or 1e-9
            bar.update(task, total=step.total, completed=step.done, epoch=step.epoch, rate=step.tiles / elapsed)

        yield on_step
