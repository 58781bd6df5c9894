"""The weights that training starts from: the published ones, and what a refining generator has of its own."""

import torch
from torch import nn

from ecea.model import Generator
from ecea.model.layers import Stage

_SPREAD = 0.02

# What ends a branch, or the whole.
_SILENT = (
    "attn.proj.weight",
    "attn.proj.bias",
    "mlp.fc2.weight",
    "mlp.fc2.bias",
    "out.block8.2.weight",
    "out.block8.2.bias",
    "out_s_patch_embed.proj.weight",
)

_OFFSET = 4.0  # much larger than what tokens hold at first

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

    Weights stay as torch draws them, of unit gain: the published deviation of 0.02 silences the narrow levels of a
    small generator. But what ends a branch is silent, so that the network begins shallow: the last layer, the attention
    and the MLP of each block, the edge map's return. What treats places in a tile unlike is neutral and stays so,
    because tiles are cut anywhere: token mixers add what they concatenate, token by token, and no position is told.
    """
    for name, parameter in generator.named_parameters():
        if name.endswith(_SILENT):
            nn.init.zeros_(parameter)
    for name in _MIXERS:
        weight = generator.get_parameter(f"{name}.weight")
        with torch.no_grad():
            weight.copy_(torch.eye(len(weight)).repeat(1, 2).unsqueeze(-1))
        nn.init.zeros_(generator.get_parameter(f"{name}.bias"))
        generator.get_submodule(name).requires_grad_(False)
    for module in generator.modules():
        if isinstance(module, Stage):
            _norm_nearly_linear(module)
            module.pos_embed.requires_grad_(False)


def _norm_nearly_linear(stage: Stage) -> None:
    """Let a stage's norm keep how large a token is, which a norm takes away.

    Each token gets a pattern of +4 and -4 as its position, beside which its own values are small; so the norm divides
    all tokens alike, by 4 or so. Its gain and its bias then take pattern and division back.
    """
    pattern = torch.tensor([_OFFSET, -_OFFSET]).repeat(stage.pos_embed.shape[-1] // 2 + 1)[: stage.pos_embed.shape[-1]]
    with torch.no_grad():
        stage.pos_embed.copy_(pattern.expand_as(stage.pos_embed))
        stage.norm.weight.fill_(_OFFSET)
        stage.norm.bias.copy_(-pattern)
