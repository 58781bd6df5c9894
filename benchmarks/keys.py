"""What adding the edge features to the keys costs in accuracy: each form of the kernel, in the whole generator.

    python benchmarks/keys.py --checkpoint G_500.pth

The kernel takes ``q k^T + q s^T``, or the product with a sum that half precision has rounded. Here attention alone is
in half precision, as the kernel computes it, and the rest in FP32, on the CPU. For each level the table gives how large
keys and edge features are, and the error of one attention on what the generator itself gives it; then the error of the
generator's output, all attentions in that form. Errors are against FP32 throughout, so the rounding of q, k, v, s and
the gate, which no form can avoid, is in all of them.
"""

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from ecea.export.parity import parity_tiles, psnr, tile_sources
from ecea.kernels import eager
from ecea.model import Generator, GeneratorConfig, load_generator
from ecea.model.layers import Block
from ecea.model.untrained import untrained_state_dict
from ecea.runtime.command import start_script
from ecea.runtime.writer import check_destination, written_whole

RESULT = Path(__file__).parent / "results" / "keys.json"
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


def products(qkv: Tensor, s: Tensor, gate: Tensor, num_heads: int, dtype: torch.dtype) -> Tensor:
    """``q k^T + q s^T``, products exact, sums in FP32: the sum of keys and edges is not rounded."""
    return _rest(qkv.to(dtype).float(), s.to(dtype).float(), gate, num_heads, dtype)


def rounded_sum(qkv: Tensor, s: Tensor, gate: Tensor, num_heads: int, dtype: torch.dtype) -> Tensor:
    """``q (k + s)^T``, the sum of what is in half precision rounded to it once more."""
    keys = _keys(qkv).to(dtype).float() + s.to(dtype).float()
    return _rest(_with_keys(qkv.to(dtype).float(), keys.to(dtype).float()), 0 * s, gate, num_heads, dtype)


def sum_of_unrounded(qkv: Tensor, s: Tensor, gate: Tensor, num_heads: int, dtype: torch.dtype) -> Tensor:
    """``q (k + s)^T`` where the projection adds before it rounds."""
    keys = _keys(qkv) + s
    return _rest(_with_keys(qkv.to(dtype).float(), keys.to(dtype).float()), 0 * s, gate, num_heads, dtype)


FORMS = {"products": products, "sum": rounded_sum, "sum in the projection": sum_of_unrounded}


def main(
    checkpoint: Annotated[Path | None, typer.Option(help="None: untrained weights of the default size.")] = None,
    tiles: Annotated[int, typer.Option(min=1, max=8, help="Tiles of the built-in sample.")] = 2,
    output: Annotated[Path, typer.Option(help="Where the JSON goes.")] = RESULT,
) -> None:
    """Measure every form in every type, print the tables and write JSON."""
    check_destination(output)
    generator = _generator(checkpoint)
    with tile_sources([], generator.config.img_size, {}) as cut:
        chosen = parity_tiles(cut)
    batches = [tuple(map(torch.from_numpy, chosen.one(number))) for number in range(tiles)]
    result = {
        "weights": checkpoint.name if checkpoint else "untrained",
        "tiles": tiles,
        "bound": bound(generator),
        "levels": levels(generator, batches),
        "generator": end_to_end(generator, batches),
    }
    _print(result)
    with written_whole(output) as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n")


def bound(generator: Generator) -> float:
    """No input at all makes a number of k + s larger: both are projections of what a LayerNorm has normalized.

    A normalized token of C channels has a length of at most sqrt(C), so what a row of weights makes of it is at most
    sqrt(C) times the length of that row.
    """
    largest = 0.0
    for module in generator.modules():
        if isinstance(module, Block):
            attention, width = module.attn, module.norm1.weight.shape[0]
            parts = [
                (module.norm1, attention.qkv.weight[width : 2 * width], attention.qkv.bias[width : 2 * width]),
                (module.norm2, attention.s.weight, attention.s.bias),
            ]
            total = torch.zeros(width)
            for norm, weight, bias in parts:
                total += width**0.5 * (weight * norm.weight).norm(dim=1) + (weight @ norm.bias + bias).abs()
            largest = max(largest, float(total.max()))
    return largest


def levels(generator: Generator, batches: list[tuple[Tensor, ...]]) -> list[dict[str, Any]]:
    """Attention alone, on what the generator gives it: largest numbers and rms errors, worst attention of a level."""
    found: dict[tuple[int, int], dict[str, Any]] = defaultdict(lambda: defaultdict(float))

    def observed(qkv: Tensor, s: Tensor, gate: Tensor, num_heads: int) -> Tensor:
        exact = eager.expectation_attention(qkv.double(), s.double(), gate.double(), num_heads)
        row = found[s.shape[1], num_heads]
        keys = _keys(qkv)
        for name, part in (("k", keys), ("s", s), ("sum", keys + s)):
            row[f"max_{name}"] = max(row[f"max_{name}"], float(part.abs().max()))
        row["rms_out"] = max(row["rms_out"], float(exact.square().mean().sqrt()))
        for dtype in DTYPES:
            for form, attend in FORMS.items():
                error = attend(qkv, s, gate, num_heads, DTYPES[dtype]).double() - exact
                name = f"{dtype}, {form}"
                row[name] = max(row[name], float(error.square().mean().sqrt()))
        return exact.float()

    with _attending(generator, observed), torch.inference_mode():
        for batch in batches:
            generator(*batch)
    return [{"tokens": tokens, "heads": heads, **row} for (tokens, heads), row in sorted(found.items(), reverse=True)]


def end_to_end(generator: Generator, batches: list[tuple[Tensor, ...]]) -> list[dict[str, Any]]:
    """The generator's picture with all its attentions in one form, against FP32."""
    rows = []
    with torch.inference_mode():
        exact = torch.cat([generator(*batch)[0] for batch in batches])
        for dtype in DTYPES:
            for form, attend in FORMS.items():
                in_form = _in(attend, DTYPES[dtype])
                with _attending(generator, in_form):
                    error = (torch.cat([generator(*batch)[0] for batch in batches]) - exact).abs()
                row = {"dtype": dtype, "form": form, "max_error": float(error.max()), "psnr_db": psnr(error.numpy())}
                rows.append(row)
    return rows


class _attending:  # noqa: N801  a context manager
    """Within it, the generator's attentions are ``attend``."""

    def __init__(self, generator: Generator, attend: Callable[[Tensor, Tensor, Tensor, int], Tensor]) -> None:
        self.modules: list[Any] = [module for module in generator.modules() if hasattr(module, "attention")]
        self.attend = attend

    def __enter__(self) -> None:
        self.before = [module.attention for module in self.modules]
        for module in self.modules:
            module.attention = self.attend

    def __exit__(self, *_: object) -> None:
        for module, attention in zip(self.modules, self.before, strict=True):
            module.attention = attention


def _in(attend: Callable[..., Tensor], dtype: torch.dtype) -> Callable[[Tensor, Tensor, Tensor, int], Tensor]:
    return lambda qkv, s, gate, num_heads: attend(qkv, s, gate, num_heads, dtype)


def _generator(checkpoint: Path | None) -> Generator:
    if checkpoint is not None:
        return load_generator(checkpoint)
    with torch.device("meta"):
        generator = Generator(GeneratorConfig())
    generator.load_state_dict(untrained_state_dict(generator.config, seed=1), assign=True)
    return generator.eval()


def _keys(qkv: Tensor) -> Tensor:
    return qkv.chunk(3, dim=-1)[1]


def _with_keys(qkv: Tensor, keys: Tensor) -> Tensor:
    q, _, v = qkv.chunk(3, dim=-1)
    return torch.cat([q, keys, v], dim=-1)


def _rest(qkv: Tensor, s: Tensor, gate: Tensor, num_heads: int, dtype: torch.dtype) -> Tensor:
    """What all forms share: logits and sums in FP32, weights rounded before they meet the values, result rounded."""
    head_dim = s.shape[-1] // num_heads
    q, k, v = qkv.unflatten(-1, (3, num_heads, head_dim)).permute(2, 0, 3, 1, 4)
    edges = s.unflatten(-1, (num_heads, head_dim)).transpose(1, 2)
    logits = (q @ k.transpose(-2, -1) + q @ edges.transpose(-2, -1)) * head_dim**-0.5
    weights = (logits - logits.amax(-1, keepdim=True)).exp()
    attended = weights.to(dtype).float() @ v / weights.sum(-1, keepdim=True)
    return (attended.transpose(1, 2).flatten(2) * gate.to(dtype).float()).to(dtype).float()


def _print(result: dict[str, Any]) -> None:
    names = [f"{dtype}, {form}" for dtype in DTYPES for form in FORMS]
    print(f"\n{result['weights']}, {result['tiles']} tiles. Rms error of one attention\n")
    print(f"| tokens, heads | max k, s, k + s | rms out | {' | '.join(names)} |")
    print("|---" * (3 + len(names)) + "|")
    for row in result["levels"]:
        sizes = ", ".join(f"{row[f'max_{name}']:.1f}" for name in ("k", "s", "sum"))
        errors = " | ".join(f"{row[name]:.1e}" for name in names)
        print(f"| {row['tokens']}, {row['heads']} | {sizes} | {row['rms_out']:.2g} | {errors} |")
    print(f"\nNo input makes |k + s| larger than {result['bound']:.0f}; FP16 ends at 65504.")
    print("\n| attention in | form | max error of the picture | dB |\n|---|---|---|---|")
    for row in result["generator"]:
        print(f"| {row['dtype']} | {row['form']} | {row['max_error']:.1e} | {row['psnr_db']:.1f} |")


if __name__ == "__main__":
    start_script("python benchmarks/keys.py", main)
