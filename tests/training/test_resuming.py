"""Which runs are gone on with, and how others are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ecea.model import GeneratorConfig
from ecea.runtime.errors import RequestError
from ecea.runtime.sample import terrain
from ecea.training.options import TrainingOptions
from ecea.training.run import DataRequest, prepare
from ecea.training.vgg import VggFeatures

TINY = GeneratorConfig(img_size=64, embed_dim=8, depth=(1, 1, 2, 1))


def options(**changes: Any) -> TrainingOptions:
    return TrainingOptions(**{"config": TINY, "epochs": 4, "batch_size": 2, "save_every": 2, **changes})


def run(chosen: TrainingOptions, data: Path | list[Path], output: Path, **more: Any) -> None:
    """Train on the CPU."""
    how = {name: more.pop(name) for name in ("vgg", "resume", "start_from") if name in more}
    named = data if isinstance(data, list) else [data]
    request = DataRequest([str(path) for path in named], **{"tiles_per_epoch": 4, **more})
    prepare(chosen, request, output, device="cpu", **how).trainer.run(lambda line: None, lambda step: None)


def refusal(chosen: TrainingOptions, data: Path | list[Path], output: Path, **more: Any) -> str:
    """The sentence with which the run is not resumed."""
    with pytest.raises(RequestError) as refused:
        run(chosen, data, output, resume=True, **more)
    return str(refused.value)


def test_only_the_same_run_is_resumed(patches: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    run(options(epochs=2), patches, output)
    other = GeneratorConfig(img_size=64, embed_dim=16, depth=(1, 1, 2, 1))
    with pytest.raises(RequestError, match=r"trained with embed dim 8, now it is 16"):
        run(options(config=other), patches, output, resume=True)
    with pytest.raises(RequestError, match=r"trained with lr 0\.0005, now it is 0\.1"):
        run(options(lr=0.1), patches, output, resume=True)
    with pytest.raises(RequestError, match="trained with augmentations"):
        run(options(), patches, output, resume=True, augment="flips")
    with pytest.raises(RequestError, match="for 2 epochs already: ask for more --epochs"):
        run(options(epochs=2), patches, output, resume=True)
    with pytest.raises(RequestError, match="holds a training run already"):
        run(options(), patches, output)
    with pytest.raises(RequestError, match="there is nothing to resume"):
        run(options(), patches, tmp_path / "new", resume=True)
    (tmp_path / "new").mkdir()
    (output / "G_2.pth").rename(tmp_path / "new" / "G_2.pth")
    for resume in (True, False):
        with pytest.raises(RequestError, match=r"new: holds G_2\.pth and no training\.pth.*--start-from .*G_2\.pth"):
            run(options(), patches, tmp_path / "new", resume=resume)
    (output / "training.pth").write_bytes(b"PK")
    with pytest.raises(RequestError, match="cannot be read as a run to resume"):
        run(options(), patches, output, resume=True)


def test_a_run_is_resumed_with_its_own_split(patches: Path, tmp_path: Path, write: Callable[..., Path]) -> None:
    """With another fold, a run would be trained on what its first part was held out from."""
    other = write("other/0.tif", (terrain(64, 64, seed=7) * 255).astype(np.uint8)).parent
    split = {"folds": 2, "fold": 1, "group": "folder"}
    run(options(epochs=1), [patches, other], tmp_path / "out", **split)
    later = options(epochs=2)
    said = refusal(later, [patches, other], tmp_path / "out", **{**split, "fold": 2})
    assert "was trained with fold 1, now it is 2: resume with what it was begun with" in said
    assert "folds 2, now it is None" in refusal(later, [patches, other], tmp_path / "out")
    said = refusal(later, [patches, other], tmp_path / "out", **{**split, "group": "number"})
    assert "group folder, now it is number" in said
    run(later, [patches, other], tmp_path / "out", resume=True, **split)
    assert (tmp_path / "out" / "G_2.pth").is_file()


def test_what_a_run_begins_with_is_not_asked_for_when_it_goes_on(patches: Path, tmp_path: Path) -> None:
    """It would not be looked at."""
    run(options(epochs=1), patches, tmp_path / "out")
    said = refusal(options(epochs=2), patches, tmp_path / "out", start_from=tmp_path / "none.pth")
    assert said.startswith("--start-from is for a run that begins, and --resume goes on with the weights in ")


def test_a_cosine_that_has_ended_is_not_gone_on_with(patches: Path, tmp_path: Path) -> None:
    """Neither with as many epochs nor with more, which would be another cosine."""
    run(options(epochs=1, schedule="cosine"), patches, tmp_path / "out")
    last = tmp_path / "out" / "G_1.pth"
    said = refusal(options(epochs=1, schedule="cosine"), patches, tmp_path / "out")
    assert said.endswith(f"its cosine has ended, so begin anew in another folder (--start-from {last})")
    run(options(epochs=1, schedule="cosine"), patches, tmp_path / "more", start_from=last)


def test_what_lies_in_files_of_the_same_names_is_told_apart(
    patches: Path, tmp_path: Path, write: Callable[..., Path]
) -> None:
    mask = np.zeros((1, 80, 80), np.uint8)
    mask[0, 10:20] = 1
    run(options(epochs=1), patches, tmp_path / "out", masks=[str(write("mask.tif", mask))])
    later = options(epochs=2)
    write("mask.tif", mask[:, ::-1].copy())
    assert "contents of masks" in refusal(later, patches, tmp_path / "out", masks=[str(tmp_path / "mask.tif")])
    write("mask.tif", mask)
    write("patches/1.tif", (terrain(64, 64, seed=9) * 255).astype(np.uint8))
    said = refusal(later, patches, tmp_path / "out", masks=[str(tmp_path / "mask.tif")])
    assert "was trained with contents of scenes 0.tif" in said


def test_other_missing_pixels_are_other_scenes(tmp_path: Path, write: Callable[..., Path]) -> None:
    values = (terrain(80, 80, seed=1) * 200).astype(np.uint8) + 1
    values[:, 0] = 0
    scene = write("scene.tif", values)
    run(options(epochs=1), scene, tmp_path / "out")
    assert "contents of scenes" in refusal(options(epochs=2), scene, tmp_path / "out", mask="zero")


def test_other_weights_of_vgg_are_refused(patches: Path, tmp_path: Path) -> None:
    for name in ("one", "other"):
        torch.save(VggFeatures().state_dict(), tmp_path / f"{name}.pth")
    run(options(epochs=1), patches, tmp_path / "out", vgg=tmp_path / "one.pth", tiles_per_epoch=2)
    said = refusal(options(epochs=2), patches, tmp_path / "out", vgg=tmp_path / "other.pth", tiles_per_epoch=2)
    assert "was trained with VGG's weights" in said


def test_a_run_of_an_older_version_is_resumed(patches: Path, tmp_path: Path) -> None:
    """Whose state does not note what its files hold."""
    run(options(epochs=1), patches, tmp_path / "out")
    path = tmp_path / "out" / "training.pth"
    state = torch.load(path, weights_only=True)
    noted = ("folds", "fold", "contents of scenes", "contents of held-out scenes", "contents of masks", "VGG's weights")
    for name in noted:
        del state["fixed"][name]
    torch.save(state, path)
    run(options(epochs=2), patches, tmp_path / "out", resume=True)
    assert (tmp_path / "out" / "G_2.pth").is_file()


def test_many_scenes_are_counted_and_not_listed(tmp_path: Path, write: Callable[..., Path]) -> None:
    """All of them were in the sentence, twice."""
    for number in range(12):
        folder = write(f"many/{number:02}.tif", (terrain(64, 64, seed=number) * 255).astype(np.uint8)).parent
    run(options(epochs=1), folder, tmp_path / "out")
    (folder / "11.tif").rename(folder / "12.tif")
    said = refusal(options(epochs=2), folder, tmp_path / "out")
    assert "scenes (12 of 12) 11.tif 1 2 3 0,255,1 1, now it is 12.tif 1 2 3 0,255,1 1: resume" in said
    (folder / "12.tif").unlink()
    assert "number of scenes 12, now it is 11: resume" in refusal(options(epochs=2), folder, tmp_path / "out")
