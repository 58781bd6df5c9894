"""What comes to nothing: factors and weights of zero, and all that is computed for them alone.

A generator that refines a U-Net's fill and adds nothing to it (``ecea.export.from_unet``) is such a graph: half
of its time would go into what is then multiplied by zero.
"""

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from ecea.export.passes._graph import add_initializer, constant, unique_name, weights


def drop_what_comes_to_nothing(model: ir.Model) -> int:
    """``x + 0 y = x`` for a finite y, and a convolution whose weights are all zero gives its bias everywhere."""
    graph = model.graph
    zeros: set[ir.Value] = set()

    def is_zero(value: ir.Value | None) -> bool:
        if value in zeros:
            return True
        array = constant(value)
        return array is not None and not array.any()

    places = 0
    for node in graph:
        out = node.outputs[0]
        if node.op_type == "Mul" and any(map(is_zero, node.inputs)):
            zeros.add(out)
        elif node.op_type == "Add":
            for term, other in (node.inputs, node.inputs[::-1]):
                if other in zeros and term is not None and term.shape is not None and term.shape == out.shape:
                    out.replace_all_uses_with(term, replace_graph_outputs=True)
                    places += 1
                    break
        elif node.op_type == "Conv" and is_zero(node.inputs[1]) and _spread_bias(graph, node):
            places += 1
    if places:
        RemoveUnusedNodesPass()(model)
    return places


def _spread_bias(graph: ir.Graph, conv: ir.Node) -> bool:
    """Replace a convolution by its bias; not where it has none, or where more than its batch size is unknown."""
    out, bias = conv.outputs[0], conv.inputs[2] if len(conv.inputs) > 2 else None
    if bias is None or constant(bias) is None or out.shape is None:
        return False
    known = [size for size in out.shape[1:] if isinstance(size, int)]
    if len(known) != len(out.shape) - 1:
        return False
    value = add_initializer(graph, bias, "spread", weights(bias).reshape(1, -1, *[1] * (len(known) - 1)))
    whole = ir.TensorType(ir.DataType.INT64)
    sizes = ir.tensor(known, dtype=whole.dtype, name=unique_name(bias, "sizes"))
    rest = ir.Value(name=sizes.name, shape=ir.Shape([len(known)]), type=whole, const_value=sizes)
    graph.initializers.add(rest)
    batch = ir.node("Shape", [graph.inputs[0]], attributes={"start": 0, "end": 1})
    shape = ir.node("Concat", [batch.outputs[0], rest], attributes={"axis": 0})
    spread = ir.node("Expand", [value, shape.outputs[0]])
    # Said, not left to be inferred: what has no type would become half precision with the rest.
    for made, dims, dtype in ((batch, [1], whole), (shape, [len(out.shape)], whole), (spread, out.shape, out.type)):
        made.outputs[0].shape, made.outputs[0].type = ir.Shape(dims), dtype
    graph.insert_before(conv, [batch, shape, spread])
    out.replace_all_uses_with(spread.outputs[0], replace_graph_outputs=True)
    return True
