"""Scenes drawn at random."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio

from ecea.runtime.errors import RequestError
from ecea.training.data.scenes import load_scene
from ecea.training.sources import find_sources
from ecea.training.synthetic import fractal, synthetic_scene, write_synthetic_scenes

SMALL = 96


def test_a_scene_is_fixed_by_seed_and_index() -> None:
    scene = synthetic_scene(1, 2, SMALL)
    assert scene.shape == (3, SMALL, SMALL)
    assert np.array_equal(scene, synthetic_scene(1, 2, SMALL))
    assert not np.array_equal(scene, synthetic_scene(1, 3, SMALL))
    assert not np.array_equal(scene, synthetic_scene(2, 2, SMALL))


def test_scenes_have_contrast_and_are_hardly_ever_cut_off() -> None:
    for index in range(20):
        scene = synthetic_scene(0, index, SMALL)
        assert scene.std() > 10
        assert np.isin(scene, (0, 255)).mean() < 0.1


def test_more_can_be_told_from_neighbours_than_from_a_distance() -> None:
    """Neighbouring pixels are alike, as in any picture of land, and the bands go together."""
    near, far, bands = [], [], []
    for index in range(20):
        scene = synthetic_scene(3, index, SMALL).astype(float)
        gray = scene.mean(0) - scene.mean()
        near.append((gray[:, 1:] * gray[:, :-1]).mean() / gray.var())
        far.append((gray[:, 40:] * gray[:, :-40]).mean() / gray.var())
        bands.append(np.corrcoef(scene.reshape(3, -1))[0, 1])
    assert np.median(near) > 0.6 > np.median(far)
    assert np.median(bands) > 0.5


@pytest.mark.parametrize("slope", [0.5, 1.0, 2.0])
def test_a_fractal_s_spectrum_falls_as_asked(slope: float) -> None:
    rng = np.random.default_rng(0)
    power = sum(np.abs(np.fft.rfft2(fractal(rng, 128, slope, lean=False))) ** 2 for _ in range(20))
    frequency = np.hypot(np.fft.fftfreq(128)[:, None], np.fft.rfftfreq(128)[None])
    inside = (frequency > 0.03) & (frequency < 0.4)
    fitted = np.polyfit(np.log(frequency[inside]), np.log(power[inside]), 1)[0]
    assert fitted == pytest.approx(-2 * slope, abs=0.1)


def test_a_folder_of_scenes_can_be_trained_on(tmp_path: Path) -> None:
    folder = tmp_path / "land"
    command = [sys.executable, "-m", "ecea.training.synthetic", str(folder), "2", "5"]
    assert subprocess.run(command, check=True, capture_output=True).stderr == b""
    assert sorted(path.name for path in folder.iterdir()) == ["0000.tif", "0001.tif"]
    with rasterio.open(folder / "0001.tif") as scene:
        assert np.array_equal(scene.read(), synthetic_scene(5, 1))
    scenes = [load_scene(source, 96) for source in find_sources([str(folder)])]
    assert [scene.clean_pixels for scene in scenes] == [512 * 512] * 2
    with pytest.raises(RequestError, match="land: holds something already: name an empty folder"):
        write_synthetic_scenes(folder, 1)
    with pytest.raises(RequestError, match="0 scenes of seed 0 cannot be drawn"):
        write_synthetic_scenes(tmp_path / "none", 0)
    with pytest.raises(RequestError, match="cannot be made"):
        write_synthetic_scenes(tmp_path / "no" / "folder", 1)


def test_scenes_of_an_interrupted_run_are_not_in_the_way_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(seed: int, index: int) -> np.ndarray:
        if index == 1:
            raise KeyboardInterrupt
        return synthetic_scene(seed, index)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("ecea.training.synthetic.synthetic_scene", interrupted)
        write_synthetic_scenes(tmp_path / "land", 2)
    assert not list((tmp_path / "land").iterdir())
    write_synthetic_scenes(tmp_path / "land", 1)
    assert [path.name for path in (tmp_path / "land").iterdir()] == ["0000.tif"]
