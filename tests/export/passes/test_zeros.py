"""What comes to nothing is dropped: a silent generator behind a U-Net, and nothing else."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch

from ecea.export.from_unet import TILE, generator_from_unet
from ecea.export.passes import PASSES, SIMPLIFYING, optimize
from ecea.export.trace import trace
from ecea.model import Generator, UNet
from ecea.model.config import RESIDUAL_SCALE


@pytest.fixture(scope="module")
def silent() -> Generator:
    torch.manual_seed(4)
    unet = UNet(3, (4, 6, 8)).eval()
    torch.nn.init.normal_(unet.last.weight, std=0.3)
    return generator_from_unet(unet)


def tiles(batch: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(batch)
    mask = (torch.rand(batch, 1, TILE, TILE, generator=rng) < 0.2).float()
    image = torch.rand(batch, 3, TILE, TILE, generator=rng) * (1 - mask)
    return image, torch.rand(batch, 1, TILE, TILE, generator=rng), mask


def run(model: ir.Model, *arrays: np.ndarray) -> list[np.ndarray]:
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    names = [value.name for value in model.graph.inputs]
    found: list[np.ndarray] = session.run(None, dict(zip(names, arrays, strict=True)))
    return found


def operators(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


def test_a_silent_generator_is_dropped_and_the_u_net_is_not(silent: Generator) -> None:
    model = trace(silent)
    optimize(model, (*SIMPLIFYING, *PASSES))
    left = operators(model)
    assert not left.keys() & {"ExpectationAttention", "LayerNormalization", "MatMul"}, "parts of a generator"
    assert {name.split(".")[0] for name in model.graph.initializers if "." in name} == {"coarse", "out_s"}
    for batch in (1, 3):
        inputs = tiles(batch)
        with torch.inference_mode():
            expected = silent(*inputs)
        found = run(model, *(part.numpy() for part in inputs))
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other.numpy(), rtol=0, atol=2e-6)


def test_a_generator_that_adds_something_stays(silent: Generator) -> None:
    """Its edge map is a constant, whose last weights are zero; the fill's first step has none before it to repeat."""
    loud = Generator(silent.config).eval()
    loud.load_state_dict(silent.state_dict())
    loud.get_buffer(RESIDUAL_SCALE).fill_(1.5)
    model = trace(loud)
    before = operators(model)
    assert optimize(model, SIMPLIFYING) == {"drop_what_comes_to_nothing": 2}
    assert operators(model)["ExpectationAttention"] == before["ExpectationAttention"]
    inputs = tiles(2)
    with torch.inference_mode():
        expected = loud(*inputs)
    for one, other in zip(run(model, *(part.numpy() for part in inputs)), expected, strict=True):
        np.testing.assert_allclose(one, other.numpy(), rtol=0, atol=1e-5)


def test_shapes_are_kept() -> None:
    """``x + 0 y`` has the shape of both: where that is not x's, x alone is not the same."""
    model = ir.from_onnx_text("""
        <ir_version: 10, opset_import: ["" : 23]>
        spread (float[N, 3] x, float[1, 3] y) => (float[N, 3] out)
        <float zero = {0.0}>
        {
            nothing = Mul(x, zero)
            out = Add(nothing, y)
        }
    """)
    optimize(model, SIMPLIFYING)
    x, y = np.ones((4, 3), np.float32), np.arange(3, dtype=np.float32)[None]
    (found,) = run(model, x, y)
    np.testing.assert_array_equal(found, np.repeat(y, 4, axis=0))
