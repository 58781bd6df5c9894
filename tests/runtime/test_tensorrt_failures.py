"""What the TensorRT backend makes of plans, machines and GPUs that fail it."""

from __future__ import annotations

import json
import signal
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from ecea.runtime import EceaError, RequestError, inpaint
from ecea.runtime.backends import cuda_device, nvidia, tensorrt_plans
from ecea.runtime.backends.tensorrt_library import Messages
from ecea.runtime.errors import BackendUnavailable

SIZE = 32
COMMAND = r"build (them|it) anew with 'ecea-export --rebuild-plans .*site\.ecea'"

INFER = ["memcpy_htod_async", "memcpy_dtoh_async", "Stream.wait_for_event", "Event.record", "Event.synchronize"]


@pytest.mark.parametrize("sticky", [True, False])
@pytest.mark.parametrize("call", INFER)
def test_an_error_of_the_gpu_is_one_sentence_and_no_hang(world: Any, call: str, sticky: bool) -> None:
    world.bundle()
    with world.open(streams=2) as engine:
        engine.infer(*world.inputs(2))
        world.fail_from_now_on(call, sticky)
        futures = [engine.submit(*world.inputs(5, seed)) for seed in range(4)]
        errors = {str(future.exception(timeout=20)) for future in futures}
        with pytest.raises(EceaError, match=r"tensorrt failed on a batch of 1: .*illegal memory access") as caught:
            engine.infer(*world.inputs(1))
        assert caught.value.exit_status == 1
        assert all(f"{call} failed: an illegal memory access was encountered" in error for error in errors)
    assert world.gpu.violations == []
    assert world.gpu.released[-1] == ("nothing: the context is forgotten" if sticky else "context")
    assert (world.gpu.blocks == {}) == (not sticky)


@pytest.mark.parametrize("call", ["memcpy_dtoh_async", "Event.synchronize"])
def test_a_scene_that_fails_midway_is_not_half_written(world: Any, call: str, tmp_path: Path, write_scene: Any) -> None:
    values = np.full((3, 200, 90), 200, np.uint8)
    values[:, ::20] = 0
    path = write_scene(tmp_path / "s.tif", values, nodata=0)
    world.bundle()
    before = sorted(path.name for path in tmp_path.iterdir())
    with world.open(streams=2) as engine:
        world.fail_from_now_on(call, sticky=True, after=6)
        with pytest.raises(EceaError, match=r"site\.ecea: tensorrt failed on a batch of 1: .*illegal memory access"):
            inpaint(path, tmp_path / "o.tif", engine, batch=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.parametrize("world", ["plain"], indirect=True)
def test_what_the_error_recorder_is_told_is_raised(world: Any) -> None:
    world.bundle()
    for message in ("IExecutionContext::enqueueV3:\n Error Code 1: Cuda Runtime", "Error Code 2 and goes on"):
        with world.open() as engine:
            world.gpu.failures["recorder"] = deque([message, *[None] * 50])
            with pytest.raises(EceaError, match=r"failed on a batch of 1: .*Error Code \d") as caught:
                engine.infer(*world.inputs())
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "call",
    [
        "Device.retain_primary_context", "mem_alloc", "pagelocked_empty", "Stream", "Event", "deserialize_cuda_engine",
        "create_execution_context", "Context.push",
    ],
)  # fmt: skip
def test_an_error_while_loading_is_one_sentence_and_leaves_nothing(world: Any, call: str) -> None:
    world.bundle()
    world.gpu.failures[call] = deque([world.pycuda.LogicError(f"{call} failed: unspecified")])
    with pytest.raises(
        EceaError, match=rf"generator\.fp16\.b1\.plan: TensorRT cannot load it: {call} failed"
    ) as caught:
        world.open()
    assert type(caught.value) is EceaError
    assert world.gpu.violations == []
    assert not world.gpu.blocks
    assert not world.gpu.pinned


def test_an_interrupt_while_plans_are_loaded_is_not_lost(world: Any) -> None:
    """What Python raises in a callback, TensorRT's bindings print and forget."""
    world.bundle()
    call = world.gpu.call

    def interrupted(name: str, context: bool = True) -> None:
        if name == "deserialize_cuda_engine":
            with suppress(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        call(name, context)

    world.monkeypatch.setattr(world.gpu, "call", interrupted)
    with pytest.raises(KeyboardInterrupt):
        world.open()


def test_too_little_memory_is_told_with_how_much_there_is(world: Any) -> None:
    world.bundle()
    world.gpu.free = 3 << 20
    world.monkeypatch.setattr(world.fake.CudaEngine, "__init__", hungry(world.fake.CudaEngine.__init__))
    with pytest.raises(EceaError, match="the GPU has 3 of its 81920 MiB free, 64 MiB more are needed") as caught:
        world.open()
    assert type(caught.value) is EceaError
    assert world.gpu.violations == []


def hungry(init: Any) -> Any:
    def wrapped(self: Any, *arguments: Any) -> None:
        init(self, *arguments)
        self.device_memory_size_v2 = 64 << 20

    return wrapped


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tensorrt": "10.9.0.34"}, r"the plans are for TensorRT 10\.9\.0\.34, found TensorRT 11\.[\d.]+ here: "),
        (
            {"gpu": "NVIDIA A100-SXM4-80GB", "compute_capability": "8.0"},
            r"for NVIDIA A100-SXM4-80GB of compute capability 8\.0, found NVIDIA H100 80GB HBM3 of 9\.0 here: ",
        ),
        (
            {"gpu": "NVIDIA H200"},
            r"for NVIDIA H200 of compute capability 9\.0, found NVIDIA H100 80GB HBM3 of 9\.0 here: ",
        ),
        ({"compute_capability": "10.0"}, r"of compute capability 10\.0, found NVIDIA H100 80GB HBM3 of 9\.0 here: "),
    ],
)
def test_plans_for_another_machine_are_told_before_tensorrt_sees_them(
    world: Any, changes: dict[str, str], message: str
) -> None:
    world.bundle(**changes)
    with pytest.raises(RequestError, match=rf"'tensorrt' that was named cannot run fp16 here \(.*{message}{COMMAND}"):
        world.open()
    assert "deserialize_cuda_engine" not in world.gpu.calls
    assert "Device.retain_primary_context" not in world.gpu.calls


def test_a_plan_that_has_changed_is_not_shown_to_tensorrt(world: Any) -> None:
    plan = world.bundle() / "generator.fp16.b4.plan"
    plan.write_bytes(plan.read_bytes()[:-1])
    with pytest.raises(RequestError, match=r"b4\.plan: has .* the file has changed since it was exported"):
        world.open()
    assert world.gpu.calls == []


def test_a_plan_that_changes_after_it_was_checked_is_not_shown_to_tensorrt(world: Any) -> None:
    plan = world.bundle() / "generator.fp16.b4.plan"

    def late(device: Any) -> None:
        plan.write_bytes(world.fake.plan_bytes(4, SIZE, harmless=False))

    world.monkeypatch.setattr(cuda_device.Device, "open", with_before(cuda_device.Device.open, late))
    with pytest.raises(RequestError, match=r"b4\.plan: has changed since its hash was compared"):
        world.open()
    assert world.gpu.calls.count("deserialize_cuda_engine") == 1


def with_before(method: Any, before: Callable[[Any], None]) -> Any:
    def wrapped(self: Any) -> None:
        before(self)
        method(self)

    return wrapped


def test_a_plan_cut_short_at_export_is_told_with_tensorrt_s_words(world: Any) -> None:
    world.bundle(plans={4: b'{"batch": 4, '})
    with pytest.raises(
        EceaError, match=rf"b4\.plan: TensorRT does not take .* \(Serialization: magic tag\): {COMMAND}"
    ):
        world.open()
    assert world.gpu.violations == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"tensors": ["image", "edge", "out", "out_edge"]},
            "has the tensors edge, image, out, out_edge, expected edge",
        ),
        ({"dtype": "HALF"}, r"'image' is HALF of shape \(1, 3, 32, 32\), expected FLOAT of shape \(1, 3, 32, 32\)"),
        ({"batch": 2}, r"'image' is FLOAT of shape \(2, 3, 32, 32\), expected FLOAT of shape \(1, 3, 32, 32\)"),
    ],
)
def test_a_plan_of_something_else_is_refused(world: Any, changes: dict[str, Any], message: str) -> None:
    world.bundle(plans={1: world.fake.plan_bytes(**{"batch": 1, "size": SIZE, **changes})})
    with pytest.raises(EceaError, match=message):
        world.open()


@pytest.mark.parametrize(
    ("init", "count", "message"),
    [(100, 0, "finds no GPU"), (0, 0, "finds no GPU"), (803, 1, r"does not start \(CUDA error 803\)")],
)
def test_a_driver_without_a_gpu(world: Any, libcuda: Callable[..., Path], init: int, count: int, message: str) -> None:
    world.monkeypatch.setattr(nvidia, "_LIBRARY", str(libcuda(init, count)))
    world.bundle()
    with pytest.raises(RequestError, match=rf"\(the NVIDIA driver {message}"):
        world.open()
    assert world.gpu.calls == []


def test_no_driver_is_told_before_anything_is_read(world: Any) -> None:
    world.monkeypatch.setattr(nvidia, "_LIBRARY", "libcuda.absent.so")
    (world.bundle() / "generator.fp16.b1.plan").unlink()
    with pytest.raises(RequestError, match=r"'tensorrt' that was named cannot run fp16 here \(no NVIDIA driver\)"):
        world.open()
    with pytest.raises(BackendUnavailable, match="no NVIDIA driver"):
        nvidia.require_gpu()


@pytest.mark.parametrize(
    ("module", "message"), [("tensorrt", "TensorRT cannot be"), ("pycuda.driver", "pycuda cannot be")]
)
def test_a_package_that_is_not_there(world: Any, module: str, message: str) -> None:
    world.monkeypatch.setitem(sys.modules, module, None)
    world.bundle()
    with pytest.raises(RequestError, match=rf"\({message} imported \(.*\): install ecea with its 'tensorrt'"):
        world.open()


def test_the_bindings_without_their_library(trt: ModuleType) -> None:
    """What the genuine bindings do where libnvinfer gives nothing."""
    if "tensorrt_libs" in sys.modules:
        pytest.skip("the library is here")
    with pytest.raises(BackendUnavailable, match="TensorRT does not start"):
        tensorrt_plans.Plans(trt, Path(), {}, Messages(trt))


def test_a_bundle_without_plans_is_told_how_to_build_them(world: Any) -> None:
    path = world.bundle()
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["engines"][0]["plan"]
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(RequestError, match=r"holds no plans of this engine: build them with 'ecea-export --rebuild-pl"):
        world.open()
