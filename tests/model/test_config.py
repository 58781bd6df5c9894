"""A configuration is read from the shapes of a state dict, or refused in one sentence."""

import re
from collections.abc import Callable

import pytest
import torch

from ecea.model import CheckpointError, Generator, GeneratorConfig
from ecea.model.config import config_from_shapes

Shapes = dict[str, tuple[int, ...]]
SMALL = GeneratorConfig(img_size=64, embed_dim=16, depth=(1, 2, 1, 3))


def shapes_of(config: GeneratorConfig) -> Shapes:
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in Generator(config).state_dict().items()}


@pytest.mark.parametrize(
    "config",
    [
        GeneratorConfig(),
        SMALL,
        GeneratorConfig(img_size=96, embed_dim=8, depth=(2, 1, 1, 1)),
        GeneratorConfig(img_size=64, in_c=8, out_c=7, embed_dim=24, depth=(1, 1, 1, 1)),
        GeneratorConfig(img_size=64, embed_dim=16, refine=True),
    ],
    ids=["published", "small", "96 px", "seven bands", "refining"],
)
def test_a_configuration_comes_back_from_its_shapes(config: GeneratorConfig) -> None:
    assert config_from_shapes(shapes_of(config)) == config


def test_heads_are_taken_as_given() -> None:
    assert config_from_shapes(shapes_of(SMALL), [2, 2, 4, 4]).num_heads == (2, 2, 4, 4)


@pytest.mark.parametrize(
    "heads",
    [(1, 2, 4), (1, 2, 4, 8, 16), (3, 2, 4, 8), (1, 2, 4, 0), (1, 2, 4, -8), ()],
    ids=str,
)
def test_heads_that_do_not_divide_the_channels_are_refused(heads: tuple[int, ...]) -> None:
    sentence = rf"^has levels of \[16, 32, 64, 128\] channels, which {re.escape(str(list(heads)))} attention"
    with pytest.raises(CheckpointError, match=sentence):
        config_from_shapes(shapes_of(SMALL), heads)


def without(prefix: str) -> Callable[[Shapes], Shapes]:
    return lambda shapes: {name: shape for name, shape in shapes.items() if not name.startswith(prefix)}


def reshaped(name: str, *shape: int) -> Callable[[Shapes], Shapes]:
    return lambda shapes: shapes | {name: shape}


def renumbered(old: str, new: str) -> Callable[[Shapes], Shapes]:
    return lambda shapes: {name.replace(old, new): shape for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (without(""), r"^holds no tensor 'patch_embed\.proj\.weight'; expected one"),
        (without("encoder64.pos_embed"), r"^holds no tensor 'encoder64\.pos_embed'"),
        (without("out.block8"), r"^holds no tensor 'out\.block8\.2\.weight'"),
        (without("encoder16.blocks."), r"^has the blocks \[\] in 'encoder16'; expected at least one"),
        (
            renumbered("encoder8.blocks.1", "encoder8.blocks.7"),
            r"^has the blocks \['0', '2', '7'\] in 'encoder8'",
        ),
        (renumbered("encoder32.blocks.0", "encoder32.blocks.first"), r"\['1', 'first'\] in 'encoder32'"),
        (reshaped("patch_embed.proj.weight", 16, 4), r"of shape \[16, 4\]; expected 4 dimensions"),
        (reshaped("patch_embed.proj.weight", 0, 4, 4, 4), r"of shape \[0, 4, 4, 4\]; .* none of them 0"),
        (reshaped("patch_embed.proj.weight", 16, 4, 8, 8), r"^has patches of 8 px and 256 tokens"),
        (reshaped("encoder64.pos_embed", 1, 255, 16), r"^has patches of 4 px and 255 tokens"),
        (reshaped("encoder64.pos_embed", 1, 100, 16), r"whose side is a multiple of 8, 16 at least"),
        (reshaped("encoder64.pos_embed", 1, 64, 16), r"whose side is a multiple of 8, 16 at least"),
    ],
)
def test_shapes_of_no_generator_are_refused(change: Callable[[Shapes], Shapes], sentence: str) -> None:
    with pytest.raises(CheckpointError, match=sentence):
        config_from_shapes(change(shapes_of(SMALL)))


def test_the_smallest_tile_that_is_accepted_runs() -> None:
    config = GeneratorConfig(img_size=64, embed_dim=8, depth=(1, 1, 1, 1))
    assert config_from_shapes(shapes_of(config)) == config
    tile = torch.zeros(1, 1, 64, 64)
    with torch.no_grad():
        out, out_edge = Generator(config).eval()(tile.expand(1, 3, 64, 64), tile, tile)
    assert out.shape == (1, 3, 64, 64)
    assert out_edge.shape == (1, 1, 64, 64)
