"""The INT8 form for GPUs: FP16 between its pairs, so that the attention plugin takes what it is given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from ecea.calibration import SYMMETRIC, Quantizer
from ecea.export.forms import build, finish, forms
from ecea.export.parity import psnr
from ecea.export.passes import QUANTIZED, optimize
from ecea.export.precision import half_between_pairs

FLOAT, HALF, INT8 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.INT8
PAIR = ("QuantizeLinear", "DequantizeLinear")
(FORM,) = (form for form in forms("int8") if "tensorrt" in form.backends)


@pytest.fixture(scope="module")
def quantized(small: Any) -> ir.Model:
    """Every layer quantized, FP32 between the pairs; not to be changed."""
    base = small.optimized.clone()
    optimize(base, QUANTIZED)
    finish(base)
    feeds = [dict(zip(("image", "edge", "mask"), small.tiles.one(i), strict=True)) for i in range(2)]
    with Quantizer(base, feeds) as quantizer:
        return quantizer.quantize(SYMMETRIC, quantizer.layers)


@pytest.fixture(scope="module")
def halved(quantized: ir.Model) -> ir.Model:
    return build(FORM, quantized)


class Typed:
    """A model's nodes and the types of its values, by ONNX's own strict inference."""

    def __init__(self, model: ir.Model) -> None:
        graph = onnx.shape_inference.infer_shapes(ir.to_proto(model), check_type=True, strict_mode=True).graph
        self.nodes = list(graph.node)
        self.of = {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.value_info, *graph.output)}
        self.of |= {tensor.name: tensor.data_type for tensor in graph.initializer}

    def inputs(self, operator: str) -> list[list[int]]:
        return [[self.of[name] for name in node.input] for node in self.nodes if node.op_type == operator]


@pytest.fixture(scope="module")
def typed(halved: ir.Model) -> Typed:
    return Typed(halved)


def test_pairs_take_and_give_fp16_with_scales_of_fp16(typed: Typed) -> None:
    assert {tuple(types) for types in typed.inputs("QuantizeLinear")} == {(HALF, HALF, INT8)}
    assert {tuple(types) for types in typed.inputs("DequantizeLinear")} == {(INT8, HALF, INT8)}
    assert {typed.of[node.output[0]] for node in typed.nodes if node.op_type == "DequantizeLinear"} == {HALF}


def test_no_cast_stands_between_a_pair_and_its_layer(typed: Typed) -> None:
    makers = {name: node.op_type for node in typed.nodes for name in node.output}
    layers = [node for node in typed.nodes if node.op_type in ("Conv", "MatMul")]
    direct = [node for node in layers if makers.get(node.input[0]) == makers.get(node.input[1]) == "DequantizeLinear"]
    assert len(direct) == len(layers) - 1  # a product of two activations is left in floating point


def test_attention_takes_fp16_and_names_its_plugin(typed: Typed) -> None:
    assert typed.inputs("ExpectationAttention") == [[HALF] * 3] * 9
    for node in typed.nodes:
        if node.op_type == "ExpectationAttention":
            assert {"plugin_namespace", "plugin_version", "aot"} <= {attribute.name for attribute in node.attribute}


def test_norms_inputs_and_outputs_are_fp32(typed: Typed, halved: ir.Model) -> None:
    for operator in ("LayerNormalization", "InstanceNormalization"):
        assert {types[0] for types in typed.inputs(operator)} == {FLOAT}
    assert {value.dtype for value in (*halved.graph.inputs, *halved.graph.outputs)} == {ir.DataType.FLOAT}


def test_the_zero_points_are_0(halved: ir.Model) -> None:
    """TensorRT takes no others."""
    points = [node.inputs[2] for node in halved.graph if node.op_type in PAIR]
    assert not any(np.any(point.const_value.numpy()) for point in points if point is not None and point.const_value)
    assert len(points) > 100


def test_the_model_passes_onnx_s_checker(halved: ir.Model, tmp_path: Path) -> None:
    """Functions are checked against the model's operator set, which scales of FP16 have raised."""
    ir.save(halved, tmp_path / "half.onnx")
    onnx.checker.check_model(tmp_path / "half.onnx", full_check=True)
    assert halved.opset_imports[""] == 19


def test_fp16_costs_no_accuracy_beside_int8(
    quantized: ir.Model, halved: ir.Model, small: Any, run_onnx: Callable[..., Any]
) -> None:
    """Both lose the same against PyTorch; ONNX Runtime's CPU provider computes each."""
    inputs = small.tiles.first(3)
    for exact, rounded, expected in zip(
        run_onnx(quantized, inputs), run_onnx(halved, inputs), small.expected, strict=True
    ):
        assert psnr(rounded - expected[:3]) > psnr(exact - expected[:3]) - 1


def test_a_scale_too_small_for_fp16_does_not_become_0(quantized: ir.Model) -> None:
    model = quantized.clone()
    scales = [node.inputs[1] for node in model.graph if node.op_type == "QuantizeLinear"]
    assert scales[0] is not None
    scales[0].const_value = ir.Tensor(np.array(1e-9, np.float32), name=scales[0].name)
    half_between_pairs(model)
    for node in model.graph:
        if node.op_type in PAIR:
            scale = node.inputs[1]
            assert scale is not None
            assert scale.const_value is not None
            assert np.all(scale.const_value.numpy() > 0)
