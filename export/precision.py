"""Turning an FP32 model into FP16, in the two senses that backends want.

``half_compute`` is what a GPU runs: half-precision arithmetic, with the norms in FP32; ``half_between_pairs`` is the
same of a quantized model. ``half_storage`` is what a processor without half-precision units runs: weights stored in
half the space, arithmetic in FP32.
"""

import numpy as np
import onnx_ir as ir

from ecea.calibration.quantizer import DEQUANTIZE, QUANTIZE

# Sums over many elements, whose squares leave the range of FP16; attention keeps its softmax in FP32 by itself.
KEPT_IN_FP32 = frozenset({"LayerNormalization", "InstanceNormalization"})

# The first in which scales, and with them what a pair takes and gives, may be FP16.
_OPSET_OF_HALF_SCALES = 19

_FLOAT, _HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16


def half_compute(model: ir.Model) -> None:
    """Make every operator but ``KEPT_IN_FP32`` work in FP16, in place; the model's inputs and outputs stay FP32."""
    graph = model.graph
    float_inputs = [value for value in graph.inputs if value.dtype == _FLOAT]
    _halve_initializers(graph)
    for node in list(graph):
        if node.op_type in KEPT_IN_FP32:
            _keep_in_fp32(graph, node)
        elif node.op_type != QUANTIZE:  # which gives integers
            for output in node.outputs:
                if output.dtype in (_FLOAT, None):
                    output.type = ir.TensorType(_HALF)  # a new one: clones share the old
    for value in float_inputs:
        cast = _cast(value, _HALF)
        _replace_uses(value, cast.outputs[0], but=cast)
        graph.insert_before(graph[0], cast)
    for index, value in enumerate(list(graph.outputs)):
        _restore_output(graph, index, value)


def half_between_pairs(model: ir.Model) -> None:
    """As :func:`half_compute`, for a model with pairs of QuantizeLinear and DequantizeLinear, in place.

    Their scales become FP16, so that no cast stands between a pair and its layer: runtimes look for the two side by
    side. Where such a scale is rounded, both of a pair round alike; weights change by 2^-11 of themselves at most, an
    eighth of what the largest have lost to quantization.
    """
    for node in model.graph:
        if node.op_type in (QUANTIZE, DEQUANTIZE):
            _settle_type(node)
    half_compute(model)
    # The operators in use mean the same in both: the newer takes more types. A function may not lag behind its model.
    for imports in (model.opset_imports, *(function.opset_imports for function in model.functions.values())):
        imports[""] = max(imports.get("", 0), _OPSET_OF_HALF_SCALES)


def half_storage(model: ir.Model) -> None:
    """Store the weights in FP16 and cast them back to FP32 where they are read, in place.

    The runtimes fold the casts when they load the model. Vectors (norms, biases) are small and stay in FP32.
    """
    graph = model.graph
    for name, value in list(graph.initializers.items()):
        if value.dtype != _FLOAT or len(value.shape or ()) < 2:
            continue
        half = _halved(graph, value, f"{name}.fp16")
        cast = _cast(half, _FLOAT)
        _replace_uses(value, cast.outputs[0], but=cast)
        graph.insert_before(graph[0], cast)
        graph.initializers.pop(name)


def _settle_type(node: ir.Node) -> None:
    """Write down what one of a pair gives, which the quantizer does not: INT8 from a zero point, else FP32."""
    zero_point = node.inputs[2]
    if zero_point is None:
        raise ValueError(f"'{node.name}' has no zero point")
    dtype = zero_point.dtype if node.op_type == QUANTIZE else _FLOAT
    node.outputs[0].type = ir.TensorType(dtype or ir.DataType.INT8)


def _halve_initializers(graph: ir.Graph) -> None:
    """Give FP16 readers FP16 weights; weights that norms read as well exist twice."""
    for name, value in list(graph.initializers.items()):
        if value.dtype != _FLOAT:
            continue
        half_readers = [
            (node, i) for node, i in value.uses() if node.op_type not in KEPT_IN_FP32 and not _is_scale(node, i)
        ]
        if half_readers:
            half = _halved(graph, value, f"{name}.fp16")
            for node, index in half_readers:
                node.replace_input_with(index, half)
        if not list(value.uses()):
            graph.initializers.pop(name)


def _is_scale(node: ir.Node, index: int) -> bool:
    """Whether this is the scales input of Resize, which is FP32 by definition."""
    return node.op_type == "Resize" and index == 2


def _keep_in_fp32(graph: ir.Graph, node: ir.Node) -> None:
    data = node.inputs[0]
    if data is None:
        return
    before = _cast(data, _FLOAT)
    graph.insert_before(node, before)
    node.replace_input_with(0, before.outputs[0])
    result = node.outputs[0]
    result.type = ir.TensorType(_FLOAT)
    after = _cast(result, _HALF)
    _replace_uses(result, after.outputs[0], but=after)
    graph.insert_after(node, after)


def _restore_output(graph: ir.Graph, index: int, value: ir.Value) -> None:
    """Cast an output to FP32 under its own name."""
    cast = _cast(value, _FLOAT)
    output, name = cast.outputs[0], value.name
    value.name = f"{name}.fp16"
    output.name = name
    graph.append(cast)
    graph.outputs[index] = output


def _halved(graph: ir.Graph, value: ir.Value, name: str) -> ir.Value:
    if value.const_value is None:
        raise ValueError(f"initializer '{value.name}' has no value")
    numbers = value.const_value.numpy().astype(np.float16)
    if any(node.op_type in (QUANTIZE, DEQUANTIZE) for node, _ in value.uses()):
        numbers = np.maximum(numbers, np.finfo(np.float16).smallest_subnormal)  # a scale of 0 divides by it
    data = ir.Tensor(numbers, name=name)
    half = ir.Value(name=name, shape=data.shape, type=ir.TensorType(_HALF), const_value=data)
    graph.initializers.add(half)
    return half


def _cast(value: ir.Value, dtype: ir.DataType) -> ir.Node:
    node = ir.node("Cast", [value], {"to": dtype.value}, name=f"{value.name}.to_{dtype.name}")
    output = node.outputs[0]
    output.name = node.name
    output.type, output.shape = ir.TensorType(dtype), value.shape
    return node


def _replace_uses(old: ir.Value, new: ir.Value, but: ir.Node) -> None:
    for node, index in list(old.uses()):
        if node is not but:
            node.replace_input_with(index, new)
