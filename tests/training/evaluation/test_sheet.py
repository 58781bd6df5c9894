"""The contact sheet: which cases it shows, how large it is, and what stands where."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ecea.training.evaluation.evaluate import evaluate
from ecea.training.evaluation.gaps import Stripes
from ecea.training.evaluation.methods import BaselineMethod, Case, Filled
from ecea.training.evaluation.sheet import CASES, GAP_COLOUR, NODATA_COLOUR, PANEL, ContactSheet
from ecea.training.sources import Source

Make = Callable[..., Any]


def sheet_of(path: Path, scenes: list[Path], methods: int) -> NDArray[np.uint8]:
    """The sheet of two widths of stripes on these scenes, (H, W, 3)."""
    sources = [Stripes(2), Stripes(9)]
    chosen = [BaselineMethod(name) for name in ("telea", "fillnodata", "nearest")[:methods]]
    sheet = ContactSheet([str(scene) for scene in scenes], [source.label for source in sources])
    evaluate([Source(str(scene), scene.stem) for scene in scenes], sources, chosen, watch=sheet.watch)
    sheet.write(path, [method.name for method in chosen])
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image)


@pytest.fixture
def scenes(tmp_path: Path, write_raster: Make) -> list[Path]:
    """Five scenes of different sizes, larger and smaller than a panel shows; the first has no data at its left."""
    rng = np.random.default_rng(0)
    found = []
    for number, (height, width) in enumerate(((150, 130), (40, 90), (12, 300), (90, 40), (112, 112))):
        values = rng.integers(20, 180, (3, height, width), dtype=np.uint8)
        if number == 0:
            values[:, :, :60] = 0
        found.append(write_raster(tmp_path / f"scene{number}.tif", values, nodata=0))
    return found


def test_a_cell_for_each_picture(scenes: list[Path], tmp_path: Path) -> None:
    one, two, three = (sheet_of(tmp_path / "sheet.png", scenes, methods) for methods in (1, 2, 3))
    assert three.shape[1] - two.shape[1] == two.shape[1] - one.shape[1] >= PANEL
    assert one.shape[0] == two.shape[0] == three.shape[0]
    assert one.shape[1] >= 3 * PANEL
    assert three.shape[0] >= CASES * 2 * PANEL


def test_few_cases_make_a_low_sheet(scenes: list[Path], tmp_path: Path) -> None:
    low, high = sheet_of(tmp_path / "low.png", scenes[:1], 1), sheet_of(tmp_path / "high.png", scenes, 1)
    per_case = (high.shape[0] - low.shape[0]) / (CASES - 2)
    assert per_case == int(per_case) > 2 * PANEL


def test_gaps_and_nodata_have_their_colours(scenes: list[Path], tmp_path: Path) -> None:
    sheet = sheet_of(tmp_path / "sheet.png", scenes[:1], 1)[:-80]  # without the legend
    in_column = [slice(20 + column * (PANEL + 10), 20 + column * (PANEL + 10) + PANEL) for column in range(3)]
    gap = (sheet == GAP_COLOUR).all(axis=2)
    assert gap[:, in_column[1]].mean() > 0.02
    assert not gap[:, in_column[0]].any()
    assert not gap[:, in_column[2]].any()
    nodata = (sheet == NODATA_COLOUR).all(axis=2)
    assert all(nodata[:, columns].any() for columns in in_column)


def test_pixels_are_squares(tmp_path: Path, write_raster: Make) -> None:
    values = np.zeros((3, 20, 60), np.uint8)
    values[:, :, 30:] = 200
    values[:, 10:] += 20
    low = sheet_of(tmp_path / "sheet.png", [write_raster(tmp_path / "low.tif", values)], 1)
    bright = (low[54 : 54 + PANEL, 20 : 20 + PANEL] > 245).all(axis=2)  # the clean scene, in the first cell
    rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
    assert len(rows) == pytest.approx(PANEL * 10 / 60, abs=2)
    assert len(columns) == pytest.approx(PANEL * 30 / 60, abs=2)


@pytest.mark.parametrize(("scenes", "gaps"), [(1, 1), (1, 9), (2, 3), (40, 1), (40, 4), (3, 2)])
def test_cases_are_spread(scenes: int, gaps: int) -> None:
    sheet = ContactSheet([f"s{i}" for i in range(scenes)], [f"g{i}" for i in range(gaps)])
    wanted = sheet._wanted
    assert len(wanted) == min(CASES, scenes * gaps)
    assert len({scene for scene, _ in wanted}) == min(scenes, len(wanted), CASES)
    assert len({source for _, source in wanted}) == min(gaps, CASES)


def test_errors_are_drawn_where_they_are(tmp_path: Path, write_raster: Make) -> None:
    """Black outside the gaps, and everywhere where a method makes none."""
    flat = np.full((3, 60, 60), 90, np.uint8)
    rough = np.random.default_rng(1).integers(20, 180, (3, 60, 60), dtype=np.uint8)
    far = np.zeros((3, 260, 300), np.uint8)
    far[:, 200:, 240:] = rough
    for name, values in (("flat", flat), ("rough", rough), ("far", far)):
        sheet = sheet_of(tmp_path / "sheet.png", [write_raster(tmp_path / f"{name}.tif", values, nodata=0)], 1)
        clean, holed, filled = (sheet[54 : 54 + PANEL, left : left + PANEL] for left in (20, 310, 600))
        errors = sheet[368 : 368 + PANEL, 600 : 600 + PANEL].max(axis=2)
        gap = (holed == GAP_COLOUR).all(axis=2)
        assert errors[~gap].max() <= 4  # the darkest colour is nearly black
        assert np.array_equal(clean[~gap], filled[~gap])
        assert (errors[gap] > 4).mean() == pytest.approx(0 if name == "flat" else 1, abs=0.1)
        assert (clean[gap] != filled[gap]).any(axis=1).mean() == pytest.approx(0 if name == "flat" else 1, abs=0.1)


class Shifted(BaselineMethod):
    """Fills with the truth, brighter by some levels."""

    def __init__(self, name: str, levels: int) -> None:
        super().__init__(name)
        self._levels = np.uint8(levels)

    def fill(self, case: Case) -> Filled:
        return Filled(np.where(case.gap, case.scene.values + self._levels, case.holed), left=0)


def test_one_bad_method_does_not_darken_the_errors_of_others(tmp_path: Path, write_raster: Make) -> None:
    path = write_raster(tmp_path / "scene.tif", np.full((3, 60, 60), 90, np.uint8))
    cells = []
    for worst in (20, 160):
        methods = [Shifted("good", 10), Shifted("usual", 20), Shifted("worst", worst)]
        sheet = ContactSheet([str(path)], [Stripes(9).label])
        evaluate([Source(str(path), "scene")], [Stripes(9)], methods, watch=sheet.watch)
        sheet.write(tmp_path / "sheet.png", [method.name for method in methods])
        with Image.open(tmp_path / "sheet.png") as image:
            cells.append(np.asarray(image)[368 : 368 + PANEL, 600 : 600 + PANEL])
    assert cells[0].max() > 50
    assert np.array_equal(*cells)
