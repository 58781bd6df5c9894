"""The weights that training starts from: the published ones, and what a refining generator has of its own."""

import torch
from torch import nn

from ecea.model import Generator

_SPREAD = 0.02

_MIXERS = ("concat16", "concat32", "concat64", "out_concat")


def initialize(network: nn.Module) -> None:
    """Draw weights in place, from torch's global random numbers.

    Convolutions, linear layers and positions: normal with a standard deviation of 0.02, biases 0. Gains of
    BatchNorm: normal around 1 with the same deviation. (Positions are cut off at two units in the published code, a
    hundred deviations away, so not at all.)
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv1d | nn.Linear):
            # Spectral normalisation keeps what is learned under another name.
            nn.init.normal_(getattr(module, "weight_orig", module.weight), 0.0, _SPREAD)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, _SPREAD)
            nn.init.zeros_(module.bias)
    for name, parameter in network.named_parameters():
        if name.endswith("pos_embed"):
            nn.init.normal_(parameter, 0.0, _SPREAD)


def begin_as_smooth_fill(generator: Generator) -> None:
    """Prepare a refining generator in place, so that at first it changes nothing of the smooth fill.

    Its last layer is silent, and its token mixers, dense over all pairs of places in a tile, begin by adding what they
    concatenate, token by token, instead of scattering it over the tile. All other weights stay as torch draws them, of
    unit gain: the published deviation of 0.02 silences the narrow levels of a small generator.
    """
    for part in ("weight", "bias"):
        nn.init.zeros_(generator.get_parameter(f"out.block8.2.{part}"))
    for name in _MIXERS:
        weight = generator.get_parameter(f"{name}.weight")
        with torch.no_grad():
            weight.copy_(torch.eye(len(weight)).repeat(1, 2).unsqueeze(-1))
        nn.init.zeros_(generator.get_parameter(f"{name}.bias"))
