"""Scenes out of source archives."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio

from ecea.runtime.errors import RequestError
from ecea.training.found_land import FOUND, LIST, Found, write_land
from ecea.training.sources import find_sources

HILLS = Found("hills-1.0", "hills", ("data/red.tif", "data/green.tif"), ((1, 2, 1), (2, 2, 2)), most=250)
BROOK = Found("brook-2", "brook", ("brook.tif",), ((1, 2, 3),))


@pytest.fixture
def archives(write: Callable[..., Path], tmp_path: Path) -> Path:
    """An archive of two bands, 5 x 8 px: one pixel of fill, one saturated."""
    red = np.arange(100, 140, dtype=np.uint8).reshape(1, 5, 8)
    green = red + 1
    red[0, 0, 0], green[0, 4, 7] = 0, 255
    red[0, 0, 1], green[0, 0, 1] = 1, 250  # just no fill, and just not saturated
    write("hills-1.0/data/red.tif", red)
    write("hills-1.0/data/green.tif", green)
    folder = tmp_path / "archives"
    folder.mkdir()
    with tarfile.open(folder / "hills-1.0.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "hills-1.0", "hills-1.0")
    return folder


def test_scenes_and_their_halves_are_written_with_a_list(archives: Path, tmp_path: Path) -> None:
    land = tmp_path / "land"
    assert write_land(archives, land, (HILLS, BROOK)) == ["hills"]
    sources = find_sources([str(land / LIST)])
    assert [(Path(s.path).name, s.scene, s.bands) for s in sources] == [
        ("hills.tif", "hills", (1, 2, 1)),
        ("hills.tif", "hills", (2, 2, 2)),
        ("hills-half.tif", "hills", (1, 2, 1)),
        ("hills-half.tif", "hills", (2, 2, 2)),
    ]
    with rasterio.open(land / "hills.tif") as dataset:
        whole, missing = dataset.read(), dataset.read_masks(1) == 0
    assert list(zip(*np.nonzero(missing), strict=True)) == [(0, 0), (4, 7)]
    assert (whole[:, 1, 2] == (110, 111)).all()
    with rasterio.open(land / "hills-half.tif") as dataset:
        half, missing = dataset.read(), dataset.read_masks(1) == 0
    assert half.shape == (2, 2, 4)
    assert list(zip(*np.nonzero(missing), strict=True)) == [(0, 0)]
    assert half[:, 1, 1] == pytest.approx(whole[:, 2:4, 2:4].mean((1, 2)))


def test_a_window_is_cut_out(archives: Path, tmp_path: Path) -> None:
    write_land(archives, tmp_path / "land", (replace(HILLS, window=(slice(1, None), slice(2, 6))),))
    with rasterio.open(tmp_path / "land" / "hills.tif") as dataset:
        assert dataset.shape == (4, 4)
        assert dataset.read(1)[0].tolist() == [110, 111, 112, 113]


def test_archives_that_are_not_what_they_should_be_are_told(archives: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"archives: holds none of brook-2\.tar\.gz: download some"):
        write_land(archives, tmp_path / "land", (BROOK,))
    other = Found("hills-1.0", "hills", ("data/blue.tif",), ((1, 1, 1),))
    with pytest.raises(RequestError, match=r"cannot be read: expected .* with the raster data/blue\.tif: download"):
        write_land(archives, tmp_path / "land", (other,))
    whole = (archives / "hills-1.0.tar.gz").read_bytes()
    middle = len(whole) // 2
    # Cut off, and with other bytes in the middle: of those the library complained in words of its own, or not at all.
    for broken in (whole[:middle], whole[:middle] + b"\xff" * 64 + whole[middle + 64 :]):
        (archives / "hills-1.0.tar.gz").write_bytes(broken)
        with pytest.raises(RequestError, match=r"hills-1\.0\.tar\.gz: cannot be read: expected a whole source archive"):
            write_land(archives, tmp_path / "land", (HILLS,))
    assert not (tmp_path / "land").exists()


def test_scenes_have_names_of_their_own_and_a_source() -> None:
    assert len({found.scene for found in FOUND}) == len(FOUND)
    assert all(found.source and found.bands for found in FOUND)
