"""FP16 keeps what must be FP32: inputs and outputs, norms, softmax; or, as storage, all arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from onnx_ir.passes.common import InlinePass

from ecea.export.attention_function import STANDARD_OPSET
from ecea.export.precision import half_compute, half_storage
from ecea.model.refinement import smooth_fill
from ecea.runtime.sample import terrain

FLOAT, HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
ARITHMETIC = {"Conv", "ConvTranspose", "MatMul", "Add", "Mul", "Sigmoid", "Tanh", "Erf", "LeakyRelu"}
MIN_PSNR = 60.0  # dB, for a range of 1


class Types:
    """The operators of a model with their input and output types, by ONNX's own strict inference, bodies inlined."""

    def __init__(self, model: ir.Model) -> None:
        inlined = model.clone()
        InlinePass()(inlined)
        proto = onnx.shape_inference.infer_shapes(ir.to_proto(inlined), check_type=True, strict_mode=True)
        graph = proto.graph
        self.of = {
            value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.value_info, *graph.output)
        }
        self.of |= {weights.name: weights.data_type for weights in graph.initializer}
        self.nodes = list(graph.node)

    def inputs(self, *operators: str) -> list[int]:
        """The types of the first inputs of these operators."""
        return [self.of[node.input[0]] for node in self.nodes if node.op_type in operators and node.input]

    def outputs(self, *operators: str) -> list[int]:
        return [self.of[node.output[0]] for node in self.nodes if node.op_type in operators]


def halved(small: Any, how: Callable[[ir.Model], None]) -> ir.Model:
    model = small.optimized.clone()
    if how is half_storage:  # a form without local functions
        InlinePass()(model)
    how(model)
    return model


def count_weights(model: ir.Model) -> tuple[int, int]:
    """How many numbers are stored in FP16, and in FP32."""
    totals = {ir.DataType.FLOAT16: 0, ir.DataType.FLOAT: 0}
    for value in model.graph.initializers.values():
        if value.dtype in totals:
            totals[value.dtype] += value.const_value.size
    return totals[ir.DataType.FLOAT16], totals[ir.DataType.FLOAT]


@pytest.fixture(scope="module")
def half(small: Any) -> ir.Model:
    return halved(small, half_compute)


@pytest.fixture(scope="module")
def storage(small: Any) -> ir.Model:
    return halved(small, half_storage)


@pytest.mark.parametrize("how", ["half", "storage"])
def test_inputs_and_outputs_stay_fp32(how: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(how)
    assert [(v.name, v.dtype) for v in model.graph.inputs] == [
        (n, ir.DataType.FLOAT) for n in ("image", "edge", "mask")
    ]
    assert [(v.name, v.dtype) for v in model.graph.outputs] == [(n, ir.DataType.FLOAT) for n in ("out", "out_edge")]


def test_norms_and_softmax_are_computed_in_fp32(half: ir.Model) -> None:
    types = Types(half)
    for operator in ("LayerNormalization", "InstanceNormalization", "Softmax"):
        assert types.inputs(operator), operator
        assert set(types.inputs(operator)) | set(types.outputs(operator)) == {FLOAT}, operator


def test_everything_else_is_computed_in_fp16(half: ir.Model) -> None:
    types = Types(half)
    used = {node.op_type for node in types.nodes}
    assert {"Conv", "MatMul", "Add"} <= used
    assert set(types.inputs(*ARITHMETIC)) | set(types.outputs(*ARITHMETIC)) == {HALF}


def test_arithmetic_on_stored_halves_is_fp32(storage: ir.Model) -> None:
    types = Types(storage)
    computing = {node.op_type for node in types.nodes} - {"Cast", "CastLike"}
    assert HALF not in types.inputs(*computing)
    assert HALF not in types.outputs(*computing)


@pytest.mark.parametrize("how", ["half", "storage"])
def test_weights_are_stored_in_fp16(how: str, request: pytest.FixtureRequest) -> None:
    in_half, in_full = count_weights(request.getfixturevalue(how))
    assert in_half >= 0.9 * (in_half + in_full)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("how", ["half", "storage"])
def test_the_outputs_are_close(
    how: str, batch: int, small: Any, run_onnx: Callable[..., Any], request: pytest.FixtureRequest
) -> None:
    outputs = run_onnx(request.getfixturevalue(how), small.tiles.first(batch))
    for output, expected in zip(outputs, small.expected, strict=True):
        assert output.dtype == np.float32
        error = np.mean(np.square(output - expected[:batch], dtype=np.float64))
        assert -10 * np.log10(error) >= MIN_PSNR


def test_the_fp32_model_is_left_alone(small: Any, half: ir.Model, storage: ir.Model) -> None:
    assert count_weights(small.optimized)[0] == 0


def test_a_smooth_fill_loses_little(tmp_path: Path) -> None:
    """Where its weights do not add up to 1 once they are FP16, levels drift by 0.007."""

    class Fill(torch.nn.Module):
        def forward(self, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return smooth_fill(image, mask)

    image = torch.from_numpy(terrain(64, 64, seed=4))[None]
    mask = ((torch.arange(64) % 33) < 14).float()[None, None, :, None].expand(1, 1, 64, 64).contiguous()
    program = torch.onnx.export(Fill(), (image, mask), dynamo=True, verbose=False, opset_version=STANDARD_OPSET)
    assert program is not None
    half_compute(program.model)
    ir.save(program.model, tmp_path / "fill.onnx")
    session = ort.InferenceSession(tmp_path / "fill.onnx", providers=["CPUExecutionProvider"])
    (filled,) = session.run(None, {"image": image.numpy(), "mask": mask.numpy()})
    assert np.abs(filled - smooth_fill(image, mask).numpy()).max() < 2e-3
