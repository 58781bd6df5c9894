"""What each kind of backend is given."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from ecea.export.forms import build, forms
from ecea.runtime.backends import BACKENDS

ENGINES = ("fp32", "fp16")  # what is built from the optimized model alone
ATTENTION = ("ecea", "ExpectationAttention")


@pytest.fixture(scope="module")
def built(small: Any) -> dict[str, ir.Model]:
    """File name -> model, for every form of every engine."""
    return {form.file_name: build(form, small.optimized) for engine in ENGINES for form in forms(engine)}


def operators(model: ir.Model) -> Counter[tuple[str, str]]:
    return Counter((node.domain, node.op_type) for node in model.graph)


@pytest.mark.parametrize("engine", ENGINES)
def test_every_backend_has_one_form_and_is_checked(engine: str) -> None:
    made = forms(engine)
    listed = [backend for form in made for backend in form.backends]
    assert sorted(listed) == ["cpu", "cuda", "openvino", "tensorrt"]
    assert [form.file_name for form in made] == [
        f"generator.{engine}.onnx",
        f"generator.{engine}.openvino.onnx",
        f"generator.{engine}.cpu.onnx",
    ]
    for form in made:
        assert form.checked_on
        assert set(form.checked_on) <= set(BACKENDS)
        # A form that a backend here runs is checked on that one, not on another.
        assert set(form.checked_on) >= set(form.backends) & {"openvino", "cpu"}


def test_int8_is_not_for_cuda_and_its_files_are_named_as_ever() -> None:
    """ONNX Runtime has no integer kernels for CUDA."""
    made = {form.file_name: form.backends for form in forms("int8")}
    assert made == {
        "generator.int8.openvino.onnx": ("openvino",),
        "generator.int8.cpu.onnx": ("cpu",),
        "generator.int8.onnx": ("tensorrt",),
    }


@pytest.mark.parametrize("engine", ENGINES)
def test_the_general_form_keeps_attention_as_a_node_with_a_body(engine: str, built: dict[str, ir.Model]) -> None:
    model = built[f"generator.{engine}.onnx"]
    assert operators(model)[ATTENTION] == 9
    assert [(key[0], key[1]) for key in model.functions] == [ATTENTION]
    assert {domain for domain, _ in operators(model)} == {"", "ecea"}


@pytest.mark.parametrize("engine", ENGINES)
def test_the_general_form_says_which_plugin_its_nodes_are_for(engine: str, built: dict[str, ir.Model]) -> None:
    """All of them: TensorRT's parser knows no defaults."""
    nodes = [node for node in built[f"generator.{engine}.onnx"].graph if (node.domain, node.op_type) == ATTENTION]
    for node in nodes:
        values = {name: attribute.value for name, attribute in node.attributes.items()}
        assert values.pop("num_heads") in (1, 2, 4, 8)
        assert values == {"scale": 1.0, "plugin_namespace": "ecea", "plugin_version": "1", "aot": 1}
        types = {name: attribute.type for name, attribute in node.attributes.items()}
        assert types["aot"] == ir.AttributeType.INT
        assert types["plugin_version"] == ir.AttributeType.STRING


@pytest.mark.parametrize("engine", ENGINES)
def test_openvino_gets_standard_operators_alone(engine: str, built: dict[str, ir.Model]) -> None:
    model = built[f"generator.{engine}.openvino.onnx"]
    assert not model.functions
    assert {domain for domain, _ in operators(model)} == {""}
    assert operators(model)["", "Softmax"] == 9


@pytest.mark.parametrize("engine", ENGINES)
def test_onnx_runtime_gets_its_own_attention(engine: str, built: dict[str, ir.Model]) -> None:
    model = built[f"generator.{engine}.cpu.onnx"]
    assert not model.functions
    assert {domain for domain, _ in operators(model)} == {"", "com.microsoft"}
    assert operators(model)["com.microsoft", "MultiHeadAttention"] == 9
    assert operators(model)["", "Softmax"] == 0


def test_no_form_joins_tokens(built: dict[str, ir.Model]) -> None:
    """OpenVINO has been seen to overwrite a long-lived skip that ends in a Concat of tokens, (B, N, C) along N."""
    for name, model in built.items():
        concats = [node for node in model.graph if node.op_type == "Concat"]
        assert all(value.shape is not None for node in concats for value in node.inputs), name
        assert 3 not in [len(value.shape) for node in concats for value in node.inputs], name


def test_the_trace_does_join_tokens(small: Any) -> None:
    """The test above looks for the right thing: the four token mixers of the published network."""
    ranks = [len(n.inputs[0].shape) for n in small.traced.graph if n.op_type == "Concat" and n.inputs[0].shape]
    assert ranks.count(3) == 4


def test_shapes_are_inferred(built: dict[str, ir.Model]) -> None:
    for name, model in built.items():
        unknown = [value.name for node in model.graph for value in node.outputs if value.name and value.shape is None]
        known = [value.name for node in model.graph for value in node.outputs if value.shape is not None]
        assert len(unknown) <= 0.05 * len(known), (name, unknown)


def test_building_leaves_the_optimized_model_alone(small: Any, built: dict[str, ir.Model]) -> None:
    assert operators(small.optimized)[ATTENTION] == 9
    assert {value.dtype for value in small.optimized.graph.initializers.values()} <= {
        ir.DataType.FLOAT,
        ir.DataType.INT64,
    }


@pytest.mark.parametrize("engine", ENGINES)
def test_every_form_computes_the_same(
    engine: str, small: Any, built: dict[str, ir.Model], run_onnx: Callable[..., Any]
) -> None:
    """ONNX Runtime can run all three; 3 tiles."""
    for form in forms(engine):
        outputs = run_onnx(built[form.file_name], small.tiles.first(3))
        for output, expected in zip(outputs, small.expected, strict=True):
            tolerance = {"fp32": 1e-5, "fp16": 1e-2}[engine]
            np.testing.assert_allclose(output, expected[:3], rtol=0, atol=tolerance, err_msg=form.file_name)
