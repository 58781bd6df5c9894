"""The losses against numbers worked out by hand, and against the published formulas."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from ecea.runtime.errors import RequestError
from ecea.training.discriminator import Discriminator
from ecea.training.initialization import initialize
from ecea.training.losses import (
    PERCEPTUAL_LAYERS,
    STYLE_LAYERS,
    LossWeights,
    deceived,
    discriminator_loss,
    gram,
    perceptual,
    relative_error,
    style,
    total,
    weighted_l1,
)
from ecea.training.vgg import VggFeatures, load_vgg


def test_the_weights_are_the_published_ones() -> None:
    assert LossWeights() == LossWeights(adversarial=1, perceptual=0.5, style=10_000, l1=100, edge=80)


def test_the_loss_is_the_mean_of_five_weighted_terms() -> None:
    terms = {"adversarial": 0.5, "perceptual": 2.0, "style": 0.001, "l1": 0.1, "edge": 0.2}
    tensors = {name: torch.tensor(value) for name, value in terms.items()}
    assert float(total(tensors, LossWeights())) == pytest.approx((0.5 + 1 + 10 + 10 + 16) / 5)
    # Without VGG-19 the others weigh as before.
    del tensors["perceptual"], tensors["style"]
    assert float(total(tensors, LossWeights())) == pytest.approx((0.5 + 10 + 16) / 5)


def test_adversarial_terms_are_l1_to_ones_and_zeros() -> None:
    made, real = torch.tensor([0.2, 0.4]), torch.tensor([0.9, 0.5])
    assert float(deceived(made)) == pytest.approx((0.8 + 0.6) / 2)
    assert float(discriminator_loss(made, real)) == pytest.approx((0.3 + 0.3) / 2)


def test_gram_of_two_channels() -> None:
    activations = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])
    expected = torch.tensor([[[5.0, 11.0], [11.0, 25.0]]]) / (2 * 1 * 2)
    torch.testing.assert_close(gram(activations), expected)


def test_perceptual_and_style_sum_over_their_layers_alone() -> None:
    names = {*PERCEPTUAL_LAYERS, *STYLE_LAYERS, "relu1_2"}
    real = {name: torch.ones(1, 2, 3, 3) for name in names}
    made = {name: torch.full((1, 2, 3, 3), 3.0) for name in names}
    assert float(perceptual(made, real)) == pytest.approx(5 * 2)
    # Every entry of the Gram matrices: 9 products over 2 * 9; 9 / 18 made, 1 / 18 of it real.
    assert float(style(made, real)) == pytest.approx(4 * (9 - 1) / 2)


def test_gap_weight_is_a_weighted_mean() -> None:
    made, real = torch.tensor([0.4, 0.1, 0.0, 0.0]).reshape(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)
    mask = torch.tensor([1.0, 0, 0, 0]).reshape(1, 1, 2, 2)
    assert float(weighted_l1(made, real, mask)) == pytest.approx(0.125)
    assert float(weighted_l1(made, real, mask, 5.0)) == pytest.approx((5 * 0.4 + 0.1) / (5 + 3))
    assert float(weighted_l1(made, real, mask, 1e9)) == pytest.approx(0.4)


def test_relative_error_is_the_share_of_the_smooth_fill_s_that_is_left() -> None:
    """A tile with half its error left, and one of four times the roughness that is as it was."""
    mask = torch.tensor([1.0, 1, 0, 0]).reshape(1, 1, 2, 2).expand(2, 1, 2, 2)
    real, smooth = torch.zeros(2, 1, 2, 2), torch.ones(2, 1, 2, 2) * torch.tensor([1.0, 4]).reshape(2, 1, 1, 1)
    made = smooth * torch.tensor([0.5, 1]).reshape(2, 1, 1, 1)
    made[:, :, 1] = 7  # outside the gap
    calm, rough = (float(relative_error(*(x[at : at + 1] for x in (made, real, smooth, real, mask)))) for at in (0, 1))
    assert (calm, rough) == pytest.approx((0.25, 1), rel=1e-3)
    # Squared errors of 1 and 16: the rougher tile weighs four times as much.
    assert float(relative_error(made, real, smooth, real, mask)) == pytest.approx((0.25 + 4 * 1) / 5, rel=1e-3)
    assert float(relative_error(smooth, real, smooth, real, mask)) == pytest.approx(1, rel=1e-3)
    assert float(relative_error(made, real, smooth, real, 0 * mask)) == 0  # nothing hidden in any tile
    # Where nothing was wrong, an error of a hundredth counts as one.
    nothing = torch.zeros(1, 3, 2, 2)
    assert float(relative_error(nothing + 0.01, nothing, nothing, nothing, mask[:1])) == pytest.approx(1)


def test_what_a_teacher_wants_counts_beside_the_error_in_truth() -> None:
    mask = torch.ones(1, 1, 2, 2)
    real, smooth, wanted = torch.zeros(1, 3, 2, 2), torch.full((1, 3, 2, 2), 0.8), torch.full((1, 3, 2, 2), 0.6)
    assert float(relative_error(smooth, wanted, smooth, real, mask)) == pytest.approx((0.2 / 0.8) ** 2, rel=1e-3)
    assert float(relative_error(wanted, wanted, smooth, real, mask)) == 0


def test_discriminator_has_the_published_shape() -> None:
    discriminator = Discriminator()
    widths = [3, 64, 128, 256, 512, 1]
    weights = sum(16 * a * b for a, b in pairwise(widths))  # 4x4 kernels, no bias
    assert sum(parameter.numel() for parameter in discriminator.parameters()) == weights
    judgement = discriminator(torch.rand(2, 3, 256, 256))
    assert judgement.shape == (2, 1, 30, 30)
    assert 0 < judgement.min() < judgement.max() < 1
    assert "conv1.0.weight_orig" in discriminator.state_dict()


def test_spectral_norm_bounds_the_discriminators_weights() -> None:
    discriminator = Discriminator()
    for _ in range(50):  # power iterations
        discriminator(torch.rand(1, 3, 32, 32))
    for layers in discriminator.children():
        convolution = layers[0]
        assert isinstance(convolution, nn.Conv2d)
        assert float(torch.linalg.matrix_norm(convolution.weight.detach().flatten(1), 2)) == pytest.approx(1, abs=0.05)


def test_initialization_is_the_published_one() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(8, 64, 3), nn.BatchNorm2d(64), nn.Linear(64, 64))
    initialize(network)
    for layer in (network[0], network[2]):
        assert float(layer.weight.detach().std()) == pytest.approx(0.02, rel=0.05)
        assert not layer.bias.any()
    assert float(network[1].weight.detach().mean()) == pytest.approx(1, abs=0.01)


def test_vgg_is_read_from_the_usual_layout(tmp_path) -> None:
    vgg = VggFeatures()
    state = dict(vgg.state_dict())
    assert {"features.0.weight", "features.34.bias"} <= state.keys()
    assert len(state) == 32
    path = tmp_path / "vgg19.pth"
    torch.save(state | {"classifier.0.bias": torch.zeros(3)}, path)
    read = load_vgg(path)
    picture = torch.rand(1, 3, 32, 32, requires_grad=True)
    features = read(picture)
    assert features["relu1_1"].shape == (1, 64, 32, 32)
    assert features["relu3_4"].shape == (1, 256, 8, 8)
    assert features["relu5_4"].shape == (1, 512, 2, 2)
    by_hand = torch.relu(nn.functional.conv2d(picture, state["features.0.weight"], state["features.0.bias"], padding=1))
    torch.testing.assert_close(features["relu1_1"], by_hand)
    perceptual(features, read(torch.rand(1, 3, 32, 32))).backward()
    assert picture.grad is not None  # it goes through the features, and not into them
    assert not any(parameter.requires_grad for parameter in read.parameters())


def test_another_network_is_not_taken_for_vgg(tmp_path) -> None:
    path = tmp_path / "other.pth"
    torch.save({"features.0.weight": torch.zeros(3)}, path)
    with pytest.raises(RequestError, match=r"other\.pth: has 32 tensors .* expected the state dict of VGG-19"):
        load_vgg(path)
    with pytest.raises(RequestError, match=r"absent\.pth does not exist.*--vgg takes"):
        load_vgg(tmp_path / "absent.pth")


def test_the_published_discriminator_step_is_what_one_pass_gives() -> None:
    """Judged together or apart: nothing mixes the tiles of a batch."""
    discriminator = Discriminator().eval()
    made, real = torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64)
    together = discriminator(torch.cat([made, real])).chunk(2)
    for joint, apart in zip(together, (discriminator(made), discriminator(real)), strict=True):
        assert np.abs((joint - apart).detach().numpy()).max() < 1e-6
