"""How much error the quantization of each single layer brings into the filled pixels."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime

from ecea.calibration.quantizer import DEQUANTIZE, QUANTIZE, Feed, layer_nodes

SWITCHES = "switches"

Switches = npt.NDArray[np.bool_]
Tensor = npt.NDArray[np.float32]


def switchable(quantized: ir.Model, original: ir.Model) -> ir.Model:
    """A model with one input more, ``switches``: whether each layer is quantized.

    Args:
        quantized: with pairs at the inputs of every layer; changed into the result.
        original: the FP32 model that it was made from.

    Returns:
        The model; ``switches`` is (L,) bool, in the order of :func:`~ecea.calibration.quantizer.layer_nodes`.
    """
    graph = quantized.graph
    layers = layer_nodes(original)
    switches = ir.Value(name=SWITCHES, shape=ir.Shape([len(layers)]), type=ir.TensorType(ir.DataType.BOOL))
    graph.inputs.append(switches)
    nodes = {node.name: node for node in graph}
    for number, layer in enumerate(layers):
        node = nodes[layer.name]
        index = _constant(graph, ir.Tensor(np.array(number), name=f"{layer.name}.number"))
        on = ir.node("Gather", [switches, index], {"axis": 0}, name=f"{layer.name}.switch")
        weights = ir.Tensor(layer.inputs[1].const_value.numpy(), name=f"{layer.name}.fp32")  # type: ignore[union-attr]
        originals = (_before_pair(node.inputs[0]), _constant(graph, weights))
        graph.insert_before(node, on)
        for position, value in enumerate(originals):
            choice = ir.node(
                "Where", [on.outputs[0], node.inputs[position], value], name=f"{layer.name}.input{position}"
            )
            graph.insert_before(node, choice)
            node.replace_input_with(position, choice.outputs[0])
    return quantized


def measure(model: str, layers: int, feeds: Sequence[Feed]) -> list[float]:
    """The mean squared error over the missing pixels of ``out``, on a range of 1, of quantizing each layer alone.

    Args:
        model: path of a :func:`switchable` model.
        layers: how many it has.
        feeds: tiles to run.
    """
    session = onnxruntime.InferenceSession(model, _options(), providers=["CPUExecutionProvider"])
    exact = [_run(session, feed, np.zeros(layers, np.bool_)) for feed in feeds]
    errors = []
    for layer in np.eye(layers, dtype=np.bool_):
        differences = [_run(session, feed, layer) - out for feed, out in zip(feeds, exact, strict=True)]
        errors.append(missing_error(differences, feeds))
    return errors


def missing_error(differences: Sequence[Tensor], feeds: Sequence[Feed]) -> float:
    """The mean square of ``differences``, (B, 3, S, S) each, over the pixels that ``mask`` says are missing."""
    missing = [np.broadcast_to(feed["mask"] > 0, part.shape) for feed, part in zip(feeds, differences, strict=True)]
    values = np.concatenate([part[where] for part, where in zip(differences, missing, strict=True)])
    return float(np.mean(np.square(values, dtype=np.float64)))


def _run(session: Any, feed: Feed, switches: Switches) -> Tensor:
    return session.run(["out"], {**feed, SWITCHES: switches})[0]


def _options() -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.x64quantprecision", "1")  # as the cpu backend does, for right sums
    return options


def _before_pair(value: ir.Value | None) -> ir.Value:
    """What a pair of QuantizeLinear and DequantizeLinear was given."""
    for operator in (DEQUANTIZE, QUANTIZE):
        node = value.producer() if value is not None else None
        if node is None or node.op_type != operator or node.inputs[0] is None:
            raise ValueError(f"'{value.name if value is not None else None}' does not come from {operator}")
        value = node.inputs[0]
    assert value is not None
    return value


def _constant(graph: ir.Graph, tensor: ir.TensorProtocol) -> ir.Value:
    value = ir.Value(
        name=tensor.name, shape=ir.Shape(tensor.shape.numpy()), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.initializers.add(value)
    return value
