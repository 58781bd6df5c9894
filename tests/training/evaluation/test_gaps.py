"""Gaps for clean scenes: random, the same each time, and on valid pixels."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ecea.runtime.errors import RequestError
from ecea.training.evaluation.gaps import MaskFiles, OwnMasks, Stripes, draw_gaps, mask_source, stripes
from ecea.training.evaluation.widths import gap_widths

Make = Callable[..., Any]
Values = NDArray[np.uint8]


def large(make: Make, **changes: Any) -> Any:
    return make(np.zeros((3, 150, 170), np.uint8), **changes)


@pytest.mark.parametrize("width", [1, 2, 8, 14])
def test_stripes_have_their_width(width: int, scene_of_values: Make) -> None:
    gap = draw_gaps(Stripes(width), large(scene_of_values), seed=0)
    widths = gap_widths(gap)[width:-width]  # without what the border cuts off
    assert np.percentile(widths[widths > 0], [5, 95]).tolist() == [width, width]
    assert gap.mean() == pytest.approx(width / 33, rel=0.25)


@pytest.mark.parametrize("source", [Stripes(5), MaskFiles("dots", (np.eye(60, dtype=bool),))], ids=["stripes", "masks"])
def test_a_draw_depends_on_seed_scene_and_source_alone(source: Any, scene_of_values: Make) -> None:
    scene, other = large(scene_of_values), large(scene_of_values, path=Path("other.tif"))
    gap = draw_gaps(source, scene, seed=3)
    assert np.array_equal(gap, draw_gaps(source, scene, seed=3))
    assert not np.array_equal(gap, draw_gaps(source, scene, seed=4))
    assert not np.array_equal(gap, draw_gaps(source, other, seed=3))


def test_a_draw_is_the_same_in_every_process(scene_of_values: Make) -> None:
    """On any machine: these are the hashes of one."""
    scene = large(scene_of_values)
    drawn = (draw_gaps(source, scene, seed=3) for source in (Stripes(5), MaskFiles("dots", (np.eye(60, dtype=bool),))))
    assert [hashlib.sha256(np.packbits(gap).tobytes()).hexdigest()[:12] for gap in drawn] == [
        "a0e2c14504b0",
        "b2e59b6f46a0",
    ]


def test_stripes_ascend_and_descend(scene_of_values: Make) -> None:
    scene = large(scene_of_values)
    drops = set()
    for seed in range(12):
        gap = draw_gaps(Stripes(3), scene, seed)
        first = int(np.flatnonzero(gap[40:, 0])[0]) + 40
        drops.add(bool(gap[first : first + 6, 20].any()))
    assert drops == {True, False}


def test_a_mask_keeps_its_shapes(scene_of_values: Make) -> None:
    """Cut from a larger mask, flipped, but neither turned nor scaled."""
    mask = np.zeros((300, 400), bool)
    mask[::10] = True  # rows
    for seed in range(8):
        gap = draw_gaps(MaskFiles("rows", (mask,)), large(scene_of_values), seed)
        assert (gap == gap[:, :1]).all()
        assert set(np.diff(np.flatnonzero(gap[:, 0]))) == {10}


def test_a_small_mask_goes_on_as_its_mirror_image(scene_of_values: Make) -> None:
    mask = np.zeros((7, 5), bool)
    mask[0] = True  # its mirror image has rows 0 and 13 side by side
    gap = draw_gaps(MaskFiles("row", (mask,)), large(scene_of_values), seed=1)
    assert (gap == gap[:, :1]).all()
    assert set(np.diff(np.flatnonzero(gap[:, 0]))) == {1, 13}


def test_a_mask_of_the_scenes_size_is_laid_on_it(scene_of_values: Make) -> None:
    mask = np.random.default_rng(0).random((150, 170)) < 0.2
    gap = draw_gaps(MaskFiles("own size", (mask,)), large(scene_of_values), seed=5)
    flips = [mask[::down, ::right] for down in (-1, 1) for right in (-1, 1)]
    assert any(np.array_equal(gap, flipped) for flipped in flips)
    drawn = [draw_gaps(MaskFiles("own size", (mask,)), large(scene_of_values), seed) for seed in range(30)]
    assert all(any(np.array_equal(gap, flipped) for gap in drawn) for flipped in flips)


def test_a_larger_mask_is_cut_anywhere(scene_of_values: Make) -> None:
    mask = np.random.default_rng(0).random((400, 500)) < 0.2
    drawn = {draw_gaps(MaskFiles("large", (mask,)), large(scene_of_values), seed).tobytes() for seed in range(20)}
    assert len(drawn) == 20
    ends = np.zeros((151, 170), bool)  # a row higher than the scene, which so shows one of its ends
    ends[[0, -1]] = True
    shown = [draw_gaps(MaskFiles("ends", (ends,)), large(scene_of_values), seed) for seed in range(20)]
    assert {int(np.flatnonzero(gap[:, 0])[0]) for gap in shown} == {0, 149}


def test_every_mask_of_a_folder_is_drawn(tmp_path: Path, write_raster: Make, scene_of_values: Make) -> None:
    for number in (1, 2, 3):
        write_raster(tmp_path / f"{number}.tif", np.full((1, 20, 20), number, np.uint8) * np.eye(20, dtype=np.uint8))
    source = mask_source(tmp_path)
    assert source.label == tmp_path.name
    assert len(source.masks) == 3
    apart = MaskFiles("apart", tuple(np.arange(20)[:, None] % 3 == number for number in range(3)))
    scene = scene_of_values(np.zeros((3, 20, 20), np.uint8))
    assert len({draw_gaps(apart, scene, seed).tobytes() for seed in range(30)}) >= 3
    one = mask_source(tmp_path / "2.tif")
    assert (one.label, len(one.masks)) == ("2", 1)


def test_gaps_lie_on_valid_pixels(scene_of_values: Make) -> None:
    valid = np.zeros((150, 170), bool)
    valid[50:100, 50:100] = True
    gap = draw_gaps(Stripes(6), large(scene_of_values, valid=valid), seed=0)
    assert gap.any()
    assert not (gap & ~valid).any()


def test_own_masks(tmp_path: Path, write_raster: Make, scene_of_values: Make) -> None:
    scene = large(scene_of_values, path=tmp_path / "a.tif")
    with pytest.raises(RequestError, match=r"a\.tif: has no mask a_mask\.tif beside it"):
        draw_gaps(OwnMasks(), scene, 0)
    mask = np.random.default_rng(0).random((1, 150, 170)) < 0.2
    write_raster(tmp_path / "a_mask.png", mask.astype(np.uint8), driver="PNG")
    assert np.array_equal(draw_gaps(OwnMasks(), scene, 0), mask[0])
    write_raster(tmp_path / "a_mask.tif", mask[:, :, :-1].astype(np.uint8))
    with pytest.raises(RequestError, match=r"a_mask\.tif: is a mask of 169 x 150 px, the scene has 170 x 150"):
        draw_gaps(OwnMasks(), scene, 0)


def test_gaps_that_leave_or_hit_nothing(scene_of_values: Make) -> None:
    scene = large(scene_of_values)
    everything, nothing = np.ones((9, 9), bool), np.zeros((9, 9), bool)
    with pytest.raises(RequestError, match=r"the gaps of 'all' hide all of its valid pixels"):
        draw_gaps(MaskFiles("all", (everything,)), scene, 0)
    with pytest.raises(RequestError, match=r"the gaps of 'none' fall on none of its valid pixels"):
        draw_gaps(MaskFiles("none", (nothing,)), scene, 0)


def test_masks_that_are_none(tmp_path: Path, write_raster: Make) -> None:
    flat = write_raster(tmp_path / "flat.tif", np.zeros((1, 20, 20), np.int16) - 1)
    (tmp_path / "text.tif").write_text("no raster")
    (tmp_path / "empty").mkdir()
    for path, said in (
        (flat, "flat.tif: has no hole"),
        (tmp_path / "text.tif", "text.tif: is not a mask that can be read"),
        (tmp_path / "absent", "absent: no such file or folder"),
        (tmp_path / "empty", "empty: holds no raster"),
    ):
        with pytest.raises(RequestError, match=said):
            mask_source(path)


@pytest.mark.parametrize("width", [0, -3, 33])
def test_impossible_stripes(width: int) -> None:
    with pytest.raises(RequestError, match=f"stripes of {width} px are impossible: expected 1 to 32"):
        stripes([2, width])
