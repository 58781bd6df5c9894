"""The published application's way through a scene, in PyTorch: the peer of the whole-scene benchmark.

Written after its description, not its code: an 8-bit RGB raster, read at once; tiles of 256 at a step of 236, the last
ones padded by reflection; edge maps in double precision, tile by tile; one tile at a time in float32; means where tiles
overlap; two 8-bit rasters without georeference. The size that it demands, 5120 px and more, is not demanded here.
"""

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import rasterio
import torch

from ecea.model import Generator

SIZE, STEP = 256, 236


def fill(source: Path, image_file: Path, edge_file: Path, generator: Generator, *, strips: int | None = None) -> int:
    """Fill a scene, or its first ``strips`` rows of tiles alone; return the number of tiles."""
    with rasterio.open(source) as scene:
        image = scene.read([1, 2, 3])
    _, height, width = image.shape
    rows, columns = (range(0, max(length - (SIZE - STEP), 1), STEP) for length in (height, width))
    bottom, right = rows[-1] + SIZE - height, columns[-1] + SIZE - width
    padded = np.pad(image, ((0, 0), (0, max(bottom, 0)), (0, max(right, 0))), mode="reflect")
    total = np.zeros((4, *padded.shape[1:]), np.float64)
    weight = np.zeros(padded.shape[1:], np.float64)
    tiles = 0
    for top in rows[:strips]:
        for left in columns:
            window = np.s_[top : top + SIZE, left : left + SIZE]
            total[:, *window] += _generate(padded[:, *window], generator)
            weight[window] += 1
            tiles += 1
    mean = np.floor(255 * (total / np.maximum(weight, 1))[:, :height, :width]).astype(np.uint8)
    for path, bands in ((image_file, mean[:3]), (edge_file, mean[3:])):
        with rasterio.open(
            path, "w", driver="GTiff", count=len(bands), height=height, width=width, dtype="uint8"
        ) as target:
            target.write(bands)
    return tiles


def edge_map(tile: npt.NDArray[np.uint8], mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """(3, S, S) and (S, S) -> (S, S), [0, 1]."""
    red, green, blue = tile.astype(np.uint32)
    gray = ((19595 * red + 38470 * green + 7471 * blue + 32768) >> 16).astype(np.uint8)
    missing = mask.astype(np.uint8)
    filled = cv2.inpaint(gray, missing, 1, cv2.INPAINT_TELEA) if mask.any() else gray
    canny = cv2.Canny(filled, 50, 120)
    holes = gray.astype(np.float64)
    holes[mask] = np.nan
    parts = [cv2.Sobel(holes, cv2.CV_64F, dx, dy, ksize=3) for dx, dy in ((1, 0), (0, 1), (1, 1))]
    sobel = np.nan_to_num(np.sqrt(sum(part**2 for part in parts)))
    edges = 0.5 * canny + 0.5 * sobel
    span = edges.max() - edges.min()
    return (edges - edges.min()) / span if span else np.zeros_like(edges)


def _generate(tile: npt.NDArray[np.uint8], generator: Generator) -> npt.NDArray[np.float32]:
    """(3, S, S) uint8 -> the image and its edge map, (4, S, S)."""
    mask = (tile == 0).any(axis=0)
    image = tile.astype(np.float32) / 255 * ~mask
    inputs = (image, edge_map(tile, mask)[None], mask[None])
    with torch.inference_mode():
        out, out_edge = generator(*(torch.from_numpy(np.asarray(part, np.float32))[None] for part in inputs))
    return torch.cat((out, out_edge), dim=1)[0].numpy()
