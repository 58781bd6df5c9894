"""The weights that training starts from, as published."""

from torch import nn

_SPREAD = 0.02


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
