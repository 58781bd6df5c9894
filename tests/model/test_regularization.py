"""What is dropped in training changes neither names nor numbers of the generator that fills."""

import pytest
import torch
from torch import nn

from ecea.model import Generator, GeneratorConfig, Regularization
from ecea.model.regularization import PUBLISHED, DropPath
from ecea.training.attention import TrainingAttention

SMALL = GeneratorConfig(img_size=64, embed_dim=8, depth=(1, 1, 3, 1))


def inputs() -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.rand(2, channels, 64, 64, generator=generator) for channels in (3, 1, 1))


def test_names_and_numbers_are_the_same_in_eval_mode() -> None:
    torch.manual_seed(0)
    plain = Generator(SMALL).eval()
    dropping = Generator(SMALL, TrainingAttention(0.3), PUBLISHED)
    assert list(dropping.state_dict()) == list(plain.state_dict())
    dropping.load_state_dict(plain.state_dict())
    with torch.no_grad():
        for a, b in zip(dropping.eval()(*inputs()), plain(*inputs()), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("regularization", "attention"),
    [(Regularization(dropout=0.2), 0.0), (Regularization(drop_path=0.2), 0.0), (Regularization(), 0.3)],
)
def test_each_is_at_work_in_training_mode(regularization: Regularization, attention: float) -> None:
    generator = Generator(SMALL, TrainingAttention(attention), regularization)
    for name, parameter in generator.named_parameters():
        if name.endswith("proj.bias"):
            nn.init.ones_(parameter)
    with torch.no_grad():
        first, second = (generator(*inputs())[0] for _ in range(2))
    assert not torch.equal(first, second)


def test_nothing_is_built_where_nothing_is_dropped() -> None:
    kinds = {type(module) for module in Generator(SMALL).modules()}
    assert not kinds & {nn.Dropout, DropPath}


def test_paths_are_dropped_more_often_the_deeper() -> None:
    assert PUBLISHED.path_rates(1) == [0]
    assert PUBLISHED.path_rates(3) == pytest.approx([0, 0.1, 0.2])


def test_drop_path_drops_whole_tiles_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    dropped = DropPath(0.2)(torch.ones(4000, 3, 2))
    assert torch.equal(dropped, dropped[:, :1, :1].expand_as(dropped))
    assert float(dropped.mean()) == pytest.approx(1, abs=0.03)
    assert float((dropped == 0).float().mean()) == pytest.approx(0.2, abs=0.02)
