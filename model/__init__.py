"""The ECEA generator in PyTorch: the reference that every exported engine is compared with.

    from ecea.model import load_generator

    generator = load_generator("checkpoint.pth")
    out, out_edge = generator(image, edge, mask)

Only exporting and training need this package; filling scenes does not.
"""

from ecea.model.checkpoint import load_generator, load_unet
from ecea.model.config import GeneratorConfig
from ecea.model.errors import CheckpointError
from ecea.model.generator import Generator
from ecea.model.regularization import Regularization
from ecea.model.unet import UNet

__all__ = ["CheckpointError", "Generator", "GeneratorConfig", "Regularization", "UNet", "load_generator", "load_unet"]
