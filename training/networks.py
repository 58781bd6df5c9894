"""What can be trained: the generator, and a U-Net for it to refine or to be taught by."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ecea.model import CheckpointError, Generator, UNet, load_generator, load_unet
from ecea.model.config import unet_widths
from ecea.model.unet import WIDTHS
from ecea.runtime.errors import RequestError
from ecea.training.attention import TrainingAttention
from ecea.training.initialization import begin_as_smooth_fill, initialize
from ecea.training.options import TrainingOptions

Network = Generator | UNet

LETTERS = {"ecea": "G", "unet": "U"}
"""What the checkpoints of a network begin with."""

# What touches pixels: its weights are no maps from features to features.
_FIRST_LAYERS = ("patch_embed", "out_s_patch_embed", "first.")
_EDGE_MAP_TAKEN = "out_s_patch_embed.proj.weight"  # 0 where the edge map brings nothing back into the picture
_PLACES = "pos_embed"  # one vector for each, in a table that maps nothing
_LAST_LAYERS = ("block8.2.weight", "last.weight")


class FillOnly(Generator):
    """A generator that draws no edge map, which is half of the work of a step.

    The picture is the same, if the edge map brings nothing back into it: the weights that would are 0.
    """

    def _draw(self, image: Tensor, edge: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        tokens, _ = self._tokens(image, edge, mask)
        mixed = self.out_concat(torch.cat([tokens, torch.zeros_like(tokens)], dim=1))
        return torch.tanh(self.out(mixed)), edge


def build(options: TrainingOptions, weights: Mapping[str, Tensor] | None = None, coarse: UNet | None = None) -> Network:
    """A network with the weights that training begins, or goes on, with.

    Args:
        options: of the run.
        weights: by name; the network takes its form from them too, where options do not tell it. None: drawn from
            torch's global random numbers.
        coarse: what a generator whose configuration has a coarse network takes that from; it does not learn.
    """
    network: Network
    if options.network == "unet":
        shapes = {name: tuple(tensor.shape) for name, tensor in (weights or {}).items()}
        network = UNet(options.config.out_c, unet_widths(shapes) or WIDTHS)
    else:
        network = _generator(options, weights)
    if weights is not None:
        network.load_state_dict(weights)
    if isinstance(network, Generator) and network.coarse is not None:
        if coarse is not None:
            network.coarse.load_state_dict(coarse.state_dict())
        network.coarse.requires_grad_(False)
    return network


def load_start(path: Path, options: TrainingOptions) -> Network:
    """Read the weights that a run begins with.

    Raises:
        RequestError: where the file is no checkpoint of the network that is to be trained.
    """
    try:
        if options.network == "unet":
            return load_unet(path, options.config.out_c)
        generator = load_generator(path, options.config.num_heads)
    except CheckpointError as error:
        raise RequestError(str(error)) from error
    wanted, found = dataclasses.asdict(options.config), dataclasses.asdict(generator.config)
    if unlike := [name for name in wanted if wanted[name] != found[name]]:
        differences = ", ".join(f"{name} {found[name]} where {wanted[name]} was asked for" for name in unlike)
        raise RequestError(
            f"{path}: is a generator of another configuration ({differences}): ask for the one that it has"
        )
    return generator


def _generator(options: TrainingOptions, weights: Mapping[str, Tensor] | None) -> Generator:
    attention = TrainingAttention(options.regularization.attention)
    if not options.config.refine:
        generator = Generator(options.config, attention, options.regularization)
        initialize(generator)
        return generator
    if options.weights.edge or (weights is not None and bool(weights[_EDGE_MAP_TAKEN].any())):
        generator = Generator(options.config, attention, options.regularization)
    else:
        generator = FillOnly(options.config, attention, options.regularization)
        generator.out_s.requires_grad_(False)
        generator.out_s_patch_embed.requires_grad_(False)
    begin_as_smooth_fill(generator)
    return generator


def is_hidden(name: str) -> bool:
    """Whether a parameter of either network maps features to features, by its name: not the first and last layers."""
    return not name.startswith(_FIRST_LAYERS) and not name.endswith((*_LAST_LAYERS, _PLACES))
