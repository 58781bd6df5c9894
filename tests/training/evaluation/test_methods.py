"""A generator is measured as users run it: valid pixels untouched, the truth out of its sight."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ecea.runtime.stretch import Stretch
from ecea.training.evaluation.methods import BaselineMethod, Case, GeneratorMethod
from ecea.training.evaluation.scenes import read_clean_scene
from ecea.training.sources import Source

Make = Callable[..., Any]
Mask = NDArray[np.bool_]


def constant(value: float) -> Callable[..., NDArray[np.float32]]:
    return lambda image, edge, mask: np.full_like(image, value)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_gaps_are_filled_and_nothing_else(
    dtype: str, noise: NDArray[Any], hole: Mask, scene_of_values: Make, engine_of: Make
) -> None:
    case = Case(scene_of_values(noise.astype(dtype)), "gaps", hole)
    with engine_of(constant(0.4)) as engine:
        filled = GeneratorMethod(engine, "constant").fill(case)
    assert filled.left == 0
    assert filled.values[:, hole] == pytest.approx(np.full((3, hole.sum()), 102), rel=1e-6)
    assert filled.values[:, ~hole].tobytes() == case.scene.values[:, ~hole].tobytes()


def test_what_is_hidden_is_not_there(noise: NDArray[Any], hole: Mask, scene_of_values: Make, engine_of: Make) -> None:
    """Whatever stands in the gaps of the truth, a method sees and gives the same."""
    seen: list[bytes] = []

    def remember(image: Any, edge: Any, mask: Any) -> Any:
        seen.append(b"".join(array.tobytes() for array in (image, edge, mask)))
        assert not image[np.broadcast_to(mask, image.shape) > 0].any()
        return np.full_like(image, 0.5)

    other = noise.copy()
    other[:, hole] = 250 - other[:, hole]
    first, second = (Case(scene_of_values(values), "gaps", hole) for values in (noise, other))
    assert np.array_equal(first.holed, second.holed)
    with engine_of(remember) as engine:
        method = GeneratorMethod(engine, "remembers", published=True)
        for case in (first, second):
            method.fill(case)
            method.generate(case)
    half = len(seen) // 2
    assert half > 1
    assert sorted(seen[:half]) == sorted(seen[half:])


def test_a_scene_with_nodata_of_its_own(
    noise: NDArray[Any], hole: Mask, scene_of_values: Make, engine_of: Make
) -> None:
    """It stays, even where a gap runs into it, and no method fills from it."""
    values, valid = noise.astype("int16"), np.ones((40, 50), bool)
    valid[:, :10] = False
    values[:, ~valid] = -999
    case = Case(scene_of_values(values, valid=valid, nodata=-999.0), "gaps", hole & valid)
    with engine_of(constant(0.4)) as engine:
        for method in (GeneratorMethod(engine, "constant"), BaselineMethod("nearest"), BaselineMethod("telea")):
            filled = method.fill(case).values
            assert filled[:, ~case.gap].tobytes() == values[:, ~case.gap].tobytes()
            assert filled[:, case.gap].min() > 0


@pytest.mark.parametrize("nodata", [None, 0.0])
def test_a_scene_that_a_mask_says_is_partly_invalid(
    nodata: float | None, noise: NDArray[Any], hole: Mask, scene_of_values: Make, engine_of: Make
) -> None:
    """Clouds that a list names a mask of, in a scene that declares nodata too, were shown to generators alone."""
    valid = np.ones((40, 50), bool)
    valid[:, 45:] = False
    case = Case(scene_of_values(noise, valid=valid, nodata=nodata), "gaps", hole & valid)
    seen = []

    def remember(image: Any, edge: Any, mask: Any) -> Any:
        seen.append(mask.mean())
        return np.full_like(image, 0.4)

    with engine_of(remember, size=64) as engine:
        filled = GeneratorMethod(engine, "constant").fill(case)
    assert (filled.values[:, case.gap] == 102).all()
    assert seen[0] > (hole | ~valid).mean() * 0.9  # the invalid side is hidden too


def test_a_gap_wider_than_a_tile_is_left_and_counted(scene_of_values: Make, engine_of: Make) -> None:
    values = np.full((3, 100, 40), 80, np.uint8)
    gap = np.zeros((100, 40), bool)
    gap[:90] = True
    case = Case(scene_of_values(values), "gaps", gap)
    with engine_of(constant(0.4)) as engine:
        filled = GeneratorMethod(engine, "constant").fill(case)
    assert filled.left > 0
    assert np.count_nonzero((filled.values[:, gap] == 0).all(axis=0)) == filled.left


def test_a_scene_smaller_than_a_tile(scene_of_values: Make, engine_of: Make) -> None:
    gap = np.zeros((13, 20), bool)
    gap[4:6] = True
    case = Case(scene_of_values(np.full((3, 13, 20), 80, np.uint8)), "gaps", gap)
    with engine_of(constant(0.4), size=64) as engine:
        method = GeneratorMethod(engine, "constant", published=True)
        assert (method.fill(case).values[:, gap] == 102).all()
        generated = method.generate(case)
    assert generated == pytest.approx(np.full((3, 13, 20), 102 / 255))  # everywhere, in 8 bits


def test_whole_images_are_drawn_on_request_only(
    noise: NDArray[Any], hole: Mask, scene_of_values: Make, engine_of: Make
) -> None:
    case = Case(scene_of_values(noise), "gaps", hole)
    with engine_of(constant(0.4)) as engine:
        assert GeneratorMethod(engine, "constant").generate(case) is None
    assert BaselineMethod("telea").generate(case) is None


def test_whole_images_hold_nothing_where_the_scene_does(
    noise: NDArray[Any], hole: Mask, scene_of_values: Make, engine_of: Make
) -> None:
    valid = np.ones((40, 50), bool)
    valid[:, 30:] = False
    case = Case(scene_of_values(noise, valid=valid), "gaps", hole & valid)
    with engine_of(constant(0.4)) as engine:
        generated = GeneratorMethod(engine, "constant", published=True).generate(case)
    assert generated is not None
    assert not generated[:, ~valid].any()
    assert generated[:, valid] == pytest.approx(np.full((3, valid.sum()), 102 / 255))


def test_a_clean_scene_from_a_file(tmp_path: Path, write_raster: Make) -> None:
    values = np.random.default_rng(0).random((4, 30, 20)).astype(np.float32)
    values[2, 3, 4] = np.nan
    values[1, 5, 6] = -1
    values[0, 7, 8] = np.nan  # in a band that was not chosen
    path = write_raster(tmp_path / "a.tif", values, nodata=-1)
    scene = read_clean_scene(Source(str(path), "a", (4, 3, 2), Stretch(0, 1)))
    assert np.argwhere(~scene.valid).tolist() == [[3, 4], [5, 6]]
    assert np.array_equal(scene.values, values[[3, 2, 1]], equal_nan=True)
    unit = scene.to_unit(scene.values)
    assert unit[:, 3, 4].tolist() == [0, 0, 0]
    assert unit[:, scene.valid] == pytest.approx(values[[3, 2, 1]][:, scene.valid])
