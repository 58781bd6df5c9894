"""The GPU benchmark's code, tried out on the CPU: that it runs, says what it is, and keeps what it has measured."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

pytest.importorskip("torch", reason="PyTorch is not installed")
BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


Run = Callable[..., Any]
Benchmark = Callable[[str], ModuleType]


@pytest.fixture(scope="module")
def run(benchmark: Benchmark) -> Run:
    app = typer.Typer()
    app.command()(benchmark("gpu").main)
    few = ["--rounds", "1", "--batch", "1", "--compiled", "0"]
    return lambda *arguments: CliRunner().invoke(app, [*few, *map(str, arguments)], env={"COLUMNS": "200"})


@pytest.fixture(scope="module")
def attention(benchmark: Benchmark) -> ModuleType:
    return benchmark("gpu_attention")


def test_parts_are_run_one_by_one_and_kept(run: Run, tmp_path: Path) -> None:
    output = tmp_path / "tried.json"
    first = run("--device", "cpu", "--output", output, "--only", "tactics", "--only", "peaks")
    assert first.exit_code == 0, first.stderr
    assert "NO MEASUREMENT" in first.stdout
    assert "For _PREFERRED" in first.stdout
    second = run("--device", "cpu", "--output", output, "--only", "kernel")
    assert second.exit_code == 0, second.stderr
    found = json.loads(output.read_text())
    assert found["measurement"].startswith("NO MEASUREMENT")
    assert {"peaks", "tactics", "kernel"} <= set(found)
    row = found["kernel"][0]
    assert row["paths"]["ours"]["seconds"] > 0
    assert "SDPA cuDNN, edges and gate" in row["not_run"], "there is none on a CPU, and that is said"


def test_a_spent_budget_is_said(run: Run, tmp_path: Path) -> None:
    done = run("--device", "cpu", "--output", tmp_path / "tried.json", "--only", "kernel", "--seconds", "0")
    assert done.exit_code == 0, done.stderr
    assert "left out for lack of time: kernel Problem(tokens=64" in done.stdout


@pytest.mark.slow
def test_the_generator_and_why_backends_were_not_run(run: Run, tmp_path: Path) -> None:
    output = tmp_path / "tried.json"
    assert run("--device", "cpu", "--output", output, "--only", "generator").exit_code == 0
    (row,) = json.loads(output.read_text())["generator"]
    assert row["paths"]["FP16, our kernel"]["max_error"] < 3e-2
    assert row["not_run"]["tensorrt fp16"] == "no bundle was given: --bundle"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "cpu"], "nothing is measured"),
        (["--device", "cpu", "--output", BENCHMARKS / "results" / "gpu.json"], "nothing is measured"),
        (["--device", "tpu"], "expected cuda or cpu"),
        (["--only", "speed"], "expected some of peaks, tactics"),
    ],
)
def test_wrong_requests(run: Run, arguments: list[str | Path], message: str) -> None:
    done = run(*arguments)
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.replace("│", " ").split())
    assert not (BENCHMARKS / "results" / "gpu.json.part").exists()


def row(tokens: int, heads: int, batch: int, **microseconds: float) -> dict[str, Any]:
    paths = {name.removeprefix("t"): {"seconds": took / 1e6} for name, took in microseconds.items()}
    return {"tokens": tokens, "heads": heads, "batch": batch, "dtype": "fp16", "paths": paths}


ROWS = [
    row(4096, 1, 1, t3=20, t23=30),
    row(4096, 1, 8, t3=100, t23=99),  # 1 % is no reason to change
    row(4096, 1, 64, t3=800, t23=600),
    row(64, 8, 1, t2=5, t10=4),
    row(64, 8, 64, t2=9, t10=9),
]


def test_the_line_for_the_table_chooses_what_was_fastest(
    attention: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ecea.kernels import tactics

    line = attention.table_line(90, ROWS)
    assert line == "90: ((4096, 262144, 23), (4096, 0, 3), (0, 0, 10)),"
    monkeypatch.setattr(tactics, "_PREFERRED", eval(f"{{{line}}}"))
    for tokens, heads, batch, number in [(4096, 1, 64, 23), (4096, 1, 8, 3), (4096, 1, 1, 3), (64, 8, 64, 10)]:
        assert tactics.preferred(90, tokens, batch * heads * tokens) == tactics.TACTICS[number]


def test_the_best_tactic_of_each_size(attention: ModuleType) -> None:
    assert attention.best_tactics(ROWS) == {(4096, 1): 3, (4096, 8): 23, (4096, 64): 23, (64, 1): 10, (64, 64): 2}


def test_flops_are_those_of_the_two_products(attention: ModuleType) -> None:
    assert attention.Problem(4096, 1, 1).flops == 2 * 2 * 4096**2 * 64


def test_a_generator_that_does_not_fit_keeps_no_other_from_being_timed(
    benchmark: Benchmark, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = importlib.import_module("torch")
    generator = benchmark("gpu_generator")

    class Small(torch.nn.Linear):  # type: ignore[misc, name-defined]
        def forward(self, image: Any, edge: Any, mask: Any) -> tuple[Any, Any]:
            return image, edge

    def too_large() -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    forms = {generator.PEER: too_large, "eager FP16": lambda: Small(1, 1)}
    monkeypatch.setattr(generator, "_forms", lambda *_: forms)
    output = tmp_path / "tried.json"
    done = run("--device", "cpu", "--output", output, "--only", "generator")
    assert done.exit_code == 0, done.stderr
    (row,) = json.loads(output.read_text())["generator"]
    assert list(row["paths"]) == ["eager FP16"]
    assert row["not_run"][generator.PEER] == "OutOfMemoryError: CUDA out of memory"


def test_plans_with_each_form_of_attention_become_paths(benchmark: Benchmark, monkeypatch: pytest.MonkeyPatch) -> None:
    comparison = pytest.importorskip("ecea.export.plans.comparison")
    plans = benchmark("gpu_generator")._plan_times
    found = {
        "plugin": comparison.Compared(60.0, (0.002, 0.001, 0.004), 0.0, 1e-3),
        "standard": comparison.Compared(why_not="generator.fp16.b4.plan: TensorRT builds no plan"),
    }
    monkeypatch.setattr(comparison, "compare_attention", lambda bundle, batch, rounds: found)
    times, not_run, known = plans(Path("site.ecea"), 4, 3)
    assert {name: (took.median, took.range) for name, took in times.items()} == {
        "plan, attention by plugin": (0.002, [0.001, 0.004])
    }
    assert known == {"plan, attention by plugin": {"build_seconds": 60.0, "max_error": 1e-3, "to_plugin": 0.0}}
    assert not_run == {"plan, attention by standard": "generator.fp16.b4.plan: TensorRT builds no plan"}


def test_plans_that_cannot_be_compared_say_why(benchmark: Benchmark, tmp_path: Path) -> None:
    pytest.importorskip("ecea.export.plans.comparison")
    plans = benchmark("gpu_generator")._plan_times
    (why,) = plans(None, 4, 3)[1].values()
    assert why == "no bundle was given: --bundle"
    (why,) = plans(tmp_path / "absent.ecea", 4, 3)[1].values()
    assert "absent.ecea: is not a bundle" in why


def test_an_experiment_that_cannot_run_says_why(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)  # it is imported when it is asked for
    output = tmp_path / "tried.json"
    done = run("--device", "cpu", "--output", output, "--only", "specialized")
    assert done.exit_code == 0, done.stderr
    row = json.loads(output.read_text())["specialized"][0]
    assert set(row["paths"]) == {"ours", "SDPA default, edges and gate"}
    assert row["not_run"], "there is no GPU for it, and that is said"


def test_a_cut_that_is_wrong_is_not_timed(attention: ModuleType) -> None:
    problem = attention.Problem(64, 1, 2)
    sets = problem.inputs("cpu")

    def wrong(qkv: Any, s: Any, gate: Any, heads: int) -> Any:
        return attention.eager.expectation_attention(qkv, s, gate, heads) + 0.02

    right = attention.eager.expectation_attention
    assert attention.measured({"right": attention._checked(right, sets, problem, "cpu")}, 1)[0]
    times, not_run = attention.measured({"wrong": attention._checked(wrong, sets, problem, "cpu")}, 1)
    assert not times
    assert not_run["wrong"].startswith("ArithmeticError: its largest error is 2.")


def test_the_tests_on_a_gpu_need_nothing_but_pytorch_and_triton() -> None:
    """Where a GPU is borrowed, nothing of the project's is installed."""
    others = ["hypothesis", "onnx", "onnxruntime", "openvino", "rasterio", "cv2", "typer", "safetensors", "tensorrt"]
    code = f"""
import sys
import pytest
sys.modules.update(dict.fromkeys({others!r}))
sys.exit(pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider", {str(BENCHMARKS.parent / "tests" / "gpu")!r}]))
"""
    command = [sys.executable, "-c", code]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "test_launch" in done.stdout


def test_the_experiment_compiles_for_hopper(benchmark: Benchmark) -> None:
    """What its cuts compute, only a GPU shows. In a process of its own: Gluon complains of leaks when one ends."""
    pytest.importorskip("ecea.kernels.ahead_of_time", reason="Triton is not installed")
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "gpu_warp_specialized.py"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    _, _, *rows = done.stdout.splitlines()
    assert len(rows) == len(benchmark("gpu_warp_specialized").CUTS)
    for row in rows:
        _, cut, _, spilled, _, threads, _ = (cell.strip() for cell in row.split("|"))
        assert int(spilled) <= 16, cut  # four numbers of a thread at most
        assert int(threads) == 128 * (1 + int(cut.split(" x ")[0]))
