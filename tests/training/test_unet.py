"""The U-Net, and the generator that learns from it or refines what it draws."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ecea.model import CheckpointError, Generator, GeneratorConfig, UNet, load_generator, load_unet
from ecea.model.refinement import level_and_contrast, smooth_fill
from ecea.model.regularization import NONE
from ecea.runtime.errors import RequestError
from ecea.training.losses import LossWeights
from ecea.training.networks import FillOnly, build
from ecea.training.options import TrainingOptions
from ecea.training.run import DataRequest, prepare

SIZE = 64
CONFIG = GeneratorConfig(img_size=SIZE, embed_dim=8, depth=(1, 1, 1, 1), refine=True)
RELATIVE = LossWeights(adversarial=0, l1=0, edge=0, relative=5)
HALF_A_DEVIATION = 0.5


def options(**changes: object) -> TrainingOptions:
    chosen = TrainingOptions(
        config=CONFIG, weights=RELATIVE, regularization=NONE, batch_size=2, lr=1e-3, clip_gradient=1.0, optimizer="muon"
    )
    return replace(chosen, **changes)


def run(chosen: TrainingOptions, patches: Path, output: Path, **how: Path | bool) -> list[str]:
    """Train; what is said before and while it goes on."""
    prepared = prepare(chosen, DataRequest([str(patches)], tiles_per_epoch=8), output, device="cpu", **how)
    said = list(prepared.description)
    prepared.trainer.run(said.append, lambda step: None)
    return said


def tiles() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two tiles of smooth ground, with a stripe."""
    x = torch.linspace(0, 6, SIZE)
    ground = 0.5 + 0.2 * torch.sin(x)[:, None] * torch.cos(x)[None]
    mask = torch.zeros(2, 1, SIZE, SIZE)
    mask[:, :, 24:32] = 1
    return ground.expand(2, 3, SIZE, SIZE) * (1 - mask), torch.zeros(2, 1, SIZE, SIZE), mask


def brightening(path: Path) -> Path:
    """A teacher that makes every fill brighter by half a deviation."""
    teacher = UNet()
    torch.nn.init.constant_(teacher.last.bias, HALF_A_DEVIATION)
    torch.save(teacher.state_dict(), path)
    return path


def brighter(generator: Generator) -> float:
    """How much brighter than the smooth fill a stripe is, in deviations."""
    image, edge, mask = tiles()
    filled = smooth_fill(image, mask)
    with torch.no_grad():
        change = (generator(image, edge, mask)[0] - filled) / level_and_contrast(filled)[1]
    return float((change * mask).sum() / (3 * mask.sum()))


def test_a_unet_begins_as_the_smooth_fill_and_learns(patches: Path, tmp_path: Path) -> None:
    image, edge, mask = tiles()
    made, same_edge = UNet()(image, edge, mask)
    torch.testing.assert_close(made, smooth_fill(image, mask))
    assert torch.equal(same_edge, edge)
    said = run(options(network="unet", epochs=6, save_every=1), patches, tmp_path / "out")
    assert any(line.startswith("U-Net       1.63 M parameters, tiles of 64 px, refines") for line in said)
    left = [float(line.split("relative ")[1].split(",")[0].split(";")[0]) for line in said if line.startswith("epoch")]
    assert left[-1] < 0.97
    trained = load_unet(tmp_path / "out" / "U_6.pth", 3)
    assert not torch.allclose(trained(image, edge, mask)[0], smooth_fill(image, mask), atol=1e-3)


@pytest.mark.parametrize("coarse", [(), (4, 8)])
def test_a_smooth_fill_that_is_there_already_is_taken(coarse: tuple[int, ...]) -> None:
    """Training needs it as well, and makes it once."""
    network = build(replace(options(), config=replace(CONFIG, coarse=coarse))).eval()
    inputs = tiles()
    smooth = smooth_fill(inputs[0], inputs[2])
    with torch.no_grad():
        made = network(*inputs)[0]
        assert torch.equal(network(*inputs, smooth)[0], made)
        assert not torch.allclose(network(*inputs, 0.9 * smooth)[0], made, atol=1e-2)


def test_a_generator_learns_what_its_teacher_draws(patches: Path, tmp_path: Path) -> None:
    """Nothing in the truth is brighter than around it, so it is learned from the teacher alone."""
    teacher = brightening(tmp_path / "teacher.pth")
    said = run(options(epochs=5, save_every=5), patches, tmp_path / "taught", teacher=teacher)
    assert any(line.endswith(f"taught by {teacher}") for line in said)
    run(options(epochs=5, save_every=5), patches, tmp_path / "untaught")
    taught = brighter(load_generator(tmp_path / "taught" / "G_5.pth"))
    untaught = brighter(load_generator(tmp_path / "untaught" / "G_5.pth"))
    assert taught > HALF_A_DEVIATION / 2
    assert abs(untaught) < taught / 2


def test_a_run_is_resumed_with_its_teacher_alone(patches: Path, tmp_path: Path) -> None:
    teacher, other = brightening(tmp_path / "teacher.pth"), tmp_path / "other.pth"
    torch.save(UNet().state_dict(), other)
    run(options(epochs=1), patches, tmp_path / "out", teacher=teacher)
    for wrong in ({"teacher": other}, {}):
        with pytest.raises(RequestError, match="was trained with teacher"):
            run(options(epochs=2), patches, tmp_path / "out", resume=True, **wrong)
    run(options(epochs=2), patches, tmp_path / "out", resume=True, teacher=teacher)
    assert (tmp_path / "out" / "G_2.pth").is_file()


def test_a_generator_refines_what_its_coarse_network_draws(patches: Path, tmp_path: Path) -> None:
    unet = brightening(tmp_path / "unet.pth")
    first = build(replace(options(), config=replace(CONFIG, coarse=UNet().widths)), coarse=load_unet(unet, 3))
    inputs = tiles()
    with torch.no_grad():
        torch.testing.assert_close(first.eval()(*inputs)[0], load_unet(unet, 3)(*inputs)[0], atol=1e-5, rtol=0)
    said = run(options(epochs=5, save_every=5), patches, tmp_path / "out", coarse=unet)
    assert any(line.endswith(f"refines the fill of {unet}") for line in said)
    checkpoint = tmp_path / "out" / "G_5.pth"
    trained, kept = load_generator(checkpoint), load_unet(checkpoint, 3)
    assert trained.config == replace(CONFIG, coarse=UNet().widths)
    for name, tensor in torch.load(unet).items():
        torch.testing.assert_close(kept.state_dict()[name], tensor, atol=0, rtol=0)
    # Half a deviation too bright, of which training takes some back.
    assert 0 < brighter(trained) < 0.95 * HALF_A_DEVIATION


def test_a_run_is_resumed_with_its_coarse_network_alone(patches: Path, tmp_path: Path) -> None:
    unet, other = brightening(tmp_path / "unet.pth"), tmp_path / "other.pth"
    torch.save(UNet().state_dict(), other)
    run(options(epochs=1), patches, tmp_path / "out", coarse=unet)
    for wrong in ({"coarse": other}, {}):
        with pytest.raises(RequestError, match=r"was trained with coarse"):
            run(options(epochs=2), patches, tmp_path / "out", resume=True, **wrong)
    # The checkpoint itself has it, too.
    for epochs, same in ((2, unet), (3, tmp_path / "out" / "G_2.pth")):
        run(options(epochs=epochs), patches, tmp_path / "out", resume=True, coarse=same)
    with pytest.raises(RequestError, match=r"another configuration \(coarse .* where \(\) was asked for\)"):
        run(options(), patches, tmp_path / "more", start_from=tmp_path / "out" / "G_3.pth")
    with pytest.raises(RequestError, match="leave out --coarse or --network unet"):
        run(options(network="unet"), patches, tmp_path / "more", coarse=unet)


def test_a_generator_with_a_coarse_network_that_no_tile_has_is_refused(tmp_path: Path) -> None:
    whole = Generator(replace(CONFIG, coarse=(4, 4))).state_dict()
    deep = Generator(replace(CONFIG, coarse=(4,) * 7)).state_dict()
    torch.save(deep, tmp_path / "deep.pth")
    with pytest.raises(CheckpointError, match=r"deep\.pth has a coarse network of the widths \[4, 4, 4, 4, 4, 4, 4\]"):
        load_generator(tmp_path / "deep.pth")
    del whole["coarse.last.bias"]
    torch.save(whole, tmp_path / "part.pth")
    with pytest.raises(CheckpointError, match=r"part\.pth lacks 'coarse\.last\.bias'"):
        load_generator(tmp_path / "part.pth")


def test_what_is_no_unet_is_refused(patches: Path, tmp_path: Path) -> None:
    generator = tmp_path / "G_1.pth"
    torch.save(Generator(CONFIG).state_dict(), generator)
    with pytest.raises(RequestError, match=r"G_1\.pth is not the checkpoint of a U-Net; expected one that"):
        run(options(), patches, tmp_path / "out", teacher=generator)
    with pytest.raises(RequestError, match=r"G_1\.pth is not the checkpoint of a U-Net"):
        run(options(network="unet"), patches, tmp_path / "out", start_from=generator)
    with pytest.raises(RequestError, match="does not exist"):
        run(options(), patches, tmp_path / "out", teacher=tmp_path / "none.pth")
    with pytest.raises(RequestError, match="a U-Net refines a smooth fill, to the truth: leave out --teacher"):
        run(options(network="unet"), patches, tmp_path / "out", teacher=brightening(tmp_path / "teacher.pth"))
    torch.save(UNet(bands=4).state_dict(), tmp_path / "four.pth")
    with pytest.raises(CheckpointError, match=r"four\.pth is a U-Net from 5 to 4 channels; expected one from 4"):
        load_unet(tmp_path / "four.pth", 3)
    torch.save(UNet(widths=(4,) * 7).state_dict(), tmp_path / "deep.pth")
    with pytest.raises(CheckpointError, match=r"deep\.pth is a U-Net of 7 levels; expected 6 at most"):
        load_unet(tmp_path / "deep.pth", 3)
    torch.save(UNet().state_dict() | {"last.bias": torch.zeros(())}, tmp_path / "scalar.pth")
    with pytest.raises(CheckpointError, match=r"scalar\.pth is not the checkpoint of a U-Net"):
        load_unet(tmp_path / "scalar.pth", 3)
    assert build(options(network="unet"), UNet(widths=(4, 8)).state_dict()).widths == (4, 8)
    broken = UNet()
    torch.nn.init.constant_(broken.last.bias, float("nan"))
    torch.save(broken.state_dict(), tmp_path / "nan.pth")
    with pytest.raises(
        CheckpointError, match=r"nan\.pth holds a NaN or an infinity in 'last\.bias'; .* training diverged"
    ):
        load_unet(tmp_path / "nan.pth", 3)
    torch.save(UNet().state_dict() | {"last.bias": torch.zeros(3, dtype=torch.int64)}, tmp_path / "whole.pth")
    with pytest.raises(CheckpointError, match=r"whole\.pth differs in 'last\.bias' is int64 \[3\], expected float32"):
        load_unet(tmp_path / "whole.pth", 3)
    assert not (tmp_path / "out").exists()


@pytest.mark.timeout(60)
def test_a_unet_that_asks_for_endless_memory_is_refused(tmp_path: Path) -> None:
    """Shapes are compared before a network is built, which would take minutes and all memory."""
    state = UNet().state_dict()
    torch.save(state | {"down.0.conv1.bias": torch.zeros(1).expand(100_000_000)}, tmp_path / "view.pth")
    with pytest.raises(CheckpointError, match=r"holds 'down\.0\.conv1\.bias' with 100000000 elements in a file of"):
        load_unet(tmp_path / "view.pth", 3)
    torch.save(state | {"down.0.conv1.bias": torch.zeros(1_000_000)}, tmp_path / "wide.pth")
    with pytest.raises(CheckpointError, match=r"wide\.pth differs in 'first\.weight' is float32 \[24, 4, 3, 3\]"):
        load_unet(tmp_path / "wide.pth", 3)


def test_a_unet_of_other_widths_is_resumed(patches: Path, tmp_path: Path) -> None:
    """What it started from is not named again."""
    torch.manual_seed(2)
    torch.save(UNet(widths=(4, 8)).state_dict(), tmp_path / "start.pth")
    chosen = {"network": "unet", "save_every": 1, "ema": 0.9}
    run(options(epochs=3, **chosen), patches, tmp_path / "whole", start_from=tmp_path / "start.pth")
    run(options(epochs=2, **chosen), patches, tmp_path / "parted", start_from=tmp_path / "start.pth")
    run(options(epochs=3, **chosen), patches, tmp_path / "parted", resume=True)
    whole, parted = (load_unet(tmp_path / name / "U_3.pth", 3).state_dict() for name in ("whole", "parted"))
    assert all(torch.equal(tensor, parted[name]) for name, tensor in whole.items())


def test_a_generator_that_looks_at_its_edge_map_goes_on_looking_at_it(patches: Path, tmp_path: Path) -> None:
    whole = Generator(CONFIG)
    torch.nn.init.normal_(whole.out_s_patch_embed.proj.weight, std=0.1)
    torch.save(whole.state_dict(), tmp_path / "start.pth")
    run(options(epochs=1), patches, tmp_path / "out", start_from=tmp_path / "start.pth")
    request = DataRequest([str(patches)], tiles_per_epoch=8)
    resumed = prepare(options(epochs=2), request, tmp_path / "out", device="cpu", resume=True).trainer.generator
    assert isinstance(resumed, Generator)
    assert not isinstance(resumed, FillOnly)


def test_a_tensor_too_few_or_too_many_is_named(tmp_path: Path) -> None:
    state = UNet(widths=(4, 8)).state_dict()
    torch.save({name: tensor for name, tensor in state.items() if name != "up.0.skip.bias"}, tmp_path / "few.pth")
    with pytest.raises(CheckpointError, match=r"few\.pth lacks 'up\.0\.skip\.bias'; expected the \d+ tensors of an"):
        load_unet(tmp_path / "few.pth", 3)
    torch.save(state | {"up.1.conv1.bias": torch.zeros(3)}, tmp_path / "many.pth")
    with pytest.raises(CheckpointError, match=r"many\.pth holds 'up\.1\.conv1\.bias', which the U-Net does not have"):
        load_unet(tmp_path / "many.pth", 3)


def test_a_unet_is_no_generator(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"teacher\.pth is the checkpoint of a U-Net.*--coarse"):
        load_generator(brightening(tmp_path / "teacher.pth"))


def test_another_network_is_told_by_its_name_and_options_that_do_nothing_to_it_are_free(
    patches: Path, tmp_path: Path
) -> None:
    run(options(network="unet", epochs=1), patches, tmp_path / "out")
    with pytest.raises(RequestError, match=r"was trained with network unet, now it is ecea"):
        run(options(epochs=2), patches, tmp_path / "out", resume=True)
    other = replace(CONFIG, embed_dim=16, refine=False)
    edge = replace(RELATIVE, edge=80)
    run(options(network="unet", epochs=2, config=other, weights=edge), patches, tmp_path / "out", resume=True)
    assert (tmp_path / "out" / "U_2.pth").is_file()


def test_without_an_edge_term_no_edge_map_is_drawn_and_the_picture_is_the_same() -> None:
    torch.manual_seed(0)
    alone = build(options())
    assert isinstance(alone, FillOnly)
    torch.nn.init.normal_(alone.out.block8[2].weight, std=0.05)
    whole = Generator(CONFIG)
    whole.load_state_dict(alone.state_dict())
    inputs = tiles()
    with torch.no_grad():
        torch.testing.assert_close(alone.eval()(*inputs)[0], whole.eval()(*inputs)[0])
    assert not any(parameter.requires_grad for parameter in alone.out_s.parameters())
    # But where the picture depends on the edge map, that is drawn.
    torch.nn.init.ones_(whole.out_s_patch_embed.proj.weight)
    assert not isinstance(build(options(), whole.state_dict()), FillOnly)
    assert not isinstance(build(options(weights=replace(RELATIVE, edge=1))), FillOnly)
