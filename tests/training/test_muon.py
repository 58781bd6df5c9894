"""The optimizer for matrices and kernels."""

import torch
from torch import nn
from torch.nn import functional as F

from ecea.model import Generator, GeneratorConfig
from ecea.training.muon import RATE, Muon, orthogonalized
from ecea.training.networks import is_hidden

BETAS = (0.9, 0.99)


def everything(name: str) -> bool:
    return True


def test_singular_values_become_about_one() -> None:
    generator = torch.Generator().manual_seed(0)
    for shape in ((8, 72), (64, 16), (24, 24)):
        matrix = torch.randn(shape, generator=generator) * torch.logspace(-1, 1, shape[1])
        values = torch.linalg.svdvals(orthogonalized(matrix))
        assert values.min() > 0.3
        assert values.max() < 1.3


def test_a_step_is_as_large_whatever_the_gradient_is() -> None:
    for size in (1e-6, 1e3):
        layer = nn.Conv2d(4, 8, 3, bias=False)
        before = layer.weight.detach().clone()
        layer.weight.grad = size * torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(1))
        Muon(layer, 1e-4, BETAS, 0.0, everything).step()
        step = torch.linalg.svdvals((layer.weight.detach() - before).flatten(1)) / (RATE * 1e-4)
        assert 0.5 < step.median() < 1.3


def test_steps_are_those_of_jordan_et_al() -> None:
    """Nesterov's momentum of 0.95, made orthogonal; larger for tall matrices; weights decay by 0.01."""
    layer, rate = nn.Linear(4, 16, bias=False), RATE * 1e-3
    expected, momentum = layer.weight.detach().clone(), torch.zeros(16, 4)
    optimizer = Muon(layer, 1e-3, BETAS, 0.0, everything)
    for seed in (1, 2):
        gradient = torch.randn(16, 4, generator=torch.Generator().manual_seed(seed))
        layer.weight.grad = gradient.clone()
        optimizer.step()
        momentum = 0.95 * momentum + 0.05 * gradient
        step = 2 * orthogonalized(0.95 * momentum + 0.05 * gradient)  # the root of 16 / 4
        expected = expected * (1 - 0.01 * rate) - rate * step
    assert torch.allclose(layer.weight, expected, rtol=0, atol=1e-5)


def test_vectors_and_what_is_not_hidden_are_adam_s() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.Linear(5, 4))
    twin = nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.Linear(5, 4))
    twin.load_state_dict(network.state_dict())
    x = torch.randn(7, 6)
    for net, optimizer in (
        (network, Muon(network, 1e-3, BETAS, 0.0, lambda name: name.startswith("0."))),
        (twin, torch.optim.Adam(twin.parameters(), lr=1e-3, betas=BETAS)),
    ):
        F.mse_loss(net(x), torch.ones(7, 4)).backward()
        optimizer.step()
    for (name, ours), (_, adam) in zip(network.named_parameters(), twin.named_parameters(), strict=True):
        assert torch.equal(ours, adam) == (name != "0.weight"), name


def test_what_does_not_learn_is_left_alone() -> None:
    layer = nn.Linear(5, 4)
    layer.weight.requires_grad_(False)
    before = layer.weight.clone()
    optimizer = Muon(layer, 1e-2, BETAS, 0.1, everything)
    layer(torch.ones(1, 5)).sum().backward()
    optimizer.step()
    assert torch.equal(layer.weight, before)


def test_it_finds_a_least_squares_solution_sooner_than_adam() -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(256, 16, generator=generator) * torch.logspace(-1, 0.5, 16)
    y = x @ torch.randn(16, 8, generator=generator)

    def left(make: type) -> float:
        layer = nn.Linear(16, 8, bias=False)
        nn.init.zeros_(layer.weight)
        optimizer = (
            Muon(layer, 2e-3, BETAS, 0.0, everything)
            if make is Muon
            else torch.optim.Adam(layer.parameters(), 2e-3, betas=BETAS)
        )
        for _ in range(60):
            optimizer.zero_grad()
            loss = F.mse_loss(layer(x), y)
            loss.backward()
            optimizer.step()
        return float(loss.detach() / y.square().mean())

    assert left(Muon) < 0.5 * left(torch.optim.Adam)


def test_positions_are_not_its_own() -> None:
    """A table of one vector for each place maps nothing to anything."""
    generator = Generator(GeneratorConfig(img_size=64, embed_dim=8, depth=(1, 1, 1, 1)))
    names = [name for name, _ in generator.named_parameters()]
    places = [name for name in names if name.endswith("pos_embed")]
    assert len(places) == 7
    assert not any(is_hidden(name) for name in places)
    assert is_hidden("res_block4.conv1.weight") and is_hidden("out_concat.weight")
