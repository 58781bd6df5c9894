"""Exports that are refused: before the long work, in one sentence, and nothing is written."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio.shutil
import torch

from ecea.export import exporter
from ecea.model import GeneratorConfig
from ecea.model.untrained import untrained_state_dict
from ecea.runtime.errors import RequestError

Refusal = Callable[..., str]


@pytest.fixture
def untraced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refusals come before the long work."""

    def trace(network: Any, tile_size: int) -> None:
        raise AssertionError("traced, only to be refused")

    monkeypatch.setattr(exporter, "trace", trace)


@pytest.fixture
def refusal(untraced: None) -> Refusal:
    """``refusal(checkpoint, destination, **options)``: the sentence; the destination's folder stays as it was."""

    def refuse(checkpoint: Path, destination: Path, **options: Any) -> str:
        folder = destination.parent
        before = sorted(folder.rglob("*")) if folder.is_dir() else None
        with pytest.raises(RequestError) as caught:
            exporter.export_bundle(checkpoint, destination, **options)
        assert (sorted(folder.rglob("*")) if folder.is_dir() else None) == before
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return refuse


@pytest.mark.parametrize("name", ["site", "site.onnx", "site.ecea.zip", ".ecea"])
def test_another_suffix_is_refused(name: str, small: Any, tmp_path: Path, refusal: Refusal) -> None:
    assert refusal(small.checkpoint, tmp_path / name) == (
        f"{tmp_path / name}: does not end in .ecea: name the bundle NAME.ecea"
    )


def test_a_missing_folder_is_refused(small: Any, tmp_path: Path, refusal: Refusal) -> None:
    target = tmp_path / "absent" / "site.ecea"
    assert refusal(small.checkpoint, target).startswith(f"{target}: the folder {target.parent} does not exist")


def test_a_link_that_leads_nowhere_is_refused(small: Any, tmp_path: Path, refusal: Refusal) -> None:
    first, second, away = (tmp_path / f"{name}.ecea" for name in ("first", "second", "away"))
    first.symlink_to(second)
    second.symlink_to(first)
    away.symlink_to(tmp_path / "absent" / "site.ecea")
    assert refusal(small.checkpoint, first).startswith(f"{first}: is a link that leads to itself")
    assert refusal(small.checkpoint, away).startswith(f"{away}: the folder {tmp_path / 'absent'} does not exist")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no folder here that nobody can write")
def test_a_folder_that_cannot_be_written_is_refused(small: Any, untraced: None) -> None:
    """The rights of a folder do not tell, of /proc they say that root may."""
    with pytest.raises(RequestError) as refused:
        exporter.export_bundle(small.checkpoint, Path("/proc/site.ecea"))
    assert str(refused.value).startswith("/proc/site.ecea: the folder /proc cannot be written (")


@pytest.mark.parametrize("what", ["file", "folder", "empty folder"])
def test_a_destination_that_is_no_bundle_is_refused(what: str, small: Any, tmp_path: Path, refusal: Refusal) -> None:
    target = tmp_path / "site.ecea"
    if what == "file":
        target.write_text("precious")
    else:
        target.mkdir()
    if what == "folder":
        (target / "precious.txt").write_text("precious")
    assert refusal(small.checkpoint, target).startswith(f"{target}: exists and is no bundle")


def test_a_bundle_that_holds_the_checkpoint_is_refused(small: Any, tmp_path: Path, refusal: Refusal) -> None:
    target = tmp_path / "site.ecea"
    target.mkdir()
    (target / "manifest.json").write_text("{}")
    checkpoint = Path(shutil.copy(small.checkpoint, target / "small.pth"))
    assert refusal(checkpoint, target).startswith(f"{target}: holds the checkpoint")


@pytest.fixture
def write_scene(write_raster: Callable[..., Path]) -> Callable[[Path], Path]:
    """``write_scene(path)``: one with a gap."""
    values = np.full((3, 90, 90), 7, np.uint8)
    values[:, 40:45] = 0
    return lambda path: write_raster(path, values, nodata=0)


@pytest.mark.parametrize("what", ["scene", "below", "mask", "source", "link", "archive"])
def test_a_bundle_that_holds_what_is_read_is_refused(
    what: str,
    small: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    refusal: Refusal,
    write_scene: Callable[[Path], Path],
) -> None:
    """By whichever path: the scene itself, its mask, what a VRT is made of."""
    target, outside = tmp_path / "site.ecea", write_scene(tmp_path / "scene.tif")
    held = write_scene(target / "held.tif")
    (target / "manifest.json").write_text("{}")
    options = {}
    scene: str | Path
    if what == "scene":
        monkeypatch.chdir(target)
        scene = Path("held.tif")
    elif what == "below":
        scene = write_scene(target / "more" / "scene.tif")
        monkeypatch.chdir(scene.parent)
    elif what == "mask":
        scene, options = outside, {"mask": str(held)}
    elif what == "source":
        scene = tmp_path / "scene.vrt"
        rasterio.shutil.copy(held, scene, driver="VRT")
    elif what == "link":
        scene = target / "link.tif"
        scene.symlink_to(outside)
    else:
        with zipfile.ZipFile(target / "scenes.zip", "w") as archive:
            archive.write(outside, "scene.tif")
        scene = f"/vsizip/{target}/scenes.zip/scene.tif"
    sentence = refusal(small.checkpoint, target, scenes=[outside, scene], scene_options=options)
    assert sentence.startswith(f"{target}: holds ")
    assert sentence.endswith(", which is read, and would be replaced: name another output")


@pytest.mark.parametrize("engines", [["int4"], ["fp32", "fp64"], []])
def test_unknown_engines_are_refused(engines: Sequence[str], small: Any, tmp_path: Path, refusal: Refusal) -> None:
    assert "expected fp32 or fp16 or int8" in refusal(small.checkpoint, tmp_path / "site.ecea", engines=engines)


@pytest.mark.parametrize("target_db", [0, -3, float("nan"), float("inf"), 1000])
def test_an_impossible_accuracy_is_refused(target_db: float, small: Any, tmp_path: Path, refusal: Refusal) -> None:
    sentence = refusal(small.checkpoint, tmp_path / "site.ecea", int8_target_db=target_db)
    assert sentence.startswith(f"a target of {target_db:g} dB for int8 is impossible: expected above 0, up to 100")


@pytest.mark.parametrize(("in_c", "out_c"), [(5, 3), (4, 4), (2, 1)])
def test_other_channels_are_refused(in_c: int, out_c: int, tmp_path: Path, refusal: Refusal) -> None:
    config = GeneratorConfig(img_size=64, in_c=in_c, out_c=out_c, embed_dim=8, depth=(1, 1, 1, 1))
    checkpoint = tmp_path / "other.pth"
    torch.save(untrained_state_dict(config, seed=1), checkpoint)
    sentence = refusal(checkpoint, tmp_path / "site.ecea")
    assert sentence.startswith(f"{checkpoint} is a generator from {in_c} to {out_c} channels; expected one from 4 ")


@pytest.mark.parametrize("num_heads", [(3, 2, 4, 8), (1, 2, 4), (0, 1, 1, 1)])
def test_heads_that_do_not_fit_are_refused(
    num_heads: tuple[int, ...], small: Any, tmp_path: Path, refusal: Refusal
) -> None:
    sentence = refusal(small.checkpoint, tmp_path / "site.ecea", num_heads=num_heads)
    assert sentence.startswith(f"{small.checkpoint} has levels of [32, 64, 128, 256] channels")
    assert "--num-heads" in sentence


def test_a_scene_that_is_absent_or_without_a_gap_is_refused(
    small: Any, tmp_path: Path, refusal: Refusal, write_raster: Callable[..., Path]
) -> None:
    assert "no such file" in refusal(small.checkpoint, tmp_path / "site.ecea", scenes=[tmp_path / "absent.tif"])
    whole = write_raster(tmp_path / "whole.tif", np.full((3, 90, 90), 7, np.uint8), nodata=0)
    assert "no tile with a gap" in refusal(small.checkpoint, tmp_path / "site.ecea", scenes=[whole])
