"""Deterministic weights for a generator that nobody has trained."""

import zlib
from math import prod, sqrt

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ecea.model.config import RESIDUAL_SCALE, GeneratorConfig
from ecea.model.generator import Generator
from ecea.model.refinement import REACH


def untrained_state_dict(config: GeneratorConfig, seed: int) -> dict[str, Tensor]:
    """Draw weights for every tensor of a generator.

    A network of these weights draws noise where it should draw ground. They are for demonstrations, for tests
    and for measuring speed, until trained weights exist.

    The numbers are the same on every machine and with every version of torch and numpy: each tensor has its
    own Philox stream, keyed by the seed and the CRC-32 of its name, and what becomes of the stream's raw bits
    is arithmetic that IEEE 754 fixes to the last bit. Activations keep their variance from layer to layer.

    Args:
        config: the shape of the network.
        seed: 0 to 2**64 - 1.

    Returns:
        name -> tensor in the order of ``Generator.state_dict()``; float32, but int64 for
        ``num_batches_tracked``.

    Raises:
        ValueError: where the seed is out of its range.
    """
    if not 0 <= seed < 2**64:
        raise ValueError(f"the seed is {seed}; expected 0 to 2**64 - 1")
    with torch.device("meta"):  # names and shapes only: nothing is allocated, nothing initialised
        shapes = {name: tuple(tensor.shape) for name, tensor in Generator(config).state_dict().items()}
    return {name: _draw(name, shape, seed) for name, shape in shapes.items()}


def _draw(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "num_batches_tracked":
        return torch.zeros(shape, dtype=torch.int64)
    if leaf == RESIDUAL_SCALE:
        return torch.tensor(REACH)
    centre, spread = _centre_and_spread(leaf, shape)
    return torch.from_numpy(np.float32(centre) + np.float32(spread) * _unit_noise(name, shape, seed))


def _centre_and_spread(leaf: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """The mean and the standard deviation of a tensor's numbers."""
    if leaf == "running_var":
        return 1.0, 0.2  # uniform noise stays within 1.74 standard deviations, so the variance stays positive
    if leaf == "running_mean":
        return 0.0, 0.1
    if leaf == "pos_embed":
        return 0.0, 0.2
    if leaf == "bias":
        return 0.0, 0.05
    if shape == (1,):  # the slope of a PReLU
        return 0.25, 0.05
    if len(shape) == 1:  # the gain of a normalisation
        return 1.0, 0.1
    return 0.0, 1 / sqrt(prod(shape[1:]))  # a matrix or a kernel: 1 / sqrt(fan-in) keeps the variance


def _unit_noise(name: str, shape: tuple[int, ...], seed: int) -> NDArray[np.float32]:
    """Uniform noise of mean 0 and standard deviation 1.

    numpy promises the raw bits of a bit generator for ever, but not those of its distributions; so the step
    from bits to numbers is made here. 24 bits are what a float32 holds exactly.
    """
    bits = np.random.Philox(key=np.array([seed, zlib.crc32(name.encode())], dtype=np.uint64))
    count = prod(shape)
    words = bits.random_raw((count + 1) // 2).astype("<u8", copy=False).view("<u4")[:count]
    uniform = (words >> 8).astype(np.float32) * np.float32(2**-24)
    return ((uniform - np.float32(0.5)) * np.float32(sqrt(12))).reshape(shape)
