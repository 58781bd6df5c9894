"""Runs: what they learn, how they go on, and how they end."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboardX.proto.event_pb2 import Event

from ecea.model import GeneratorConfig, load_generator
from ecea.model.refinement import smooth_fill
from ecea.model.regularization import NONE
from ecea.runtime.errors import EceaError, RequestError
from ecea.training.board import Board
from ecea.training.losses import LossWeights
from ecea.training.options import TrainingOptions
from ecea.training.quality import GapError
from ecea.training.run import DataRequest, prepare
from ecea.training.vgg import VggFeatures

Limit = Callable[[int], AbstractContextManager[None]]

TINY = GeneratorConfig(img_size=64, embed_dim=8, depth=(1, 1, 2, 1))
OVERFIT: dict[str, Any] = {
    "config": GeneratorConfig(img_size=64, embed_dim=8, depth=(1, 1, 1, 1)),
    "regularization": NONE,
    "weights": LossWeights(adversarial=0, edge=10),
    "batch_size": 2,
    "lr": 2e-3,
    "betas": (0.9, 0.99),
    "clip_gradient": 1.0,
    "precision": "bf16",
}


def options(**changes: Any) -> TrainingOptions:
    return TrainingOptions(**{"config": TINY, "epochs": 4, "batch_size": 2, "save_every": 2, **changes})


def run(chosen: TrainingOptions, data: Path, output: Path, **more: Any) -> list[str]:
    """Train on the CPU; the lines that it says."""
    how = {name: more.pop(name) for name in ("vgg", "resume", "start_from") if name in more}
    said: list[str] = []
    request = DataRequest([str(data)], **{"tiles_per_epoch": 4, **more})
    prepare(chosen, request, output, device="cpu", **how).trainer.run(said.append, lambda step: None)
    return said


def read(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)


def assert_equal(first: Path, second: Path) -> None:
    a, b = read(first), read(second)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    "more", [{}, {"schedule": "cosine", "ema": 0.9, "optimizer": "muon"}], ids=["published", "cosine, mean and Muon"]
)
def test_a_resumed_run_equals_an_uninterrupted_one(more: dict[str, Any], patches: Path, tmp_path: Path) -> None:
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    run(options(**more), patches, whole, augment="flips,jitter")

    def interrupt(step: Any) -> None:
        if step.epoch == 3:
            raise KeyboardInterrupt

    request = DataRequest([str(patches)], tiles_per_epoch=4, augment="flips,jitter")
    with pytest.raises(KeyboardInterrupt):
        prepare(options(**more), request, parted, device="cpu").trainer.run(lambda line: None, interrupt)
    assert sorted(path.name for path in parted.glob("*.*")) == ["D_2.pth", "G_2.pth", "training.pth"]
    torch.rand(7)  # whatever else draws meanwhile
    run(options(**more), patches, parted, augment="flips,jitter", resume=True)
    for name in ("G_2.pth", "G_4.pth", "D_4.pth"):
        assert_equal(whole / name, parted / name)
    layer = "out.block1.0.weight"
    assert not torch.equal(read(whole / "G_2.pth")[layer], read(whole / "G_4.pth")[layer])


def test_a_refining_run_that_looks_at_held_out_scenes_is_resumed_too(
    patches: Path, tmp_path: Path, write: Callable[..., Path]
) -> None:
    """Looking at them switches modes, which an interrupted run has not done yet when it goes on."""
    other = write("other/0.tif", torch.randint(0, 200, (3, 64, 64), dtype=torch.uint8).numpy())
    request = DataRequest([str(patches), str(other.parent)], folds=2, fold=1, group="folder", tiles_per_epoch=2)

    def train(epochs: int, folder: str, *, resume: bool = False) -> None:
        chosen = refining(epochs=epochs, save_every=1, validation_tiles=1)
        prepared = prepare(chosen, request, tmp_path / folder, device="cpu", resume=resume)
        prepared.trainer.run(lambda line: None, lambda step: None)

    train(2, "whole")
    train(1, "parted")
    train(2, "parted", resume=True)
    assert_equal(tmp_path / "whole" / "G_2.pth", tmp_path / "parted" / "G_2.pth")


def test_checkpoints_are_the_published_ones(patches: Path, tmp_path: Path) -> None:
    run(options(epochs=2), patches, tmp_path / "out")
    generator = load_generator(tmp_path / "out" / "G_2.pth")
    assert generator.config == TINY
    assert read(tmp_path / "out" / "D_2.pth")["conv5.0.weight_orig"].shape == (1, 512, 4, 4)


def test_a_run_learns(patches: Path, tmp_path: Path) -> None:
    """A few steps of what the slow test does to the end."""
    said = run(options(**OVERFIT, epochs=4, save_every=1), patches, tmp_path / "out", tiles_per_epoch=8)
    psnrs = [float(line.split(": ")[1].split(" dB")[0]) for line in said]
    assert len(psnrs) == 4
    assert psnrs[-1] > psnrs[0] + 3


def refining(**changes: Any) -> TrainingOptions:
    weights = LossWeights(adversarial=0, l1=0, edge=0.5, relative=5)
    return options(config=replace(TINY, refine=True), weights=weights, regularization=NONE, **changes)


def test_a_refining_run_begins_as_a_smooth_fill_and_gets_better(patches: Path, tmp_path: Path) -> None:
    chosen = refining(epochs=6, lr=5e-4, betas=(0.9, 0.99), clip_gradient=1.0, save_every=1)
    trainer = prepare(chosen, DataRequest([str(patches)], tiles_per_epoch=10), tmp_path / "out", device="cpu").trainer
    tile = trainer.tiles[1, 0]
    inputs = [tile[name][None] for name in ("image", "edge", "mask")]
    smooth = smooth_fill(inputs[0], inputs[2])
    with torch.no_grad():
        torch.testing.assert_close(trainer.generator(*inputs)[0], smooth, atol=1e-6, rtol=0)
    said: list[str] = []
    trainer.run(said.append, lambda step: None)
    left = [float(line.split("relative ")[1].split(",")[0]) for line in said]
    assert left[-1] < 0.95  # of the smooth fill's error, which it began with
    trained = load_generator(tmp_path / "out" / "G_6.pth")
    assert trained.config.refine
    # Tiles are cut anywhere, so nothing that tells their places apart has learned; what was silent has.
    both = torch.eye(len(trained.concat16.weight)).repeat(1, 2).unsqueeze(-1)
    assert torch.equal(trained.concat16.weight, both)
    assert trained.encoder16.pos_embed.unique().tolist() == [-4, 4]
    assert all(block.mlp.fc2.weight.any() for block in trained.encoder16.blocks)
    # Batch norms have kept the statistics that they began with, from the first step on.
    assert not trained.out.block2.bn1.running_mean.any()


def test_a_run_may_start_from_a_checkpoint(patches: Path, tmp_path: Path) -> None:
    run(refining(epochs=2), patches, tmp_path / "first")
    first = tmp_path / "first" / "G_2.pth"
    run(refining(epochs=1, lr=1e-9), patches, tmp_path / "second", start_from=first)
    a, b = read(first), read(tmp_path / "second" / "G_1.pth")
    assert torch.allclose(a["patch_embed.proj.weight"], b["patch_embed.proj.weight"], atol=1e-6)
    with pytest.raises(RequestError, match=r"G_2\.pth: is a generator of another configuration \(refine True where"):
        run(options(epochs=1), patches, tmp_path / "third", start_from=first)
    with pytest.raises(RequestError, match="does not exist"):
        run(options(epochs=1), patches, tmp_path / "third", start_from=tmp_path / "none.pth")
    assert not (tmp_path / "third").exists()


def test_gradients_are_clipped(patches: Path, tmp_path: Path) -> None:
    """Adam takes steps of one size whatever the gradient's; what it remembers of its square tells."""
    squares = {}
    for norm in (0.0, 1e-3):
        run(options(epochs=1, clip_gradient=norm, weight_decay=0.0), patches, tmp_path / str(norm))
        state = torch.load(tmp_path / str(norm) / "training.pth", weights_only=True)["pair"]["generator_optimizer"][
            "state"
        ]
        squares[norm] = sum(float(entry["exp_avg_sq"].sum()) for entry in state.values())
    assert squares[1e-3] <= 2 * (1e-3) ** 2 * (1 - 0.9995) * 1.01 < squares[0.0]


@pytest.mark.slow
def test_a_short_run_over_fits_two_tiny_images(patches: Path, tmp_path: Path) -> None:
    chosen = options(**OVERFIT, epochs=45, save_every=45, schedule="cosine")
    said = run(chosen, patches, tmp_path / "out", tiles_per_epoch=8, folds=None)
    assert float(said[-1].split(": ")[1].split(" dB")[0]) > 35


def test_all_five_terms_are_told(patches: Path, tmp_path: Path) -> None:
    vgg = tmp_path / "vgg.pth"
    torch.save(VggFeatures().state_dict(), vgg)
    said = run(options(epochs=1), patches, tmp_path / "out", vgg=vgg, tiles_per_epoch=2)
    for term in ("generator", "adversarial", "perceptual", "style", "l1", "edge", "discriminator"):
        assert f"{term} " in said[-1]


def test_tensorboard_gets_curves_and_pictures(patches: Path, tmp_path: Path) -> None:
    run(options(epochs=5, save_every=5), patches, tmp_path / "out")
    (events,) = (tmp_path / "out" / "logs").iterdir()
    content, tags, at = events.read_bytes(), set(), 0
    while at < len(content):  # a record: length, its checksum, the event, its checksum
        length = int.from_bytes(content[at : at + 8], "little")
        event = Event.FromString(content[at + 12 : at + 12 + length])
        tags |= {value.tag for value in event.summary.value}
        at += 12 + length + 4
    assert {"loss/generator", "loss/discriminator", "loss/l1", "PSNR/gaps_in_training", "training"} <= tags


def test_held_out_scenes_are_looked_at(patches: Path, tmp_path: Path, write: Callable[..., Path]) -> None:
    other = write("other/0.tif", torch.randint(0, 200, (3, 64, 64), dtype=torch.uint8).numpy())
    request = DataRequest([str(patches), str(other.parent)], folds=2, fold=1, group="folder", tiles_per_epoch=2)
    prepared = prepare(options(epochs=1, validation_tiles=3), request, tmp_path / "out", device="cpu")
    assert any(line.startswith("held out    other;") for line in prepared.description)
    said: list[str] = []
    prepared.trainer.run(said.append, lambda step: None)
    assert "dB over gaps of held-out scenes" in said[-1]


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_checkpoint(patches: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    request = DataRequest([str(patches)], tiles_per_epoch=4)
    trainer = prepare(options(), request, output, device="cpu").trainer

    def break_it(step: Any) -> None:
        if step.done == 5:  # epoch 3, its first batch
            next(trainer.generator.parameters()).data.fill_(float("nan"))

    with pytest.raises(EceaError) as caught:
        trainer.run(lambda line: None, break_it)
    message = str(caught.value)
    assert message.startswith("epoch 3, batch 2: the generator's loss is nan")
    assert "patches/0.tif at row 0, column 0" in message or "patches/1.tif at row 0, column 0" in message
    # Resumed, it would be refused with another rate.
    assert message.endswith(
        f"{output / 'G_2.pth'} is the last good checkpoint: begin anew in another folder, from it (--start-from), with "
        "a smaller --lr"
    )
    assert all(torch.isfinite(tensor).all() for tensor in read(output / "G_2.pth").values())
    assert not (output / "G_4.pth").exists()


def test_a_loss_that_is_no_number_from_the_first_leaves_nothing(patches: Path, tmp_path: Path) -> None:
    trainer = prepare(options(), DataRequest([str(patches)]), tmp_path / "out", device="cpu").trainer
    next(trainer.generator.parameters()).data.fill_(float("nan"))
    with pytest.raises(EceaError, match=r"epoch 1, batch 1: .* is nan .*: there is no checkpoint yet"):
        trainer.run(lambda line: None, lambda step: None)
    assert not list(tmp_path.glob("out/*"))


def test_a_last_step_that_breaks_the_weights_is_not_saved(patches: Path, tmp_path: Path) -> None:
    """It would lie over the state that a run is resumed from."""
    output = tmp_path / "out"
    request = DataRequest([str(patches)], tiles_per_epoch=4)
    trainer = prepare(options(), request, output, device="cpu").trainer

    def break_it(step: Any) -> None:
        if step.done == 8:  # the last of epoch 4
            next(trainer.generator.parameters()).data.fill_(float("inf"))

    with pytest.raises(EceaError, match=r"epoch 4: its last step broke the weights \(patch.*G_2\.pth is the last good"):
        trainer.run(lambda line: None, break_it)
    assert not (output / "G_4.pth").exists()
    run(options(), patches, output, resume=True)
    assert (output / "G_4.pth").is_file()


def test_a_gradient_that_is_no_number_is_told(patches: Path, tmp_path: Path) -> None:
    trainer = prepare(options(clip_gradient=1.0), DataRequest([str(patches)]), tmp_path / "out", device="cpu").trainer
    next(trainer.generator.parameters()).register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(EceaError, match=r"epoch 1, batch 1: a gradient is not finite.*there is no checkpoint yet"):
        trainer.run(lambda line: None, lambda step: None)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_rates_follow_the_schedule_and_the_discriminator_s_is_a_hundredth(
    schedule: str, patches: Path, tmp_path: Path
) -> None:
    request = DataRequest([str(patches)], tiles_per_epoch=4)  # two steps an epoch, eight in all
    chosen = options(schedule=schedule, lr=1e-3, save_every=4)
    trainer = prepare(chosen, request, tmp_path / "out", device="cpu").trainer
    pair = trainer._pair
    seen: list[list[float]] = []

    def look(step: Any) -> None:
        optimizers = (pair._generator_optimizer, pair._discriminator_adam)
        seen.append([optimizer.param_groups[0]["lr"] for optimizer in optimizers])

    trainer.run(lambda line: None, look)
    shares = [1.0 if schedule == "constant" else (1 + math.cos(math.pi * step / 8)) / 2 for step in range(8)]
    assert [rates[0] for rates in seen] == pytest.approx([1e-3 * share for share in shares])
    assert [rates[1] for rates in seen] == pytest.approx([1e-5 * share for share in shares])


def test_a_running_mean_is_saved(patches: Path, tmp_path: Path) -> None:
    request = DataRequest([str(patches)], tiles_per_epoch=2)  # one step an epoch
    chosen = options(epochs=2, save_every=1, ema=0.75)
    trainer = prepare(chosen, request, tmp_path / "out", device="cpu").trainer
    learned: list[dict[str, torch.Tensor]] = []
    trainer.run(lambda line: None, lambda step: learned.append(copy.deepcopy(trainer.generator.state_dict())))
    first, second = (read(tmp_path / "out" / f"G_{epoch}.pth") for epoch in (1, 2))
    for layer in ("out.block1.0.weight", "res_block1.bn1.running_mean"):
        torch.testing.assert_close(first[layer], learned[0][layer])
        torch.testing.assert_close(second[layer], 0.75 * learned[0][layer] + 0.25 * learned[1][layer])


def test_workers_make_the_same_tiles(patches: Path, tmp_path: Path) -> None:
    for workers in (0, 1):
        run(options(epochs=1, save_every=1), patches, tmp_path / str(workers), augment="flips,jitter", workers=workers)
    assert_equal(tmp_path / "0" / "G_1.pth", tmp_path / "1" / "G_1.pth")


def test_the_error_over_gaps_is_of_gaps_alone() -> None:
    error, real = GapError(), torch.zeros(1, 3, 2, 2)
    made = torch.full_like(real, 0.9)
    made[..., 0, 0] = 0.1
    mask = torch.zeros(1, 1, 2, 2)
    mask[..., 0, 0] = 1
    error.add(made, real, mask)
    assert error.psnr == pytest.approx(20)


def test_errors_that_are_no_number_are_no_perfect_fill() -> None:
    error, zeros = GapError(), torch.zeros(1, 3, 4, 4)
    error.add(torch.full_like(zeros, float("nan")), zeros, torch.ones(1, 1, 4, 4))
    assert math.isnan(error.psnr)


def test_a_disk_that_is_full_of_curves_ends_the_run_and_its_writing_thread(
    tmp_path: Path, files_of_at_most: Limit
) -> None:
    board = Board(tmp_path, 0)
    with files_of_at_most(20_000):
        with pytest.raises(EceaError, match=r"logs: what TensorBoard shows cannot be written there \(File too large\)"):
            for step in range(10_000):
                board.scalars({"loss": 1.0}, step)
        board.close()


def test_an_epoch_of_less_than_a_batch_is_refused(patches: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="an epoch of 2 tiles is less than a batch of 10 on 1 device:"):
        run(options(batch_size=10), patches, tmp_path / "out", tiles_per_epoch=None)
    assert not (tmp_path / "out").exists()


def test_outputs_that_cannot_be_are_refused(patches: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="does not exist: make it"):
        run(options(), patches, tmp_path / "no" / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="is no folder"):
        run(options(), patches, tmp_path / "file")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": GeneratorConfig(img_size=100)}, "an image size of 100 px"),
        ({"config": GeneratorConfig(img_size=64, num_heads=(3, 2, 4, 8))}, "heads do not divide"),
        ({"config": GeneratorConfig(depth=(1, 2, 3))}, "four --depth"),
        ({"epochs": 0}, "epochs 0 is out of range: expected above 0"),
        ({"lr": float("nan")}, "lr nan is out of range"),
        ({"lr": 1e300}, r"lr 1e\+300 is out of range: expected above 0 and below 1e\+30"),
        ({"ema": 1.0}, "ema 1 is out of range: expected at least 0 and below 1"),
        ({"schedule": "linear"}, "expected one of constant, cosine"),
        ({"precision": "int8"}, "expected one of fp32, bf16, fp16"),
    ],
)
def test_options_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        TrainingOptions(**changes)


@pytest.mark.parametrize(
    ("changes", "with_vgg", "message"),
    [
        ({"weights": LossWeights(l1=0)}, False, "nothing says what to paint"),
        ({"weights": LossWeights(l1=0, adversarial=0), "network": "unet"}, False, "nothing says what to paint"),
        ({"weights": LossWeights(l1=0, perceptual=0, style=0)}, False, "nothing says what to paint"),
        ({"weights": LossWeights(perceptual=0, style=0)}, True, r"vgg\.pth: .*neither has a weight: leave out --vgg"),
    ],
)
def test_a_loss_that_teaches_nothing_is_refused(
    changes: dict[str, Any], with_vgg: bool, message: str, patches: Path, tmp_path: Path
) -> None:
    """An edge map can be learned, and no picture with it."""
    torch.save(VggFeatures().state_dict(), tmp_path / "vgg.pth")
    with pytest.raises(RequestError, match=message):
        run(options(**changes), patches, tmp_path / "out", vgg=tmp_path / "vgg.pth" if with_vgg else None)


def test_the_loss_is_described_as_it_is(patches: Path, tmp_path: Path) -> None:
    torch.save(VggFeatures().state_dict(), tmp_path / "vgg.pth")
    request = DataRequest([str(patches)])

    def described(weights: LossWeights, vgg: Path | None = None, **changes: Any) -> str:
        chosen = options(weights=weights, **changes)
        lines = prepare(chosen, request, tmp_path / "out", device="cpu", vgg=vgg).description
        return next(line for line in lines if line.startswith("loss"))

    assert described(LossWeights(l1=0), tmp_path / "vgg.pth").endswith("edge L1 80, perceptual 0.5, style 10000")
    assert described(LossWeights(perceptual=0, style=0)).endswith("L1 100, edge L1 80")
    assert "adversarial 1, L1 100; the perceptual" in described(LossWeights(), network="unet")


def test_defaults_are_the_published_ones() -> None:
    published = TrainingOptions()
    assert (published.lr, published.betas, published.weight_decay) == (5e-4, (0.95, 0.9995), 1e-5)
    assert (published.batch_size, published.epochs, published.discriminator_lr) == (10, 500, 0.01)
    regularization = published.regularization
    assert (regularization.dropout, regularization.attention, regularization.drop_path) == (0.2, 0.3, 0.2)
    assert (published.gap_weight, published.ema, published.schedule) == (1, 0, "constant")
