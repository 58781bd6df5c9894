"""A training run from the first epoch to the last."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from math import cos, pi
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch.utils.data import DataLoader

from ecea.model import UNet
from ecea.runtime.background import in_background
from ecea.runtime.errors import EceaError, RequestError
from ecea.runtime.words import counted
from ecea.training.board import Board
from ecea.training.checkpoints import Checkpoints
from ecea.training.data.scenes import TrainingScene
from ecea.training.data.tiles import Batch, EpochBatches, TileRecipe, Tiles, join_tiles
from ecea.training.fingerprint import fingerprint, weights_fingerprint
from ecea.training.networks import Network
from ecea.training.options import TrainingOptions
from ecea.training.pair import Diverged, Pair
from ecea.training.quality import GapError, validate
from ecea.training.vgg import VggFeatures

_BATCHES_AHEAD = 4
_STEPS_BETWEEN_POINTS = 10  # of a curve on the board

Say = Callable[[str], None]


@dataclass(frozen=True)
class Step:
    """How far a run is, after a step.

    Attributes:
        done: steps, of ``total``.
        epoch: from 1.
        tiles: seen so far since the run was begun or resumed, on all devices.
    """

    done: int
    total: int
    epoch: int
    tiles: int


OnStep = Callable[[Step], None]


@dataclass(frozen=True)
class Data:
    """What is trained on.

    Attributes:
        training: scenes to cut tiles from; ``validation`` likewise, empty for none.
        recipe: how tiles are made.
        workers: processes that make tiles; with 0 it is done in a thread.
        split: how it was chosen what is held out, by name.
    """

    training: Sequence[TrainingScene]
    validation: Sequence[TrainingScene]
    recipe: TileRecipe
    workers: int = 0
    split: Mapping[str, Any] = field(default_factory=dict)

    def fixed(self) -> dict[str, Any]:
        """What a continuation has to be told again, by name."""
        recipe = self.recipe
        return {
            **self.split,
            "scenes": [
                [Path(s.source.path).name, list(s.source.bands), str(s.stretch), s.tiles] for s in self.training
            ],
            "gaps": [[kind, share] for kind, share in recipe.gaps.shares],
            "masks": [int(mask.sum()) for mask in recipe.gaps.masks],
            "augmentations": list(recipe.augmentations),
            "edges": recipe.edges,
            "tiles per epoch": recipe.per_epoch,
            "contents of scenes": [scene.contents for scene in self.training],
            "contents of held-out scenes": [scene.contents for scene in self.validation],
            "contents of masks": [fingerprint(mask) for mask in recipe.gaps.masks],
        }


class Trainer:
    """Trains a generator and keeps what it has become.

    Args:
        options: of the run.
        data: what it is trained on.
        checkpoints: where it goes.
        fabric: launched; the device, the precision and the processes.
        vgg: for two of the terms; None leaves them out.
        start: the weights to begin with; None draws them at random.
        teacher: draws what is to be learned in gaps; None: the truth is.
        coarse: the generator refines what it draws; None, where ``options.config`` has none.
        resume: whether to go on with the run that ``checkpoints`` holds.

    Attributes:
        tiles: of an epoch.
        first_epoch: that will be run, from 1.

    Raises:
        RequestError: where an epoch is less than a batch, or the run in the folder is another.
    """

    def __init__(
        self,
        options: TrainingOptions,
        data: Data,
        checkpoints: Checkpoints,
        fabric: Fabric,
        *,
        vgg: VggFeatures | None = None,
        start: Network | None = None,
        teacher: UNet | None = None,
        coarse: UNet | None = None,
        resume: bool = False,
    ) -> None:
        self._options, self._data, self._checkpoints, self._fabric = options, data, checkpoints, fabric
        self.tiles = Tiles(data.training, data.recipe)
        self._sampler = EpochBatches(len(self.tiles), options.batch_size, fabric.global_rank, fabric.world_size)
        if not len(self._sampler):
            raise RequestError(
                f"an epoch of {counted(len(self.tiles), 'tile')} is less than a batch of {options.batch_size} on "
                f"{counted(fabric.world_size, 'device')}: give more data, a smaller --batch-size, "
                "or more tiles an epoch (--tiles-per-epoch)"
            )
        self._fixed = (
            options.fixed()
            | data.fixed()
            | {
                "vgg": vgg is not None,
                "VGG's weights": weights_fingerprint(vgg),
                "teacher": weights_fingerprint(teacher),
                "coarse network": weights_fingerprint(coarse),
                "processes": fabric.world_size,
            }
        )
        torch.manual_seed(options.seed)
        state = checkpoints.load(self._fixed) if resume else None
        weights = state["pair"]["generator"] if state else start.state_dict() if start else None
        self._pair = Pair(options, fabric, vgg, weights, teacher, coarse)
        self.first_epoch = 1
        if state:
            self._pair.load(state["pair"])
            self.first_epoch = state["epoch"] + 1
            if self.first_epoch > options.epochs:
                more = "ask for more --epochs"
                if options.schedule == "cosine":
                    more = f"its cosine has ended, so begin anew in another folder (--start-from {checkpoints.last})"
                raise RequestError(
                    f"{checkpoints.folder}: has been trained for {counted(state['epoch'], 'epoch')} already: {more}"
                )
        self._held_out = _held_out(options, data)

    @property
    def generator(self) -> Network:
        """As it learns."""
        return self._pair.generator

    def run(self, say: Say, on_step: OnStep) -> Path:
        """Train to the last epoch; the path of the last generator's checkpoint.

        Args:
            say: takes a line for each checkpoint.
            on_step: is called after each step.

        Raises:
            EceaError: where the loss is no finite number any more, or a file cannot be written.
        """
        options, start = self._options, time.perf_counter()
        self._checkpoints.make_folder()
        epochs = range(self.first_epoch, options.epochs + 1)
        with ExitStack() as stack:
            board = self._open_board(stack)
            loader = self._loader()
            for epoch in epochs:
                # Each epoch draws what it drops from numbers of its own, so it is the same after a resumption.
                torch.manual_seed(_seed(options.seed, epoch, self._fabric.global_rank))
                wanted = epoch % options.save_every == 0 or epoch == options.epochs
                self._sampler.epoch = epoch
                with self._batches(loader) as batches:
                    summary = self._epoch(epoch, batches, board, on_step, pictures=wanted)
                if wanted:
                    self._finish(epoch, summary, board, say, time.perf_counter() - start)
        return self._checkpoints.generator(options.epochs)

    def _epoch(
        self, epoch: int, batches: Iterator[Batch], board: Board | None, on_step: OnStep, *, pictures: bool
    ) -> dict[str, float]:
        """Learn from each batch; the means of the losses, and the PSNR over gaps in training."""
        per_epoch, error = len(self._sampler), GapError()
        total = per_epoch * self._options.epochs
        sums: dict[str, torch.Tensor] = {}
        for index, batch in enumerate(batches, start=1):
            done = (epoch - 1) * per_epoch + index
            placed = self._fabric.to_device(batch)
            try:
                values, made, made_edge = self._pair.step(placed, self._rate(done, total))
            except Diverged as diverged:
                raise EceaError(f"epoch {epoch}, batch {index}: {diverged}: {self._what_is_left()}") from diverged
            error.add(made, placed["target"], placed["mask"])
            sums = {name: sums[name] + value if name in sums else value.clone() for name, value in values.items()}
            if board is not None and done % _STEPS_BETWEEN_POINTS == 0:
                board.scalars({f"loss/{name}": float(value) for name, value in values.items()}, done)
            if board is not None and pictures and index == per_epoch:
                board.pictures("training", placed, made, made_edge, done)
            seen = (done - (self.first_epoch - 1) * per_epoch) * self._options.batch_size * self._fabric.world_size
            on_step(Step(done, total, epoch, seen))
        means = {name: float(value) / per_epoch for name, value in sums.items()}
        return means | {"gap PSNR in training": error.psnr}

    def _finish(self, epoch: int, summary: dict[str, float], board: Board | None, say: Say, seconds: float) -> None:
        """Look at the held-out scenes, write the checkpoint and say how it stands."""
        pair = self._pair
        if broken := pair.not_finite():  # the loss that shows it would be that of the next batch
            raise EceaError(f"epoch {epoch}: its last step broke the weights ({broken}): {self._what_is_left()}")
        psnrs = {"gaps in training": summary.pop("gap PSNR in training")}
        if self._held_out:
            psnrs["gaps of held-out scenes"] = validate(pair.best, self._held_out)
        if not self._fabric.is_global_zero:
            return
        discriminator = pair.discriminator.state_dict() if pair.discriminator is not None else None
        resume = {"fixed": self._fixed, "pair": pair.state()}
        path = self._checkpoints.save(epoch, pair.best.state_dict(), discriminator, resume)
        step = epoch * len(self._sampler)
        if board is not None:
            board.scalars({f"PSNR/{name.replace(' ', '_')}": value for name, value in psnrs.items()}, step)
        quality = ", ".join(f"{value:.1f} dB over {name}" for name, value in psnrs.items())
        terms = ", ".join(f"{name} {value:.4g}" for name, value in summary.items())
        say(f"epoch {epoch}: {quality}; {terms}; {seconds:.0f} s; {path}")

    def _what_is_left(self) -> str:
        last = self._checkpoints.last
        other = "a smaller --lr" + (", or --precision fp32" if self._options.precision != "fp32" else "")
        if last is None:
            return f"there is no checkpoint yet: begin anew with {other}"
        return f"{last} is the last good checkpoint: begin anew in another folder, from it (--start-from), with {other}"

    def _rate(self, step: int, total: int) -> float:
        """What the learning rate is multiplied by at a step, from 1."""
        return 1.0 if self._options.schedule == "constant" else (1 + cos(pi * (step - 1) / total)) / 2

    def _open_board(self, stack: ExitStack) -> Board | None:
        if not self._fabric.is_global_zero:
            return None
        board = Board(self._checkpoints.folder, (self.first_epoch - 1) * len(self._sampler))
        stack.callback(board.close)
        return board

    def _loader(self) -> DataLoader[Batch]:
        workers = self._data.workers
        return DataLoader(
            self.tiles,
            batch_sampler=self._sampler,
            num_workers=workers,
            collate_fn=join_tiles,
            persistent_workers=workers > 0,
            pin_memory=self._fabric.device.type == "cuda",
            generator=torch.Generator(),  # else it would draw from the numbers that the network's dropout is drawn from
        )

    @contextmanager
    def _batches(self, loader: DataLoader[Batch]) -> Iterator[Iterator[Batch]]:
        """An epoch's batches, made while others are learned from."""
        if self._data.workers:
            yield iter(loader)
            return
        with in_background(iter(loader), ahead=_BATCHES_AHEAD, name="ecea-tiles") as batches:
            yield iter(batches)


def _held_out(options: TrainingOptions, data: Data) -> list[Batch]:
    """The tiles of held-out scenes that are looked at; always the same."""
    if not data.validation:
        return []
    recipe = TileRecipe(data.recipe.gaps, (), data.recipe.edges, data.recipe.seed, options.validation_tiles)
    tiles, size = Tiles(data.validation, recipe), options.batch_size
    keys = [(0, place) for place in range(len(tiles))]
    return [join_tiles([tiles[key] for key in keys[at : at + size]]) for at in range(0, len(keys), size)]


def _seed(*numbers: int) -> int:
    """One seed for torch from several numbers, unlike for neighbours."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
