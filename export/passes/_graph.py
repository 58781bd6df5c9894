"""What the passes share: constants in double precision, new initializers, counting rule applications."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnxscript.rewriter.pattern import RewriterContext, RewriteRule, RewriteRuleSet

Array = NDArray[np.float64]


def constant(value: ir.Value | None) -> Array | None:
    """The weights behind ``value`` in double precision, or None where it is computed."""
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    return value.const_value.numpy().astype(np.float64)


def weights(value: ir.Value) -> Array:
    """As :func:`constant`, for a value that a rule's condition has found to be constant."""
    array = constant(value)
    if array is None:
        raise ValueError(f"'{value.name}' is not a constant")
    return array


def is_scalar(value: ir.Value | None, expected: float) -> bool:
    """Whether ``value`` is a constant of one element equal to ``expected``."""
    array = constant(value)
    return array is not None and array.size == 1 and float(array.item()) == expected


def unique_name(source: ir.Value, purpose: str) -> str:
    """A name for weights derived from ``source`` that no initializer of its graph has yet.

    Rules must not reuse a name: the rewriter would replace the weights of every other reader of it.
    """
    taken = source.graph.initializers if source.graph is not None else {}
    name = f"{source.name}.{purpose}"
    count = 1
    while name in taken:
        count += 1
        name = f"{source.name}.{purpose}{count}"
    return name


def tensor(array: Array, name: str) -> ir.TensorProtocol:
    """``array`` as FP32, contiguous: passes compute in double and round once."""
    return ir.Tensor(np.ascontiguousarray(array, dtype=np.float32), name=name)


def derived(op: RewriterContext, source: ir.Value, purpose: str, array: Array) -> ir.Value:
    """A new initializer that stands for ``source`` after a rewrite; for use in a rule's replacement."""
    name = unique_name(source, purpose)
    value: ir.Value = op.initializer(tensor(array, name), name=name)
    return value


def add_initializer(graph: ir.Graph, source: ir.Value, purpose: str, array: Array) -> ir.Value:
    """As :func:`derived`, for passes that walk the graph instead of using a rule."""
    data = tensor(array, unique_name(source, purpose))
    value = ir.Value(name=data.name, shape=ir.Shape(array.shape), type=ir.TensorType(data.dtype), const_value=data)
    graph.initializers.add(value)
    return value


def ints(op: RewriterContext, source: ir.Value, purpose: str, values: Sequence[int]) -> ir.Value:
    """A new INT64 initializer (a shape, axes), named after ``source``."""
    name = unique_name(source, purpose)
    value: ir.Value = op.initializer(ir.Tensor(np.array(values, np.int64), name=name), name=name)
    return value


def apply(model: ir.Model, *rules: RewriteRule) -> int:
    """Apply ``rules`` wherever they match and return the number of places."""
    return int(RewriteRuleSet(rules, commute=False).apply_to_model(model))


def int_attributes(node: ir.Node | None, name: str, default: Sequence[int] = ()) -> tuple[int, ...]:
    """The list of integers ``name`` of ``node``, or ``default`` where it is absent."""
    if node is None or name not in node.attributes:
        return tuple(default)
    return tuple(node.attributes[name].as_ints())
