"""The generator is the published one: its names, its shapes and its numbers."""

import json
from collections.abc import Callable, Iterator
from math import tanh
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ecea.kernels import op
from ecea.model import Generator, GeneratorConfig
from ecea.model.untrained import untrained_state_dict

# What the project asks of a float32 path on one machine.
TOLERANCE = 1e-5
SMALL = GeneratorConfig(img_size=64, embed_dim=16, depth=(1, 1, 2, 1))


@pytest.fixture(scope="module", params=["network_s64", "network_s128", "network_default"])
def golden(request: pytest.FixtureRequest, golden_network: Callable[[str], Any]) -> Iterator[Any]:
    yield golden_network(request.param)


@pytest.fixture(scope="module")
def small() -> Generator:
    generator = Generator(SMALL)
    generator.load_state_dict(untrained_state_dict(SMALL, seed=3))
    return generator.eval()


def tiles(batch: int, size: int, channels: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """A batch of unlike tiles with stripes missing, by arithmetic that no random generator can change."""
    ramp = torch.arange(batch * channels * size * size, dtype=torch.float64)
    image = ((ramp * 0.6180339887498949) % 1).float().reshape(batch, channels, size, size)
    edge = ((ramp[: batch * size * size] * 0.4142135623730951) % 1).float().reshape(batch, 1, size, size)
    mask = ((torch.arange(size) // 7) % 3 == 0).float()[:, None].expand(batch, 1, size, size)
    return image * (1 - mask), edge * (1 - mask), mask


@torch.no_grad()
def run(generator: Generator, *inputs: Tensor) -> tuple[Tensor, Tensor]:
    out, out_edge = generator(*inputs)
    return out, out_edge


def test_names_order_and_shapes_are_the_published_ones(shared: Path) -> None:
    published = json.loads((shared / "golden" / "state_dict.json").read_text())
    ours = [(name, list(tensor.shape)) for name, tensor in Generator(GeneratorConfig()).state_dict().items()]
    assert ours == list(published.items())


def test_the_default_network_has_the_published_size() -> None:
    with torch.device("meta"):
        generator = Generator(GeneratorConfig())
    assert len(generator.state_dict()) == 594
    assert round(sum(parameter.numel() for parameter in generator.parameters()) / 1e6, 2) == 125.85


def test_numbers_are_the_published_ones(golden: Any) -> None:
    outputs = run(golden.generator, *map(torch.from_numpy, golden.inputs))
    for ours, published in zip(outputs, golden.outputs, strict=True):
        assert ours.shape == published.shape
        assert np.abs(ours.numpy() - published).max() <= TOLERANCE


def test_golden_tiles_do_not_see_the_rest_of_their_batch(golden: Any) -> None:
    inputs = [torch.from_numpy(array) for array in golden.inputs]
    # The tiles of the file, amid one that none of them is.
    batch = [torch.cat([1 - tensor[:1], tensor]) for tensor in inputs]
    for ours, published in zip(run(golden.generator, *batch), golden.outputs, strict=True):
        assert np.abs(ours[1:].numpy() - published).max() <= TOLERANCE


def test_a_tile_does_not_see_the_rest_of_its_batch(small: Generator) -> None:
    inputs = tiles(3, 64)
    together = run(small, *inputs)
    assert (together[0][0] - together[0][1]).abs().max() > 0.1  # unlike tiles: a mix-up would show
    for i in range(3):
        alone = run(small, *(tensor[i : i + 1] for tensor in inputs))
        for a, b in zip(alone, together, strict=True):
            torch.testing.assert_close(a[0], b[i], rtol=0, atol=TOLERANCE)


def test_outputs_keep_the_range_of_the_published_network(small: Generator) -> None:
    for out in run(small, *tiles(2, 64)):
        assert out.dtype == torch.float32
        assert 0 < out.min() < out.max() < tanh(1)


def test_every_input_reaches_the_outputs_that_it_should(small: Generator) -> None:
    image, edge, mask = tiles(1, 64)
    out, out_edge = run(small, image, edge, mask)
    other_image, same_edge = run(small, 1 - image, edge, mask)
    assert (other_image - out).abs().max() > 1e-3
    assert torch.equal(same_edge, out_edge)  # the edge branch never sees the image
    assert (run(small, image, edge, 1 - mask)[0] - out).abs().max() > 1e-3
    for changed, before in zip(run(small, image, 1 - edge, mask), (out, out_edge), strict=True):
        assert (changed - before).abs().max() > 1e-3


def test_numbers_of_an_untrained_network_stay_what_they_were(small: Generator) -> None:
    """Recorded from this code when it agreed with the published one to 1e-5 on all golden data."""
    out, out_edge = run(small, *tiles(1, 64))
    found = [out.mean(), out[0, 0, 5, 9], out[0, 2, 63, 0], out_edge.mean(), out_edge[0, 0, 31, 32]]
    recorded = [0.515974, 0.542747, 0.529061, 0.510240, 0.118343]
    assert [float(value) for value in found] == pytest.approx(recorded, abs=TOLERANCE)


def test_the_custom_operator_gives_the_same_network(small: Generator) -> None:
    other = Generator(SMALL, attention=op.expectation_attention).eval()
    other.load_state_dict(small.state_dict())
    for a, b in zip(run(small, *tiles(2, 64)), run(other, *tiles(2, 64)), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=TOLERANCE)
