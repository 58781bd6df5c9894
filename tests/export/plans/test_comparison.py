"""Attention in three forms, built and run through TensorRT's genuine signatures on a GPU made of numpy."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("triton", reason="Triton is not installed")
from ecea.export.plans import bundling, comparison
from ecea.export.plans.comparison import compare_attention
from ecea.export.plans.machine import find_machine
from ecea.runtime.backends import nvidia
from ecea.runtime.bundle import Bundle
from ecea.runtime.errors import BackendUnavailable, RequestError


def form_of(network: Any) -> str:
    """As the parser sees it."""
    if network.plugins:
        return "plugin"
    return "standard" if any(layer["LayerType"] == "Attention" for layer in network.layers) else "body"


def of_each(**values: float) -> Any:
    return lambda network: values[form_of(network)]


@pytest.fixture
def gpu(world: Any, exported: Bundle, small: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The GPU, whose clock is the only one; plans compute what the FP32 engine does, with errors of their own."""
    monkeypatch.setattr(
        comparison, "fp32_outputs", lambda *_: dict(zip(("out", "out_edge"), small.expected, strict=True))
    )
    clock = SimpleNamespace(monotonic=lambda: world.gpu.clock, perf_counter=lambda: world.gpu.clock)
    monkeypatch.setattr(comparison, "time", clock)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    world.seconds = 60.0
    world.changes = {
        "onnx": str(exported.path / "generator.fp32.cpu.onnx"),
        "error": of_each(plugin=0, body=0.125, standard=0.25),
        "seconds": of_each(plugin=0.25, body=0.5, standard=0.75),
    }
    return world.gpu


def compare(world: Any, exported: Bundle, small: Any, batch: int = 3, rounds: int = 4) -> Any:
    return compare_attention(exported.path, batch, machine=world.machine, tiles=small.tiles, rounds=rounds)


def check_released(gpu: Any) -> None:
    assert gpu.violations == []
    assert gpu.blocks == {}
    assert gpu.pinned == 0
    assert list(Path(tempfile.gettempdir()).iterdir()) == []


def test_every_form_is_built_run_and_compared(gpu: Any, world: Any, exported: Bundle, small: Any) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in exported.path.iterdir()}
    found = compare(world, exported, small)
    assert list(found) == ["plugin", "body", "standard"]
    expected = {"plugin": (250, 0, 60), "body": (500, 0.125, 60), "standard": (750, 0.25, 0)}
    for form, (milliseconds, error, build) in expected.items():
        one = found[form]
        assert one.why_not is None
        assert one.milliseconds == pytest.approx(milliseconds)
        assert len(one.seconds) == 4
        assert one.to_plugin == pytest.approx(error, abs=1e-6)
        assert one.to_reference == pytest.approx(error, abs=1e-4)
        assert one.build_seconds == build  # the last takes the timings of the second: neither has a plugin
    for model in world.parsed:
        assert [value.type.tensor_type.shape.dim[0].dim_value for value in model.graph.input] == [3, 3, 3]
    assert before == {path.name: path.stat().st_mtime_ns for path in exported.path.iterdir()}
    check_released(gpu)


def test_forms_take_turns(gpu: Any, world: Any, exported: Bundle, small: Any) -> None:
    """What makes the GPU slower meanwhile makes all of them slower."""
    compare(world, exported, small, batch=1, rounds=5)
    first, *_ = gpu.streams  # of each plan two, one after another
    order = [(stream - first) // 2 for what, stream in gpu.done if what == "compute"][::2]
    assert order[-15:] == [0, 1, 2] * 5


def test_a_form_that_cannot_be_built_keeps_no_other_from_it(gpu: Any, world: Any, exported: Bundle, small: Any) -> None:
    world.refuses = lambda network: form_of(network) == "standard"
    found = compare(world, exported, small, batch=1)
    assert found["standard"].why_not is not None
    assert found["standard"].why_not.startswith("generator.fp16.b1.plan: TensorRT builds no plan (could not find any")
    assert (found["standard"].build_seconds, found["standard"].milliseconds) == (None, None)
    assert found["body"].to_plugin == pytest.approx(0.125, abs=1e-6)
    check_released(gpu)


def test_without_the_plugin_the_others_are_still_compared_with_the_reference(
    gpu: Any, world: Any, exported: Bundle, small: Any
) -> None:
    world.refuses = lambda network: form_of(network) == "plugin"
    found = compare(world, exported, small, batch=1)
    assert found["plugin"].why_not is not None
    assert found["body"].to_plugin is None
    assert found["body"].to_reference == pytest.approx(0.125, abs=1e-4)


def test_a_plan_without_our_kernel_is_not_compared_as_one_with_it(
    gpu: Any, world: Any, exported: Bundle, small: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As plans are of heads that the kernel is not for, and of U-Nets."""
    monkeypatch.setattr(bundling, "HEAD_DIMS", (64, 128))
    found = compare(world, exported, small, batch=1)
    assert found["plugin"].why_not == f"{exported.path}: has no attention in fp16 that our kernel is for"
    assert found["plugin"].seconds == ()
    assert found["body"].to_plugin is None
    assert found["body"].to_reference == pytest.approx(0.125, abs=1e-4)
    check_released(gpu)


def test_a_form_that_fails_while_it_runs_is_out(gpu: Any, world: Any, exported: Bundle, small: Any) -> None:
    """In the second round: each plan is warmed up in two lanes and run once to be compared."""
    runs = 3 * 2 + 3 + 3 + 1
    gpu.failures["execute_async_v3"] = deque([*[None] * runs, RuntimeError("an illegal memory access"), *[None] * 50])
    found = compare(world, exported, small, batch=1)
    assert [found[form].why_not is None for form in found] == [True, False, True]
    assert "tensorrt failed on a batch of 1: an illegal memory access" in found["body"].why_not
    assert found["body"].build_seconds == 60
    assert [len(found[form].seconds) for form in found] == [4, 0, 4]


def test_what_cannot_be_compared_at_all(gpu: Any, world: Any, exported: Bundle, small: Any, tmp_path: Path) -> None:
    path = Path(shutil.copytree(exported.path, tmp_path / "site.ecea"))
    (path / "generator.fp16.onnx").write_bytes(b"")
    with pytest.raises(RequestError, match=r"fp16\.onnx: has 0 bytes"):
        compare_attention(path, 1, machine=world.machine, tiles=small.tiles)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["engines"] = [entry for entry in manifest["engines"] if entry["engine"] != "fp16"]
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(RequestError, match=r"site\.ecea: holds no ONNX file of fp16 for TensorRT"):
        compare_attention(path, 1, machine=world.machine, tiles=small.tiles)


def test_without_a_gpu(exported: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvidia, "_LIBRARY", "libcuda.absent.so")
    for call in (find_machine, lambda: compare_attention(exported.path, 1)):
        with pytest.raises(BackendUnavailable, match="no NVIDIA driver"):
            call()
