"""Scores of whole evaluations: what counts, how it adds up, what becomes JSON."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ecea.runtime.errors import EceaError
from ecea.training.evaluation.evaluate import Evaluation, compare, evaluate
from ecea.training.evaluation.gaps import Stripes
from ecea.training.evaluation.methods import BaselineMethod, Case, Filled
from ecea.training.evaluation.report import evaluation_json
from ecea.training.evaluation.scenes import Unit
from ecea.training.evaluation.tables import markdown, tables
from ecea.training.sources import Source

Make = Callable[..., Any]


class Shifted:
    """Fills with the truth, brighter by ``shift`` levels."""

    is_baseline = False

    def __init__(self, shift: int, name: str = "shifted") -> None:
        self.shift = shift
        self.name = name
        self.about: dict[str, str] = {}

    def fill(self, case: Case) -> Filled:
        return Filled(np.where(case.gap, case.scene.values + np.uint8(self.shift), case.scene.values), left=0)

    def generate(self, case: Case) -> Unit | None:
        return None


class Careless(Shifted):
    """Changes one pixel that is no gap."""

    def fill(self, case: Case) -> Filled:
        values = case.scene.values.copy()
        row, column = np.argwhere(~case.gap)[0]
        values[1, row, column] ^= 1
        return Filled(values, left=0)


class Idle(Shifted):
    """Leaves three pixels of each scene."""

    def fill(self, case: Case) -> Filled:
        return Filled(case.holed, left=3)


@pytest.fixture
def two_scenes(tmp_path: Path, noise: NDArray[np.uint8], write_raster: Make) -> list[Source]:
    """An 8-bit scene of 50 x 40 px, and one of 100 x 80 px, half of which is nodata."""
    large = np.tile(noise, (1, 2, 2))
    large[:, :, 50:] = 0
    files = [write_raster(tmp_path / "a.tif", noise), write_raster(tmp_path / "b.tif", large, nodata=0)]
    return [Source(str(file), file.stem) for file in files]


@pytest.fixture
def done(two_scenes: list[Source]) -> Evaluation:
    sources = [Stripes(2), Stripes(7)]
    methods = [BaselineMethod("nearest"), BaselineMethod("fillnodata"), Shifted(0, "perfect"), Shifted(51, "off")]
    return evaluate(two_scenes, sources, methods)


def outcome(done: Evaluation, method: str, gaps: str = "stripes of 7 px") -> Any:
    return next(r.outcome for r in done.results if (r.method, r.gaps) == (method, gaps))


def test_a_perfect_fill(done: Evaluation) -> None:
    perfect = outcome(done, "perfect")
    assert (perfect.gap.psnr_db, perfect.gap.rmse, perfect.whole.psnr_db) == (math.inf, 0, math.inf)
    assert perfect.gap.ssim == pytest.approx(1)
    assert perfect.steps == done.clean_steps["stripes of 7 px"]


def test_a_known_error(done: Evaluation) -> None:
    off = outcome(done, "off")
    assert off.gap.rmse == pytest.approx(51 / 255, rel=1e-5)
    assert off.gap.psnr_db == pytest.approx(-20 * math.log10(0.2), rel=1e-5)
    share = off.gap.pixels / off.whole.pixels
    assert off.whole.rmse == pytest.approx(0.2 * math.sqrt(share), rel=1e-5)


def test_only_valid_pixels_count(done: Evaluation) -> None:
    assert outcome(done, "off").whole.pixels == 40 * 50 + 80 * 50


def test_every_pixel_weighs_alike(done: Evaluation) -> None:
    """The error over two scenes is that of their pixels together, not the mean of two errors."""
    cases = [c.outcome.gap for c in done.cases if (c.method, c.gaps) == ("nearest", "stripes of 7 px")]
    assert len(cases) == 2
    assert cases[0].pixels < cases[1].pixels
    squared = sum(case.pixels * case.rmse**2 for case in cases)
    together = outcome(done, "nearest").gap
    assert together.pixels == sum(case.pixels for case in cases)
    assert together.rmse == pytest.approx(math.sqrt(squared / together.pixels))


def test_widths_part_the_gap_pixels(done: Evaluation) -> None:
    for result in done.results:
        widths = result.outcome.widths
        assert sum(scores.pixels for scores in widths.values()) == result.outcome.gap.pixels
    assert outcome(done, "off").widths["5-8"].pixels > 0.8 * outcome(done, "off").gap.pixels


def test_a_gap_beside_missing_data_is_as_wide_as_both(scene_of_values: Make, noise: NDArray[np.uint8]) -> None:
    gap, valid = np.zeros((40, 50), bool), np.ones((40, 50), bool)
    gap[20:23], valid[23:27] = True, False
    case = Case(scene_of_values(noise, valid=valid), "beside", gap)
    widths = compare(case, case.truth).widths
    assert {name: sums.pixels for name, sums in widths.items() if sums.pixels} == {"5-8": 3 * 50}


def test_what_is_left_adds_up(two_scenes: list[Source]) -> None:
    assert outcome(evaluate(two_scenes, [Stripes(7)], [Idle(0, "idle")]), "idle").pixels_left == 2 * 3


def test_all_methods_fill_the_same_gaps(done: Evaluation) -> None:
    for gaps in done.gaps:
        assert len({result.outcome.gap.pixels for result in done.results if result.gaps == gaps}) == 1


def test_a_method_that_changes_valid_pixels(two_scenes: list[Source]) -> None:
    with pytest.raises(EceaError, match=r"a\.tif: careless changed 1 pixel outside gaps, expected none"):
        evaluate(two_scenes, [Stripes(2)], [Careless(0, "careless")])


def test_json_is_valid_json(done: Evaluation) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    content = json.loads(evaluation_json(done, {"seed": 0}), parse_constant=refuse)
    assert set(content) == {
        "schema", "settings", "methods", "gaps", "results", "clean_steps", "cases", "stretches",
    }  # fmt: skip
    assert content["schema"] == 1
    assert [method["name"] for method in content["methods"]] == ["nearest", "fillnodata", "perfect", "off"]
    assert len(content["results"]) == 2 * 4
    assert len(content["cases"]) == 2 * 2 * 4
    result = next(r for r in content["results"] if r["method"] == "perfect")
    assert result["cases"] == 2
    assert set(result["outcome"]) == {
        "gap", "widths", "whole", "generated", "steps", "pixels_left", "seconds",
    }  # fmt: skip
    assert set(result["outcome"]["gap"]) == {"pixels", "psnr_db", "ssim", "mape_percent", "rmse"}
    assert result["outcome"]["gap"]["psnr_db"] is None
    assert result["outcome"]["gap"]["rmse"] == 0
    assert result["outcome"]["widths"][">14"] == {
        "pixels": 0, "psnr_db": None, "ssim": None, "mape_percent": None, "rmse": None,
    }  # fmt: skip
    assert list(content["stretches"].values()) == [[0, 255, 1], [0, 255, 1]]


def test_tables(done: Evaluation) -> None:
    over_gaps, by_width, whole = tables(done)
    assert [len(table.rows) for table in (over_gaps, by_width, whole)] == [2 * 5, 2 * 4, 2 * 4]
    rows = {row[1]: row for row in over_gaps.rows[5:]}
    best = max(outcome(done, name).gap.psnr_db for name in ("nearest", "fillnodata"))
    assert rows["off"][2] == "13.98"
    assert float(rows["off"][3]) == pytest.approx(13.979 - best, abs=0.006)
    assert rows["perfect"][2:4] == ("inf", "+inf")
    assert rows["nearest"][3] == "-"
    assert rows["(clean scene)"][2] == "-"
    assert float(rows["(clean scene)"][7]) == pytest.approx(1, abs=0.1)
    text = markdown([over_gaps])
    assert text.startswith("**Over gap pixels**\n\n| gaps | method | PSNR dB | over best baseline |")
    assert len(text.splitlines()) == 4 + 10


def test_gaps_are_those_of_the_seed(two_scenes: list[Source]) -> None:
    first, same, other = (
        evaluate(two_scenes, [Stripes(5)], [BaselineMethod("nearest")], seed=seed).results[0].outcome.gap
        for seed in (1, 1, 2)
    )
    assert first == same
    assert first != other
