"""The shape of a generator, and how it is read from a checkpoint."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isqrt

from ecea.model.errors import CheckpointError

DEFAULT_NUM_HEADS = (1, 2, 4, 8)

# The tensor that only a refining generator has.
RESIDUAL_SCALE = "residual_scale"
# What the names of a coarse network's tensors begin with, in a generator that has one.
COARSE = "coarse."

MOST_COARSE_LEVELS = 6
"""Of a coarse network: tiles are a multiple of 32 px."""

# Tokens along the side of the first level. With 8 the last level has one token, which InstanceNorm refuses.
MIN_GRID = 16

# The four levels keep the published names, the grid sizes of the default configuration.
ENCODERS = ("encoder64", "encoder32", "encoder16", "encoder8")


@dataclass(frozen=True)
class GeneratorConfig:
    """Everything that fixes the generator's layers; the default is the published one, 126 M parameters.

    Attributes:
        img_size: side of a tile in pixels, a multiple of ``8 * patch_size``.
        in_c: channels of the image and the mask together.
        out_c: channels of the inpainted image.
        patch_size: pixels a token spans; the heads upsample by 4, so 4 is the only one that works.
        embed_dim: channels at the first level; they double at each of the three below.
        depth: attention blocks at each level.
        num_heads: attention heads at each level; the only one that a checkpoint does not fix.
        refine: whether it refines a smooth fill (:mod:`ecea.model.refinement`) instead of drawing from nothing, as
            published; such a checkpoint holds one tensor more, ``residual_scale``.
        coarse: widths of the U-Net whose fill it refines instead (:mod:`ecea.model.unet`); empty for none. Such a
            checkpoint holds that as well.
    """

    img_size: int = 256
    in_c: int = 4
    out_c: int = 3
    patch_size: int = 4
    embed_dim: int = 64
    depth: tuple[int, ...] = (1, 2, 3, 4)
    num_heads: tuple[int, ...] = DEFAULT_NUM_HEADS
    refine: bool = False
    coarse: tuple[int, ...] = ()

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels at each level."""
        return tuple(self.embed_dim * 2**level for level in range(4))

    @property
    def heads_fit(self) -> bool:
        """Whether there are heads for each of the four levels, which divide its channels."""
        pairs = zip(self.widths, self.num_heads, strict=False)
        return len(self.num_heads) == 4 and all(heads >= 1 and width % heads == 0 for width, heads in pairs)

    @property
    def grids(self) -> tuple[int, ...]:
        """Side of the token grid at each level."""
        return tuple(self.img_size // self.patch_size // 2**level for level in range(4))


def config_from_shapes(shapes: Mapping[str, Sequence[int]], num_heads: Sequence[int] | None = None) -> GeneratorConfig:
    """Read the configuration that tensors of these shapes belong to.

    Args:
        shapes: name -> shape of a generator's state dict.
        num_heads: heads at each level, which no shape tells; ``DEFAULT_NUM_HEADS`` where not given.

    Raises:
        CheckpointError: where a tensor that fixes the configuration is absent or has a shape that no
            generator has, or where ``num_heads`` is not four divisors of the widths. The message lacks its
            subject, the file, which only the caller knows.
    """
    embed_dim, in_c, patch_size, _ = _shape(shapes, "patch_embed.proj.weight", 4)
    tokens = _shape(shapes, f"{ENCODERS[0]}.pos_embed", 3)[1]
    out_c = _shape(shapes, "out.block8.2.weight", 4)[0]
    grid = isqrt(tokens)
    if patch_size != 4 or grid * grid != tokens or grid % 8 or grid < MIN_GRID:
        raise CheckpointError(
            f"has patches of {patch_size} px and {tokens} tokens; expected patches of 4 px and a square grid "
            f"of tokens whose side is a multiple of 8, {MIN_GRID} at least: give a generator's checkpoint"
        )
    config = GeneratorConfig(
        img_size=grid * patch_size,
        in_c=in_c,
        out_c=out_c,
        patch_size=patch_size,
        embed_dim=embed_dim,
        depth=tuple(_count_blocks(shapes, encoder) for encoder in ENCODERS),
        num_heads=tuple(DEFAULT_NUM_HEADS if num_heads is None else num_heads),
        refine=RESIDUAL_SCALE in shapes,
        coarse=unet_widths(shapes, COARSE) if RESIDUAL_SCALE in shapes else (),
    )
    if len(config.coarse) > MOST_COARSE_LEVELS or 0 in config.coarse:
        raise CheckpointError(
            f"has a coarse network of the widths {list(config.coarse)}; expected at most {MOST_COARSE_LEVELS}, none of "
            "them 0: give a checkpoint that ecea-train wrote"
        )
    if not config.heads_fit:
        raise CheckpointError(
            f"has levels of {list(config.widths)} channels, which {list(config.num_heads)} attention heads "
            "do not divide; expected a divisor for each level: give the heads that it was trained with "
            "(num_heads, --num-heads A,B,C,D)"
        )
    return config


def unet_widths(shapes: Mapping[str, Sequence[int]], prefix: str = "") -> tuple[int, ...]:
    """Read the widths of a U-Net, level by level, from the tensors whose names begin with a prefix.

    Args:
        shapes: name -> shape; others may be among them.

    Returns:
        Empty where there is none.
    """
    widths: list[int] = []
    while shape := shapes.get(f"{prefix}down.{len(widths)}.conv1.bias"):
        widths.append(shape[0])
    return tuple(widths)


def _shape(shapes: Mapping[str, Sequence[int]], name: str, ndim: int) -> Sequence[int]:
    if name not in shapes:
        raise CheckpointError(
            f"holds no tensor '{name}'; expected one, as every ECEA generator has it: give a generator's checkpoint"
        )
    if len(shapes[name]) != ndim or 0 in shapes[name]:
        raise CheckpointError(
            f"has '{name}' of shape {list(shapes[name])}; expected {ndim} dimensions, none of them 0: give a "
            "generator's checkpoint"
        )
    return shapes[name]


def _count_blocks(shapes: Mapping[str, Sequence[int]], encoder: str) -> int:
    prefix = f"{encoder}.blocks."
    found = {name[len(prefix) :].split(".")[0] for name in shapes if name.startswith(prefix)}
    if not found or found != {str(i) for i in range(len(found))}:
        listed = ", ".join(map(repr, sorted(found)[:8])) + (", ..." if len(found) > 8 else "")
        raise CheckpointError(
            f"has the blocks [{listed}] in '{encoder}'; expected at least one, numbered from 0 without a "
            "gap: give a generator's checkpoint"
        )
    return len(found)
