"""The plugin's whole life through TensorRT's genuine classes, with no GPU and no libnvinfer."""

from __future__ import annotations

import importlib
import subprocess
import sys
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("triton", reason="Triton is not installed")
from ecea.export import attention_function
from ecea.kernels import ahead_of_time, plugin, ptx
from ecea.kernels.tactics import TACTICS
from ecea.kernels.triton_kernel import expectation_attention_kernel

ARCHITECTURE = 90
LEVELS = [(4096, 1), (1024, 2), (256, 4), (64, 8)]


class World:
    """One process of TensorRT, as far as a plugin can see."""

    def __init__(self, trt: ModuleType, plugin_module: ModuleType = plugin) -> None:
        library = importlib.import_module("tensorrt.plugin._lib")
        for registered in (library.QDP_CREATORS, library.QDP_REGISTRY):
            registered.clear()
        vars(library.op).pop("ecea", None)
        self.trt = trt
        self.host = importlib.import_module("tensorrt_host").Host(trt)
        plugin_module.register.cache_clear()
        self.failures = plugin_module.register(ARCHITECTURE)

    def node(self, **attributes: int | float | str) -> Any:
        """The plugin of an ONNX node as our exporter writes it."""
        return self.host.create(attention_function.NAME, attention_function.DOMAIN, **attributes)

    def build(self, tokens: int, heads: int, dtype: str = "HALF", head_dim: int = 64, batch: int = 5) -> Any:
        width = heads * head_dim
        shapes = [("B", tokens, 3 * width), ("B", tokens, width), ("B", tokens, width)]
        node = self.node(num_heads=heads, scale=1.0)
        return self.host.build(node, shapes, getattr(self.trt.DataType, dtype), batch)


@pytest.fixture
def world(trt: ModuleType) -> World:
    return World(trt)


def check_life(world: World, tokens: int, heads: int, dtype: str = "HALF") -> None:
    """All that a plan depends on: types, tactics, launches, kernels."""
    data_type = getattr(world.trt.DataType, dtype)
    types, built = world.build(tokens, heads, dtype, batch=5)
    assert types == [data_type] * 4
    problem = ahead_of_time.Problem(tokens, heads, 64, {"HALF": "fp16", "BF16": "bf16"}[dtype], 1.0)
    assert sorted(built) == ahead_of_time.offered_tactics(ARCHITECTURE, problem)
    for number, made in built.items():
        kernel = ahead_of_time.compile_kernel(ARCHITECTURE, problem, number)
        # tests/gpu makes this launch with the same numbers.
        assert made.grid == kernel.grid(problem, 5) == (-(-tokens // TACTICS[number].block_m), heads, 5)
        assert made.block == (ptx.required_threads(made.code), 1, 1)
        assert made.shared_bytes == kernel.shared_bytes
        assert made.code == kernel.ptx
        entry = ptx.entry(made.code)
        assert made.name == entry.name
        # Three inputs, whatever integers there are, one output: TensorRT passes no more and no less.
        assert [p.type for p in entry.parameters] == ["u64"] * 3 + ["u32"] * len(made.extra_arguments) + ["u64"]
    world.failures.reraise()


@pytest.mark.parametrize(("tokens", "heads"), LEVELS)
def test_the_whole_life(world: World, tokens: int, heads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if tokens in (1024, 256):  # some will do, of which two are not offered
        monkeypatch.setattr(ahead_of_time, "TACTICS", {number: TACTICS[number] for number in (2, 5, 7, 15, 23)})
    check_life(world, tokens, heads)


@pytest.mark.slow
def test_the_whole_life_in_bfloat16(world: World) -> None:
    check_life(world, 64, 8, "BF16")


def test_tokens_that_no_block_divides(world: World) -> None:
    check_life(world, 50, 2)


def test_the_bindings_are_those_of_tensorrt_11(trt: ModuleType) -> None:
    assert trt.__version__.startswith("11.")
    assert not hasattr(trt.BuilderFlag, "FP16")


def check_names(kernel_arguments: list[str], definition: Any) -> None:
    """Kernel, plugin and ONNX node name the same things in the same order."""
    schema = attention_function._SCHEMA
    inputs, outputs = [formal.name for formal in schema.inputs], ["out"]
    assert [name.removesuffix("_ptr") for name in kernel_arguments if name.endswith("_ptr")] == inputs + outputs
    assert definition.input_tensor_names == inputs
    attribute = type(next(iter(schema.attributes.values()))).type.fget
    kinds = {int: "INT", float: "FLOAT"}
    wanted = {name: attribute(value).name for name, value in schema.attributes.items()}
    assert {name: kinds[kind] for name, kind in definition.input_attrs.items()} == wanted


def test_kernel_plugin_and_node_agree_about_names(world: World) -> None:
    definition = importlib.import_module("tensorrt.plugin._lib").QDP_REGISTRY[plugin.PLUGIN]
    names = expectation_attention_kernel.arg_names
    check_names(names, definition)
    for other in (["s_ptr", "qkv_ptr", *names[2:]], [*names[:2], "out_ptr", "gate_ptr"]):
        with pytest.raises(AssertionError):
            check_names(other, definition)


def test_the_creator_has_all_attributes_of_the_node(world: World) -> None:
    creator = world.host.registry.get_creator("ExpectationAttention", "1", "ecea")
    assert [field.name for field in creator.field_names] == ["num_heads", "scale"]
    with pytest.raises(AssertionError, match="Unexpected attribute"):
        world.node(num_heads=1, scale=1.0, kappa=1.0)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"tokens": 64, "heads": 1, "dtype": "FLOAT"}, "expected HALF or BF16: build an FP32 plan without the plugin"),
        ({"tokens": 64, "heads": 1, "head_dim": 512}, "a head has 512 channels"),
    ],
)
def test_what_it_cannot_do_surfaces_as_our_message(world: World, shape: dict[str, Any], message: str) -> None:
    with pytest.raises(Exception):  # noqa: B017  TensorRT swallows it, whatever it is
        world.build(**shape)
    with pytest.raises(plugin.PluginError, match=f"the plugin ecea::ExpectationAttention failed: .*({message})"):
        world.failures.reraise()
    world.failures.reraise()  # told once


def test_tokens_must_be_fixed(world: World) -> None:
    shapes = [("B", "N", 192), ("B", "N", 64), ("B", "N", 64)]
    with pytest.raises(Exception):  # noqa: B017
        world.host.build(world.node(num_heads=1, scale=1.0), shapes, world.trt.DataType.HALF, 5)


def test_an_interrupt_that_a_callback_meets_is_one() -> None:
    """A signal that comes while TensorRT builds is raised in the first Python that runs, and TensorRT drops it."""
    failures = plugin.Failures()

    @failures.record
    def callback() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        callback()
    with pytest.raises(KeyboardInterrupt):
        failures.reraise()
    failures.reraise()


def test_a_failure_between_builds_is_not_lost(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(plugin, "compile_kernel", broken)
    with pytest.raises(OSError, match="no space"):
        world.build(64, 8)
    with pytest.raises(plugin.PluginError, match="failed: no space left on device") as failure:
        world.failures.reraise()
    assert isinstance(failure.value.__cause__, OSError)


def test_it_is_registered_once(world: World) -> None:
    assert plugin.register(ARCHITECTURE) is world.failures


def test_an_unknown_gpu_is_refused(trt: ModuleType) -> None:
    with pytest.raises(ValueError, match="the GPU is sm_75; expected one of sm_80"):
        plugin.register(75)


MUTATIONS = [
    ("grid_y=num_heads", "grid_y=1"),
    ("grid_z=batch", "grid_z=1"),
    ("cdiv(tokens, kernel.block_m)", "cdiv(tokens, kernel.threads)"),
    ("block_x=kernel.threads", "block_x=kernel.threads // 2"),
    ("shared_mem=kernel.shared_bytes", "shared_mem=0"),
    ("SymIntExprs(0)", "SymIntExprs(1)"),
    ("SymIntExprs(0)", "SymIntExprs.from_tuple([trtp.SymInt32(tokens)])"),
    ("return kernel.name", "return kernel.name[1:]"),
    ("return gate.like()", "return qkv.like()"),
    ('"ecea::ExpectationAttention"', '"ecea::Attention"'),
    ("type_names[gate.dtype][0]", '"FP32"'),
    ('"LINEAR"', '"CHW4"'),
    ("[trtp.AutoTuneCombination(types", "[] and [trtp.AutoTuneCombination(types"),
    ("offered)]", "[*offered, 9])]"),
    ("scale), tactic)", "scale), 1)"),
    ('("FP16", "fp16")', '("FP16", "bf16")'),
    ("channels // num_heads", "channels // num_heads // 2"),
    ("num_heads: int, scale: float", "scale: float, num_heads: int"),
    ("num_heads: int, scale: float", "num_heads: int"),
    ("qkv: trtp.TensorDesc, s: trtp.TensorDesc", "s: trtp.TensorDesc, qkv: trtp.TensorDesc"),
    ("@functools.wraps(callback)", ""),
    ("@trtp.aot_impl(PLUGIN)  # type: ignore[untyped-decorator]", ""),
]


def mistakes() -> Any:
    return importlib.import_module("mistakes")


def test_the_plugin_s_text_is_what_the_mutations_change(trt: ModuleType) -> None:
    check_life(World(trt, mistakes().mutated(plugin, " ", " ")), 64, 8)


@pytest.mark.parametrize(("old", "new"), MUTATIONS)
def test_a_mistake_in_the_plugin_shows(trt: ModuleType, old: str, new: str) -> None:
    module = mistakes().mutated(plugin, old, new)  # here: a mutation that changes nothing is no mistake that shows
    mistakes().check_shows(lambda: check_life(World(trt, module), 64, 8))


def test_a_mistake_in_the_kernel_s_parameters_shows(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton's own parameters left in place."""
    monkeypatch.setattr(ahead_of_time, "strip_scratch", lambda text, _: text)
    ahead_of_time.compile_kernel.cache_clear()
    try:
        with pytest.raises(AssertionError):
            check_life(world, 64, 8)
    finally:
        ahead_of_time.compile_kernel.cache_clear()


def test_importing_the_package_imports_neither_triton_nor_tensorrt() -> None:
    modules = "ecea.kernels, ecea.kernels.op, ecea.kernels.tactics"
    code = f"import sys, {modules}; print({{'triton', 'tensorrt'}} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
