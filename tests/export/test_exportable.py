"""What is exported: generators of three bands, and U-Nets of as many."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import pytest
import torch
from onnx_ir.passes.common import InlinePass
from torch import Tensor

from ecea.export.exportable import UNET_TILE, load_exportable
from ecea.export.exporter import export_bundle
from ecea.export.forms import build, forms
from ecea.export.passes import optimize
from ecea.export.trace import trace
from ecea.model import CheckpointError, Generator, GeneratorConfig, UNet
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
    mask = torch.zeros(1, 1, UNET_TILE, UNET_TILE)
    mask[..., 40:48, :] = 1
    image, edge = (torch.rand(1, bands, UNET_TILE, UNET_TILE, generator=generator) for bands in (3, 1))
    return image * (1 - mask), edge, mask


def test_its_bundle_draws_what_it_draws(unet: UNet, tmp_path: Path) -> None:
    """And gives the edge map back as it is; on two tiles at once too."""
    said: list[str] = []
    bundle = export_bundle(
        tmp_path / "U.pth", tmp_path / "U.ecea", engines=["fp32", "fp16"], tensorrt=False, say=said.append
    )
    image, edge, mask = (part.repeat(2, 1, 1, 1) for part in tile())
    with torch.inference_mode():
        wanted = unet(image, edge, mask)[0]
    for engine, backend, tolerance in (("fp32", "openvino", 1e-4), ("fp32", "cpu", 1e-4), ("fp16", "openvino", 3e-2)):
        with open_engine(bundle.path, engine=engine, backend=backend) as opened:
            made, made_edge = opened.infer(image.numpy(), edge.numpy(), mask.numpy())
        torch.testing.assert_close(torch.from_numpy(made), wanted, rtol=0, atol=tolerance)
        torch.testing.assert_close(torch.from_numpy(made_edge), edge, rtol=0, atol=0)
    count = sum(parameter.numel() for parameter in unet.parameters())
    assert said[0].endswith(f"U.pth: {count / 1e6:.2f} M parameters, tiles of {UNET_TILE} px")
    assert bundle.configuration == {"network": "unet", "img_size": UNET_TILE, "widths": list(WIDTHS)}

    for engine in ("fp32", "fp16"):
        assert shapes_read(ir.load(bundle.path / f"generator.{engine}.onnx")) == set()


def shapes_read(model: ir.Model) -> set[str]:
    """Operators of a form for GPUs that read a tensor's shape, bodies inlined.

    ONNX Runtime computes on the CPU what is computed of it, and our backend ``cuda`` takes no model of which a part
    runs there. A shape that goes into Expand or Reshape as it is would do no harm; there is none.
    """
    inlined = model.clone()
    InlinePass()(inlined)
    return {node.op_type for node in inlined.graph} & {"Shape", "Size"}


@pytest.mark.slow
def test_nothing_of_a_refining_generator_is_for_the_cpu_where_there_is_a_gpu() -> None:
    config = GeneratorConfig(img_size=64, embed_dim=8, depth=(1, 1, 1, 1), refine=True, coarse=WIDTHS)
    generator = Generator(config)
    generator.load_state_dict(untrained_state_dict(config, seed=2))
    traced = trace(generator.eval(), config.img_size)
    optimize(traced)
    for engine in ("fp32", "fp16"):
        (form,) = (form for form in forms(engine) if "cuda" in form.backends)
        assert shapes_read(build(form, traced)) == set()


def test_a_generator_is_taken_as_it_is(tmp_path: Path) -> None:
    """One that refines a U-Net keeps what it has learned itself."""
    config = GeneratorConfig(img_size=64, embed_dim=8, depth=(1, 1, 1, 1), refine=True, coarse=WIDTHS)
    state = untrained_state_dict(config, seed=2)
    torch.save(state, tmp_path / "G.pth")
    exportable = load_exportable(tmp_path / "G.pth")
    assert exportable.tile_size == 64
    kept = exportable.network.state_dict()
    assert kept.keys() == state.keys()
    assert all(torch.equal(kept[name], tensor) for name, tensor in state.items())


def test_what_cannot_be_exported(tmp_path: Path, unet: UNet) -> None:
    torch.save(UNet(4, WIDTHS).state_dict(), tmp_path / "four.pth")
    with pytest.raises(CheckpointError, match=r"four\.pth is a U-Net from 5 to 4 channels; expected one from 4"):
        load_exportable(tmp_path / "four.pth")
    with pytest.raises(CheckpointError, match=r"U\.pth is a U-Net, which has no attention heads"):
        load_exportable(tmp_path / "U.pth", (1, 2, 4, 8))
