"""Tiny scenes, masks and runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ecea.runtime.sample import terrain

TILE = 64


@pytest.fixture
def write(tmp_path: Path, write_raster: Callable[..., Path]) -> Callable[..., Path]:
    """``write(name, values, nodata=...)``: a raster of (bands, H, W) values in ``tmp_path``; folders are made."""
    return lambda name, values, **profile: write_raster(tmp_path / name, values, **profile)


@pytest.fixture
def patches(write: Callable[..., Path]) -> Path:
    """A folder of two patches of 64 px, 8 bits."""
    for seed in range(2):
        path = write(f"patches/{seed}.tif", (terrain(TILE, TILE, seed=seed) * 255).astype(np.uint8))
    return path.parent
