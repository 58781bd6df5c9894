"""A U-Net is exported as a generator that fills as it does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from ecea.export.exporter import export_bundle
from ecea.export.from_unet import TILE, load_exportable
from ecea.model import CheckpointError, GeneratorConfig, UNet
from ecea.model.untrained import untrained_state_dict
from ecea.runtime import open_engine

WIDTHS = (4, 6, 8)


@pytest.fixture
def unet(tmp_path: Path) -> UNet:
    """One that draws something, saved as U.pth."""
    torch.manual_seed(3)
    unet = UNet(3, WIDTHS).eval()
    torch.nn.init.normal_(unet.last.weight, std=0.3)
    torch.save(unet.state_dict(), tmp_path / "U.pth")
    return unet


def tile() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    mask = torch.zeros(1, 1, TILE, TILE)
    mask[..., 40:48, :] = 1
    return torch.rand(1, 3, TILE, TILE, generator=generator) * (1 - mask), torch.zeros(1, 1, TILE, TILE), mask


@pytest.fixture
def wanted(unet: UNet) -> Tensor:
    """What the U-Net makes of the tile."""
    with torch.inference_mode():
        return unet(*tile())[0]


def test_it_draws_what_the_u_net_draws(wanted: Tensor, tmp_path: Path) -> None:
    generator = load_exportable(tmp_path / "U.pth")
    assert generator.config.coarse == WIDTHS
    with torch.inference_mode():
        made, edge = generator(*tile())
    torch.testing.assert_close(made, wanted, rtol=0, atol=1e-6)
    assert edge.min() == edge.max()


def test_its_bundle_draws_what_it_draws(unet: UNet, wanted: Tensor, tmp_path: Path) -> None:
    said: list[str] = []
    export_bundle(tmp_path / "U.pth", tmp_path / "U.ecea", engines=["fp32"], tensorrt=False, say=said.append)
    with open_engine(tmp_path / "U.ecea", engine="fp32") as engine:
        made, _ = engine.infer(*(part.numpy() for part in tile()))
    torch.testing.assert_close(torch.from_numpy(made), wanted, rtol=0, atol=1e-4)
    count = sum(parameter.numel() for parameter in unet.parameters())
    assert said[0].endswith(f"U.pth: {count / 1e6:.2f} M parameters, tiles of {TILE} px")


def test_a_generator_is_taken_as_it_is(tmp_path: Path) -> None:
    """One that refines a U-Net keeps what it has learned itself."""
    config = GeneratorConfig(img_size=64, embed_dim=8, depth=(1, 1, 1, 1), refine=True, coarse=WIDTHS)
    state = untrained_state_dict(config, seed=2)
    torch.save(state, tmp_path / "G.pth")
    kept = load_exportable(tmp_path / "G.pth").state_dict()
    assert kept.keys() == state.keys()
    assert all(torch.equal(kept[name], tensor) for name, tensor in state.items())


def test_what_cannot_be_exported(tmp_path: Path, unet: UNet) -> None:
    torch.save(UNet(4, WIDTHS).state_dict(), tmp_path / "four.pth")
    with pytest.raises(CheckpointError, match=r"four\.pth is a U-Net of 4 bands; expected one of 3"):
        load_exportable(tmp_path / "four.pth")
    with pytest.raises(CheckpointError, match=r"U\.pth is a U-Net, which has no attention heads"):
        load_exportable(tmp_path / "U.pth", (1, 2, 4, 8))
