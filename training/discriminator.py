"""The discriminator that the generator is trained against; no part of what is shipped."""

from torch import Tensor, nn
from torch.nn.utils import spectral_norm

_WIDTHS = (64, 128, 256, 512, 1)
_STRIDES = (2, 2, 2, 1, 1)
_SLOPE = 0.2


class Discriminator(nn.Module):
    """Judge each patch of a picture: five 4x4 convolutions, spectrally normalised, without bias, as published.

    Args:
        channels: of the picture, ``GeneratorConfig.out_c``.
    """

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        sources = (channels, *_WIDTHS[:-1])
        for index, (source, width, stride) in enumerate(zip(sources, _WIDTHS, _STRIDES, strict=True), start=1):
            convolution = nn.Conv2d(source, width, 4, stride=stride, padding=1, bias=False)
            # The older form of the two in torch: its names (weight_orig, weight_u) are those of published files.
            layers: list[nn.Module] = [spectral_norm(convolution)]
            if width > 1:
                layers.append(nn.LeakyReLU(_SLOPE, inplace=True))
            self.add_module(f"conv{index}", nn.Sequential(*layers))

    def forward(self, picture: Tensor) -> Tensor:
        """Args: picture (B, channels, S, S) in [0, 1]. Returns: (B, 1, S/8 - 2, S/8 - 2) in (0, 1), 1 for real."""
        x = picture
        for layers in self.children():
            x = layers(x)
        return x.sigmoid()
