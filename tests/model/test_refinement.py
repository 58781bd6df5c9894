"""A smooth fill, and the generator that refines it."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from ecea.model import Generator, GeneratorConfig
from ecea.model.refinement import EXPECTED, NEUTRAL, level_and_contrast, smooth_fill
from ecea.model.untrained import untrained_state_dict
from ecea.runtime.sample import terrain

SIZE = 32
PLAIN = GeneratorConfig(img_size=64, embed_dim=8, depth=(1, 1, 1, 1))
REFINING = GeneratorConfig(img_size=64, embed_dim=8, depth=(1, 1, 1, 1), refine=True)


def stripes(size: int, width: int, period: int = 33) -> Tensor:
    return ((torch.arange(size) % period) < width).float()[None, None, :, None].expand(1, 1, size, size)


def most_likely(image: Tensor, gaps: Tensor) -> Tensor:
    """The fill by which each pixel is what is expected of it: (H, W), solved as a system of equations."""
    height, width = image.shape
    inside = gaps.flatten().numpy()
    matrix, right = np.eye(inside.size), image.flatten().numpy().astype(np.float64).copy()
    for place in np.flatnonzero(inside):
        row, column = divmod(int(place), width)
        right[place] = 0
        for (down, across), weight in np.ndenumerate(np.array(EXPECTED)):
            r, c = np.clip(row + down - 2, 0, height - 1), np.clip(column + across - 2, 0, width - 1)
            matrix[place, r * width + c] -= weight
    return torch.from_numpy(np.linalg.solve(matrix, right).reshape(height, width)).float()


@given(seed=st.integers(0, 2**31), share=st.floats(0, 1), size=st.sampled_from([16, 24, 40]))
@settings(max_examples=25)
def test_what_is_known_stays_and_what_is_filled_is_near_its_range(seed: int, share: float, size: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(2, 3, size, size, generator=generator)
    mask = (torch.rand(2, 1, size, size, generator=generator) < share).float()
    filled = smooth_fill(image, mask)
    known = (mask == 0).expand_as(image)
    assert torch.equal(filled[known], image[known])
    for tile in range(2):
        for band in range(3):
            there = image[tile, band][mask[tile, 0] == 0]
            if there.numel():
                beyond = 0.5 * (there.max() - there.min()) + 1e-5
                assert filled[tile, band].min() >= there.min() - beyond
                assert filled[tile, band].max() <= there.max() + beyond


@given(seed=st.integers(0, 2**31))
@settings(max_examples=10)
def test_what_stands_in_gaps_is_not_looked_at(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(1, 3, SIZE, SIZE, generator=generator)
    mask = stripes(SIZE, 6, 16)
    other = torch.where(mask > 0, torch.rand(image.shape, generator=generator), image)
    assert torch.equal(smooth_fill(image, mask), smooth_fill(other, mask))


def test_a_tile_that_is_missing_altogether_is_filled_with_0() -> None:
    assert torch.equal(
        smooth_fill(torch.ones(1, 3, SIZE, SIZE), torch.ones(1, 1, SIZE, SIZE)), torch.zeros(1, 3, SIZE, SIZE)
    )


@pytest.mark.parametrize(("width", "share"), [(2, 0.0158), (8, 0.0522), (14, 0.077)])
def test_it_is_near_the_solution_of_the_field_s_equations(width: int, share: float) -> None:
    """Compared with how far the mean of all that is known is from it."""
    image = torch.from_numpy(terrain(48, 48, seed=1)[:1].copy())
    mask = stripes(48, width)
    filled = smooth_fill(image[None], mask)[0, 0]
    solution = most_likely(image[0], mask[0, 0] > 0)
    mean = image[0][mask[0, 0] == 0].mean()
    distance = (filled - solution)[mask[0, 0] > 0].square().mean().sqrt()
    assert distance < share * (mean - solution)[mask[0, 0] > 0].square().mean().sqrt()


def test_weights_of_what_is_expected_add_up_to_one() -> None:
    """So that an even ground is filled evenly."""
    assert np.sum(EXPECTED) == pytest.approx(1, abs=1e-12)


def test_an_even_ground_of_which_little_is_known_is_filled_evenly() -> None:
    mask = torch.ones(1, 1, 64, 64)
    mask[:, :, 5::16, 3::16] = 0
    filled = smooth_fill(torch.full((1, 3, 64, 64), 0.5), mask)
    torch.testing.assert_close(filled, torch.full((1, 3, 64, 64), 0.5))


def test_a_ground_of_one_brightness_has_the_least_contrast() -> None:
    level, contrast = level_and_contrast(torch.full((1, 3, 64, 64), 0.5))
    torch.testing.assert_close((level, contrast), (torch.full_like(level, 0.5), torch.full_like(contrast, 2e-3)))


def test_training_in_half_precision_fills_in_full_precision() -> None:
    image = torch.from_numpy(terrain(SIZE, SIZE, seed=4))[None]
    mask = stripes(SIZE, 8, 20)
    with torch.autocast("cpu", torch.bfloat16):
        filled = smooth_fill(image, mask)
    assert torch.equal(filled, smooth_fill(image, mask))


def test_a_brightness_that_rises_evenly_is_continued_through_a_stripe() -> None:
    ramp = torch.linspace(0.2, 0.8, 64)[:, None].expand(1, 1, 64, 64)
    mask = torch.zeros(1, 1, 64, 64)
    mask[:, :, 28:36] = 1
    filled = smooth_fill(ramp, mask)[0, 0, :, 32]
    assert all(low < high for low, high in pairwise(filled.tolist()))
    assert (filled - ramp[0, 0, :, 32]).abs().max() < 0.02


def generator(config: GeneratorConfig) -> Generator:
    made = Generator(config)
    made.load_state_dict(untrained_state_dict(config, seed=3))
    return made.eval()


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    image = torch.from_numpy(terrain(64, 64, seed=1))[None]
    mask = stripes(64, 9)
    return image * (1 - mask), torch.zeros(1, 1, 64, 64), mask


def test_a_refining_generator_is_the_published_one_on_the_smooth_fill_of_unit_contrast() -> None:
    image, edge, mask = inputs()
    smooth = smooth_fill(image, mask)
    level, contrast = smooth.mean((2, 3), keepdim=True), smooth.std((2, 3), keepdim=True, correction=0)
    with torch.no_grad():
        drawn, drawn_edge = generator(PLAIN)((smooth - level) / contrast, edge, mask)
        out, out_edge = generator(REFINING)(image, edge, mask)
    torch.testing.assert_close(out_edge, drawn_edge)
    torch.testing.assert_close(out, (smooth + 4 * contrast * (drawn - NEUTRAL)).clamp(0, 1))
    assert not torch.equal(out, smooth)


def test_a_dark_scene_is_refined_like_a_bright_one() -> None:
    """A fifth of the contrast, another level: the same change, a fifth as large."""
    image, edge, mask = inputs()
    dark = (0.2 * image + 0.1) * (1 - mask)
    refining = generator(REFINING)
    with torch.no_grad():
        change = refining(image, edge, mask)[0] - smooth_fill(image, mask)
        dark_change = refining(dark, edge, mask)[0] - smooth_fill(dark, mask)
    inside = (change + smooth_fill(image, mask)).clamp(0.01, 0.99) == change + smooth_fill(image, mask)
    assert inside.float().mean() > 0.5
    torch.testing.assert_close(dark_change[inside], 0.2 * change[inside], atol=1e-4, rtol=1e-2)


@pytest.mark.parametrize("side", [96, 256])
def test_level_and_contrast_are_mean_and_deviation(side: int) -> None:
    tile = torch.from_numpy(terrain(side, side, seed=5))[None]
    level, contrast = level_and_contrast(tile)
    torch.testing.assert_close(level, tile.mean((2, 3), keepdim=True))
    torch.testing.assert_close(contrast, tile.std((2, 3), keepdim=True, correction=0))


def test_half_precision_knows_the_contrast_of_a_dark_lake() -> None:
    """Squares of deviations as small as these are below what FP16 holds with all its digits."""
    lake = 0.02 + 0.02 * torch.from_numpy(terrain(256, 256, seed=6))[None]
    _, contrast = level_and_contrast(lake.half())
    torch.testing.assert_close(contrast.float(), lake.std((2, 3), keepdim=True, correction=0), rtol=0.02, atol=0)


def test_an_even_tile_is_left_alone() -> None:
    _, edge, mask = inputs()
    with torch.no_grad():
        out, _ = generator(REFINING)(torch.full((1, 3, 64, 64), 0.3) * (1 - mask), edge, mask)
    assert (out - 0.3).abs().max() < 0.01


def test_batch_norms_of_a_refining_generator_learn_nothing_of_batches() -> None:
    training = generator(REFINING).train()
    before = {name: value.clone() for name, value in training.named_buffers()}
    torch.testing.assert_close(training(*inputs()), generator(REFINING)(*inputs()))
    assert all(torch.equal(value, before[name]) for name, value in training.named_buffers())


def test_a_silent_last_layer_leaves_the_smooth_fill() -> None:
    image, edge, mask = inputs()
    silent = generator(REFINING)
    nn.init.zeros_(silent.out.block8[2].weight)
    nn.init.zeros_(silent.out.block8[2].bias)
    with torch.no_grad():
        out, _ = silent(image, edge, mask)
    torch.testing.assert_close(out, smooth_fill(image, mask), atol=1e-6, rtol=0)


def test_it_reaches_what_is_brighter_than_the_published_ceiling() -> None:
    bright = torch.full((1, 3, 64, 64), 0.95)
    _, edge, mask = inputs()
    with torch.no_grad():
        out, _ = generator(REFINING)(bright * (1 - mask), edge, mask)
        published, _ = generator(PLAIN)(bright * (1 - mask), edge, mask)
    assert published.max() < 0.7616 < out.max() <= 1


def test_the_checkpoint_has_one_tensor_more_and_a_scale_of_0_changes_nothing() -> None:
    plain, refining = untrained_state_dict(PLAIN, seed=3), untrained_state_dict(REFINING, seed=3)
    assert refining.keys() - plain.keys() == {"residual_scale"}
    assert F.l1_loss(refining["residual_scale"], torch.tensor(4.0)) == 0
    image, edge, mask = inputs()
    still = generator(REFINING)
    still.residual_scale.zero_()
    with torch.no_grad():
        assert torch.equal(still(image, edge, mask)[0], smooth_fill(image, mask))
