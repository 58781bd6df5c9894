"""The TensorRT backend through TensorRT's genuine classes, on a GPU made of numpy."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import os
import shutil
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecea.runtime import EceaError, RequestError, inpaint, open_engine
from ecea.runtime.backends import cuda_device, cuda_graph, nvidia, tensorrt, tensorrt_plans
from ecea.runtime.errors import BackendUnavailable

SIZE = 32
COMMAND = r"build (them|it) anew with 'ecea-export --rebuild-plans .*site\.ecea'"


@pytest.fixture(scope="module")
def trt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The genuine bindings; other tests find ``tensorrt`` as it was before."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[1] / "kernels")
        patch.syspath_prepend(Path(__file__).parent)
        yield importlib.import_module("tensorrt_stubs").load(tmp_path_factory.mktemp("stubs"))
    for name in [name for name in sys.modules if name.partition(".")[0] == "tensorrt"]:
        del sys.modules[name]


def fakes(name: str) -> Any:
    return importlib.import_module(name)


@pytest.fixture(scope="module")
def libcuda(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``libcuda(init=0, count=1)``: a library that answers so."""
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    folder = tmp_path_factory.mktemp("libcuda")

    def make(init: int = 0, count: int = 1) -> Path:
        path = folder / f"libcuda-{init}-{count}.so"
        text = f"int cuInit(unsigned f){{return {init};}} int cuDeviceGetCount(int*n){{*n={count};return 0;}}"
        subprocess.run(["cc", "-x", "c", "-shared", "-fPIC", "-o", path, "-"], input=text.encode(), check=True)
        return path

    return make


class World:
    """A machine with a GPU, TensorRT and pycuda, and a bundle with plans for it."""

    def __init__(self, trt: ModuleType, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.trt, self.monkeypatch = trt, monkeypatch
        self.pycuda, self.fake = fakes("pycuda_fake"), fakes("tensorrt_fake")
        self.gpu = self.pycuda.Gpu()
        self.path = folder / "site.ecea"
        package = ModuleType("pycuda")
        package.driver = self.pycuda.driver_of(self.gpu)  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "pycuda", package)
        monkeypatch.setitem(sys.modules, "pycuda.driver", package.driver)
        self.fake.install(trt, self.gpu, monkeypatch)

    def without_graphs(self) -> World:
        self.monkeypatch.setitem(sys.modules, "cuda.bindings", None)
        return self

    def bundle(self, batches: tuple[int, ...] = (1, 4), plans: dict[int, bytes] | None = None, **changes: Any) -> Path:
        """Write the bundle; ``changes`` are of what the manifest says of the plans."""
        self.path.mkdir(exist_ok=True)
        names, files = {}, []
        for batch in batches:
            data = (plans or {}).get(batch, self.fake.plan_bytes(batch, SIZE))
            names[str(batch)] = f"generator.fp16.b{batch}.plan"
            (self.path / names[str(batch)]).write_bytes(data)
            files.append({"name": names[str(batch)], "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)})
        plan = {
            "tensorrt": self.trt.__version__,
            "gpu": self.gpu.name,
            "compute_capability": "9.0",
            "driver": "580.95.05",
            "batches": names,
            "plugin_sha256": None,
            "half_layers": 0.9,
            "device_memory_bytes": dict.fromkeys(names, 1),
            **changes,
        }
        record = {"engine": "fp16", "backends": ["tensorrt"], "files": files, "parity": [], "plan": plan}
        manifest = {"schema": 1, "configuration": {"img_size": SIZE}, "engines": [record]}
        (self.path / "manifest.json").write_text(json.dumps(manifest))
        return self.path

    def open(self, **options: Any) -> Any:
        return open_engine(self.path, **{"engine": "fp16", "backend": "tensorrt", "threads": 8, **options})

    def check_released(self) -> None:
        """Nothing is left, and nothing was done in a way that a GPU or pycuda would punish."""
        assert self.gpu.violations == []
        assert not self.gpu.blocks
        assert not self.gpu.pinned
        assert self.gpu.stack() == []
        released = self.gpu.released
        contexts, engines = ([i for i, kind in enumerate(released) if kind == name] for name in ("execution context", "engine"))
        assert max(contexts) < min(engines) < max(engines) < released.index("runtime"), released
        if "graph" in released:
            assert released.index("graph") < min(contexts)
        assert released.index("runtime") < released.index("memory")
        assert released[-1] == "context", released


@pytest.fixture(params=["graphs", "plain"])
def world(
    trt: ModuleType,
    libcuda: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> World:
    monkeypatch.setattr(nvidia, "_LIBRARY", str(libcuda()))
    made = World(trt, monkeypatch, tmp_path)
    if getattr(request, "param", "plain") == "plain":
        return made.without_graphs()
    driver = pytest.importorskip("cuda.bindings.driver", reason="cuda-bindings are not installed")
    made.fake.install_graphs(driver, made.gpu, monkeypatch)
    return made


def inputs(batch: int = 1, seed: int = 0) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(seed)
    image, edge = rng.random((batch, 3, SIZE, SIZE), np.float32), rng.random((batch, 1, SIZE, SIZE), np.float32)
    return image, edge, (rng.random((batch, 1, SIZE, SIZE)) < 0.3).astype(np.float32)


def check_result(given: tuple[Any, Any, Any], result: tuple[Any, Any]) -> None:
    image, edge, mask = given
    np.testing.assert_allclose(result[0], 0.5 * image + 0.25 * mask, atol=1e-6)
    np.testing.assert_array_equal(result[1], edge)


def check_life(world: World, order: int = 0) -> None:
    """Open, run batches from several threads in an order that the seed chooses, close."""
    rng = np.random.default_rng(order)
    world.gpu.policy = lambda ready: int(rng.integers(len(ready)))
    world.bundle()
    with world.open(streams=3) as engine:
        assert (engine.backend, engine.arithmetic, engine.tile_size) == ("tensorrt", "f16", SIZE)
        batches = [inputs(int(count), seed) for seed, count in enumerate(rng.integers(1, 12, 8))]
        futures = [engine.submit(*batch) for batch in batches]
        for batch, future in zip(batches, futures, strict=True):
            check_result(batch, future.result(timeout=20))
    world.check_released()


@pytest.mark.parametrize("order", range(6))
def test_the_whole_life(world: World, order: int) -> None:
    check_life(world, order)


def test_graphs_are_replayed_where_there_are_bindings_for_them(world: World) -> None:
    world.bundle()
    with world.open() as engine:
        engine.infer(*inputs(1))
        graphs = "cuGraphLaunch" in world.gpu.calls
        assert graphs == (world.gpu.calls.count("execute_async_v3") == 8)  # warmed up and recorded, in 2 lanes
        assert graphs or world.gpu.calls.count("execute_async_v3") == 5
    assert world.gpu.released.count("graph") == (4 if graphs else 0)


@pytest.mark.parametrize("call", ["cuStreamBeginCapture", "cuStreamEndCapture", "cuGraphInstantiate"])
def test_what_cannot_be_recorded_runs_without_a_graph(world: World, call: str) -> None:
    world.gpu.failures[call] = deque([RuntimeError()] * 6)
    check_life(world)
    assert "cuGraphLaunch" not in world.gpu.calls


def prefer(*kinds: str) -> Callable[[list[tuple[str, int]]], int]:
    """Do some kinds of work as early as may be."""
    rank = {kind: place for place, kind in enumerate(kinds)}
    return lambda ready: min(range(len(ready)), key=lambda i: rank.get(ready[i][0], -1))


def test_the_next_batch_is_copied_in_while_one_is_computed(world: World) -> None:
    world.bundle(batches=(4,))
    with world.open() as engine:
        world.gpu.done.clear()
        world.gpu.policy = prefer("in", "out", "compute")
        engine.infer(*inputs(8))
        kinds = [what for what, _ in world.gpu.done if what in ("in", "out", "compute")]
    assert kinds[:7] == ["in"] * 6 + ["compute"]


def test_a_batch_is_copied_out_while_the_next_is_computed(world: World) -> None:
    world.bundle(batches=(4,))
    with world.open() as engine:
        world.gpu.done.clear()
        world.gpu.policy = prefer("in", "compute", "out")
        engine.infer(*inputs(8))
        computed = [(what, stream) for what, stream in world.gpu.done if what in ("out", "compute")]
    first, second = dict.fromkeys(stream for _, stream in computed)
    assert computed.index(("out", first)) > computed.index(("compute", second))


def test_only_one_batch_is_computed_at_a_time(world: World) -> None:
    """They share the memory that they work in."""
    world.bundle(batches=(1,))
    with world.open(streams=4) as engine:
        world.gpu.done.clear()
        rng = np.random.default_rng(1)
        world.gpu.policy = lambda ready: int(rng.integers(len(ready)))
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda seed: engine.infer(*inputs(3, seed)), range(8)))
        streams = [stream for what, stream in world.gpu.done if what == "compute"]
    assert streams[::2] == streams[1::2]  # a batch takes two steps


@given(st.integers(1, 70), st.sets(st.sampled_from([1, 2, 3, 4, 6, 8, 16, 32]), min_size=1))
def test_a_batch_of_any_size_is_made_of_those_that_there_are(count: int, sizes: set[int]) -> None:
    batches = tuple(sorted(sizes))
    parts = tensorrt._parts(count, batches)
    taken = [index for part, _ in parts for index in range(count)[part]]
    assert taken == list(range(count))
    for part, batch in parts:
        assert batch in sizes
        assert 0 < part.stop - part.start <= batch
    if count in sizes:
        assert len(parts) == 1
    padding = sum(batch for _, batch in parts) - count
    assert padding < max(batches)
    # No dearer than with plans of one size alone.
    assert padding + len(parts) <= min(-(-count // size) * (size + 1) for size in sizes) - count


def test_a_scene_is_filled(world: World, tmp_path: Path, write_scene: Any, read_bands: Any) -> None:
    values = np.full((3, 70, 50), 200, np.uint8)
    values[:, 20:25] = 0
    path = write_scene(tmp_path / "s.tif", values, nodata=0)
    world.bundle()
    with world.open(streams=2) as engine:
        result = inpaint(path, tmp_path / "o.tif", engine, batch=2)
    filled = read_bands(tmp_path / "o.tif")
    assert (filled[:, 20:25] == 64).all()  # 255 / 4, rounded
    assert (np.delete(filled, np.s_[20:25], axis=1) == 200).all()
    assert (result.backend, result.arithmetic) == ("tensorrt", "f16")
    world.check_released()


INFER = ["memcpy_htod_async", "memcpy_dtoh_async", "Stream.wait_for_event", "Event.record", "Event.synchronize"]


def fail_from_now_on(world: World, call: str, sticky: bool, after: int = 0) -> None:
    error = world.pycuda.LogicError(f"{call} failed: an illegal memory access was encountered")

    class Failure(world.pycuda.LogicError):  # type: ignore[misc, name-defined]
        """Breaks the GPU when it is raised."""

    world.gpu.failures[call] = deque([None] * after + [error])
    if sticky:
        original = world.gpu.call

        def call_and_break(name: str, context: bool = True) -> None:
            try:
                original(name, context)
            except world.pycuda.LogicError as raised:
                world.gpu.broken = raised
                raise

        world.gpu.call = call_and_break


@pytest.mark.parametrize("sticky", [True, False])
@pytest.mark.parametrize("call", INFER)
def test_an_error_of_the_gpu_is_one_sentence_and_no_hang(world: World, call: str, sticky: bool) -> None:
    world.bundle()
    with world.open(streams=2) as engine:
        engine.infer(*inputs(2))
        fail_from_now_on(world, call, sticky)
        futures = [engine.submit(*inputs(5, seed)) for seed in range(4)]
        errors = {str(future.exception(timeout=20)) for future in futures}
        with pytest.raises(EceaError, match=r"tensorrt failed on a batch of 1: .*illegal memory access") as caught:
            engine.infer(*inputs(1))
        assert caught.value.exit_status == 1
        assert all(f"{call} failed: an illegal memory access was encountered" in error for error in errors)
    assert world.gpu.violations == []
    assert world.gpu.released[-1] == ("nothing: the context is forgotten" if sticky else "context")
    assert (world.gpu.blocks == {}) == (not sticky)


@pytest.mark.parametrize("call", ["memcpy_dtoh_async", "Event.synchronize"])
def test_a_scene_that_fails_midway_is_not_half_written(
    world: World, call: str, tmp_path: Path, write_scene: Any
) -> None:
    values = np.full((3, 200, 90), 200, np.uint8)
    values[:, ::20] = 0
    path = write_scene(tmp_path / "s.tif", values, nodata=0)
    world.bundle()
    before = sorted(os.listdir(tmp_path))
    with world.open(streams=2) as engine:
        fail_from_now_on(world, call, sticky=True, after=6)
        with pytest.raises(EceaError, match=r"site\.ecea: tensorrt failed on a batch of 1: .*illegal memory access"):
            inpaint(path, tmp_path / "o.tif", engine)
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize("world", ["plain"], indirect=True)
def test_what_the_error_recorder_is_told_is_raised(world: World) -> None:
    world.bundle()
    for message in ("IExecutionContext::enqueueV3:\n Error Code 1: Cuda Runtime", "Error Code 2 and goes on"):
        with world.open() as engine:
            world.gpu.failures["recorder"] = deque([message, *[None] * 50])
            with pytest.raises(EceaError, match=r"failed on a batch of 1: .*Error Code \d") as caught:
                engine.infer(*inputs())
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "call",
    [
        "Device.retain_primary_context", "mem_alloc", "pagelocked_empty", "Stream", "Event", "deserialize_cuda_engine",
        "create_execution_context", "Context.push",
    ],
)  # fmt: skip
def test_an_error_while_loading_is_one_sentence_and_leaves_nothing(world: World, call: str) -> None:
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


def test_too_little_memory_is_told_with_how_much_there_is(world: World) -> None:
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
        ({"compute_capability": "10.0"}, r"of compute capability 10\.0, found NVIDIA H100 80GB HBM3 of 9\.0 here: "),
    ],
)
def test_plans_for_another_machine_are_told_before_tensorrt_sees_them(
    world: World, changes: dict[str, str], message: str
) -> None:
    world.bundle(**changes)
    with pytest.raises(RequestError, match=rf"no backend can run fp16 here \(tensorrt: .*{message}{COMMAND}"):
        world.open()
    assert "deserialize_cuda_engine" not in world.gpu.calls
    assert "Device.retain_primary_context" not in world.gpu.calls


def test_another_driver_is_no_reason(world: World) -> None:
    world.bundle(driver="570.1")
    world.open().close()


def test_a_plan_that_has_changed_is_not_shown_to_tensorrt(world: World) -> None:
    plan = world.bundle() / "generator.fp16.b4.plan"
    plan.write_bytes(plan.read_bytes()[:-1])
    with pytest.raises(RequestError, match=r"b4\.plan: has .* the file has changed since it was exported"):
        world.open()
    assert world.gpu.calls == []


def test_a_plan_that_changes_after_it_was_checked_is_not_shown_to_tensorrt(world: World) -> None:
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


def test_a_plan_cut_short_at_export_is_told_with_tensorrt_s_words(world: World) -> None:
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
def test_a_plan_of_something_else_is_refused(world: World, changes: dict[str, Any], message: str) -> None:
    world.bundle(plans={1: world.fake.plan_bytes(**{"batch": 1, "size": SIZE, **changes})})
    with pytest.raises(EceaError, match=message):
        world.open()


def test_a_batch_that_a_profile_fixes_is_taken(world: World) -> None:
    world.bundle(plans={4: world.fake.plan_bytes(4, SIZE, shown_batch=-1)})
    with world.open() as engine:
        check_result(inputs(4), engine.infer(*inputs(4)))


def test_layers_are_timed(world: World) -> None:
    world.bundle()
    with world.open() as engine:
        layers = engine.layer_times(*inputs(2))
        assert [(layer.name, layer.kind, layer.seconds) for layer in layers] == [
            ("halve", "kgen", 0.002),
            ("shade", "", 0.001),
        ]
    assert world.gpu.violations == []


@pytest.mark.parametrize(
    ("init", "count", "message"),
    [(100, 0, "finds no GPU"), (0, 0, "finds no GPU"), (803, 1, r"does not start \(CUDA error 803\)")],
)
def test_a_driver_without_a_gpu(
    world: World, libcuda: Callable[..., Path], init: int, count: int, message: str
) -> None:
    world.monkeypatch.setattr(nvidia, "_LIBRARY", str(libcuda(init, count)))
    world.bundle()
    with pytest.raises(RequestError, match=f"tensorrt: the NVIDIA driver {message}"):
        world.open()
    assert world.gpu.calls == []


def test_no_driver_is_told_before_anything_is_read(world: World) -> None:
    world.monkeypatch.setattr(nvidia, "_LIBRARY", "libcuda.absent.so")
    (world.bundle() / "generator.fp16.b1.plan").unlink()
    with pytest.raises(RequestError, match=r"no backend can run fp16 here \(tensorrt: no NVIDIA driver\)"):
        world.open()
    with pytest.raises(BackendUnavailable, match="no NVIDIA driver"):
        nvidia.require_gpu()


@pytest.mark.parametrize(
    ("module", "message"), [("tensorrt", "TensorRT cannot be"), ("pycuda.driver", "pycuda cannot be")]
)
def test_a_package_that_is_not_there(world: World, module: str, message: str) -> None:
    world.monkeypatch.setitem(sys.modules, module, None)
    world.bundle()
    with pytest.raises(RequestError, match=rf"tensorrt: {message} imported \(.*\): install ecea with its 'tensorrt'"):
        world.open()


def test_the_bindings_without_their_library(trt: ModuleType) -> None:
    """What the genuine bindings do where libnvinfer gives nothing."""
    if "tensorrt_libs" in sys.modules:
        pytest.skip("the library is here")
    with pytest.raises(BackendUnavailable, match="TensorRT does not start"):
        tensorrt_plans.Plans(trt, Path(), {}, tensorrt_plans.Errors())


def test_a_bundle_without_plans_is_told_how_to_build_them(world: World) -> None:
    path = world.bundle()
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["engines"][0]["plan"]
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(RequestError, match=r"holds no plans of this engine: build them with 'ecea-export --rebuild-pl"):
        world.open()


def test_the_recorder_and_the_logger_are_what_tensorrt_asks_for(trt: ModuleType) -> None:
    errors = tensorrt_plans.Errors()
    logger, recorder = tensorrt_plans.listeners(trt, errors)
    asked = {name for name, _ in inspect.getmembers(trt.IErrorRecorder, callable) if not name.startswith("_")}
    assert asked <= set(vars(type(recorder)))
    assert "log" in vars(type(logger))
    logger.log(trt.ILogger.Severity.WARNING, "slow")
    logger.log(trt.ILogger.Severity.ERROR, "bad")
    assert errors.first("nothing") == "bad"
    assert recorder.report_error(trt.ErrorCodeTRT.FAILED_ALLOCATION, "out of memory") is True
    assert (recorder.num_errors(), recorder.has_overflowed()) == (1, False)
    assert recorder.get_error_code(0) == trt.ErrorCodeTRT.FAILED_ALLOCATION
    assert recorder.get_error_desc(0) == errors.first("nothing") == "out of memory"
    recorder.clear()
    assert errors.first("nothing") == "nothing"


def test_the_fake_of_pycuda_is_called_as_pycuda_is(trt: ModuleType) -> None:
    """``trt`` for the search path alone."""
    pycuda = fakes("pycuda_fake")
    driver = pycuda.driver_of(pycuda.Gpu())
    for name, line in pycuda.SIGNATURES.items():
        wanted = pycuda.parameters(line)
        if name.endswith("__init__") and "(object)arg1" in line:
            wanted[0] = ("self", False)
        found = pycuda.parameters_of(pycuda.lookup(driver, name))
        assert [optional for _, optional in found] == [optional for _, optional in wanted], name
        named = [(mine, right) for (mine, _), (right, _) in zip(found, wanted, strict=True) if right[:3] != "arg"]
        assert all(mine == right for mine, right in named), name


def test_the_fake_of_pycuda_is_what_is_installed(trt: ModuleType) -> None:
    driver = pytest.importorskip("pycuda.driver", exc_type=ImportError)
    pycuda = fakes("pycuda_fake")
    for name, line in pycuda.SIGNATURES.items():
        assert line in (pycuda.lookup(driver, name).__doc__ or ""), name
    for name in (*pycuda.ATTRIBUTES, *pycuda.ERRORS):
        pycuda.lookup(driver, name)
    assert issubclass(driver.MemoryError, driver.Error)


MODULES: list[tuple[ModuleType, str, str]] = [
    (tensorrt, "self.stream.wait_for_event(after)", "pass"),
    (tensorrt, "self._last = lane.computed", "pass"),
    (tensorrt, "self._last = lane.computed", "self._last = lane._copied"),
    (tensorrt, "self.computed.record(self.stream)", "pass"),
    (tensorrt, "self._copied.record(self.stream)", "pass"),
    (tensorrt, "self._copied.synchronize()", "pass"),
    (tensorrt, "self._idle.put(self._finish(started, outputs))", "self._finish(started, outputs)"),
    (tensorrt, "started.popleft()\n        return lane", "return lane"),
    (tensorrt, "self._host[name][:batch], self.addresses[name]", "self._host[name][:1], self.addresses[name]"),
    (tensorrt, "tensor[...] = self._host[name][: len(tensor)]", "pass"),
    (tensorrt, "start + sum(sizes[:index])", "start"),
    (tensorrt, "= device.memory(sum(sizes))", "= device.memory(sizes[0])"),
    (tensorrt, "work = device.memory(plans.memory)", "work = device.memory(1)"),
    (tensorrt, "execute_async_v3(self._stream.handle)", "execute_async_v3(self._stream)"),
    (tensorrt, "execute_async_v3(self._stream.handle)", "execute_async_v2(self._stream.handle)"),
    (tensorrt, "closing.callback(run.close)", "pass"),
    (tensorrt, "closing.callback(plans.close)", "pass"),
    (tensorrt, "with suppress(Exception), self._device.current():\n            closing.close()", "closing.close()"),
    (tensorrt, "self._device.close()", "pass"),
    (tensorrt, "device.open()", "pass"),
    (
        tensorrt,
        "            with self._device.current():\n                for",
        "            if True:\n                for",
    ),
    (tensorrt, '"f16" if', '"f32" if'),
    (tensorrt_plans, "ExecutionContextAllocationStrategy.USER_MANAGED", "ExecutionContextAllocationStrategy.STATIC"),
    (tensorrt_plans, "context.set_device_memory(memory, self.memory)", "pass"),
    (tensorrt_plans, "context.set_device_memory(memory, self.memory)", "context.device_memory = memory"),
    (tensorrt_plans, "set_device_memory(memory, self.memory)", "set_device_memory(memory)"),
    (tensorrt_plans, "set_device_memory(memory, self.memory)", "set_device_memory(memory, 0)"),
    (tensorrt_plans, "device_memory_size_v2", "device_memory_size"),
    (tensorrt_plans, "context.set_tensor_address(name, address)", "context.set_tensor_address(address, name)"),
    (tensorrt_plans, "context.set_input_shape(name,", "context.set_binding_shape(name,"),
    (
        tensorrt_plans,
        "error_recorder = self._recorder\n        self._engines",
        "error_recorder = self.errors\n        self._engines",
    ),
    (tensorrt_plans, "trt.Runtime(self._logger)", "trt.Runtime(None)"),
    (tensorrt_plans, "deserialize_cuda_engine(data)", "deserialize_cuda_engine(path)"),
    (tensorrt_plans, "for name, address in addresses.items()]", "for name, address in ()]"),
    (tensorrt_plans, "max(int(engine", "min(int(engine"),
    (cuda_device, "Stream(_NON_BLOCKING_STREAM)", "Stream()"),
    (cuda_device, "flags.BLOCKING_SYNC | flags.DISABLE_TIMING", "flags.DISABLE_TIMING"),
    (cuda_device, "flags.BLOCKING_SYNC", "flags.BLOCKING"),
    (cuda_device, "self._driver.Context.pop()\n\n    def stream", "pass\n\n    def stream"),
    (cuda_device, "self._context.push()", "pass"),
    (cuda_device, "allocation.free()", "pass"),
    (cuda_device, "self._driver.Context.synchronize()", "pass"),
    (cuda_device, "context.detach()", "pass"),
    (cuda_device, "thread.start()\n        thread.join()", "self._release(context, owned)"),
    (cuda_device, "memcpy_htod_async(address, array, stream)", "memcpy_htod_async(array, address, stream)"),
    (cuda_device, "memcpy_htod_async(address, array, stream)", "memcpy_htod_async(address, array)"),
    (cuda_device, "resource.base if", "resource if"),
    (cuda_graph, "MODE_THREAD_LOCAL", "MODE_GLOBAL"),
    (cuda_graph, "cuGraphInstantiate(graph, 0)", "cuGraphInstantiate(graph)"),
    (cuda_graph, "cuGraphLaunch(self._executable, self._stream)", "cuGraphLaunch(self._stream, self._executable)"),
    (cuda_graph, "self._driver.cuGraphExecDestroy(executable)", "pass"),
    (cuda_graph, "complete = enqueue()", "complete = True"),
]


def mutate(monkeypatch: pytest.MonkeyPatch, module: ModuleType, old: str, new: str) -> None:
    """Change one place of a module's text, in the module that everybody has imported."""
    source = inspect.getsource(module)
    assert old in source
    fresh = ModuleType(module.__name__)
    exec(compile(source.replace(old, new, 1), "mutated.py", "exec", dont_inherit=True), vars(fresh))
    for name, value in vars(fresh).items():
        if not name.startswith("__"):
            for target in (tensorrt, tensorrt_plans, cuda_device, cuda_graph):
                if getattr(value, "__module__", None) == module.__name__ and hasattr(target, name):
                    monkeypatch.setattr(target, name, value)
    if module is tensorrt:
        backend = importlib.import_module("ecea.runtime.backends").BACKENDS
        genuine = backend["tensorrt"]
        monkeypatch.setitem(backend, "tensorrt", type(genuine)(fresh.load, fresh.layer_times, genuine.require))


@pytest.mark.parametrize("world", ["graphs"], indirect=True)
@pytest.mark.parametrize("module", [tensorrt, tensorrt_plans, cuda_device, cuda_graph], ids=lambda m: m.__name__)
def test_the_modules_text_is_what_the_mutations_change(world: World, module: ModuleType) -> None:
    mutate(world.monkeypatch, module, "import ", "import ")
    check_mutated(world)


def check_mutated(world: World) -> None:
    check_life(world, 0)
    for graphs in (True, False):
        if not graphs:
            world.without_graphs()
        world.gpu.violations.clear()
        for order in range(1, 3):
            fresh = World(world.trt, world.monkeypatch, world.path.parent)
            if graphs:
                driver = importlib.import_module("cuda.bindings.driver")
                fresh.fake.install_graphs(driver, fresh.gpu, world.monkeypatch)
            check_life(fresh, order)


@pytest.mark.parametrize("world", ["graphs"], indirect=True)
@pytest.mark.parametrize(("module", "old", "new"), MODULES)
def test_a_mistake_shows(world: World, module: ModuleType, old: str, new: str) -> None:
    mutate(world.monkeypatch, module, old, new)
    with pytest.raises(BaseException):  # noqa: B017  found by a check of ours, the bindings' or the fake's
        check_mutated(world)
    assert threading.active_count() < 50
