"""VGG-19's features, of which the perceptual and the style term are made; the weights come from the user."""

from os import PathLike
from pathlib import Path

import torch
from torch import Tensor, nn

from ecea.model import CheckpointError
from ecea.model.checkpoint import read_state_dict
from ecea.runtime.errors import RequestError
from ecea.runtime.words import counted

# Convolutions of each block (Simonyan and Zisserman 2015, configuration E) and their channels; every one of them is
# followed by a ReLU, every block but the last by a 2x2 maximum.
_BLOCKS = ((2, 64), (2, 128), (4, 256), (4, 512), (4, 512))

_WANTED = "the state dict of VGG-19 trained on ImageNet (features.0.weight to features.34.bias)"


class VggFeatures(nn.Module):
    """VGG-19 without its classifier, fixed: a picture -> the activations ``relu1_1`` to ``relu5_4``.

    Pictures go in as they are, in [0, 1]: the published losses do not normalise them to ImageNet's mean.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        self.names: dict[int, str] = {}
        channels = 3
        for block, (count, width) in enumerate(_BLOCKS, start=1):
            for index in range(1, count + 1):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                self.names[len(layers) - 1] = f"relu{block}_{index}"
                channels = width
            if block < len(_BLOCKS):
                layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.requires_grad_(False)

    def forward(self, picture: Tensor) -> dict[str, Tensor]:
        """Args: picture (B, 3, H, W), at least 16 x 16. Returns: name -> (B, C, h, w), C and h of its block."""
        activations: dict[str, Tensor] = {}
        x = picture
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.names:
                activations[self.names[index]] = x
        return activations


def load_vgg(path: str | PathLike[str]) -> VggFeatures:
    """Read VGG-19's features from a file in the usual layout of its ImageNet weights; a classifier is passed over.

    Raises:
        RequestError: where the file cannot be read or holds another network.
    """
    path = Path(path)
    try:
        state = read_state_dict(path)
    except CheckpointError as error:
        raise RequestError(f"{error}; --vgg takes {_WANTED}") from error
    with torch.device("meta"):
        vgg = VggFeatures()
    expected = vgg.state_dict()
    features = {name: tensor for name, tensor in state.items() if name.startswith("features.")}
    unlike = [
        name
        for name in expected.keys() | features.keys()
        if name not in features or name not in expected or features[name].shape != expected[name].shape
    ]
    if unlike:
        raise RequestError(
            f"{path}: has {counted(len(unlike), 'tensor')} absent, surplus or of another shape ('{min(unlike)}' "
            f"is one): expected {_WANTED}"
        )
    vgg.load_state_dict(features, assign=True)
    return vgg.requires_grad_(False).eval()
