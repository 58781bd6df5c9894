"""Tiny scenes, masks and runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray

from ecea.runtime.sample import terrain

TILE = 64


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """``write(name, values, nodata=...)``: a raster of (bands, H, W) values in ``tmp_path``; folders are made."""

    def raster(name: str, values: NDArray[Any], **profile: Any) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        count, height, width = values.shape
        options = {"driver": "GTiff", "dtype": values.dtype, **profile}
        with rasterio.open(path, "w", count=count, height=height, width=width, **options) as target:
            target.write(values)
        return path

    return raster


@pytest.fixture
def patches(write: Callable[..., Path]) -> Path:
    """A folder of two patches of 64 px, 8 bits."""
    for seed in range(2):
        path = write(f"patches/{seed}.tif", (terrain(TILE, TILE, seed=seed) * 255).astype(np.uint8))
    return path.parent
