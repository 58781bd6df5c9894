"""``ecea-train`` as users start it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ecea.model import GeneratorConfig, load_generator
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
