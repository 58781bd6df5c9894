"""``make check-tensorrt``: it tries what the documentation claims, all of it, and can tell success from failure."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("triton", reason="Triton is not installed")
from ecea.export.plans import builder, comparison, network, rebuild
from ecea.kernels import ahead_of_time
from ecea.kernels.tactics import TACTICS
from ecea.runtime.backends import tensorrt
from ecea.runtime.bundle import Bundle
from ecea.runtime.errors import BackendUnavailable

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def script(benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark("check_tensorrt")


def documented() -> list[tuple[str, bool]]:
    """The claims in the documentation's table that this command is to prove, and which of them for information."""
    rows = [line.strip("| ").split(" | ") for line in (ROOT / "docs" / "tensorrt.md").read_text().splitlines()]
    proved = [cells for cells in rows if len(cells) == 3 and cells[1].startswith("`make check-tensorrt`")]
    return [(cells[0], "for information" in cells[1]) for cells in proved]


def test_it_tries_every_claim_of_the_documentation(script: ModuleType) -> None:
    assert [(claim.text, claim.for_information) for claim in script.CLAIMS] == documented()
    assert len(documented()) > 10


def test_the_makefile_has_the_command() -> None:
    assert re.search(r"^check-tensorrt:.*\n(\t.*\n)*\t\$\(BIN\)/python benchmarks/check_tensorrt.py$",
                     (ROOT / "Makefile").read_text(), re.MULTILINE)  # fmt: skip


def test_without_tensorrt_it_says_why_of_each_and_fails(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unavailable() -> None:
        raise BackendUnavailable("TensorRT cannot be imported (no libnvinfer.so.11)")

    monkeypatch.setattr(script, "find_machine", unavailable)
    assert script.main([]) == 1
    _, *lines, last = capsys.readouterr().out.splitlines()
    assert [re.split(r" {2,}", line.strip()) for line in lines] == [
        [claim.text, "not run", "TensorRT cannot be imported (no libnvinfer.so.11)"] for claim in script.CLAIMS
    ]
    assert last == "0 of 12 proved, and 0 of 2 for information"


def test_what_is_for_information_decides_nothing(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "find_machine", lambda: None)
    for for_information, status in ((True, 0), (False, 1)):

        def outcomes(bench: Any, claim: Any, wrong: bool = for_information) -> tuple[str, str]:
            return "failed" if claim.for_information is wrong else "proved", ""

        monkeypatch.setattr(script, "run", outcomes)
        assert script.main([]) == status


@pytest.fixture
def bench(
    script: ModuleType, world: Any, small: Any, exported: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """A bench on TensorRT's fakes, whose plans compute what the bundle's FP32 engine does."""
    monkeypatch.setattr(rebuild, "required_machine", lambda: world.machine)
    monkeypatch.setattr(rebuild, "tile_sources", lambda *_: contextlib.nullcontext([]))
    monkeypatch.setattr(rebuild, "parity_tiles", lambda _: small.tiles)
    monkeypatch.setattr(ahead_of_time, "TACTICS", {number: TACTICS[number] for number in (10, LARGE, TWO_KERNELS)})
    for timed in (importlib.import_module("tensorrt_claims"), comparison):
        clock = SimpleNamespace(monotonic=lambda: world.gpu.clock, perf_counter=lambda: world.gpu.clock)
        monkeypatch.setattr(timed, "time", clock)
    monkeypatch.setattr(importlib.import_module("tensorrt_bench"), "ROUNDS", 2)
    world.gpu.free = 256 << 20
    world.seconds = 9.0
    world.changes = {"onnx": str(exported.path / "generator.fp32.cpu.onnx"), "seconds": takes(1, 2)}
    made = importlib.import_module("tensorrt_bench").Bench(world.machine, tmp_path, script.SMALL, lambda line: None)
    vars(made)["bundle"] = Path(shutil.copytree(exported.path, tmp_path / "onnx.ecea"))
    vars(made)["tiles"] = small.tiles
    return made


LARGE, TWO_KERNELS = 9, 23  # tactics: of more than 48 KiB, and one that is not for TensorRT


def takes(plugin: float, others: float) -> Callable[[Any], float]:
    """The seconds of a plan with the plugin and of one without."""
    return lambda network: plugin if network.plugins else others


@pytest.fixture
def new_process(libcuda: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """New processes find the fakes as this one does."""
    path = [str(ROOT / "tests" / "fakes" / "process"), str(ROOT / "tests" / "fakes"), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, path)))
    monkeypatch.setenv("FAKE_LIBCUDA", str(libcuda(soname="libcuda.so.1")))
    (tmp_path / "stubs").mkdir()
    monkeypatch.setenv("FAKE_STUBS", str(tmp_path / "stubs"))


def outcome(script: ModuleType, bench: Any, check: str) -> tuple[str, str]:
    (claim,) = (claim for claim in script.CLAIMS if claim.check.__name__ == check)
    result: tuple[str, str] = script.run(bench, claim)
    return result


SEEN = {
    "parser_takes_plugin": "9 nodes in each",
    "plans_are_built": "fp32 0 MB, fp16 0 MB, int8 0 MB",
    "plans_are_in_their_precision": "9 plugins; int8: ",
    "kernel_without_integers": "within ",
    "plans_compute_the_same": "int8 within ",
    "another_process": "without torch, onnx, onnxscript, triton",
    "timings_are_used": "9 s, then 0 s",
    "mismatch_is_refused": "gpu, compute_capability, tensorrt",
    "damage_is_refused": "generator.fp16.b1.plan: TensorRT does not take this plan (Serialization: magic tag)",
    "callbacks_surface": "failed: made to fail",
    "memory_runs_out": "MB were free, ran out meanwhile",
    "more_shared_memory": "KiB, within ",
    "forms_compute_the_same": "batch 1: body within 0.0e+00, standard within 0.0e+00; batch 4: body",
    "faster_than_others": "batch 4: plugin 1000.00 ms, body 2000.00 ms, standard 2000.00 ms",
}


def test_what_is_true_is_proved(script: ModuleType, bench: Any, world: Any, new_process: None) -> None:
    """Every claim, on one machine, as the command tries them."""
    assert [claim.check.__name__ for claim in script.CLAIMS] == list(SEEN)
    for check, seen in SEEN.items():
        result, why = outcome(script, bench, check)
        assert (result, seen in why) == ("proved", True), (check, result, why)
    assert world.gpu.violations == []


def slower(world: Any, **_: Any) -> None:
    world.changes["seconds"] = takes(3, 2)


def wrong(world: Any, **_: Any) -> None:
    world.changes["error"] = 0.2


def wrong_without_the_plugin(world: Any, **_: Any) -> None:
    world.changes["error"] = lambda network: 0 if network.plugins else 0.2


def no_standard_form(monkeypatch: pytest.MonkeyPatch, **_: Any) -> None:
    def refuse(model: Any) -> None:
        raise ValueError("no such operator")

    monkeypatch.setattr(network, "attention_as_standard", refuse)


def no_check_of_the_machine(monkeypatch: pytest.MonkeyPatch, **_: Any) -> None:
    monkeypatch.setattr(tensorrt, "check_machine", lambda *_: None)


def end_that_does_not_count(bench: Any, **_: Any) -> None:
    with (bench.planned / "generator.fp16.b1.plan").open("ab") as plan:
        plan.write(b" " * 1000)


def of_another_gpu(bench: Any, **_: Any) -> None:
    path = bench.planned / "manifest.json"
    path.write_text(path.read_text().replace("NVIDIA H100 80GB HBM3", "another"))


def failures_are_not_raised(world: Any, monkeypatch: pytest.MonkeyPatch, **_: Any) -> None:
    world.fail = {"swallow"}
    monkeypatch.setattr(builder, "_reraise", lambda *_: None)


def memory_enough(monkeypatch: pytest.MonkeyPatch, **_: Any) -> None:
    monkeypatch.setattr(importlib.import_module("tensorrt_builder"), "NEEDED", 0)


def backend_is_heavy(monkeypatch: pytest.MonkeyPatch, **_: Any) -> None:
    monkeypatch.setattr(importlib.import_module("tensorrt_claims"), "HEAVY", ("ecea.runtime.backends.cuda_device",))


def none_is_large(monkeypatch: pytest.MonkeyPatch, **_: Any) -> None:
    monkeypatch.setattr(ahead_of_time, "TACTICS", {number: TACTICS[number] for number in (10, TWO_KERNELS)})


def fails(kind: str) -> Callable[..., None]:
    def change(world: Any, **_: Any) -> None:
        world.fail = {kind}

    return change


@pytest.mark.parametrize(
    ("check", "change", "result", "message"),
    [
        ("parser_takes_plugin", fails("body"), "failed", "took 0 nodes"),
        ("plans_are_built", fails("memory"), "failed", "ran out meanwhile"),
        ("plans_are_in_their_precision", fails("types"), "failed", "tells the types of none"),
        ("kernel_without_integers", wrong, "failed", "by 0.2"),
        ("plans_compute_the_same", wrong, "failed", "by 0.2"),
        ("another_process", backend_is_heavy, "failed", "cuda_device"),
        ("timings_are_used", fails("slow"), "failed", "9 s, then 9 s"),
        ("mismatch_is_refused", no_check_of_the_machine, "failed", "it was loaded"),
        ("damage_is_refused", end_that_does_not_count, "failed", "it was loaded"),
        ("damage_is_refused", of_another_gpu, "failed", "the plans are for another"),
        ("callbacks_surface", failures_are_not_raised, "failed", "in spite of it"),
        ("memory_runs_out", memory_enough, "failed", "was built in"),
        ("memory_runs_out", fails("parse"), "failed", "does not take"),
        ("more_shared_memory", wrong, "failed", "by 0.2"),
        ("more_shared_memory", none_is_large, "not run", "no block shape takes more than 48 KiB"),
        ("forms_compute_the_same", wrong_without_the_plugin, "failed", "body within 2.0e-01, standard within 2.0e-01"),
        ("forms_compute_the_same", no_standard_form, "not run", "attention by standard: no such operator"),
        ("faster_than_others", slower, "failed", "plugin 3000.00 ms, body 2000.00 ms"),
        ("faster_than_others", fails("fuse"), "failed", "attention by plugin: generator.fp16.b1.plan: holds 0 plugin"),
    ],
    ids=lambda value: getattr(value, "__name__", None) or str(value)[:20],
)
def test_what_is_not_true_fails(
    check: str,
    change: Callable[..., None],
    result: str,
    message: str,
    script: ModuleType,
    bench: Any,
    world: Any,
    new_process: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if check in ("mismatch_is_refused", "damage_is_refused", "another_process"):
        only_fp16(bench.bundle)
        assert bench.planned.is_dir()  # what is broken comes after the plans
    change(world=world, bench=bench, monkeypatch=monkeypatch)
    found, why = outcome(script, bench, check)
    assert (found, message in why) == (result, True), (found, why)


def test_what_cannot_be_made_is_tried_once_and_every_claim_has_the_reason(
    script: ModuleType, bench: Any, world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_fp16(bench.bundle)
    monkeypatch.setattr(importlib.import_module("tensorrt_bench"), "ATTENTION", {"fp16": "plugin"})
    for make, checks in [
        ("planned", ["plans_compute_the_same", "another_process", "mismatch_is_refused", "damage_is_refused"]),
        ("plans", ["plans_are_built", "plans_are_in_their_precision"]),
    ]:
        world.fail = {"memory"}
        found = [outcome(script, bench, check) for check in checks]
        assert found[0][0] == "failed"
        assert "fp16.b1.plan: TensorRT builds no plan (Requested amount" in found[0][1]
        world.fail = set()
        found.append(outcome(script, bench, checks[0]))
        assert len(set(found)) == 1, make


def test_a_process_that_dies_without_a_word_is_told_by_its_status(
    script: ModuleType, bench: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    vars(bench)["planned"] = tmp_path
    dying = tmp_path / "python"
    dying.write_text("#!/bin/sh\nkill -SEGV $$\n")
    dying.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(dying))
    assert outcome(script, bench, "another_process") == ("failed", "it says nothing (status -11)")


def only_fp16(bundle: Path) -> None:
    """Take from a bundle what needs not be built and compared."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    kept = (("fp16", "tensorrt"), ("fp32", "cpu"))
    manifest["engines"] = [
        entry for entry in manifest["engines"] if any(entry["engine"] == e and b in entry["backends"] for e, b in kept)
    ]
    for entry in manifest["engines"]:
        entry["backends"] = [name for name in entry["backends"] if (entry["engine"], name) in kept]
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    names = {"manifest.json", *(file["name"] for entry in manifest["engines"] for file in entry["files"])}
    for path in bundle.iterdir():
        if path.name not in names:
            path.unlink()
