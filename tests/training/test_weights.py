"""The U-Net that the repository has, as a beginning for others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from numpy.typing import NDArray

from ecea.model import UNet, load_unet
from ecea.model.refinement import smooth_fill
from ecea.runtime.slc_off import slc_off_gaps
from ecea.training.synthetic import synthetic_scene

WEIGHTS = Path(__file__).parents[2] / "training" / "weights" / "unet.safetensors"
SIZE = 192


@pytest.fixture(scope="module")
def unet() -> UNet:
    return load_unet(WEIGHTS, 3)


def gain(unet: UNet, scene: NDArray[np.uint8], width: int) -> float:
    """By how many dB it is nearer to the truth, in stripes of a width, than the smooth fill."""
    truth = torch.from_numpy(scene[None, :, :SIZE, :SIZE].astype(np.float32) / 255)
    gaps = slc_off_gaps(SIZE, SIZE, phase=5, tilt=10, max_width=width, swath_width=20 * SIZE, centre=-20 * SIZE)
    mask = torch.from_numpy(gaps[None, None].astype(np.float32))
    image = truth * (1 - mask)
    with torch.inference_mode():
        smooth, made = smooth_fill(image, mask), unet(image, mask, mask)[0]
    before, after = (((fill - truth) * mask).square().sum() for fill in (smooth, made))
    return float(10 * torch.log10(before / after))


@pytest.mark.parametrize("width", [8, 14])
def test_it_is_ahead_of_the_smooth_fill_on_drawn_scenes(unet: UNet, width: int) -> None:
    gains = [gain(unet, synthetic_scene(seed=2026, index=index, size=SIZE), width) for index in range(8)]
    assert np.mean(gains) > 0.1


@pytest.mark.parametrize("width", [2, 8, 14])
def test_it_is_ahead_of_the_smooth_fill_on_land_that_it_has_not_seen(unet: UNet, width: int, shared: Path) -> None:
    name = "LC80380342015230_zion_B4-B3-B2.tif"
    with rasterio.open(shared / "data" / "clear" / name) as dataset:
        values = dataset.read().astype(np.float32)
    scene = np.clip(255 * values / np.percentile(values, 99.5), 0, 255).astype(np.uint8)
    gains = [gain(unet, scene[:, row:, column:], width) for row in range(0, 1000, 250) for column in (200, 700)]
    assert np.mean(gains) > 0.1
