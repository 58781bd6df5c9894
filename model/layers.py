"""The layers that the generator is built from, with the published parameter names."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ecea.model.regularization import NONE, Regularization, drop_path, dropout

# (qkv (B, N, 3C), s (B, N, C), gate (B, N, C), num_heads) -> (B, N, C)
Attention = Callable[[Tensor, Tensor, Tensor, int], Tensor]

LAYER_NORM_EPS = 1e-6


def tokens_to_map(tokens: Tensor, grid: int) -> Tensor:
    """(B, N, C) with ``N = grid**2`` -> (B, C, grid, grid)."""
    return tokens.transpose(1, 2).unflatten(2, (grid, grid))


def map_to_tokens(feature_map: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H * W, C)."""
    return feature_map.flatten(2).transpose(1, 2)


class PatchEmbed(nn.Module):
    """Cut a map into patches and project each to a token: (B, C, S, S) -> (B, (S / patch)^2, dim)."""

    def __init__(self, channels: int, patch_size: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, patch_size, stride=patch_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return map_to_tokens(self.proj(x))


class ExpectationAttention(nn.Module):
    """Project tokens and edge tokens, attend (see ``ecea.kernels.eager``), project the result."""

    def __init__(self, dim: int, num_heads: int, attention: Attention, regularization: Regularization = NONE) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention = attention
        self.qkv = nn.Linear(dim, 3 * dim)
        self.s = nn.Linear(dim, dim)
        self.gate = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)
        self.drop = dropout(regularization.dropout)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        return self.drop(self.proj(self.attention(self.qkv(x), self.s(e), self.gate(x), self.num_heads)))


class Mlp(nn.Module):
    """Two linear layers with a GELU between, hidden width 4C."""

    def __init__(self, dim: int, regularization: Regularization = NONE) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)
        self.drop = dropout(regularization.dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.fc2(self.drop(F.gelu(self.fc1(x)))))


class Block(nn.Module):
    """One transformer block: edge-conditional attention and an MLP, each with its residual."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        attention: Attention,
        regularization: Regularization = NONE,
        path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.norm2 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.attn = ExpectationAttention(dim, num_heads, attention, regularization)
        self.norm3 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.mlp = Mlp(dim, regularization)
        self.drop_path = drop_path(path_rate)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x), self.norm2(e)))
        return x + self.drop_path(self.mlp(self.norm3(x)))


class Stage(nn.Module):
    """One level of the encoder or the decoder: position, blocks with an outer residual each, norm."""

    def __init__(
        self,
        tokens: int,
        dim: int,
        num_heads: int,
        depth: int,
        attention: Attention,
        regularization: Regularization = NONE,
    ) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, dim))
        self.drop = dropout(regularization.dropout)
        self.blocks = nn.ModuleList(
            Block(dim, num_heads, attention, regularization, rate) for rate in regularization.path_rates(depth)
        )
        self.norm = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        x = self.drop(x + self.pos_embed)
        for block in self.blocks:
            x = x + block(x, e)
        return self.norm(x)


class Downsample(nn.Module):
    """Halve the token grid, double the channels: (B, N, C) -> (B, N / 4, 2C)."""

    def __init__(self, grid: int, dim: int) -> None:
        super().__init__()
        self.grid = grid
        self.downsample = nn.Sequential(
            nn.Conv2d(dim, 2 * dim, 3, stride=2, padding=1, bias=False), nn.InstanceNorm2d(2 * dim), nn.GELU()
        )

    def forward(self, x: Tensor) -> Tensor:
        return map_to_tokens(self.downsample(tokens_to_map(x, self.grid)))


class Upsample(nn.Module):
    """Double the token grid, halve the channels: (B, N, C) -> (B, 4N, C / 2)."""

    def __init__(self, grid: int, dim: int) -> None:
        super().__init__()
        self.grid = grid
        self.upsample = nn.Sequential(
            nn.Conv2d(dim, dim // 2, 3, padding=1, bias=False), nn.InstanceNorm2d(dim // 2), nn.GELU()
        )

    def forward(self, x: Tensor) -> Tensor:
        nearest = F.interpolate(tokens_to_map(x, self.grid), scale_factor=2.0, mode="nearest")
        return map_to_tokens(self.upsample(nearest))


class ResidualBlock(nn.Module):
    """``x + bn2(conv2(prelu(bn1(conv1 x))))``, 3x3 throughout."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(dim, dim, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(dim)
        self.prelu = nn.PReLU()
        self.conv2 = nn.Conv2d(dim, dim, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(dim)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bn2(self.conv2(self.prelu(self.bn1(self.conv1(x)))))


class PixelShuffleBlock(nn.Module):
    """Double the resolution: convolution to 4C, pixel shuffle, PReLU."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, 4 * dim, 3, padding=1)
        self.prelu = nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.prelu(F.pixel_shuffle(self.conv(x), 2))


class Head(nn.Module):
    """Turn tokens into a picture: (B, grid^2, dim) -> (B, out_c, 4 grid, 4 grid), values in (0, 1)."""

    WIDTH = 64

    def __init__(self, grid: int, dim: int, out_c: int) -> None:
        super().__init__()
        self.grid = grid
        width = self.WIDTH
        self.block1 = nn.Sequential(nn.Conv2d(dim, width, 9, padding=4), nn.PReLU())
        for i in range(2, 7):
            self.add_module(f"block{i}", ResidualBlock(width))
        self.block7 = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width))
        self.block8 = nn.Sequential(
            PixelShuffleBlock(width), PixelShuffleBlock(width), nn.Conv2d(width, out_c, 9, padding=4)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        first = self.block1(tokens_to_map(tokens, self.grid))
        x = first
        for i in range(2, 7):
            x = self.get_submodule(f"block{i}")(x)
        return (torch.tanh(self.block8(first + self.block7(x))) + 1) / 2
