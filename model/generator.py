"""The ECEA generator in PyTorch: the reference that every exported engine is compared with."""

from typing import Self

import torch
from torch import Tensor, nn

from ecea.kernels.eager import expectation_attention
from ecea.model.config import RESIDUAL_SCALE, GeneratorConfig
from ecea.model.layers import (
    Attention,
    Downsample,
    Head,
    PatchEmbed,
    ResidualBlock,
    Stage,
    Upsample,
    map_to_tokens,
    tokens_to_map,
)
from ecea.model.refinement import NEUTRAL, REACH, level_and_contrast, smooth_fill
from ecea.model.regularization import NONE, Regularization
from ecea.model.unet import UNet


class Generator(nn.Module):
    """Fill the gaps of an image tile and of its edge map.

    Parameters carry the published names and shapes, so published checkpoints load unchanged. With ``config.refine`` the
    same network refines a smooth fill, which is not published (:mod:`ecea.model.refinement`), and with
    ``config.coarse`` what a U-Net made of that (:mod:`ecea.model.unet`).

    Args:
        config: the shape of the network.
        attention: the form of expectation attention to run; all forms compute the same function.
        regularization: what is dropped at random in training mode; by default nothing.
    """

    def __init__(
        self,
        config: GeneratorConfig,
        attention: Attention = expectation_attention,
        regularization: Regularization = NONE,
    ) -> None:
        super().__init__()
        self.config = config
        self.residual_scale: Tensor
        grids, widths = config.grids, config.widths
        tokens = [grid * grid for grid in grids]

        def stage(level: int) -> Stage:
            heads, depth = config.num_heads[level], config.depth[level]
            return Stage(tokens[level], widths[level], heads, depth, attention, regularization)

        def token_mixer(level: int) -> nn.Conv1d:
            return nn.Conv1d(2 * tokens[level], tokens[level], 1)

        self.patch_embed = PatchEmbed(config.in_c, config.patch_size, widths[0])
        self.patch_embed_s = PatchEmbed(1, config.patch_size, widths[0])

        self.encoder64 = stage(0)
        self.downsample32 = Downsample(grids[0], widths[0])
        self.downsample32_s = Downsample(grids[0], widths[0])
        self.encoder32 = stage(1)
        self.downsample16 = Downsample(grids[1], widths[1])
        self.downsample16_s = Downsample(grids[1], widths[1])
        self.encoder16 = stage(2)
        self.downsample8 = Downsample(grids[2], widths[2])
        self.downsample8_s = Downsample(grids[2], widths[2])
        self.encoder8 = stage(3)

        for i in range(1, 6):
            self.add_module(f"res_block{i}", ResidualBlock(widths[3]))
        self.res_block6 = nn.Sequential(
            nn.Conv2d(widths[3], widths[3], 3, padding=1, bias=False), nn.InstanceNorm2d(widths[3]), nn.GELU()
        )

        self.upsample16 = Upsample(grids[3], widths[3])
        self.upsample16_s = Upsample(grids[3], widths[3])
        self.concat16 = token_mixer(2)
        self.decoder16 = stage(2)
        self.upsample32 = Upsample(grids[2], widths[2])
        self.upsample32_s = Upsample(grids[2], widths[2])
        self.concat32 = token_mixer(1)
        self.decoder32 = stage(1)
        self.upsample64 = Upsample(grids[1], widths[1])
        self.upsample64_s = Upsample(grids[1], widths[1])
        self.concat64 = token_mixer(0)
        self.decoder64 = stage(0)

        self.out_s = Head(grids[0], widths[0], 1)
        self.out_s_patch_embed = PatchEmbed(1, config.patch_size, widths[0])
        self.out_concat = token_mixer(0)
        self.out = Head(grids[0], widths[0], config.out_c)
        if config.refine:
            self.register_buffer(RESIDUAL_SCALE, torch.tensor(REACH))
        self.coarse = UNet(config.out_c, config.coarse) if config.coarse else None
        self.train()  # modules are made in training mode, but without asking the method below

    def forward(self, image: Tensor, edge: Tensor, mask: Tensor, smooth: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Inpaint a batch of tiles.

        Args:
            image: (B, in_c - 1, S, S) float, [0, 1], 0 where missing; S is ``config.img_size``.
            edge: (B, 1, S, S) float, [0, 1], the edge map.
            mask: (B, 1, S, S) float, 1 where missing, else 0.
            smooth: the smooth fill of the image, which a refining generator else makes itself; for who has it already.

        Returns:
            The image (B, out_c, S, S) and its edge map (B, 1, S, S), values in (0, tanh 1 = 0.7616): the
            head's ``(tanh + 1) / 2`` is followed by one more tanh, as published. The image of a refining generator
            is in [0, 1]: what it draws is added to a smooth fill.
        """
        if not self.config.refine:
            return self._draw(image, edge, mask)
        filled = smooth_fill(image, mask) if smooth is None else smooth
        if self.coarse is not None:
            filled = self.coarse(image, edge, mask, filled)[0]
        level, contrast = level_and_contrast(filled)
        drawn, out_edge = self._draw((filled - level) / contrast, edge, mask)
        return (filled + self.residual_scale * contrast * (drawn - NEUTRAL)).clamp(0, 1), out_edge

    def train(self, mode: bool = True) -> Self:
        """As :meth:`torch.nn.Module.train`, but batch norms of a refining generator keep their statistics.

        Those of the few tiles of a batch would be noise beside the small changes that are to be learned.
        """
        super().train(mode)
        if self.config.refine:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def _draw(self, image: Tensor, edge: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The published network."""
        d64, s64 = self._tokens(image, edge, mask)
        out_edge = torch.tanh(self.out_s(s64))
        mixed = self.out_concat(torch.cat([d64, self.out_s_patch_embed(out_edge)], dim=1))
        return torch.tanh(self.out(mixed)), out_edge

    def _tokens(self, image: Tensor, edge: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """What the heads draw the picture and its edge map from, (B, N, C) each."""
        x64, e64 = self.patch_embed(torch.cat([image, mask], dim=1)), self.patch_embed_s(edge)
        x64 = self.encoder64(x64, e64)
        e32 = self.downsample32_s(e64)
        x32 = self.encoder32(self.downsample32(x64), e32)
        e16 = self.downsample16_s(e32)
        x16 = self.encoder16(self.downsample16(x32), e16)
        e8 = self.downsample8_s(e16)
        x8 = self.encoder8(self.downsample8(x16), e8)

        s16 = self.upsample16_s(self._bottleneck(e8) + e8)
        d16 = self.concat16(torch.cat([x16, self.upsample16(x8)], dim=1))
        d16 = self.decoder16(d16, s16)
        s32 = self.upsample32_s(s16 + e16)
        d32 = self.concat32(torch.cat([x32, self.upsample32(d16)], dim=1))
        d32 = self.decoder32(d32, s32)
        s64 = self.upsample64_s(s32 + e32)
        d64 = self.concat64(torch.cat([x64, self.upsample64(d32)], dim=1))
        return self.decoder64(d64, s64), s64

    def _bottleneck(self, edge_tokens: Tensor) -> Tensor:
        """The residual blocks that complete the edge features on the coarsest grid."""
        x = tokens_to_map(edge_tokens, self.config.grids[3])
        for i in range(1, 6):
            x = self.get_submodule(f"res_block{i}")(x)
        return map_to_tokens(self.res_block6(x))
