"""The tiles of an epoch. Each is drawn from random numbers of its own, so it is the same whoever makes it and when."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from ecea.runtime.edges import edge_map, edge_strength, gray, scaled
from ecea.runtime.masks import Mask
from ecea.training.data.augment import augment
from ecea.training.data.gaps import GapRecipe
from ecea.training.data.scenes import TrainingScene

EDGES = ("clean", "filled")

Array = npt.NDArray[np.float32]

Key = tuple[int, int]  # epoch, from 1 (0 for validation), and the tile's place in it

# Streams of random numbers under one seed.
_ORDER, _MASKS, _TILE = range(3)


class Batch(TypedDict):
    """Tiles to learn from: float32, (B, C, S, S) each.

    Attributes:
        image: 3 channels in [0, 1], 0 in gaps; edge: the edge map that goes in; mask: 1 in gaps, else 0.
        target: the clean image; target_edge: its edge map.
        name: where each tile was cut.
    """

    image: Tensor
    edge: Tensor
    mask: Tensor
    target: Tensor
    target_edge: Tensor
    name: list[str]


@dataclass(frozen=True)
class TileRecipe:
    """How tiles are made.

    Attributes:
        gaps: what is hidden.
        augmentations: of ``ecea.training.data.augment.AUGMENTATIONS``.
        edges: what the edge map that goes in is drawn from: the clean tile, then hidden in gaps, as published
            (``clean``); or the tile with its gaps filled by Telea's method, as it is when scenes are filled
            (``filled``).
        seed: 0 or more.
        per_epoch: tiles in an epoch; None for as many as the scenes give.
    """

    gaps: GapRecipe
    augmentations: tuple[str, ...] = ()
    edges: str = "clean"
    seed: int = 0
    per_epoch: int | None = None


class Tiles(Dataset[Batch]):
    """Tiles of scenes, by epoch and place.

    Args:
        scenes: one at least, all for tiles of one size.
        recipe: how tiles are made.
    """

    def __init__(self, scenes: Sequence[TrainingScene], recipe: TileRecipe) -> None:
        self._scenes = list(scenes)
        self._recipe = recipe
        self._turns = np.repeat(np.arange(len(self._scenes)), [scene.tiles for scene in self._scenes])
        self._orders: dict[int, tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]] = {}

    def __len__(self) -> int:
        """Tiles in an epoch."""
        return self._recipe.per_epoch or len(self._turns)

    def __getitem__(self, key: Key) -> Batch:
        """One tile, without the dimension of a batch."""
        epoch, place = key
        scenes, masks = self._order(epoch)
        scene = self._scenes[int(scenes[place])]
        rng = np.random.default_rng([self._recipe.seed, _TILE, epoch, place])
        image, (row, column) = scene.cut(rng)
        image = augment(image, self._recipe.augmentations, rng)
        missing = self._recipe.gaps.draw(scene.tile, int(masks[place]), rng)
        return make_tile(image, missing, self._recipe.edges, f"{scene.source.path} at row {row}, column {column}")

    def _order(self, epoch: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Which scene and which mask each tile of an epoch takes: both shuffled, each for itself, as published."""
        if epoch not in self._orders:
            count, masks = len(self), max(1, len(self._recipe.gaps.masks))
            scenes = _shuffled(self._turns, count, self._recipe.seed, _ORDER, epoch)
            order = (scenes, _shuffled(np.arange(masks), count, self._recipe.seed, _MASKS, epoch))
            self._orders = {epoch: order}
        return self._orders[epoch]


def make_tile(image: Array, missing: Mask, edges: str, name: str) -> Batch:
    """A tile and its gaps -> what the generator is given and what it should make of it.

    Args:
        image: (3, S, S) in [0, 1], clean.
        missing: (S, S), True in a gap.
        edges: as in :class:`TileRecipe`.
        name: of the tile.
    """
    levels = gray((image * 255 + 0.5).astype(np.uint8))
    strength = edge_strength(levels)
    hidden = np.where(missing, np.float32(0), image)
    if edges == "clean":
        edge = scaled(np.where(missing, np.float32(0), strength))
    else:
        edge = edge_map(np.where(missing, np.uint8(0), levels), missing)
    return Batch(
        image=torch.from_numpy(hidden),
        edge=torch.from_numpy(edge[None]),
        mask=torch.from_numpy(missing[None].astype(np.float32)),
        target=torch.from_numpy(image),
        target_edge=torch.from_numpy(scaled(strength)[None]),
        name=[name],
    )


def join_tiles(tiles: Sequence[Batch]) -> Batch:
    """Put tiles into a batch."""
    return Batch(
        image=torch.stack([tile["image"] for tile in tiles]),
        edge=torch.stack([tile["edge"] for tile in tiles]),
        mask=torch.stack([tile["mask"] for tile in tiles]),
        target=torch.stack([tile["target"] for tile in tiles]),
        target_edge=torch.stack([tile["target_edge"] for tile in tiles]),
        name=[name for tile in tiles for name in tile["name"]],
    )


class EpochBatches(Sampler[list[Key]]):
    """The keys of an epoch's batches that are this process's share; a last one that is not full is left out.

    Args:
        tiles: in an epoch.
        batch: tiles in a batch, on each of ``processes``.
        rank: of this process, from 0.
    """

    def __init__(self, tiles: int, batch: int, rank: int = 0, processes: int = 1) -> None:
        self._batch = batch
        self._rank = rank
        self._processes = processes
        self._count = tiles // (batch * processes)
        self.epoch = 1

    def __len__(self) -> int:
        """Batches of each process in an epoch."""
        return self._count

    def __iter__(self) -> Iterator[list[Key]]:
        for index in range(self._count):
            first = (index * self._processes + self._rank) * self._batch
            yield [(self.epoch, place) for place in range(first, first + self._batch)]


def _shuffled(items: npt.NDArray[np.int64], count: int, *seeds: int) -> npt.NDArray[np.int64]:
    """``count`` items: all of them in one random order, then all in another, and so on."""
    rng = np.random.default_rng(seeds)
    rounds = -(-count // len(items))
    return np.concatenate([rng.permutation(items) for _ in range(rounds)])[:count]
