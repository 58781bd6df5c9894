"""``ecea-train`` as users start it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock, call

import pytest
import torch
from typer.testing import CliRunner

from ecea.model import GeneratorConfig, Regularization, load_generator
from ecea.runtime.errors import RequestError
from ecea.runtime.stretch import Stretch
from ecea.training.cli import app
from ecea.training.losses import LossWeights
from ecea.training.options import TrainingOptions
from ecea.training.run import DataRequest, prepare

CODE = "from ecea.training.cli import main; main()"
SMALL = ("--image-size", "64", "--embed-dim", "8", "--depth", "1,1,1,1", "--batch-size", "2", "--device", "cpu")


def start(folder: Path, *arguments: object, path: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", CODE, *map(str, arguments)]
    paths = filter(None, [path, os.environ.get("PYTHONPATH")])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.run(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300
    )


def test_a_run_says_what_it_does_and_leaves_a_checkpoint(patches: Path, tmp_path: Path) -> None:
    done = start(tmp_path, patches, *SMALL, "--epochs", 1, "-o", "run")
    assert (done.returncode, done.stderr) == (0, "")
    assert "the perceptual and the style term are OFF: they need VGG-19's weights (--vgg FILE)" in done.stdout
    assert "trained     run/G_1.pth" in done.stdout
    assert load_generator(tmp_path / "run" / "G_1.pth").config.img_size == 64


def test_arithmetic_that_is_emulated_is_told(patches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a processor without bfloat16 a run in it takes ten times as long as one in float32."""
    options = TrainingOptions(
        config=GeneratorConfig(64, embed_dim=8, depth=(1, 1, 1, 1)), batch_size=2, precision="bf16"
    )
    for has_it, told in ((False, "bf16 (this processor has no instructions for it: fp32 is faster)"), (True, "bf16")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has_it=has_it: {"avx2": True, "avx512_bf16": has_it})
        lines = prepare(options, DataRequest([str(patches)]), tmp_path / "out", device="cpu").description
        assert next(line for line in lines if line.startswith("device")).endswith(f", {told}")


def test_help_needs_nothing_heavy(tmp_path: Path) -> None:
    for module in ("torch", "lightning_fabric", "tensorboardX"):
        (tmp_path / f"{module}.py").write_text("raise ImportError('absent here')\n")
    done = start(tmp_path, "-h", path=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert "--attention-dropout" in done.stdout
    refused = start(tmp_path, "data", path=str(tmp_path))
    assert refused.returncode == 2
    assert "install ecea with its 'train' extra" in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_a_wrong_request_is_one_sentence(patches: Path, tmp_path: Path) -> None:
    done = start(tmp_path, patches, *SMALL, "absent.tif")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "absent.tif: no such file" in done.stderr
    assert not (tmp_path / "training").exists()


def test_every_option_reaches_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    prepared, threads = Mock(side_effect=RequestError("this is enough")), Mock()
    monkeypatch.setattr("ecea.training.run.prepare", prepared)
    monkeypatch.setattr(torch, "set_num_threads", threads)
    words = (
        "a b.toml -o run --bands 4,3,2 --stretch 1,2,3 --mask zero --group prefix --gaps slc-off=1 --masks m1 "
        "--masks m2 --augment flips --edges filled --folds 5 --fold 2 --tiles-per-epoch 7 --workers 3 --image-size 64 "
        "--embed-dim 16 --depth 2,1,1,1 --num-heads 2,2,2,2 --refine --network unet --teacher t.pth --coarse c.pth "
        "--start-from s.pth --dropout 0.11 --attention-dropout 0.12 --drop-path 0.13 --epochs 8 --batch-size 9 "
        "--lr 0.1 --optimizer muon --beta1 0.5 --beta2 0.6 --clip-gradient 0.7 --schedule cosine --ema 0.8 "
        "--vgg v.pth --adversarial-weight 21 --perceptual-weight 22 --style-weight 23 --l1-weight 24 "
        "--edge-weight 25 --relative-weight 26 --gap-weight 27 --precision bf16 --device cuda --devices 4 "
        "--threads 6 --seed 31 --save-every 32 --validation-tiles 33 --resume"
    )
    done = CliRunner().invoke(app, words.split())
    assert (done.exit_code, done.stderr) == (2, "ecea-train: this is enough\n")
    options = TrainingOptions(
        config=GeneratorConfig(64, embed_dim=16, depth=(2, 1, 1, 1), num_heads=(2, 2, 2, 2), refine=True),
        network="unet",
        regularization=Regularization(dropout=0.11, attention=0.12, drop_path=0.13),
        weights=LossWeights(adversarial=21, perceptual=22, style=23, l1=24, edge=25, relative=26),
        gap_weight=27,
        epochs=8,
        batch_size=9,
        lr=0.1,
        optimizer="muon",
        betas=(0.5, 0.6),
        clip_gradient=0.7,
        schedule="cosine",
        ema=0.8,
        precision="bf16",
        seed=31,
        save_every=32,
        validation_tiles=33,
    )
    request = DataRequest(
        ["a", "b.toml"],
        bands=(4, 3, 2),
        stretch=Stretch(1, 2, 3),
        mask="zero",
        group="prefix",
        gaps="slc-off=1",
        masks=["m1", "m2"],
        augment="flips",
        edges="filled",
        folds=5,
        fold=2,
        tiles_per_epoch=7,
        workers=3,
    )
    files = {"vgg": "v.pth", "start_from": "s.pth", "teacher": "t.pth", "coarse": "c.pth"}
    named = {name: Path(file) for name, file in files.items()}
    assert prepared.mock_calls == [call(options, request, Path("run"), **named, device="cuda", devices=4, resume=True)]
    threads.assert_called_once_with(6)
