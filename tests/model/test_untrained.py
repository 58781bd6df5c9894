"""Untrained weights: the same everywhere, and fit to run."""

import hashlib

import numpy as np
import pytest
import torch

from ecea.model import Generator, GeneratorConfig
from ecea.model.untrained import untrained_state_dict

CONFIG = GeneratorConfig(img_size=64, embed_dim=8, depth=(1, 1, 1, 1))


def digest(seed: int) -> str:
    state = untrained_state_dict(CONFIG, seed)
    arrays = [tensor.numpy() for tensor in state.values()]
    raw = b"".join(array.astype(array.dtype.newbyteorder("<")).tobytes() for array in arrays)
    return hashlib.sha256(raw).hexdigest()[:16]


def test_the_numbers_never_change() -> None:
    """Bundles in the field were built from them: a new digest here is a new network there."""
    assert digest(7) == "a9057f8343ad3639"


def test_another_seed_gives_other_numbers() -> None:
    assert len({digest(seed) for seed in (0, 1, 2**64 - 1)}) == 3


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_out_of_range_is_refused(seed: int) -> None:
    with pytest.raises(ValueError, match=rf"seed is {seed}; expected 0 to 2\*\*64 - 1"):
        untrained_state_dict(CONFIG, seed)


def test_names_shapes_and_dtypes_are_the_generator_s() -> None:
    state, expected = untrained_state_dict(CONFIG, 1), Generator(CONFIG).state_dict()
    assert [(name, t.shape, t.dtype) for name, t in state.items()] == [
        (name, t.shape, t.dtype) for name, t in expected.items()
    ]


def test_equal_shapes_get_unlike_numbers() -> None:
    state = untrained_state_dict(CONFIG, 1)
    assert not torch.equal(state["concat64.weight"], state["out_concat.weight"])


def test_activations_keep_their_variance() -> None:
    state = untrained_state_dict(CONFIG, 1)
    for name in ("out.block1.0.weight", "concat64.weight", "encoder8.blocks.0.mlp.fc1.weight"):
        weight = state[name].numpy()
        assert weight.var() * np.prod(weight.shape[1:]) == pytest.approx(1, rel=0.05)
        assert abs(weight.mean()) < 0.02 * weight.std()
    for name, tensor in state.items():
        if name.endswith("running_var"):
            assert tensor.min() > 0.5


def test_the_network_draws_neither_flat_nor_saturated_pictures() -> None:
    generator = Generator(CONFIG)
    generator.load_state_dict(untrained_state_dict(CONFIG, 1))
    rng = np.random.default_rng(0)
    image, edge = (torch.from_numpy(rng.random((1, c, 64, 64), np.float32)) for c in (3, 1))
    with torch.no_grad():
        for out in generator.eval()(image, edge, torch.zeros(1, 1, 64, 64)):
            assert torch.isfinite(out).all()
            assert 0.02 < out.std() < 0.35
