"""From what a user asks for to a trainer that is ready to run."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ecea.model import CheckpointError, UNet, load_unet
from ecea.runtime.errors import RequestError
from ecea.runtime.scene import DEFAULT_BANDS
from ecea.runtime.stretch import Stretch
from ecea.runtime.words import counted
from ecea.training.checkpoints import Checkpoints
from ecea.training.data.augment import parse_augmentations
from ecea.training.data.gaps import parse_gaps
from ecea.training.data.scenes import load_scene
from ecea.training.data.tiles import EDGES, TileRecipe
from ecea.training.folds import held_out_scenes
from ecea.training.hardware import launch, slow_precision
from ecea.training.networks import LETTERS, load_start
from ecea.training.options import TrainingOptions
from ecea.training.sources import find_sources
from ecea.training.trainer import Data, Trainer
from ecea.training.vgg import VggFeatures, load_vgg


@dataclass(frozen=True)
class DataRequest:
    """What to train on, as the options of ``ecea-train`` say it; see their help."""

    data: Sequence[str]
    bands: tuple[int, ...] = DEFAULT_BANDS
    stretch: Stretch | None = None
    mask: str = "nodata"
    group: str = "number"
    gaps: str | None = None
    masks: Sequence[str] = ()
    augment: str = "none"
    edges: str = "clean"
    folds: int | None = None
    fold: int | None = None
    tiles_per_epoch: int | None = None
    workers: int = 0


@dataclass(frozen=True)
class Run:
    """A run that can begin.

    Attributes:
        trainer: to be run.
        description: what will happen, in lines for the user.
        is_main: whether this process is the one that speaks, of those of several devices.
    """

    trainer: Trainer
    description: list[str]
    is_main: bool


def prepare(
    options: TrainingOptions,
    request: DataRequest,
    output: Path,
    *,
    vgg: Path | None = None,
    start_from: Path | None = None,
    teacher: Path | None = None,
    coarse: Path | None = None,
    device: str = "auto",
    devices: int = 1,
    resume: bool = False,
) -> Run:
    """Read everything that a run needs.

    Args:
        options: how to train.
        request: on what.
        output: the run's folder.
        vgg: a file with VGG-19's weights.
        start_from: a checkpoint of the same configuration to begin with; None for weights drawn at random.
        teacher: a checkpoint of a U-Net that draws what is to be learned in gaps; None for the truth.
        coarse: a checkpoint of a U-Net whose fill is refined; None for the smooth fill.
        device, devices: see :func:`ecea.training.hardware.launch`.
        resume: go on with the run in ``output``.

    Raises:
        RequestError: where something is not what is needed.
    """
    if resume and start_from is not None:
        raise RequestError(
            f"--start-from is for a run that begins, and --resume goes on with the weights in {output}: leave one out"
        )
    checkpoints = Checkpoints(output, resume, LETTERS[options.network])
    # Scenes last: reading them takes the longest, and a wrong file should be told before.
    features = _load_features(vgg, options)
    _check_loss(options, features)
    taught_by = _load_unet(teacher, options, "--teacher") if teacher is not None else None
    refined = _load_unet(coarse, options, "--coarse") if coarse is not None else None
    if refined is not None:
        options = replace(options, config=replace(options.config, refine=True, coarse=refined.widths))
    start = load_start(start_from, options) if start_from is not None else None
    data = load_data(request, options.config.img_size, options.seed)
    fabric = launch(device, devices, options.precision)
    trainer = Trainer(
        options,
        data,
        checkpoints,
        fabric,
        vgg=features,
        start=start,
        teacher=taught_by,
        coarse=refined,
        resume=resume,
    )
    lines = [
        _describe_network(trainer, options, start_from, teacher, coarse),
        *_describe_data(data, len(trainer.tiles), options),
        _describe_loss(options, features),
        _describe_device(fabric.device, devices, options.precision),
        f"output      {output}, epochs {trainer.first_epoch} to {options.epochs}",
    ]
    return Run(trainer, lines, fabric.is_global_zero)


def load_data(request: DataRequest, tile: int, seed: int) -> Data:
    """Read scenes and masks, and put what is held out apart.

    Raises:
        RequestError: where something of it is not what is needed.
    """
    if request.edges not in EDGES:
        raise RequestError(f"edges '{request.edges}' are unknown: expected one of {', '.join(EDGES)}")
    recipe = TileRecipe(
        parse_gaps(request.gaps, request.masks, tile),
        parse_augmentations(request.augment),
        request.edges,
        seed,
        request.tiles_per_epoch,
    )
    sources = find_sources(
        request.data, bands=request.bands, stretch=request.stretch, mask=request.mask, group=request.group
    )
    held_out = held_out_scenes((source.scene for source in sources), request.folds, request.fold)
    scenes = [load_scene(source, tile) for source in sources]
    training = [scene for scene in scenes if scene.source.scene not in held_out]
    validation = [scene for scene in scenes if scene.source.scene in held_out]
    split: dict[str, Any] = {"folds": request.folds, "fold": request.fold}
    if held_out:
        split["group"] = request.group
    return Data(training, validation, recipe, request.workers, split)


def _load_features(vgg: Path | None, options: TrainingOptions) -> VggFeatures | None:
    if vgg is None:
        return None
    if not _weigh_features(options):
        raise RequestError(
            f"{vgg}: VGG-19's weights are for the perceptual and the style term, and neither has a weight: leave out "
            "--vgg, or give one of them a weight (--perceptual-weight, --style-weight)"
        )
    if options.config.out_c != 3:
        raise RequestError("--vgg is for three bands: leave it out")
    return load_vgg(vgg)


def _weigh_features(options: TrainingOptions) -> bool:
    return bool(options.weights.perceptual or options.weights.style)


def _check_loss(options: TrainingOptions, vgg: VggFeatures | None) -> None:
    if not (options.weights.l1 or options.weights.relative or (vgg is not None and _weigh_features(options))):
        raise RequestError(
            "neither the L1 term nor the relative one has a weight, nor one that --vgg is for, so nothing says what to "
            "paint: give one of them"
        )


def _load_unet(path: Path, options: TrainingOptions, option: str) -> UNet:
    if options.network == "unet":
        raise RequestError(f"{path}: a U-Net refines a smooth fill, to the truth: leave out {option} or --network unet")
    try:
        return load_unet(path, options.config.out_c)
    except CheckpointError as error:
        raise RequestError(str(error)) from error


def _describe_network(
    trainer: Trainer, options: TrainingOptions, start_from: Path | None, teacher: Path | None, coarse: Path | None
) -> str:
    count = sum(parameter.numel() for parameter in trainer.generator.parameters())
    refines = ", refines a smooth fill" if options.config.refine or options.network == "unet" else ""
    if coarse is not None:
        refines = f", refines the fill of {coarse}"
    start = f", starts from {start_from}" if start_from is not None else ""
    taught = f", taught by {teacher}" if teacher is not None else ""
    name = "U-Net      " if options.network == "unet" else "generator  "
    return f"{name} {count / 1e6:.2f} M parameters, tiles of {options.config.img_size} px{refines}{start}{taught}"


def _describe_data(data: Data, tiles: int, options: TrainingOptions) -> list[str]:
    names = {scene.source.scene for scene in data.training}
    kinds = ", ".join(f"{kind} {share:g}" for kind, share in data.recipe.gaps.shares)
    masks = f" of {counted(len(data.recipe.gaps.masks), 'mask')}" if data.recipe.gaps.masks else ""
    lines = [
        f"data        {counted(len(data.training), 'raster')} of {counted(len(names), 'scene')}, "
        f"{counted(tiles, 'tile')} an epoch; gaps: {kinds}{masks}"
    ]
    if data.validation:
        held = sorted({Path(scene.source.scene).name for scene in data.validation})
        lines.append(f"held out    {', '.join(held)}; {counted(options.validation_tiles, 'tile')} of them")
    return lines


def _describe_loss(options: TrainingOptions, vgg: VggFeatures | None) -> str:
    weights = options.weights
    terms = {
        "adversarial": weights.adversarial,
        "L1": weights.l1,
        "edge L1": options.edge_weight,
        "relative": weights.relative,
    }
    off = ""
    if vgg is not None:
        terms |= {"perceptual": weights.perceptual, "style": weights.style}
    elif _weigh_features(options):
        off = "; the perceptual and the style term are OFF: they need VGG-19's weights (--vgg FILE)"
    return f"loss        {', '.join(f'{name} {weight:g}' for name, weight in terms.items() if weight)}{off}"


def _describe_device(device: torch.device, devices: int, precision: str) -> str:
    processor = f"CPU, {counted(torch.get_num_threads(), 'thread')}"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor
    slow = " (this processor has no instructions for it: fp32 is faster)" if slow_precision(device, precision) else ""
    return f"device      {name}{f' x {devices}' if devices > 1 else ''}, {precision}{slow}"
