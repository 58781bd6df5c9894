"""What is looked at and kept while training goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ecea.model import GeneratorConfig, UNet
from ecea.training.data.tiles import Batch
from ecea.training.options import TrainingOptions
from ecea.training.quality import validate
from ecea.training.run import DataRequest, prepare

Seen = list[tuple[dict[str, Tensor], Sequence[Batch]]]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """The weights and the tiles of each look at what is held out."""
    found: Seen = []

    def look(network: nn.Module, tiles: Sequence[Batch]) -> float:
        found.append(({name: tensor.clone() for name, tensor in network.state_dict().items()}, tiles))
        return 20.0

    monkeypatch.setattr("ecea.training.trainer.validate", look)
    return found


def train(data: Sequence[Path], output: Path, augment: str = "none", folds: int | None = None, **changes: Any) -> None:
    config = GeneratorConfig(img_size=64, embed_dim=8, depth=(1, 1, 1, 1))
    options = TrainingOptions(**{"config": config, "epochs": 1, "batch_size": 2, "validation_tiles": 3, **changes})
    fold = 1 if folds else None
    request = DataRequest(
        [str(path) for path in data], folds=folds, fold=fold, group="folder", tiles_per_epoch=2, augment=augment
    )
    prepare(options, request, output, device="cpu").trainer.run(lambda line: None, lambda step: None)


@pytest.fixture
def two_folders(patches: Path, write: Callable[..., Path]) -> list[Path]:
    other = write("other/0.tif", np.random.default_rng(0).integers(1, 200, (3, 64, 64)).astype(np.uint8))
    return [patches, other.parent]


def test_held_out_tiles_are_as_they_are(seen: Seen, two_folders: list[Path], tmp_path: Path) -> None:
    for augment in ("none", "flips,jitter,bands"):
        train(two_folders, tmp_path / augment, augment, folds=2)
    (_, plain), (_, augmented) = seen
    assert [len(batch["name"]) for batch in plain] == [2, 1]
    for one, other in zip(plain, augmented, strict=True):
        assert torch.equal(one["target"], other["target"])
        assert torch.equal(one["mask"], other["mask"])


def test_what_is_looked_at_is_what_is_saved(seen: Seen, two_folders: list[Path], tmp_path: Path) -> None:
    """The running mean, not the last weights."""
    train(two_folders, tmp_path / "out", folds=2, ema=0.75, epochs=2)
    saved = torch.load(tmp_path / "out" / "G_2.pth", weights_only=True)
    weights, _ = seen[-1]
    assert all(torch.equal(weights[name], tensor) for name, tensor in saved.items())


def test_the_last_epoch_is_saved_whenever_it_comes(patches: Path, tmp_path: Path) -> None:
    train([patches], tmp_path / "out", epochs=3, save_every=2)
    assert sorted(path.name for path in (tmp_path / "out").glob("G_*.pth")) == ["G_2.pth", "G_3.pth"]


@pytest.mark.parametrize("learning", [True, False])
def test_a_look_leaves_the_network_as_it_was(learning: bool) -> None:
    network = UNet(widths=(4, 8)).train(learning)
    image, mask = torch.rand(1, 3, 32, 32), torch.zeros(1, 1, 32, 32)
    mask[:, :, 8:12] = 1
    batch = Batch(image=image * (1 - mask), edge=mask, mask=mask, target=image, target_edge=mask, name=["a"])
    assert validate(network, [batch]) > 0
    assert network.training is learning
