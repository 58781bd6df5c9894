"""LayerNorm's scale and shift, moved into the linear layers that read it; equal norms, computed once."""

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import CommonSubexpressionEliminationPass

from ecea.export.passes._graph import Array, add_initializer, constant, weights


def fold_norm_affine(model: ir.Model) -> int:
    """``(n * g + b) W + c = n (diag(g) W) + (c + b W)``, where every reader of a LayerNorm is a linear layer.

    What is left of the norm is the same for all norms of one input, see :func:`share_equal_norms`.
    """
    graph, units = model.graph, dict[int, ir.Value]()
    norms = [node for node in graph if node.op_type == "LayerNormalization"]
    return sum(_fold_affine(graph, norm, units) for norm in norms)


def _fold_affine(graph: ir.Graph, norm: ir.Node, units: dict[int, ir.Value]) -> bool:
    gain = constant(norm.inputs[1])
    shift = constant(norm.inputs[2]) if len(norm.inputs) > 2 else None
    readers = [_linear(use.node, norm.outputs[0]) for use in norm.outputs[0].uses()]
    linears = [linear for linear in readers if linear is not None]
    if gain is None or shift is None or not linears or len(linears) != len(readers):
        return False
    for product, addition in linears:
        w, c = product.inputs[1], addition.inputs[1]
        if w is None or c is None:
            return False
        matrix = weights(w)
        product.replace_input_with(1, add_initializer(graph, w, "scaled", gain[:, None] * matrix))
        addition.replace_input_with(1, add_initializer(graph, c, "shifted", weights(c) + shift @ matrix))
    norm.replace_input_with(1, _unit(graph, norm, gain, units))
    norm.resize_inputs(2)
    return True


def _linear(product: ir.Node, x: ir.Value) -> tuple[ir.Node, ir.Node] | None:
    """The product and the addition of ``x W + c``, or None where ``product`` is not the start of one."""
    if product.op_type != "MatMul" or product.inputs[0] is not x or constant(product.inputs[1]) is None:
        return None
    uses = list(product.outputs[0].uses())
    if len(uses) != 1 or uses[0].node.op_type != "Add" or constant(uses[0].node.inputs[1]) is None:
        return None
    return product, uses[0].node


def _unit(graph: ir.Graph, norm: ir.Node, gain: Array, units: dict[int, ir.Value]) -> ir.Value:
    """A gain of ones, one for all norms of the same width."""
    source = norm.inputs[1]
    if gain.size not in units and source is not None:
        units[gain.size] = add_initializer(graph, source, "unit", np.ones(gain.size))
    return units[gain.size]


def share_equal_norms(model: ir.Model) -> int:
    """Compute a LayerNorm once where several read the same input with the same parameters.

    All blocks of a stage normalise the same edge tokens; without their scale and shift they do the same.
    """

    def count() -> int:
        return sum(node.op_type == "LayerNormalization" for node in model.graph)

    before = count()
    CommonSubexpressionEliminationPass()(model)
    return before - count()
