"""A step of the generator and the discriminator: what each term of the loss teaches."""

from __future__ import annotations

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor

from ecea.model import GeneratorConfig, UNet
from ecea.model.regularization import NONE
from ecea.training.data.tiles import Batch
from ecea.training.losses import LossWeights
from ecea.training.options import TrainingOptions
from ecea.training.pair import Pair
from ecea.training.vgg import VggFeatures

SIZE = 64
NOTHING = {"adversarial": 0, "perceptual": 0, "style": 0, "l1": 0, "edge": 0}
PICTURE, EDGES = "out.block1", "out_s.block1"  # the first layers of the two heads


def pair(vgg: VggFeatures | None = None, *, ema: float = 0.0, teacher: UNet | None = None, **weights: float) -> Pair:
    torch.manual_seed(0)
    options = TrainingOptions(
        config=GeneratorConfig(img_size=SIZE, embed_dim=8, depth=(1, 1, 1, 1)),
        weights=LossWeights(**{**NOTHING, **weights}),
        regularization=NONE,
        batch_size=2,
        lr=1e-3,
        discriminator_lr=1.0,
        ema=ema,
        weight_decay=0.0,  # which changes weights whatever is learned
    )
    return Pair(options, Fabric(accelerator="cpu", devices=1), vgg, None, teacher, None)


def batch() -> Batch:
    """Two tiles of coloured noise, with a stripe."""
    random = torch.Generator().manual_seed(1)
    target, edge = (torch.rand(2, channels, SIZE, SIZE, generator=random) for channels in (3, 1))
    mask = torch.zeros(2, 1, SIZE, SIZE)
    mask[:, :, 24:32] = 1
    return Batch(
        image=target * (1 - mask), edge=edge * (1 - mask), mask=mask, target=target, target_edge=edge, name=["a", "b"]
    )


def changed(network: torch.nn.Module, before: dict[str, Tensor]) -> set[str]:
    """The names of the weights that a step has changed."""
    return {name for name, tensor in network.named_parameters() if not torch.equal(tensor, before[name])}


def copy(network: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.named_parameters()}


@pytest.mark.parametrize(
    ("term", "head"),
    [("adversarial", PICTURE), ("perceptual", PICTURE), ("style", PICTURE), ("l1", PICTURE), ("edge", EDGES)],
)
def test_each_term_alone_teaches_the_generator(term: str, head: str) -> None:
    learning = pair(VggFeatures() if term in ("perceptual", "style") else None, **{term: 1.0})
    before = copy(learning.generator)
    learning.step(batch(), 1.0)
    learned = changed(learning.generator, before)
    assert any(name.startswith(head) for name in learned), learned


def test_without_any_term_nothing_is_learned() -> None:
    """So that what the terms teach is told by what changes."""
    learning = pair()
    before = copy(learning.generator)
    learning.step(batch(), 1.0)
    assert changed(learning.generator, before) == set()


def test_a_teacher_teaches_gaps_alone() -> None:
    teacher = UNet(widths=(4, 8)).eval()
    torch.nn.init.ones_(teacher.get_parameter("last.bias"))  # so that it draws known pixels otherwise than they are
    learning, tiles = pair(l1=1.0, teacher=teacher), batch()
    values, made, _ = learning.step(tiles, 1.0)
    with torch.no_grad():
        taught, _ = teacher(tiles["image"], tiles["edge"], tiles["mask"])
    wanted = torch.where(tiles["mask"] > 0, taught, tiles["target"])
    torch.testing.assert_close(values["l1"], (made - wanted).abs().mean())


def test_a_running_mean_that_is_no_number_is_told() -> None:
    """It is what is saved, whatever the generator itself is."""
    learning = pair(l1=1.0, ema=0.9)
    assert learning.not_finite() is None
    name, broken = next(iter(learning.best.named_parameters()))
    broken.data.fill_(float("nan"))
    assert learning.not_finite() == name


def test_the_discriminator_learns_to_tell_real_from_made() -> None:
    learning, tiles = pair(adversarial=1e-9, l1=1e-9), batch()
    assert learning.discriminator is not None
    before = copy(learning.discriminator)
    losses = [float(learning.step(tiles, 1.0)[0]["discriminator"]) for _ in range(12)]
    weights = [name for name in before if name.endswith("weight_orig")]
    assert len(weights) == 5
    assert set(weights) <= changed(learning.discriminator, before)
    assert losses[-1] < 0.95 * losses[0], losses
