"""``ecea-export``: what it passes on, and what it refuses: one sentence on stderr, status 2, nothing written."""

import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import ANY, Mock

import numpy as np
import pytest
import rasterio
import torch

from ecea.model import GeneratorConfig
from ecea.model.untrained import untrained_state_dict
from ecea.runtime.errors import RequestError
from ecea.runtime.stretch import Stretch

Run = Callable[..., Any]

CONFIG = GeneratorConfig(img_size=64, embed_dim=8, depth=(1, 1, 1, 1))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """``G.pth`` in ``tmp_path``: the state dict of a small generator."""
    path = tmp_path / "G.pth"
    torch.save(untrained_state_dict(CONFIG, seed=1), path)
    return path


@pytest.fixture
def refusal(run_here: Run, tmp_path: Path) -> Callable[..., str]:
    """The one sentence that ``ecea-export`` ends with; it may not write."""

    def refuse(*arguments: object) -> str:
        before = sorted(tmp_path.rglob("*"))
        sentence: str = run_here("ecea-export", *arguments).sentence()
        assert sorted(tmp_path.rglob("*")) == before
        return sentence

    return refuse


SCENES = "--calibrate a.tif --calibrate b.tif --mask zero --bands 4,3,2 --stretch 1,2,3"
TOLD = {
    "scenes": ["a.tif", "b.tif"],
    "scene_options": {"mask": "zero", "bands": (4, 3, 2), "stretch": Stretch(1, 2, 3)},
    "say": ANY,
}


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """What stands for an export and for a rebuild, and does nothing."""
    stand_in = Mock(side_effect=RequestError("this is enough"))
    monkeypatch.setattr("ecea.export.exporter.export_bundle", stand_in)
    monkeypatch.setattr("ecea.export.plans.rebuild.rebuild_plans", stand_in)
    return stand_in


def test_every_option_reaches_the_export(work: Mock, refusal: Callable[..., str]) -> None:
    words = "G.pth -o site.ecea --engine int8 --engine fp16 --engine int8 --int8-target-db 40 --num-heads 8,4,2,1"
    assert refusal(*f"{words} --tensorrt --batch 2 --batch 8 {SCENES}".split()) == "this is enough"
    work.assert_called_once_with(
        Path("G.pth"),
        Path("site.ecea"),
        engines=("int8", "fp16"),
        num_heads=(8, 4, 2, 1),
        int8_target_db=40,
        tensorrt=True,
        batches=[2, 8],
        **TOLD,
    )


def test_every_option_reaches_the_rebuild(work: Mock, refusal: Callable[..., str]) -> None:
    words = f"--rebuild-plans site.ecea --batch 2 --batch 8 {SCENES}"
    assert refusal(*words.split()) == "this is enough"
    work.assert_called_once_with(Path("site.ecea"), [2, 8], **TOLD)


class Code:
    """What an attacker would put into a checkpoint."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


def test_a_truncated_checkpoint(checkpoint: Path, refusal: Callable[..., str]) -> None:
    checkpoint.write_bytes(checkpoint.read_bytes()[:100_000])
    assert refusal("G.pth").startswith("G.pth cannot be read as a PyTorch checkpoint")


def test_a_checkpoint_with_code(refusal: Callable[..., str], tmp_path: Path) -> None:
    torch.save({"patch_embed.proj.weight": Code(tmp_path / "executed")}, tmp_path / "evil.pth")
    sentence = refusal("evil.pth")
    assert sentence.startswith("evil.pth holds Python objects other than tensors")
    assert "were not executed" in sentence
    assert not (tmp_path / "executed").exists()


def test_a_checkpoint_of_something_else(refusal: Callable[..., str], tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(3, 4).state_dict(), tmp_path / "linear.pth")
    assert refusal("linear.pth").startswith("linear.pth holds no tensor 'patch_embed.proj.weight'")


def test_a_checkpoint_that_lacks_a_tensor(checkpoint: Path, refusal: Callable[..., str]) -> None:
    state = torch.load(checkpoint)
    del state["out_concat.weight"]
    torch.save(state, checkpoint)
    assert refusal("G.pth").startswith("G.pth lacks 'out_concat.weight'")


def test_no_checkpoint(refusal: Callable[..., str]) -> None:
    assert refusal("absent.pth").startswith("absent.pth does not exist")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-o", "site.onnx"), "site.onnx: does not end in .ecea"),
        (("--num-heads", "1,2,4"), "give the heads that it was trained with (num_heads, --num-heads A,B,C,D)"),
        (("--num-heads", "few"), "heads 'few' is not a list of integers: expected one such as 1,2,4,8"),
        (("--calibrate", "absent.tif"), "absent.tif: no such file"),
        (("--batch", "0"), "a batch of 0 tiles is impossible: expected 1 to 1024"),
        (("--batch", "1000000"), "a batch of 1000000 tiles is impossible: expected 1 to 1024"),
        (("--batch", "many"), "--batch"),
        (("--rebuild-plans", "site.ecea"), "G.pth: is not needed to rebuild the plans of site.ecea"),
        (("--int8-target-db", "-3"), "a target of -3 dB for int8 is impossible"),
        (("--int8-target-db", "nan"), "a target of nan dB for int8 is impossible"),
        (("--int8-target-db", "high"), "--int8-target-db"),
        (("--stretch", "1,0,1"), "stretch 1,0,1 is impossible"),
        (("--bands", "1;2;3"), "bands '1;2;3' is not a list of integers"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_bad_request(arguments: tuple[str, ...], said: str, checkpoint: Path, refusal: Callable[..., str]) -> None:
    assert said in refusal("G.pth", *arguments)


def test_a_scene_in_an_archive_is_found(checkpoint: Path, refusal: Callable[..., str], tmp_path: Path) -> None:
    """By its absolute path, in which GDAL wants two slashes."""
    profile = {"driver": "GTiff", "width": 70, "height": 70, "count": 3, "dtype": "uint8", "nodata": 0}
    with rasterio.open(tmp_path / "whole.tif", "w", **profile) as target:
        target.write(np.full((3, 70, 70), 7, np.uint8))
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        archive.write(tmp_path / "whole.tif", "whole.tif")
    said = refusal("G.pth", "--calibrate", f"/vsizip/{tmp_path}/s.zip/whole.tif")
    assert said.startswith("whole.tif: holds no tile with a gap")


def test_a_bundle_that_is_not_there_is_told_before_what_is_not_installed(refusal: Callable[..., str]) -> None:
    assert refusal("--rebuild-plans", "absent.ecea").startswith("absent.ecea: is not a bundle")


@pytest.mark.parametrize(
    "option",
    [
        ("-o", "other.ecea"),
        ("--engine", "fp16"),
        ("--no-tensorrt",),
        ("--num-heads", "1,2,4,8"),
        ("--int8-target-db", "0"),
    ],
)
def test_what_a_rebuild_would_ignore_is_refused(option: tuple[str, ...], refusal: Callable[..., str]) -> None:
    assert "cannot be given with --rebuild-plans" in refusal("--rebuild-plans", "site.ecea", *option)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--mask", "zero"), "--mask: cannot be given without --calibrate SCENE"),
        (("--bands", "3,2,1", "--stretch", "0,1,1"), "--bands and --stretch: cannot be given without --calibrate"),
        (("--engine", "fp16", "--int8-target-db", "0"), "--int8-target-db: cannot be given without --engine int8"),
        (("--engine", "fp32", "--engine", "fp16", "--allow-below-target"), "--allow-below-target: cannot be given wi"),
        (("--no-tensorrt", "--batch", "2"), "--batch: cannot be given with --no-tensorrt"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_an_export_would_ignore_is_refused(
    options: tuple[str, ...], said: str, checkpoint: Path, refusal: Callable[..., str]
) -> None:
    assert refusal("G.pth", *options).startswith(said)


def test_a_rebuild_reads_no_scene_as_it_is_told_where_none_is_named(refusal: Callable[..., str]) -> None:
    assert refusal("--rebuild-plans", "site.ecea", "--mask", "qa").startswith("--mask: cannot be given without --cal")


def test_tensorrt_that_is_asked_for_and_missing(
    checkpoint: Path, run: Run, without: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    """Before anything is computed; a plan is no part of the request that may be left out."""
    missing = without("tensorrt")
    before = sorted(tmp_path.rglob("*"))
    sentence = run("ecea-export", "G.pth", "--tensorrt", env=missing).sentence()
    why = r"(no NVIDIA driver: run this on the machine that .*|TensorRT cannot be imported \(no libtensorrt\.so.*)"
    assert re.fullmatch(rf"TensorRT plans cannot be built here, {why}; --no-tensorrt leaves plans out", sentence)
    assert sorted(path for path in tmp_path.rglob("*") if "__pycache__" not in str(path)) == before
