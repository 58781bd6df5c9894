"""Building a plan, against TensorRT's genuine signatures, with no GPU and no libnvinfer."""

from __future__ import annotations

import importlib
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton", reason="Triton is not installed")
import triton
from triton.runtime.errors import PTXASError

from ecea.export.attention_function import BODY, PLUGIN
from ecea.export.plans import builder, inspection, network
from ecea.kernels import ahead_of_time, plugin
from ecea.runtime.bundle import Bundle
from ecea.runtime.errors import EceaError

FORMS = {"fp32": BODY, "fp16": PLUGIN, "int8": PLUGIN}


def build(
    world: Any, folder: Path, engine: str = "fp16", batch: int = 3, module: Any = builder
) -> tuple[Any, list[str]]:
    """A plan of the small generator, and what was said."""
    said: list[str] = []
    read = network.read_network(folder / f"generator.{engine}.onnx", batch, FORMS[engine])
    return module.build_plan(world.machine, read, f"generator.{engine}.b{batch}.plan", engine, said.append), said


def check_builds(world: Any, folder: Path, module: Any = builder) -> None:
    """All that a sound build does."""
    plan, said = build(world, folder, module=module)
    assert plan.inspection.plugin_layers == 9
    assert 0.5 < plan.inspection.half_layers < 0.95
    assert plan.inspection.device_memory_bytes == 3 * 3 * 4 * 64**2  # of the fake: an image of float32
    assert len(plan.plugin_sha256) == 64
    (config,) = world.configs
    assert config.limits == {"WORKSPACE": 30 << 30}
    assert config.flags_set == set()  # no TF32
    assert config.set_to == {
        "builder_optimization_level": 3,
        "profiling_verbosity": world.trt.ProfilingVerbosity.DETAILED,
    }
    flag = world.trt.NetworkDefinitionCreationFlag.PREFER_AOT_PYTHON_PLUGINS
    assert world.flags == [1 << int(flag)]
    assert [line.rpartition(":")[0] for line in said] == [
        "plan        generator.fp16.b3.plan: parsed",
        "plan        generator.fp16.b3.plan: kernels chosen",
    ]


def check_refuses(world: Any, folder: Path, fail: str, message: str, module: Any = builder) -> None:
    """A build in which something goes wrong ends in our sentence."""
    world.fail = set(fail.split())
    with pytest.raises(builder.PlanError if module is builder else module.PlanError) as failure:
        build(world, folder, module=module)
    text = str(failure.value)
    assert text.startswith("generator.fp16.b3.plan: ")
    assert message in text
    assert "\n" not in text


REFUSALS = [
    ("parse", "does not take generator.fp16.onnx: node 'node_Conv_7' (Conv): kernel weights must be constant"),
    ("body", "took 0 nodes of generator.fp16.onnx for plugins, expected 9"),
    ("fuse", "holds 0 plugin layers, expected 9"),
    (
        "memory",
        "TensorRT builds no plan (Requested amount of GPU memory could not be allocated), and the GPU's memory, of "
        "which 64425 MB were free, ran out meanwhile: end what else runs",
    ),
    (
        "skip kernels",
        "TensorRT builds no plan (Skipping tactic 3 due to exception out of memory; at last: could not find any "
        "implementation for node), and the GPU's memory, of",
    ),
    ("skip types", "layers (TensorRT gives no reason): please report this"),
    ("load", "TensorRT does not load what it has just built (Serialization: magic tag)"),
    ("types", "the inspector tells the types of none of its"),
    ("timings", "TensorRT takes no timing cache"),
]


def test_a_plan_is_built(world: Any, exported: Bundle) -> None:
    check_builds(world, exported.path)


def test_kernels_that_tensorrt_does_without_are_no_failure(world: Any, exported: Bundle) -> None:
    world.fail = {"skip"}
    build(world, exported.path)


@pytest.mark.parametrize(("fail", "message"), REFUSALS)
def test_what_goes_wrong_is_a_sentence(fail: str, message: str, world: Any, exported: Bundle) -> None:
    check_refuses(world, exported.path, fail, message)


def test_int8_is_built_with_the_plugin(world: Any, exported: Bundle) -> None:
    plan, _ = build(world, exported.path, "int8")
    assert plan.inspection.plugin_layers == 9
    assert plan.inspection.int8_layers > 0.3


def test_fp32_is_built_without_the_plugin_even_after_it_is_registered(world: Any, exported: Bundle) -> None:
    build(world, exported.path, "fp16")
    plan, _ = build(world, exported.path, "fp32")
    assert plan.plugin_sha256 is None
    assert (plan.inspection.plugin_layers, plan.inspection.half_layers) == (0, 0)


@pytest.mark.parametrize("batch", [1, 5])
def test_inputs_and_outputs_have_the_batch_size(batch: int, world: Any, exported: Bundle) -> None:
    build(world, exported.path, batch=batch)
    graph = world.parsed[-1].graph
    sizes = {
        value.name: [d.dim_value for d in value.type.tensor_type.shape.dim] for value in (*graph.input, *graph.output)
    }
    assert sizes == {
        "image": [batch, 3, 64, 64], "edge": [batch, 1, 64, 64], "mask": [batch, 1, 64, 64],
        "out": [batch, 3, 64, 64], "out_edge": [batch, 1, 64, 64],
    }  # fmt: skip


def test_an_fp32_file_under_fp16_is_found_out(world: Any, exported: Bundle) -> None:
    """TensorRT builds what stands in the file, and says nothing."""
    read = network.read_network(exported.path / "generator.fp32.onnx", 1, BODY)
    with pytest.raises(builder.PlanError, match=r"0% of its .* layers are in half precision, expected at least 20%"):
        builder.build_plan(world.machine, read, "x.plan", "fp16", lambda _: None)


def test_an_fp16_file_under_int8_is_found_out(world: Any, exported: Bundle) -> None:
    read = network.read_network(exported.path / "generator.fp16.onnx", 1)
    with pytest.raises(builder.PlanError, match=r"none of its .* layers are in INT8"):
        builder.build_plan(world.machine, read, "x.plan", "int8", lambda _: None)


# The plugin's failures


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def compile_nothing(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(plugin, "compile_kernel", compile_nothing)


CAUSE = "the plugin ecea::ExpectationAttention failed: no space left on device"


def test_what_the_plugin_raised_is_told_in_place_of_what_followed(world: Any, exported: Bundle, broken: None) -> None:
    check_refuses(world, exported.path, "", CAUSE)


def test_a_plan_in_spite_of_a_failing_plugin_is_refused(world: Any, exported: Bundle, broken: None) -> None:
    check_refuses(world, exported.path, "swallow", CAUSE)


@pytest.fixture
def nothing_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """No kernel that an earlier build has compiled."""
    anew = getattr(ahead_of_time.compile_kernel, "__wrapped__")  # noqa: B009
    monkeypatch.setattr(ahead_of_time, "compile_kernel", anew)


def test_a_temporary_folder_that_cannot_be_used_is_told_as_such(
    world: Any, exported: Bundle, nothing_compiled: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(EceaError, match=r"^/.*/gone: what Triton needs meanwhile cannot be written there \(No such"):
        build(world, exported.path)


@pytest.mark.parametrize(
    "error",
    [RuntimeError("PassManager::run\nfailed"), PTXASError("PassManager::run\nfailed")],
    ids=lambda error: type(error).__name__,
)
def test_what_triton_cannot_compile_is_a_sentence(
    error: Exception, world: Any, exported: Bundle, nothing_compiled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compile_nothing(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(triton, "compile", compile_nothing)
    check_refuses(world, exported.path, "", "the attention kernel cannot be compiled: ")
    check_refuses(world, exported.path, "", "PassManager::run failed")


def test_a_failure_is_forgotten_by_the_next_build(
    world: Any, exported: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(plugin, "compile_kernel", lambda *_: 1 / 0)
        with pytest.raises(builder.PlanError):
            build(world, exported.path)
    build(world, exported.path)


# Interrupts


def test_an_interrupt_amid_a_build_is_not_lost(world: Any, exported: Bundle) -> None:
    """What Python raises in a callback, TensorRT's bindings print and forget."""
    world.fail = {"interrupt"}
    with pytest.raises(KeyboardInterrupt):
        build(world, exported.path)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    world.fail = {"interrupt", "memory"}
    with pytest.raises(KeyboardInterrupt):
        build(world, exported.path)


# The libraries


def test_a_builder_that_does_not_start(world: Any, exported: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """The genuine class over a library that returns nothing, as it does without a driver."""
    monkeypatch.setattr(world.trt, "Builder", world.genuine.Builder)
    if Path(world.trt.__file__).parent.name != "tensorrt_bindings":
        pytest.skip("TensorRT itself is here, and its builder may start")
    check_refuses(world, exported.path, "", "TensorRT's builder does not start")


# Timings


def cached(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache").glob("tensorrt-timing-*"))


def test_timings_are_kept_and_used_again(world: Any, exported: Bundle, tmp_path: Path) -> None:
    build(world, exported.path)
    (file,) = cached(tmp_path)
    assert file.read_bytes()[32:] == b"+"
    build(world, exported.path, batch=1)
    assert file.read_bytes()[32:] == b"++"


def test_fp32_and_fp16_keep_theirs_apart(world: Any, exported: Bundle, tmp_path: Path) -> None:
    build(world, exported.path, "fp16")
    build(world, exported.path, "fp32")
    assert len(cached(tmp_path)) == 2


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: b"", lambda data: data[:32] + b"x"])
def test_damaged_timings_are_not_used(
    change: Callable[[bytes], bytes], world: Any, exported: Bundle, tmp_path: Path
) -> None:
    build(world, exported.path)
    (file,) = cached(tmp_path)
    file.write_bytes(change(file.read_bytes()))
    build(world, exported.path)
    assert file.read_bytes()[32:] == b"+"


def test_timings_that_tensorrt_refuses_are_left_out(world: Any, exported: Bundle, tmp_path: Path) -> None:
    timing = importlib.import_module("ecea.export.plans.timing")
    build(world, exported.path)
    (file,) = cached(tmp_path)
    timing.write_timings(file, b"of another machine")
    build(world, exported.path)
    assert file.read_bytes()[32:] == b"+"


def test_nothing_is_kept_where_the_user_wants_no_cache(
    world: Any, exported: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ECEA_CACHE", "")
    build(world, exported.path)
    assert not (tmp_path / "cache").exists()


# What the inspector says


def test_types_are_read_in_either_wording() -> None:
    layers = [
        {"LayerType": "conv", "Outputs": [{"Format/Datatype": "Row major linear FP16 format"}]},
        {"LayerType": "gemm", "Outputs": [{"Format/Datatype": "Half"}]},
        {"LayerType": "PluginV3", "Outputs": [{"Format/Datatype": "BFloat16"}]},
        {"LayerType": "norm", "Outputs": [{"Format/Datatype": "Float"}], "Inputs": [{"Format/Datatype": "Int8"}]},
        "a layer of which only the name is told",
    ]
    text = importlib.import_module("json").dumps({"Layers": layers})
    assert inspection.read_layers(text, 7) == inspection.Inspection(4, 0.75, 0.25, 1, 7)


# Mutations

MUTATIONS = [
    ("1 << flag", "flag"),
    ("self._network.data, str(self._network.path)", "str(self._network.path)"),
    (", str(self._network.path))", ")"),
    ("definition, self._messages.logger", "self._messages.logger, definition"),
    ("MemoryPoolType.WORKSPACE", "MemoryPoolType.DLA_LOCAL_DRAM"),
    ("self._free * WORKSPACE_SHARE", "self._free"),
    ("ProfilingVerbosity.DETAILED", "ProfilingVerbosity.LAYER_NAMES_ONLY"),
    ("config.clear_flag", "config.set_flag"),
    ("config.builder_optimization_level", "config.optimization_level"),
    ("config.builder_optimization_level = OPTIMIZATION_LEVEL", "pass"),
    ("config.set_timing_cache(cache, False)", "config.set_timing_cache(cache)"),
    ("create_timing_cache(stored)", "create_timing_cache()"),
    ("config.get_timing_cache().serialize()", "config.get_timing_cache()"),
    ("builder.error_recorder = ", "builder.recorder = "),
    ("builder.error_recorder = self._messages.recorder", "pass"),
    ("(definition, config)", "(config, definition)"),
    ("if plan is None", "if False"),
    ("if found != wanted", "if False"),
    ("inspection.plugin_layers < ", "-1 > "),
    ("e.node_name()", "e.name()"),
    ("_reraise(failures, name)\n    messages", "messages"),
    ("        _reraise(failures, name)  # what", "        pass  # what"),
    ("register(architecture)", "Failures()"),
    ("trt.Builder(self._messages.logger)", "trt.Builder()"),
    ("    messages.clear()", "    pass"),
]


def mistakes() -> Any:
    return importlib.import_module("mistakes")


def check_all(world: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, module: Any) -> None:
    check_builds(world, folder, module)
    for fail, message in REFUSALS:
        check_refuses(world, folder, fail, message, module)
    with monkeypatch.context() as patch:
        patch.setattr(plugin, "compile_kernel", lambda *_: 1 / 0)
        for fail in ("", "swallow"):
            check_refuses(world, folder, fail, "the plugin ecea::ExpectationAttention failed", module)


def test_the_builder_s_text_is_what_the_mutations_change(
    world: Any, exported: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_all(world, exported.path, monkeypatch, mistakes().mutated(builder, " ", " "))


@pytest.mark.parametrize(("old", "new"), MUTATIONS)
def test_a_mistake_in_the_builder_shows(
    old: str, new: str, world: Any, exported: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = mistakes().mutated(builder, old, new)  # here: a mutation that changes nothing is no mistake that shows
    mistakes().check_shows(lambda: check_all(world, exported.path, monkeypatch, module))
