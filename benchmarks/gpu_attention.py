"""Expectation attention on a GPU: ours, in every tactic, and what PyTorch offers, at the network's four levels."""

import contextlib
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import torch
from gpu_timing import Deadline, Path, Times, input_sets, measured
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from ecea.kernels import eager, op
from ecea.kernels.tactics import TACTICS, Tactic, preferred

LEVELS = ((4096, 1), (1024, 2), (256, 4), (64, 8))
HEAD_DIM = 64

_BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cuDNN": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}

# As in tests/gpu, for a sum of keys and edges that is rounded.
TOLERANCE = {"fp16": {"rtol": 2e-3, "atol": 4e-3}, "bf16": {"rtol": 1.6e-2, "atol": 3.2e-2}}

_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}

Attend = Callable[[Tensor, Tensor, Tensor, int], Tensor]


@dataclass(frozen=True)
class Problem:
    """Attention of one size."""

    tokens: int
    heads: int
    batch: int
    dtype: str = "fp16"

    @property
    def flops(self) -> int:
        """Of the two products that attention is; what a form needs beyond them does not count."""
        return 4 * self.batch * self.heads * self.tokens**2 * HEAD_DIM

    @property
    def queries(self) -> int:
        return self.batch * self.heads * self.tokens

    @property
    def bytes(self) -> int:
        """Of qkv, s, gate and the result."""
        return 2 * 6 * self.queries * HEAD_DIM

    def inputs(self, device: str) -> list[tuple[Tensor, Tensor, Tensor]]:
        dtype = _DTYPES[self.dtype]
        width = self.heads * HEAD_DIM
        return [
            tuple(  # type: ignore[misc]
                torch.randn(self.batch, self.tokens, size, device=device, dtype=dtype)
                for size in (3 * width, width, width)
            )
            for _ in range(input_sets(device, self.bytes))
        ]


def kernel_rows(
    problems: list[Problem], best: dict[tuple[int, int], int], device: str, rounds: int, compiled: int, stop: Deadline
) -> list[dict[str, Any]]:
    """Ours against PyTorch's paths.

    Args:
        problems: what to time.
        best: (tokens, batch) -> the tactic that was the fastest, where they have been timed.
        device: ``cuda`` or ``cpu``.
        rounds: how many.
        compiled: the largest number of problems for which torch.compile is tried: it takes its time.
        stop: when to.
    """
    rows = []
    for problem in problems:
        if not stop.allows(f"kernel {problem}"):
            continue
        sets = problem.inputs(device)
        attends: dict[str, Attend] = {"ours": op.expectation_attention}
        number = best.get((problem.tokens, problem.batch))
        if number is not None and device == "cuda":
            attends[f"ours, tactic {number}"] = by_tactic(TACTICS[number])
        attends["SDPA default, edges and gate"] = op._scaled_dot_product
        attends["SDPA default, attention alone"] = _attention_alone
        for name, backend in _BACKENDS.items():
            attends[f"SDPA {name}, edges and gate"] = _with_backend(backend, op._scaled_dot_product)
            attends[f"SDPA {name}, attention alone"] = _with_backend(backend, _attention_alone)
        attends["eager"] = eager.expectation_attention
        if compiled > 0:
            torch.compiler.reset()
            attends["torch.compile"] = torch.compile(eager.expectation_attention, dynamic=False)
            compiled -= 1
        setups = {name: _setup(attend, sets, problem.heads, device) for name, attend in attends.items()}
        times, not_run = measured(setups, rounds)
        rows.append({**asdict(problem), "paths": _rated(times, problem), "not_run": not_run})
        del sets, setups
        _free(device)
    return rows


def tactic_rows(problems: list[Problem], device: str, rounds: int, stop: Deadline) -> list[dict[str, Any]]:
    """Every tactic at every size. Two rounds tell which are near the best, the others more about those."""
    numbers = list(TACTICS) if device == "cuda" else [1, 13]
    if device == "cuda":
        _compile_ahead(_compile_tactic, problems, numbers)
    rows = []
    for problem in problems:
        if not stop.allows(f"tactics {problem}"):
            continue
        sets = problem.inputs(device)
        setups = {}
        for number in numbers:
            attend = by_tactic(TACTICS[number]) if device == "cuda" else op.expectation_attention
            setups[str(number)] = _setup(attend, sets, problem.heads, device)
        first, not_run = measured(setups, 2, least=0.003)
        fastest = min(took.median for took in first.values())
        near = {name: setups[name] for name, took in first.items() if took.median < 1.1 * fastest}
        again, _ = measured(near, rounds)
        rows.append({**asdict(problem), "paths": _rated({**first, **again}, problem), "not_run": not_run})
        del sets, setups, near
        _free(device)
    return rows


def specialized_rows(problems: list[Problem], device: str, rounds: int, stop: Deadline) -> list[dict[str, Any]]:
    """The experiment of ``gpu_warp_specialized.py``, each cut that is right, ours and PyTorch's choice."""
    try:
        import gpu_warp_specialized as specialized
    except ImportError as error:
        return [{**asdict(problem), "paths": {}, "not_run": {"all": str(error)}} for problem in problems]

    def by_cut(cut: Any) -> Attend:
        return lambda qkv, s, gate, heads: specialized.expectation_attention(qkv, s, gate, heads, cut)

    if device == "cuda":
        _compile_ahead(_compile_cut, problems, list(range(len(specialized.CUTS))))
    rows = []
    for problem in problems:
        if not stop.allows(f"specialized {problem}"):
            continue
        sets = problem.inputs(device)
        attends = {"ours": op.expectation_attention, "SDPA default, edges and gate": op._scaled_dot_product}
        setups = {name: _setup(attend, sets, problem.heads, device) for name, attend in attends.items()}
        for cut in specialized.CUTS if device == "cuda" else ():
            setups[str(cut)] = _checked(by_cut(cut), sets, problem, device)
        times, not_run = measured(setups, rounds)
        if device != "cuda":
            not_run["every cut"] = "it needs a GPU; gpu_warp_specialized.py by itself compiles them without one"
        rows.append({**asdict(problem), "paths": _rated(times, problem), "not_run": not_run})
        del sets, setups
        _free(device)
    return rows


def best_tactics(rows: list[dict[str, Any]]) -> dict[tuple[int, int], int]:
    """(tokens, batch) -> the fastest tactic."""
    best = {}
    for row in rows:
        paths = row["paths"]
        if row["dtype"] == "fp16" and paths:
            best[row["tokens"], row["batch"]] = int(min(paths, key=lambda name: paths[name]["seconds"]))
    return best


def table_line(architecture: int, rows: list[dict[str, Any]], slack: float = 1.02) -> str:
    """A line for ``_PREFERRED`` in ``kernels/tactics.py``: the fastest tactics, without changes for less than 2 %.

    Within a number of tokens the tactic of a smaller batch is kept for a larger one where it is as fast there; below
    the smallest batch that was timed, its tactic is taken.
    """
    entries: list[tuple[int, int, int]] = []
    tokens_seen = sorted({row["tokens"] for row in rows}, reverse=True)
    for position, tokens in enumerate(tokens_seen):
        of_level = sorted((r for r in rows if r["tokens"] == tokens and r["paths"]), key=lambda r: r["batch"])
        chosen: list[tuple[int, int]] = []  # (fewest queries, tactic), rising
        for row in of_level:
            seconds = {int(name): path["seconds"] for name, path in row["paths"].items()}
            fastest = min(seconds, key=lambda number: seconds[number])
            if chosen and seconds.get(chosen[-1][1], float("inf")) <= slack * seconds[fastest]:
                continue
            queries = row["batch"] * row["heads"] * tokens if chosen else 0
            chosen.append((queries, fastest))
        last = position == len(tokens_seen) - 1
        entries += [(0 if last else tokens, queries, number) for queries, number in reversed(chosen)]
    return f"{architecture}: ({', '.join(map(str, entries))}),"


def current_tactic(architecture: int, problem: Problem) -> int:
    """The number of the tactic that the operator takes."""
    shape = preferred(architecture, problem.tokens, problem.queries)
    return next(number for number, tactic in TACTICS.items() if tactic == shape)


def by_tactic(tactic: Tactic) -> Attend:
    """Our kernel, cut in one way."""
    from ecea.kernels import triton_kernel

    def attend(qkv: Tensor, s: Tensor, gate: Tensor, num_heads: int) -> Tensor:
        return triton_kernel.expectation_attention(qkv, s, gate, num_heads, HEAD_DIM**-0.5, tactic)

    return attend


def _setup(attend: Attend, sets: list[tuple[Tensor, Tensor, Tensor]], heads: int, device: str) -> Callable[[], Path]:
    return lambda: Path([_call(attend, one, heads) for one in sets], device)


def _checked(
    attend: Attend, sets: list[tuple[Tensor, Tensor, Tensor]], problem: Problem, device: str
) -> Callable[[], Path]:
    """Sets up only what computes the definition, in float64, for the first images; ArithmeticError otherwise."""

    def setup() -> Path:
        for image in range(min(2, problem.batch)):
            few = [part[image : image + 1].contiguous() for part in sets[0]]
            found = attend(*few, problem.heads).double()
            expected = eager.expectation_attention(*(part.double() for part in few), problem.heads)
            if not torch.allclose(found, expected, **TOLERANCE[problem.dtype]):
                raise ArithmeticError(f"its largest error is {float((found - expected).abs().max()):.1e}")
        return _setup(attend, sets, problem.heads, device)()

    return setup


def _call(attend: Attend, one: tuple[Tensor, Tensor, Tensor], heads: int) -> Callable[[], object]:
    @torch.inference_mode()
    def call() -> object:
        return attend(*one, heads)

    return call


def _with_backend(backend: SDPBackend, attend: Attend) -> Attend:
    def attend_so(qkv: Tensor, s: Tensor, gate: Tensor, num_heads: int) -> Tensor:
        with sdpa_kernel(backend):
            return attend(qkv, s, gate, num_heads)

    return attend_so


def _attention_alone(qkv: Tensor, s: Tensor, gate: Tensor, num_heads: int) -> Tensor:
    """Without edge features and gate: another function, whose time shows what those two cost."""
    q, k, v = qkv.unflatten(-1, (3, num_heads, HEAD_DIM)).permute(2, 0, 3, 1, 4)
    return scaled_dot_product_attention(q, k, v)


def _rated(times: dict[str, Times], problem: Problem) -> dict[str, Any]:
    return {
        name: {"seconds": took.median, "range": took.range, "flops": problem.flops / took.median}
        for name, took in times.items()
    }


def _free(device: str) -> None:
    if device == "cuda":
        torch.cuda.empty_cache()


def _compile_ahead(
    compile_one: Callable[[int, int, str, int], None], problems: list[Problem], numbers: list[int]
) -> None:
    """Fill Triton's cache with all processors, where one would take minutes."""
    sizes = {(problem.tokens, problem.heads, problem.dtype) for problem in problems}
    jobs = [(*size, number) for size in sorted(sizes) for number in numbers]
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        list(pool.map(compile_one, *zip(*jobs, strict=True)))


def _compile_tactic(tokens: int, heads: int, dtype: str, number: int) -> None:
    from ecea.kernels import triton_kernel

    tactic = TACTICS[number]
    fixed = triton_kernel.constants(tokens, heads, HEAD_DIM, HEAD_DIM**-0.5, tactic)
    with contextlib.suppress(Exception):  # it will fail again where it is reported
        triton_kernel.expectation_attention_kernel.warmup(*[_DTYPES[dtype]] * 4, grid=(1,), **fixed, **tactic.options)


def _compile_cut(tokens: int, heads: int, dtype: str, number: int) -> None:
    import gpu_warp_specialized as specialized

    cut = specialized.CUTS[number]
    fixed = specialized.constants(tokens, heads, HEAD_DIM**-0.5, cut)
    with contextlib.suppress(Exception):
        specialized.attention_kernel.warmup(*[_DTYPES[dtype]] * 4, 1000, grid=(1,), **fixed, **cut.options)
