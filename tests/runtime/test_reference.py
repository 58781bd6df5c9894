"""Reference mode against what the published application made."""

import numpy as np
import pytest
import rasterio

from ecea.runtime import inpaint
from ecea.runtime.pipeline import FilledBatch, Progress, SceneRows, Strip, blend_strips
from ecea.runtime.recipe import Recipe
from ecea.runtime.stretch import Stretch
from ecea.runtime.tiles import published_grid

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def test_golden_stitching(shared):
    with np.load(shared / "golden" / "stitch.npz") as golden:
        patches, stitched = golden["patches"].astype(np.float32), golden["stitched"]
        columns, stride, overlap = int(golden["columns"]), int(golden["stride"]), int(golden["overlap"])
    size = patches.shape[-1]
    step = size - overlap
    height, width = (len(patches) // columns - 1) * step + size, (columns - 1) * step + size
    grid = published_grid(height, width, size)
    assert (len(grid.rows), len(grid.columns)) == (len(patches) // columns, columns)
    recipe = Recipe(grid, Stretch(0, 1), [0, 1, 2], every_tile=True, alpha=None, to_values=lambda unit, band: unit)

    def items():
        for number, top in enumerate(grid.rows):
            for column, patch in zip(grid.columns, patches[number * columns :], strict=False):
                yield FilledBatch((column,), patch)
            shape = (min(size, height - top), width)
            everything = np.ones((3, *shape), bool)
            rows = SceneRows(top, np.zeros((3, *shape), np.float32), ~everything[0], everything, everything)
            last = number + 1 == len(grid.rows)
            yield Strip(rows, shape[0] if last else grid.rows[number + 1] - top)

    parts = [part.bands for part in blend_strips(items(), recipe, width, Progress())]
    result = np.concatenate(parts, axis=1)
    assert result.shape == (3, height, width)
    assert np.abs(result[:, ::stride, ::stride] - stitched).max() <= 1e-6


class TorchSession:
    """The PyTorch generator as a session of the runtime."""

    arithmetic = "f32"

    def __init__(self, generator):
        self.generator = generator

    def infer(self, image, edge, mask):
        import torch

        with torch.inference_mode():
            out, out_edge = self.generator(*(torch.from_numpy(array) for array in (image, edge, mask)))
        return out.numpy(), out_edge.numpy()

    def close(self):
        pass


def run_golden(source, folder, golden_network, engine_of):
    """Fill with the published weights; return the result and the values."""
    pytest.importorskip("torch")
    session = TorchSession(golden_network("network_default").generator)
    engine = engine_of(lambda image, edge, mask: session.infer(image, edge, mask)[0], 256)
    result = inpaint(source, folder / "o.tif", engine, reference=True)
    with rasterio.open(folder / "o.tif") as made:
        return result, made.read()


def assert_golden(made, expected):
    difference = np.abs(made.astype(int) - expected)
    assert difference.max() <= 1
    assert np.count_nonzero(difference) <= 0.001 * difference.size


@pytest.mark.slow
def test_golden_scene(shared, golden_network, engine_of, tmp_path, read_bands):
    golden = shared / "golden"
    result, made = run_golden(golden / "scene_640.tif", tmp_path, golden_network, engine_of)
    assert (result.tiles_run, result.tiles_skipped, result.tiles_blind) == (9, 0, 0)
    assert result.pixels_filled + result.pixels_redrawn == 640 * 640
    assert_golden(made, read_bands(golden / "scene_640_reference.tif"))


def test_a_corner_of_the_golden_scene(shared, golden_network, engine_of, tmp_path, write_scene, read_bands):
    golden = shared / "golden"
    corner = write_scene(tmp_path / "corner.tif", read_bands(golden / "scene_640.tif")[:, :256, :492])
    result, made = run_golden(corner, tmp_path, golden_network, engine_of)
    assert result.tiles_run == 2
    # What lies further right and down is averaged with tiles that are not run here.
    assert_golden(made[:, :236, :472], read_bands(golden / "scene_640_reference.tif")[:, :236, :472])


def test_reference_mode_writes_the_whole_generated_image(tmp_path, write_scene, read_bands, engine_of):
    values = np.random.default_rng(0).integers(1, 255, (3, 100, 120)).astype(np.uint8)
    values[:, 40:44] = 0
    path = write_scene(tmp_path / "s.tif", values)  # no nodata declared: zeros are gaps
    seen = []

    def look(image, edge, mask):
        seen.append((image, mask))
        return np.full_like(image, 0.705)

    result = inpaint(path, tmp_path / "o.tif", engine_of(look, 64), reference=True)
    assert (read_bands(tmp_path / "o.tif") == 179).all()  # floor(179.775)
    assert result.tiles_run == len(seen) == 6  # a step of 44 px
    assert (result.pixels_filled, result.pixels_redrawn, result.pixels_left) == (4 * 120, 96 * 120, 0)
    image, mask = seen[0]
    assert image[0] == pytest.approx(values[:, :64, :64] / 255, abs=1e-6)
    assert np.array_equal(np.flatnonzero(mask[0, 0, :, 0]), [40, 41, 42, 43])


def test_a_pixel_is_missing_where_any_band_is_zero(tmp_path, write_scene, engine_of):
    values = np.full((3, 64, 64), 90, np.uint8)
    values[1, 5, 6] = 0
    path = write_scene(tmp_path / "s.tif", values)
    seen = []

    def look(image, edge, mask):
        seen.append((image, mask))
        return image

    inpaint(path, tmp_path / "o.tif", engine_of(look, 64), reference=True)
    (image, mask), *_ = seen
    assert np.argwhere(mask[0, 0]).tolist() == [[5, 6]]
    assert not image[0, :, 5, 6].any()
