"""Synthetic scenes: land that nobody has seen, drawn at random, to learn from before real scenes (docs/training.md).

    python -m ecea.training.synthetic FOLDER COUNT [SEED]

More of such a scene than of a real one can be told from its surroundings: fields, streets, shores and slopes go on
behind a gap. They have no licence, and belong to no fold.

Brightness is in no unit until a scene is done: layers are drawn over one another in colours of unit size, and the whole
is stretched to 8 bits at the end.
"""

if __name__ == "__main__":  # before what takes time to import
    from ecea.runtime.entry import end_when_stopped

    end_when_stopped("python -m ecea.training.synthetic")

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import numpy.typing as npt
import rasterio
import typer

from ecea.runtime.command import start_script
from ecea.runtime.errors import RequestError
from ecea.runtime.writer import written_whole

SIZE = 512
"""Rows and columns of a scene."""

Array = npt.NDArray[np.float32]
Window = tuple[slice, slice]

_MOST = 2**63 - 1  # scenes, and seeds: what a command's argument can say
_SUBPIXEL = 4  # bits behind the point of coordinates that OpenCV is given
_TEXTURES = 4  # that the surfaces of a scene choose from
_SPEED_OF_PATHS = 6.0  # px from one bend to the next


def synthetic_scene(seed: int, index: int, size: int = SIZE) -> npt.NDArray[np.uint8]:
    """Draw a scene; the same seed, index and versions of numpy and OpenCV give the same one.

    Args:
        seed, index: 0 or more; what the random numbers are made of.
        size: rows and columns, 32 at least.

    Returns:
        (3, size, size), 0 to 255.
    """
    rng = np.random.default_rng([seed, index])
    overview = rng.random() < 0.12
    land = _Land(rng, 2 * size if overview else size)
    for chance, layer in _layers(land):
        if rng.random() < chance:
            layer()
    blur = rng.uniform(0.3, 1.2) if overview else rng.uniform(0.45, 1.1)
    image = cv2.GaussianBlur(land.image, (0, 0), blur).astype(np.float32)  # as optics and detectors do
    if overview:  # every other pixel, as overviews of scenes are made
        image = image[::2, ::2].copy()
    for band in range(3):
        image[..., band] += rng.exponential(0.03) * fractal(rng, size, rng.choice([0.0, 0.5, 1.0]), lean=False)
    if not overview and rng.random() < 0.07:
        image = _by_nearest_neighbour(image, int(rng.integers(2, 4)))
    low, high = np.percentile(image, (1, 99))
    contrast, dark = rng.uniform(0.3, 0.65), rng.uniform(0.03, 0.25)
    unit = (image - low) / max(high - low, 1e-6) * contrast + dark
    return (unit.clip(0, 1) * 255 + 0.5).astype(np.uint8).transpose(2, 0, 1)


def write_synthetic_scenes(folder: Path, count: int, seed: int = 0) -> None:
    """Write ``0000.tif`` and on into a folder, which is made if it is not there: 30 m pixels, no place on Earth.

    Raises:
        RequestError: where ``count`` is less than 1, the folder cannot be made, or holds something.
        EceaError: where a file cannot be written; no scene is left then.
    """
    if count < 1 or seed < 0:
        raise RequestError(
            f"{count} scenes of seed {seed} cannot be drawn: expected 1 or more, and a seed of 0 or more"
        )
    try:
        folder.mkdir(exist_ok=True)
        if any(folder.iterdir()):
            raise RequestError(f"{folder}: holds something already: name an empty folder, or one that is not there")
    except OSError as error:
        raise RequestError(f"{folder}: cannot be made ({error.strerror}): name another folder") from error
    profile = {"driver": "GTiff", "count": 3, "height": SIZE, "width": SIZE, "dtype": "uint8", "photometric": "RGB"}
    profile |= {"transform": rasterio.Affine(30, 0, 0, 0, -30, 0), "compress": "deflate"}
    with ExitStack() as undo:  # what is left would stand in the way of drawing them all
        for index in range(count):
            path = folder / f"{index:04}.tif"
            undo.callback(path.unlink, missing_ok=True)
            with written_whole(path) as temporary, rasterio.open(temporary, "w", **profile) as to:
                to.write(synthetic_scene(seed, index))
        undo.pop_all()


def fractal(rng: np.random.Generator, size: int, slope: float, *, lean: bool = True) -> Array:
    """Noise whose amplitude falls with frequency: ``1 / f**slope``; (size, size), mean 0 and deviation 1.

    With ``lean`` a third of it is longer one way than the other.
    """
    fy, fx = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None]
    squared = fx**2 + fy**2
    if lean and rng.random() < 0.35:
        angle, ratio = rng.uniform(0, np.pi), 2 ** rng.uniform(0, 2.5)
        along, across = fx * np.cos(angle) + fy * np.sin(angle), fy * np.cos(angle) - fx * np.sin(angle)
        squared = along**2 * ratio + across**2 / ratio
    squared[0, 0] = 1
    amplitude = squared ** (-slope / 2)
    amplitude[0, 0] = 0
    noise = rng.standard_normal((size, size // 2 + 1)) + 1j * rng.standard_normal((size, size // 2 + 1))
    values = np.fft.irfft2(noise * amplitude, s=(size, size))
    return (values / values.std()).astype(np.float32)


class _Land:
    """A scene while it is drawn.

    Args:
        rng: of everything in it.
        size: rows and columns.
    """

    def __init__(self, rng: np.random.Generator, size: int) -> None:
        self.rng, self.size = rng, size
        # Bands have most of their brightness in common.
        shared = np.outer(rng.normal(1, 0.2, 3), np.ones(3)) / np.sqrt(3)
        self._mix = np.diag(rng.uniform(0.1, 0.7, 3)) + shared * rng.uniform(0.6, 1.2)
        self._textures = [fractal(rng, size, rng.uniform(0.3, 1.7)) for _ in range(_TEXTURES)]
        self._roughness = rng.uniform(0.05, 0.6) * rng.choice([0.5, 1.0, 1.5])
        self._grain = rng.uniform(0, np.pi)  # the angle that fields and streets follow
        self.image: Array = np.zeros((size, size, 3), np.float32) + self._surface()

    def relief(self) -> None:
        """Slopes in the sun and in the shade, some with ridges, some coloured by height."""
        rng, height = self.rng, fractal(self.rng, self.size, self.rng.uniform(1.7, 2.6))
        if rng.random() < 0.6:
            height = -np.abs(height) + 0.3 * fractal(rng, self.size, 2)
        sun, (down, right) = rng.uniform(0, 2 * np.pi), np.gradient(height)
        light = right * np.cos(sun) + down * np.sin(sun)
        light = np.tanh(light / (light.std() * rng.uniform(1, 2.5)))
        self.image += light[..., None] * self._colour() * rng.uniform(0.4, 1.5)
        if rng.random() < 0.6:
            level = (height - height.mean()) / height.std()
            self.image += np.tanh(level * rng.uniform(0.5, 3))[..., None] * self._colour() * rng.uniform(0, 0.8)

    def regions(self) -> None:
        """Woods and waters: where a fractal is high, with a shore that is sharp or soft."""
        height = fractal(self.rng, self.size, self.rng.uniform(1.2, 2.6))
        sharpness = 10 ** self.rng.uniform(0.7, 2.2)
        self._blend(_step((height - self.rng.normal(0.7, 0.6)) * sharpness), self._surface())

    def veins(self) -> None:
        """Thin lines along a contour of a fractal, of one width: rivers, and roads on slopes."""
        rng, height = self.rng, fractal(self.rng, self.size, self.rng.uniform(1.6, 2.6))
        slope = np.hypot(*np.gradient(height)) + 1e-3
        away = np.abs(height - rng.normal(0, 0.5)) / slope
        line = np.clip(rng.uniform(0.9, 3) - away, 0, 1)
        if rng.random() < 0.5:
            line = line * self._somewhere()
        self._blend(line * rng.uniform(0.4, 1), self._colour())

    def strata(self) -> None:
        """Bands that follow the height."""
        rng, height = self.rng, fractal(self.rng, self.size, self.rng.uniform(2, 3))
        bands = np.sin(height * rng.uniform(5, 60))
        if rng.random() < 0.5:
            bands = np.sign(bands) * np.abs(bands) ** 0.4
        rock = self._surface() + bands[..., None] * self._colour() * rng.uniform(0.2, 0.8)
        self._blend(self._somewhere(), rock)

    def streets(self) -> None:
        """A town: streets at right angles over a fine texture."""
        rng, step = self.rng, self.rng.uniform(5, 25)
        y, x = np.mgrid[: self.size, : self.size].astype(np.float32)
        streets = np.zeros((self.size, self.size), np.float32)
        for turn, distance in ((0.0, step), (np.pi / 2, step * rng.uniform(1, 2.5))):
            across = x * np.cos(self._grain + turn) + y * np.sin(self._grain + turn)
            middle = np.abs(across % distance - distance / 2)
            streets = np.maximum(streets, np.clip(rng.uniform(0.6, 1.5) - middle, 0, 1))
        town, roofs = self._somewhere(), fractal(rng, self.size, 0.2)
        self._blend(town, self._surface() + 0.5 * roofs[..., None] * self._colour() * self._roughness)
        self._blend(town * streets, self._colour())

    def fields(self, area: float, smallest: float, largest: float) -> None:
        """Quadrangles and ovals over one another, small ones most: one for each ``area`` px, radii in px."""
        rng = self.rng
        aligned, ovals = rng.random() < 0.6, rng.random() * 0.5
        for _ in range(int(self.size**2 / area)):
            # The density of radii falls with their cube, as in images of the world (Lee, Mumford and Huang, 2001).
            radius = smallest * (1 - rng.random() * (1 - (smallest / largest) ** 2)) ** -0.5
            angle = (
                self._grain + rng.integers(2) * np.pi / 2 + rng.normal(0, 0.03) if aligned else rng.uniform(0, np.pi)
            )
            outline = self._oval() if rng.random() < ovals else self._quadrangle()
            turned = outline @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
            self._field(radius * turned + rng.uniform(0, self.size, 2), angle)

    def lines(self) -> None:
        """Roads, most of one or two px, some straight, and rivers."""
        rng = self.rng
        for _ in range(int(rng.poisson(self.size / 130))):
            straight = rng.random() < 0.4
            along = self._grain + rng.integers(2) * np.pi / 2
            angle = along if straight and rng.random() < 0.7 else rng.uniform(0, 2 * np.pi)
            points = self._path(angle, 0 if straight else rng.uniform(0.02, 0.35))
            canvas = np.zeros((self.size, self.size), np.uint8)
            width = int(rng.choice([1, 1, 1, 2, 2, 3, 5, 9]))
            cv2.polylines(canvas, [_fixed_point(points)], False, 255, width, cv2.LINE_AA, _SUBPIXEL)
            self._blend(_weight(canvas) * np.float32(rng.uniform(0.4, 1)), self._colour())

    def spots(self) -> None:
        """Houses and trees."""
        self._blend(self._peaks(self.rng.uniform(0.4, 1.4)), self._colour() * 1.5)

    def clouds(self) -> None:
        """Small clouds, each with its shadow."""
        rng, cloud = self.rng, self._peaks(self.rng.uniform(1, 1.6))
        shadow = np.roll(cloud, tuple(rng.integers(-7, 8, 2)), (0, 1))
        brightest, darkest = self.image.max((0, 1)), self.image.min((0, 1))
        self._blend(shadow * rng.uniform(0.4, 0.9), darkest)
        self._blend(cloud * rng.uniform(0.6, 1), brightest + np.abs(self._colour()) / 2)

    def texture(self) -> None:
        """What lies over all of it."""
        amount = self.rng.choice([0, 0.3, 1, 1.5]) * self._roughness * self.rng.uniform(0, 0.6)
        self.image += amount * fractal(self.rng, self.size, self.rng.uniform(0.3, 1.6))[..., None] * self._colour()

    def _colour(self) -> Array:
        return (self._mix @ self.rng.standard_normal(3)).astype(np.float32)

    def _surface(self, window: Window = (slice(None), slice(None))) -> Array:
        """A colour with a texture, some rough and most smooth."""
        texture = self._textures[self.rng.integers(_TEXTURES)][window]
        rough = self._colour() * np.float32(self._roughness * self.rng.exponential(0.7))
        return self._colour() + texture[..., None] * rough

    def _somewhere(self) -> Array:
        """(size, size), 1 in a part of the scene and 0 elsewhere, with a soft edge."""
        return _step(fractal(self.rng, self.size, 2) * 8 + self.rng.normal(0, 4))

    def _peaks(self, slope: float) -> Array:
        height = fractal(self.rng, self.size, slope, lean=False)
        return _step((height - self.rng.uniform(1.4, 2.6)) * self.rng.uniform(4, 20)) * self._somewhere()

    def _blend(self, weight: Array, over: Array, window: Window = (slice(None), slice(None))) -> None:
        self.image[window] += weight[..., None] * (over - self.image[window])

    def _oval(self) -> npt.NDArray[np.float64]:
        angles = np.linspace(0, 2 * np.pi, 32, endpoint=False)
        lobes = np.sin(angles * self.rng.integers(2, 5) + self.rng.uniform(0, 2 * np.pi))
        radii = 1 + 0.25 * self.rng.random() * lobes
        return np.stack([radii * np.cos(angles), self.rng.uniform(0.25, 1) * radii * np.sin(angles)], axis=1)

    def _quadrangle(self) -> npt.NDArray[np.float64]:
        half = self.rng.uniform(0.25, 1)
        corners = np.array([[-1, -half], [1, -half], [1, half], [-1, half]])
        return corners + self.rng.normal(0, 0.05, (4, 2))

    def _field(self, outline: npt.NDArray[np.float64], angle: float) -> None:
        """Fill an outline of (n, 2) x and y with a surface, some with furrows."""
        rng = self.rng
        left, top = np.maximum(np.floor(outline.min(0)).astype(int) - 1, 0)
        right, bottom = np.minimum(np.ceil(outline.max(0)).astype(int) + 2, self.size)
        if right <= left or bottom <= top:
            return
        window = (slice(top, bottom), slice(left, right))
        canvas = np.zeros((bottom - top, right - left), np.uint8)
        cv2.fillPoly(canvas, [_fixed_point(outline - [left, top])], 255, cv2.LINE_AA, _SUBPIXEL)
        surface = self._surface(window)
        if rng.random() < 0.2:
            y, x = np.mgrid[window]
            furrows = np.sin((x * np.cos(angle) + y * np.sin(angle)) * rng.uniform(0.1, 1.5))
            surface = surface + furrows[..., None].astype(np.float32) * self._colour() * np.float32(0.3)
        cover = 1.0 if rng.random() < 2 / 3 else rng.uniform(0.3, 1)
        self._blend(_weight(canvas) * np.float32(cover), surface, window)

    def _path(self, angle: float, bend: float) -> npt.NDArray[np.float64]:
        """(n, 2) x and y of a line through a place in the scene, which turns by ``bend`` from point to point."""
        start, count = self.rng.uniform(0, self.size, 2), self.size // 4
        halves = []
        for direction in (1, -1):
            angles = angle + np.cumsum(self.rng.normal(0, bend, count)) if bend else np.full(count, angle)
            steps = direction * _SPEED_OF_PATHS * np.stack([np.cos(angles), np.sin(angles)], axis=1)
            halves.append(start + np.cumsum(steps, axis=0))
        return np.concatenate([halves[1][::-1], start[None], halves[0]])


def _layers(land: _Land) -> list[tuple[float, Callable[[], None]]]:
    """What may be drawn, from the ground up, and how often it is."""
    rng = land.rng

    def farms() -> None:
        land.fields(10 ** rng.uniform(1.2, 3.2), rng.uniform(1.5, 6), rng.uniform(30, 90))

    def buildings() -> None:
        land.fields(10 ** rng.uniform(2, 3.6), 1.0, rng.uniform(5, 20))

    return [
        (0.55, land.regions),
        (0.4, land.regions),
        (0.5, land.relief),
        (0.15, land.strata),
        (0.2, land.streets),
        (0.3, land.veins),
        (0.2, land.veins),
        (0.5, farms),
        (0.3, land.regions),
        (0.25, land.relief),
        (0.3, land.veins),
        (0.5, land.lines),
        (0.25, buildings),
        (0.3, land.spots),
        (0.12, land.clouds),
        (0.8, land.texture),
    ]


def _step(x: npt.NDArray[np.floating]) -> Array:
    """The logistic function: 0 far below 0, 1 far above."""
    return (1 / (1 + np.exp(-np.clip(x, -30, 30)))).astype(np.float32)


def _weight(canvas: npt.NDArray[np.uint8]) -> Array:
    """What was drawn in 255 counts 1."""
    return (canvas / 255).astype(np.float32)


def _fixed_point(points: npt.NDArray[np.float64]) -> npt.NDArray[np.int32]:
    return np.rint(points * 2**_SUBPIXEL).astype(np.int32)


def _by_nearest_neighbour(image: Array, factor: int) -> Array:
    """As a coarser image resampled to a finer grid: blocks of ``factor`` px."""
    coarse = image[::factor, ::factor].repeat(factor, 0).repeat(factor, 1)
    return np.ascontiguousarray(coarse[: len(image), : image.shape[1]])


def main(
    folder: Path,
    count: Annotated[int, typer.Argument(metavar="COUNT", min=1, max=_MOST)],
    seed: Annotated[int, typer.Argument(metavar="SEED", min=0, max=_MOST)] = 0,
) -> None:
    """Draw COUNT scenes into FOLDER, to train on; the same SEED draws the same ones."""
    write_synthetic_scenes(folder, count, seed)


if __name__ == "__main__":
    start_script("python -m ecea.training.synthetic", main)
