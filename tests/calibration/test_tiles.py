"""Which tiles are calibrated on: of every kind, drawn by a seed, and not those that are measured on."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ecea.calibration import TileRecord, TileSource, choose_tiles
from ecea.calibration.tiles import draw, tile_hash

Tensor = NDArray[np.float32]
Tile = tuple[Tensor, Tensor, Tensor]

SIZE = 8


def tile(seed: int, missing: int = 8, brightness: float = 0.5) -> Tile:
    """A tile of which ``missing`` pixels are missing and the others are about ``brightness``."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(SIZE * SIZE, np.float32)
    mask[rng.permutation(SIZE * SIZE)[:missing]] = 1
    mask = mask.reshape(1, SIZE, SIZE)
    image = (rng.uniform(0.9, 1.1, (3, SIZE, SIZE)) * brightness).astype(np.float32) * (1 - mask)
    return image, rng.random((1, SIZE, SIZE), np.float32), mask


def source(*tiles: Tile, name: str = "scene.tif") -> TileSource:
    return TileSource(name, lambda: iter(tiles))


def records(count: int) -> list[TileRecord]:
    """Records of which no two have the same gap share or brightness."""
    rng = np.random.default_rng(count)
    return [
        TileRecord("scene.tif", i, float(share), float(brightness), f"{i:064x}")
        for i, (share, brightness) in enumerate(zip(rng.permutation(count), rng.permutation(count), strict=True))
    ]


def strata(all_records: list[TileRecord], chosen: list[TileRecord]) -> list[tuple[int, int]]:
    """For each ninth of the tiles, thirds by gap share cut in thirds by brightness: its size, and how many are chosen.

    Thirds of a number that 3 does not divide: the first ones are larger by one.
    """

    def thirds(part: list[TileRecord], key: str) -> Iterator[list[TileRecord]]:
        ordered = sorted(part, key=lambda record: getattr(record, key))
        start = 0
        for i in range(3):
            size = len(part) // 3 + (i < len(part) % 3)
            yield ordered[start : start + size]
            start += size

    cells = [cell for third in thirds(all_records, "gap_share") for cell in thirds(third, "brightness")]
    return [(len(cell), sum(record in chosen for record in cell)) for cell in cells]


@given(st.integers(0, 100), st.integers(0, 60), st.integers(0, 5))
def test_every_stratum_is_drawn_from_as_often_as_any_other(available: int, count: int, seed: int) -> None:
    pool = records(available)
    chosen = draw(pool, count, seed)
    assert len(chosen) == len(set(chosen)) == min(count, available)
    assert set(chosen) <= set(pool)
    counts = strata(pool, chosen)
    most = max(drawn for _, drawn in counts)
    assert all(drawn >= min(most - 1, size) for size, drawn in counts)


@given(st.integers(1, 60), st.integers(0, 5))
def test_a_draw_can_be_repeated(available: int, seed: int) -> None:
    assert draw(records(available), 16, seed) == draw(records(available), 16, seed)


def test_another_seed_draws_others() -> None:
    pool = records(90)
    assert len({tuple(draw(pool, 9, seed)) for seed in range(5)}) == 5


def test_bright_and_dark_narrow_and_wide_are_all_there() -> None:
    kinds = [(missing, brightness) for missing in (4, 20, 40) for brightness in (0.2, 0.5, 0.8)]
    tiles = [tile(10 * i + j, *kind) for i, kind in enumerate(kinds) for j in range(5)]
    chosen = choose_tiles([source(*tiles)], 9).records
    assert sorted((round(record.gap_share * SIZE**2), round(record.brightness, 1)) for record in chosen) == kinds


def test_what_is_recorded_is_what_the_tiles_are() -> None:
    tiles = [tile(i, 4 * (i + 1), 0.1 * (i + 1)) for i in range(5)]
    calibration = choose_tiles([source(*tiles[:2], name="a.tif"), source(*tiles[2:], name="b.tif")], 16, seed=3)
    assert calibration.seed == 3
    assert [(record.source, record.number) for record in calibration.records] == [
        ("a.tif", 0), ("a.tif", 1), ("b.tif", 0), ("b.tif", 1), ("b.tif", 2),
    ]  # fmt: skip
    for (image, edge, mask), feed, record in zip(tiles, calibration.feeds, calibration.records, strict=True):
        assert list(feed) == ["image", "edge", "mask"]
        for given_, original in zip(feed.values(), (image, edge, mask), strict=True):
            assert given_.dtype == np.float32
            assert np.array_equal(given_, original[None])
        valid = image[np.broadcast_to(mask == 0, image.shape)]
        assert record.gap_share == pytest.approx(np.count_nonzero(mask) / SIZE**2)
        assert record.brightness == pytest.approx(valid.mean(), rel=1e-5)


def test_a_tile_with_no_valid_pixel_has_no_brightness() -> None:
    (record,) = choose_tiles([source(tile(0, SIZE * SIZE))], 1).records
    assert (record.gap_share, record.brightness) == (1, 0)


@pytest.mark.filterwarnings("error")
def test_no_tiles_are_no_calibration() -> None:
    calibration = choose_tiles([source()], 4)
    assert (calibration.feeds, calibration.records) == ((), ())


# Hashes


@pytest.mark.parametrize("part", [0, 1, 2])
def test_a_hash_tells_any_value(part: int) -> None:
    parts = list(tile(1))
    changed = [array.copy() for array in parts]
    changed[part][0, 3, 4] += 1
    assert tile_hash(*parts) != tile_hash(*changed)


def test_a_hash_is_of_the_values_alone() -> None:
    """Not of how they lie in memory."""
    image, edge, mask = tile(1)
    wide = np.asfortranarray(image)
    assert tile_hash(image, edge, mask) == tile_hash(wide, edge.copy(), mask)


# Tiles that are to be kept for measuring


def test_tiles_to_measure_on_are_not_taken() -> None:
    tiles = [tile(i) for i in range(12)]
    but = {tile_hash(*tiles[i]) for i in (0, 5, 11)}
    chosen = choose_tiles([source(*tiles)], 12, but=but).records
    assert [record.number for record in chosen] == [1, 2, 3, 4, 6, 7, 8, 9, 10]


def test_they_are_taken_where_there_is_no_other() -> None:
    tiles = [tile(i) for i in range(3)]
    chosen = choose_tiles([source(*tiles)], 2, but={tile_hash(*part) for part in tiles}).records
    assert len(chosen) == 2


def test_two_scenes_of_one_name_are_two_scenes() -> None:
    """The same scene named twice, too: no more tiles come than were asked for."""
    tiles = [tile(i, 2 + 5 * i) for i in range(10)]
    calibration = choose_tiles([source(*tiles), source(*tiles)], 6)
    assert len(calibration.records) == len(calibration.feeds) == 6
    other = [tile(20 + i, 2 + 5 * i) for i in range(10)]
    calibration = choose_tiles([source(*tiles), source(*other)], 20)
    assert len({record.sha256 for record in calibration.records}) == 20
    for feed, record in zip(calibration.feeds, calibration.records, strict=True):
        assert tile_hash(*(part[0] for part in feed.values())) == record.sha256


def test_the_scenes_stay_out_of_memory() -> None:
    """Each is read twice, a tile at a time."""
    alive, most, reads = [0], [0], []

    class Counted(np.ndarray):  # type: ignore[type-arg]
        def __del__(self) -> None:
            alive[0] -= 1

    def tiles() -> Iterator[Tile]:
        reads.append(1)
        for i in range(200):
            image, edge, mask = tile(i)
            counted = image.view(Counted)
            alive[0] += 1
            most[0] = max(most[0], alive[0])
            yield counted, edge, mask
            del counted

    choose_tiles([TileSource("scene.tif", tiles)], 4)
    assert len(reads) == 2
    assert most[0] < 20


def test_records_are_plain_data() -> None:
    """For the manifest."""
    (record,) = choose_tiles([source(tile(0))], 1).records
    assert {type(value) for value in dataclasses.asdict(record).values()} == {str, int, float}
