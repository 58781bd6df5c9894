"""Which tiles to calibrate on: few, but of every kind that the scenes hold."""

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ecea.calibration.quantizer import Feed

Tensor = npt.NDArray[np.float32]
Tile = tuple[Tensor, Tensor, Tensor]

# Equal parts that the tiles are divided into by gap share, and each of these by brightness.
_PARTS = 3


@dataclass(frozen=True)
class TileSource:
    """A scene, and how to cut it: each call of ``tiles`` yields the same (3, S, S), (1, S, S), (1, S, S) again."""

    name: str
    tiles: Callable[[], Iterator[Tile]]


@dataclass(frozen=True)
class TileRecord:
    """A tile that was chosen, for the manifest.

    Attributes:
        source: the scene.
        number: of the tile among the scene's tiles with a gap.
        gap_share: of its pixels, 0 to 1.
        brightness: mean of its valid values, 0 to 1.
        sha256: of image, edge map and mask.
    """

    source: str
    number: int
    gap_share: float
    brightness: float
    sha256: str


@dataclass(frozen=True)
class Calibration:
    """Tiles to calibrate on.

    Attributes:
        feeds: the tiles as an engine takes them, a batch of one each.
        records: what they are, in the same order.
        seed: of the draw.
    """

    feeds: tuple[Feed, ...]
    records: tuple[TileRecord, ...]
    seed: int


def choose_tiles(sources: Sequence[TileSource], count: int, *, seed: int = 0, but: Collection[str] = ()) -> Calibration:
    """Draw tiles from scenes, as many from each stratum of gap share and brightness as from any other.

    The scenes are read twice, and hold in memory what is chosen alone.

    Args:
        sources: the scenes.
        count: how many tiles; all of them where there are fewer.
        seed: of the draw.
        but: hashes of tiles that are to be kept for measuring. Where there is no other tile, they are taken too.

    Returns:
        The tiles, in the order of the scenes.
    """
    described = [[_describe(source.name, i, tile) for i, tile in enumerate(source.tiles())] for source in sources]
    records = [record for of_source in described for record in of_source]
    # By identity: the records of two scenes with the same name, or of one that is named twice, may be equal.
    chosen = {id(record) for record in draw([r for r in records if r.sha256 not in but] or records, count, seed)}
    feeds, kept = [], []
    for source, of_source in zip(sources, described, strict=True):
        for tile, record in zip(source.tiles(), of_source, strict=True):
            if id(record) in chosen:
                feeds.append(feed(*tile))
                kept.append(record)
    return Calibration(tuple(feeds), tuple(kept), seed)


def draw(records: Sequence[TileRecord], count: int, seed: int) -> list[TileRecord]:
    """Draw ``count`` records without repetition, one from each stratum in turn."""
    generator = np.random.default_rng(seed)
    strata = [
        [stratum[i] for i in generator.permutation(len(stratum))]
        for part in _split(sorted(records, key=lambda record: record.gap_share))
        for stratum in _split(sorted(part, key=lambda record: record.brightness))
    ]
    rounds = max((len(stratum) for stratum in strata), default=0)
    return [stratum[i] for i in range(rounds) for stratum in strata if i < len(stratum)][:count]


def feed(image: Tensor, edge: Tensor, mask: Tensor) -> Mapping[str, Tensor]:
    """Name the inputs of a tile, a batch of one."""
    return {"image": image[None], "edge": edge[None], "mask": mask[None]}


def tile_hash(image: Tensor, edge: Tensor, mask: Tensor) -> str:
    """SHA-256 of a tile's values."""
    digest = hashlib.sha256()
    for tensor in (image, edge, mask):
        digest.update(np.ascontiguousarray(tensor).tobytes())
    return digest.hexdigest()


def _split(records: list[TileRecord]) -> list[list[TileRecord]]:
    return [[records[i] for i in part] for part in np.array_split(np.arange(len(records)), _PARTS)]


def _describe(source: str, number: int, tile: Tile) -> TileRecord:
    image, _, mask = tile
    valid = np.broadcast_to(mask == 0, image.shape)
    brightness = float(image[valid].mean()) if valid.any() else 0.0
    return TileRecord(source, number, float(mask.mean()), brightness, tile_hash(*tile))
