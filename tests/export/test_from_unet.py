"""A generator that fills as a U-Net does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ecea.export.from_unet import TILE
from ecea.model import UNet, load_generator

WIDTHS = (4, 6, 8)


@pytest.fixture
def unet(tmp_path: Path) -> UNet:
    """One that draws something, saved as U.pth."""
    torch.manual_seed(3)
    unet = UNet(3, WIDTHS).eval()
    torch.nn.init.normal_(unet.last.weight, std=0.3)
    torch.save(unet.state_dict(), tmp_path / "U.pth")
    return unet


def start(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ecea.export.from_unet", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def tile() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    mask = torch.zeros(1, 1, TILE, TILE)
    mask[..., 40:48, :] = 1
    return torch.rand(1, 3, TILE, TILE, generator=generator) * (1 - mask), torch.zeros(1, 1, TILE, TILE), mask


def test_it_draws_what_the_u_net_draws(unet: UNet, tmp_path: Path) -> None:
    done = start(tmp_path, "U.pth", "G.pth")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    generator = load_generator(tmp_path / "G.pth")
    assert generator.config.coarse == WIDTHS
    with torch.inference_mode():
        (made, edge), wanted = generator(*tile()), unet(*tile())[0]
    torch.testing.assert_close(made, wanted, rtol=0, atol=1e-6)
    assert edge.min() == edge.max()


def test_what_is_wrong_is_said_in_a_sentence(unet: UNet, tmp_path: Path) -> None:
    for arguments, said in (
        (("U.pth",), "usage"),
        (("none.pth", "G.pth"), "none.pth"),
        (("U.pth", "/dev/full"), "/dev/full: is a device or a pipe"),
        (("U.pth", "no/folder/G.pth"), "no/folder/G.pth: the folder no/folder does not exist"),
    ):
        done = start(tmp_path, *arguments)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert said in done.stderr
    assert not (tmp_path / "G.pth").exists()


def test_a_full_disk_leaves_nothing(unet: UNet, tmp_path: Path) -> None:
    """Short of a full disk: no file may grow beyond a megabyte here."""
    code = (
        "import resource, runpy, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20)); sys.argv = ['', 'U.pth', 'G.pth'];"
        "runpy.run_module('ecea.export.from_unet', run_name='__main__')"
    )
    before = sorted(tmp_path.iterdir())
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("G.pth: cannot be written (File too large)")
    assert sorted(tmp_path.iterdir()) == before
