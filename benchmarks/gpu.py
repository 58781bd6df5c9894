"""Expectation attention and the generator on a GPU, against what PyTorch offers and against the GPU's limits.

    python benchmarks/gpu.py                       all of it
    python benchmarks/gpu.py --only peaks --only tactics --seconds 500

It needs PyTorch for CUDA and Triton; backends of the runtime and TensorRT are timed where they load, and where not, the
result says why. What ``--only`` leaves out is kept from the file that is there, so that parts can be run one by one.

Times are the GPU's own, of calls that are replayed from a graph, so what the host takes to launch them does not count
(copies and the runtime's backends are launched one by one). Attention's inputs rotate among sets that are together
twice the L2 cache: each call reads them from memory, as no fused chain would. Paths take turns, every figure is the
median of the rounds, with the smallest and the largest beside it. Attention counts 4 B H N^2 D operations whatever the
form; the generator 62.7 GFLOP a tile. Shares are of the matrix products measured by ``peaks``.

``--device cpu`` tries the code out at tiny sizes; its output is no measurement.
"""

import json
import platform
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from gpu_attention import (
    LEVELS,
    Problem,
    best_tactics,
    current_tactic,
    kernel_rows,
    specialized_rows,
    table_line,
    tactic_rows,
)
from gpu_generator import generator_rows
from gpu_peaks import peak_rates
from gpu_timing import Deadline

from ecea.runtime.command import start_script

RESULT = Path(__file__).parent / "results" / "gpu.json"
PARTS = ("peaks", "tactics", "kernel", "generator", "specialized")
TINY_LEVELS = ((64, 1), (32, 2))  # on the CPU


def main(
    only: Annotated[list[str] | None, typer.Option(help=f"Parts: {', '.join(PARTS)}. None: all.")] = None,
    device: Annotated[str, typer.Option(help="cuda, or cpu to try the code out.")] = "cuda",
    output: Annotated[Path | None, typer.Option(help="The JSON; by default results/gpu.json.")] = None,
    bundle: Annotated[
        Path | None, typer.Option(help="Of the default configuration, for the runtime's backends.")
    ] = None,
    batch: Annotated[list[int] | None, typer.Option(help="Batches; by default 1, 2, 4 to 64.")] = None,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    compiled: Annotated[
        int,
        typer.Option(help="For how many sizes of attention torch.compile is tried; 0: for none, nor the generator."),
    ] = 4,
    seconds: Annotated[float, typer.Option(help="After these nothing new is begun.")] = 3600,
) -> None:
    """Measure, print the tables, write JSON."""
    parts = only or list(PARTS)
    if unknown := set(parts) - set(PARTS):
        raise typer.BadParameter(
            f"{', '.join(sorted(unknown))}; expected some of {', '.join(PARTS)}", param_hint="--only"
        )
    _check_device(device, output)
    path = output or RESULT
    batches = batch or ([1, 2, 4, 8, 16, 32, 64] if device == "cuda" else [1, 2])
    stop = Deadline(seconds)
    result = _earlier(path, device) | {"device": _describe(device), "rounds": rounds}
    if device != "cuda":
        result["measurement"] = "NO MEASUREMENT: tiny sizes on a CPU, to try the code out"

    def keep() -> None:
        result["left_out"] = stop.left_out
        _write(path, result)

    if "peaks" in parts:
        result["peaks"] = peak_rates(device, rounds)
        keep()
    levels = LEVELS if device == "cuda" else TINY_LEVELS
    if "tactics" in parts:
        some = [number for number in (1, 8, 64) if number in batches] or batches
        problems = [Problem(*level, number) for level in levels for number in some]
        result["tactics"] = tactic_rows(problems, device, rounds, stop)
        keep()
    if "kernel" in parts:
        result["kernel"] = _kernel(levels, batches, result, device, rounds, compiled, stop)
        keep()
    if "generator" in parts:
        some = [number for number in (1, 8, 32) if number in batches] or batches
        result["generator"] = []
        for row in generator_rows(some, device, bundle, rounds, compiled > 0, stop):
            result["generator"].append(row)
            keep()
    if "specialized" in parts:
        some = [number for number in (1, 8, 64) if number in batches] or batches
        problems = [Problem(*level, number) for level in levels for number in sorted(some, reverse=True)]
        result["specialized"] = specialized_rows(problems, device, rounds, stop)
    keep()
    _print(result)


def _kernel(
    levels: Any, batches: list[int], result: dict[str, Any], device: str, rounds: int, compiled: int, stop: Deadline
) -> list[dict[str, Any]]:
    """Largest first, so that a short time goes where the goal is; bfloat16 at one batch."""
    problems = [Problem(*level, number) for level in levels for number in sorted(batches, reverse=True)]
    problems += [Problem(*level, max(batches), "bf16") for level in levels]
    best = best_tactics(result.get("tactics", []))
    # One batch of each level first: those are the problems that torch.compile is tried on.
    problems.sort(key=lambda problem: (problem.dtype != "fp16", problem.batch != max(batches)))
    return kernel_rows(problems, best, device, rounds, compiled, stop)


def _check_device(device: str, output: Path | None) -> None:
    if device == "cpu":
        if output is None or output.resolve() == RESULT.resolve():
            raise typer.BadParameter(
                "on a CPU nothing is measured; expected another file than gpu.json", param_hint="--output"
            )
    elif device != "cuda":
        raise typer.BadParameter(f"{device}; expected cuda or cpu", param_hint="--device")
    elif not torch.cuda.is_available():
        raise typer.BadParameter("PyTorch sees no CUDA GPU; --device cpu tries the code out", param_hint="--device")


def _describe(device: str) -> dict[str, Any]:
    found: dict[str, Any] = {"torch": torch.__version__, "python": platform.python_version()}
    try:
        import triton

        found["triton"] = triton.__version__
    except ImportError:
        found["triton"] = None
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        found |= {
            "name": properties.name,
            "architecture": 10 * properties.major + properties.minor,
            "multiprocessors": properties.multi_processor_count,
            "memory_bytes": properties.total_memory,
            "l2_bytes": properties.L2_cache_size,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    else:
        found |= {"name": platform.processor() or platform.machine(), "architecture": 90}
    return found


def _earlier(path: Path, device: str) -> dict[str, Any]:
    """What the file holds of the parts that are not run now, if it is of the same device."""
    if not path.is_file():
        return {}
    found: dict[str, Any] = json.loads(path.read_text())
    now = _describe(device)["name"]
    if found.get("device", {}).get("name") != now:
        print(f"{path} is of another device ({found.get('device', {}).get('name')}): begun afresh")
        return {}
    return found


def _write(path: Path, result: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".part")
    beside.write_text(json.dumps(result, indent=1) + "\n")
    beside.replace(path)


def _print(result: dict[str, Any]) -> None:
    if "measurement" in result:
        print(f"\n{result['measurement']}")
    print(f"\n{result['device']}\n")
    peaks = result.get("peaks", {})
    if peaks:
        print("| limit | measured |\n|---|---|")
        for name, rate in peaks.items():
            if name.endswith("_flops"):
                print(f"| {name.removesuffix('_flops')} matrix product | {rate / 1e12:.1f} TFLOP/s |")
            elif name.endswith("_per_second"):
                print(f"| copy {name.removesuffix('_bytes_per_second').replace('_', ' ')} | {rate / 1e9:.1f} GB/s |")
    for part in ("kernel", "specialized", "tactics"):
        if result.get(part):
            _print_attention(part, result[part], peaks, result["device"]["architecture"])
    if result.get("tactics"):
        print("\nFor _PREFERRED in kernels/tactics.py:\n")
        fp16 = [row for row in result["tactics"] if row["dtype"] == "fp16"]
        print("    " + table_line(result["device"]["architecture"], fp16))
    if result.get("generator"):
        _print_generator(result["generator"], peaks)
    for what in result["left_out"]:
        print(f"left out for lack of time: {what}")


def _print_attention(part: str, rows: list[dict[str, Any]], peaks: dict[str, float], architecture: int) -> None:
    print(f"\n{part}\n\n| tokens, heads, batch | path | TFLOP/s (range) | us | of the peak | ours is faster by |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        problem = Problem(row["tokens"], row["heads"], row["batch"], row["dtype"])
        taken = f"ours ({current_tactic(architecture, problem)})"
        peak = peaks.get(f"{problem.dtype}_flops")
        ours = row["paths"].get("ours", {}).get("seconds")
        ranked = sorted(row["paths"].items(), key=lambda item: item[1]["seconds"])
        for name, path in ranked[:5] if part == "tactics" else ranked:
            low, high = (problem.flops / took / 1e12 for took in reversed(path["range"]))
            share = f"{100 * path['flops'] / peak:.1f} %" if peak else ""
            ratio = f"{path['seconds'] / ours:.2f}" if ours else ""
            size = f"{problem.tokens}, {problem.heads}, {problem.batch} {problem.dtype}"
            rate = f"{path['flops'] / 1e12:.1f} ({low:.1f} to {high:.1f})"
            name = taken if name == "ours" else name
            print(f"| {size} | {name} | {rate} | {path['seconds'] * 1e6:.1f} | {share} | {ratio} |")
    _print_not_run(rows)


def _print_generator(rows: list[dict[str, Any]], peaks: dict[str, float]) -> None:
    print("\ngenerator\n\n| tiles at once | path | ms a tile (range) | times eager | max error | of the FP16 peak |")
    print("|---|---|---|---|---|---|")
    peak = peaks.get("fp16_flops")
    for row in rows:
        for name, path in row["paths"].items():
            low, high = (1e3 * took / row["batch"] for took in path["range"])
            took = 1e3 * path["seconds"] / row["batch"]
            error = f"{path['max_error']:.1e}" if "max_error" in path else ""
            share = f"{100 * path['flops'] / peak:.1f} %" if peak else ""
            ratio = f"{path['ratio']:.2f}" if "ratio" in path else ""
            print(f"| {row['batch']} | {name} | {took:.3f} ({low:.3f} to {high:.3f}) | {ratio} | {error} | {share} |")
    _print_not_run(rows)


def _print_not_run(rows: list[dict[str, Any]]) -> None:
    reasons = {(name, why) for row in rows for name, why in row["not_run"].items()}
    for name, why in sorted(reasons):
        print(f"not run: {name}: {why}")


if __name__ == "__main__":
    start_script("python benchmarks/gpu.py", main)
