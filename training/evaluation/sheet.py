"""A contact sheet: for some cases the clean scene, its gaps, what each method made of them, and the errors."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from ecea.runtime.masks import Mask
from ecea.runtime.picture import NODATA_COLOUR, colours, percentiles
from ecea.runtime.writer import written_whole
from ecea.training.evaluation.methods import Case
from ecea.training.evaluation.metrics import Scores
from ecea.training.evaluation.scenes import Unit

CROP = 140
"""Pixels of a scene that a panel shows at most, in height and width."""
PANEL = 280
"""Pixels of the sheet that a panel is high and wide; a smaller scene is drawn in the middle of it."""
CASES = 6
"""Cases on a sheet, at most."""

GAP_COLOUR = (214, 51, 132)

_SPAN = 1e-3  # of [0, 1], that is drawn from black to white at least

_GUTTER = 10
_MARGIN = 20
_HEADER = 34
_CAPTION = 24
_LINE = 24
_BAR = 16
_LEGEND = 2 * _LINE + _MARGIN
_INK, _FAINT, _PAPER, _CELL = (25, 25, 30), (105, 105, 115), (255, 255, 255), (240, 240, 243)
_FONT, _SMALL = ImageFont.load_default(17), ImageFont.load_default(15)

Picture = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class _Exhibit:
    """A case as the sheet shows it; everything is cut to the same window."""

    title: tuple[str, ...]
    clean: Picture
    holed: Picture
    fills: dict[str, Picture]
    errors: dict[str, npt.NDArray[np.float32]]
    captions: dict[str, str]


@dataclass
class ContactSheet:
    """Collects cases while they are evaluated.

    Args:
        scenes, gaps: the names of the scenes and of the sources of gaps that will come; of their combinations
            ``CASES`` are shown, spread over both.
    """

    scenes: Sequence[str]
    gaps: Sequence[str]
    _exhibits: list[_Exhibit] = field(default_factory=list)

    def __post_init__(self) -> None:
        count = min(CASES, len(self.scenes) * len(self.gaps))
        # Sources in turn; scenes at even distances, moved on by one where a combination would come twice.
        wanted: list[tuple[str, str]] = []
        for index in range(count):
            gaps = self.gaps[index % len(self.gaps)]
            place = index * len(self.scenes) // count
            while (self.scenes[place], gaps) in wanted:
                place = (place + 1) % len(self.scenes)
            wanted.append((self.scenes[place], gaps))
        self._wanted = set(wanted)

    def watch(self, case: Case, fills: dict[str, Unit], scores: dict[str, Scores]) -> None:
        """Keep a case, if it is one of those to be shown."""
        if (case.scene.label, case.gaps) not in self._wanted:
            return
        window = _window(case.gap)
        valid, gap, clean = case.scene.valid[window], case.gap[window], case.truth[:, *window]
        limits = [(low, max(high, low + _SPAN)) for low, high in percentiles(clean, valid)]
        cut = {name: fill[:, *window] for name, fill in fills.items()}
        picture = colours(clean, valid, limits)
        top, left = window[0].start, window[1].start
        share = 100 * np.count_nonzero(case.gap) / np.count_nonzero(case.scene.valid)
        self._exhibits.append(
            _Exhibit(
                title=(case.scene.name, case.gaps, f"{share:.0f} % hidden", f"shown from row {top}, column {left}"),
                clean=picture,
                holed=np.where(gap[..., None], np.array(GAP_COLOUR, np.uint8), picture),
                fills={name: colours(fill, valid, limits) for name, fill in cut.items()},
                errors={name: np.abs(fill - clean).mean(axis=0) for name, fill in cut.items()},
                captions={name: _caption(scores[name]) for name in fills},
            )
        )

    def write(self, path: Path, methods: Sequence[str]) -> None:
        """Write the sheet as a PNG, whole or not at all.

        Args:
            path: replaced if it exists.
            methods: in the order of their columns.
        """
        columns = 2 + len(methods)
        width = 2 * _MARGIN + columns * PANEL + (columns - 1) * _GUTTER
        block = 2 * PANEL + _GUTTER + _CAPTION + 2 * _GUTTER
        height = 2 * _MARGIN + _HEADER + len(self._exhibits) * block + _LEGEND
        sheet = Image.new("RGB", (width, height), _PAPER)
        draw = ImageDraw.Draw(sheet)
        for column, text in enumerate(("clean", "gaps", *methods)):
            draw.text((_left(column), _MARGIN), _shortened(text), _INK, _FONT)
        for index, exhibit in enumerate(self._exhibits):
            _draw_exhibit(sheet, exhibit, _MARGIN + _HEADER + index * block, methods)
        _draw_legend(draw, height - _LEGEND)
        with written_whole(path) as temporary:
            sheet.save(temporary, format="PNG")


def _draw_exhibit(sheet: Image.Image, exhibit: _Exhibit, top: int, methods: Sequence[str]) -> None:
    draw = ImageDraw.Draw(sheet)
    below = top + PANEL + _CAPTION + _GUTTER
    highest = _error_scale(exhibit.errors.values())
    _paste(sheet, exhibit.clean, 0, top)
    _paste(sheet, exhibit.holed, 1, top)
    for line, text in enumerate(exhibit.title):
        draw.text((_left(0), below + _LINE * line), text, _FAINT if line else _INK, _SMALL if line else _FONT)
    _draw_scale(sheet, _left(1), below + PANEL - _BAR - _LINE, highest)
    for column, name in enumerate(methods, start=2):
        _paste(sheet, exhibit.fills[name], column, top)
        draw.text((_left(column), top + PANEL + 4), exhibit.captions[name], _INK, _SMALL)
        _paste(sheet, _heat(exhibit.errors[name] / highest), column, below)


def _draw_scale(sheet: Image.Image, left: int, top: int, highest: float) -> None:
    """Which colour is which error, beside the pictures of errors."""
    draw = ImageDraw.Draw(sheet)
    bar = np.repeat(np.linspace(0, 1, PANEL, dtype=np.float32)[None], _BAR, axis=0)
    sheet.paste(Image.fromarray(_heat(bar)), (left, top))
    draw.text((left, top + _BAR + 2), "error 0", _FAINT, _SMALL)
    draw.text((left + PANEL, top + _BAR + 2), f"{100 * highest:g} % of the stretch", _FAINT, _SMALL, anchor="ra")


def _draw_legend(draw: ImageDraw.ImageDraw, top: int) -> None:
    left = _left(0)
    for colour, text in ((GAP_COLOUR, "gap"), (NODATA_COLOUR, "no data in the clean scene")):
        draw.rectangle((left, top, left + _BAR, top + _BAR), colour)
        draw.text((left + _BAR + 8, top - 1), text, _FAINT, _SMALL)
        left += _BAR + 60
    note = "PSNR and SSIM over all gap pixels of the scene; errors are means of three bands, absolute"
    draw.text((_left(0), top + _LINE), note, _FAINT, _SMALL)


def _left(column: int) -> int:
    return _MARGIN + column * (PANEL + _GUTTER)


def _paste(sheet: Image.Image, picture: Picture, column: int, top: int) -> None:
    """Draw a picture into its cell, pixels as squares, as large as fits."""
    height, width = picture.shape[:2]
    scale = PANEL / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    cell = Image.new("RGB", (PANEL, PANEL), _CELL)
    large = Image.fromarray(picture).resize(size, Image.Resampling.NEAREST)
    cell.paste(large, ((PANEL - size[0]) // 2, (PANEL - size[1]) // 2))
    sheet.paste(cell, (_left(column), top))


def _window(gap: Mask) -> tuple[slice, slice]:
    """The part of a scene with most gap pixels, ``CROP`` px high and wide at most."""
    sides = [min(CROP, side) for side in gap.shape]
    sums = np.pad(gap.astype(np.int64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    high, wide = sides
    inside = sums[high:, wide:] - sums[:-high, wide:] - sums[high:, :-wide] + sums[:-high, :-wide]
    top, left = np.unravel_index(inside.argmax(), inside.shape)
    return slice(int(top), int(top) + high), slice(int(left), int(left) + wide)


def _heat(share: npt.NDArray[np.float32]) -> Picture:
    """(H, W), 0 to 1 and clipped, as colours from black through violet and orange to pale yellow."""
    levels = np.rint(255 * np.clip(share, 0, 1)).astype(np.uint8)
    return np.asarray(cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB), np.uint8)


def _error_scale(errors: Iterable[npt.NDArray[np.float32]]) -> float:
    """The error drawn brightest, the same for all methods: 1, 2 or 5 times a power of 10.

    Of the method in the middle 99 % of what differs lies below, so that one bad method does not darken all others.
    """
    highest = [float(np.percentile(error[error > 0], 99)) for error in errors if (error > 0).any()]
    if not highest:
        return 0.01
    wanted = float(np.median(highest))
    decade = 10.0 ** math.floor(math.log10(wanted))
    # A float32 that means 0.02 may lie above it.
    return next((step * decade for step in (1, 2, 5) if step * decade >= wanted * (1 - 1e-6)), 10 * decade)


def _caption(scores: Scores) -> str:
    return f"{scores.psnr_db:.2f} dB, SSIM {scores.ssim:.3f}"


def _shortened(text: str) -> str:
    """As much of a name as fits over its column."""
    while _FONT.getlength(text) > PANEL:
        text = text.removesuffix("...")[:-1] + "..."
    return text
