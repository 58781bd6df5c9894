"""Expectation attention in ONNX: one node ``ecea::ExpectationAttention``, with a body of standard operators.

A runtime with a kernel for the node (the TensorRT plugin) takes the node; any other inlines the body.
"""

from typing import Any

import onnx
import onnx_ir as ir
from onnxscript import opset18 as op
from onnxscript import script, values

DOMAIN = "ecea"
NAME = "ExpectationAttention"
OPSET = values.Opset(DOMAIN, 1)
# How TensorRT's parser finds its plugin: as attributes of the node, every one of them required.
PLUGIN_ATTRIBUTES: dict[str, str | int] = {"plugin_namespace": DOMAIN, "plugin_version": "1", "aot": 1}
# Forms that TensorRT is given it in: our kernel; the standard operators of the body; the operator of opset 23.
PLUGIN, BODY, STANDARD = "plugin", "body", "standard"
STANDARD_OPSET = 18  # the newest in which the exporter's own translations are written, so nothing is converted


@script(OPSET, default_opset=op)  # type: ignore[untyped-decorator]
def ExpectationAttention(qkv, s, gate, num_heads: int, scale: float):  # type: ignore[no-untyped-def]  # noqa: N802
    """``softmax(scale * q (k + s)^T) v * gate`` for (B, N, 3C), (B, N, C), (B, N, C); the softmax in float32."""
    heads = op.Reshape(op.Constant(value_int=num_heads), op.Constant(value_ints=[1]))
    batch_and_tokens = op.Constant(value_ints=[0, 0])
    rest = op.Constant(value_ints=[-1])
    per_head = op.Concat(batch_and_tokens, heads, rest, axis=0)
    packed = op.Reshape(qkv, op.Concat(batch_and_tokens, op.Constant(value_ints=[3]), heads, rest, axis=0))
    q, k, v = op.Split(op.Transpose(packed, perm=[2, 0, 3, 1, 4]), num_outputs=3, axis=0)
    first = op.Constant(value_ints=[0])
    queries = op.Squeeze(q, first)
    edges = op.Transpose(op.Reshape(s, per_head), perm=[0, 2, 1, 3])
    keys = op.Add(op.Squeeze(k, first), edges)
    scaled = op.Mul(queries, op.CastLike(op.Constant(value_float=scale), queries))
    logits = op.MatMul(scaled, op.Transpose(keys, perm=[0, 1, 3, 2]))
    weights = op.CastLike(op.Softmax(op.Cast(logits, to=1), axis=-1), v)
    attended = op.Transpose(op.MatMul(weights, op.Squeeze(v, first)), perm=[0, 2, 1, 3])
    joined = op.Reshape(attended, op.Concat(batch_and_tokens, rest, axis=0))
    return op.Mul(joined, gate)


_FLOATS = ("T", ["tensor(float)", "tensor(float16)"], "any one of the two")
_SCHEMA = onnx.defs.OpSchema(
    NAME,
    DOMAIN,
    OPSET.version,
    inputs=[onnx.defs.OpSchema.FormalParameter(name, "T") for name in ("qkv", "s", "gate")],
    outputs=[onnx.defs.OpSchema.FormalParameter("y", "T")],
    type_constraints=[_FLOATS],
    attributes=[
        onnx.defs.OpSchema.Attribute("num_heads", onnx.defs.OpSchema.AttrType.INT, required=True),
        onnx.defs.OpSchema.Attribute("scale", onnx.defs.OpSchema.AttrType.FLOAT, required=True),
    ],
)
_node = values.Op(OPSET, NAME, _SCHEMA)


def translate_attention(qkv: Any, s: Any, gate: Any, num_heads: int) -> Any:
    """Entry of the exporter's translation table for ``torch.ops.ecea.expectation_attention``."""
    head_dim = gate.shape[-1] // num_heads
    return _node(qkv, s, gate, num_heads=num_heads, scale=float(head_dim) ** -0.5)


def add_function_body(model: ir.Model) -> None:
    """Give the attention nodes of a model their body, as a local function.

    Added last: the exporter's own optimizer inlines every function that it meets.
    """
    function = ir.serde.deserialize_function(ExpectationAttention.to_function_proto())
    model.functions[function.identifier()] = function


def address_plugin(model: ir.Model) -> None:
    """Write into the attention nodes of a model which TensorRT plugin they are for, in place.

    Done last: passes make new nodes. Other runtimes ignore what the function does not declare.
    """
    for node in model.graph:
        if (node.domain, node.op_type) == (DOMAIN, NAME):
            for attribute in ir.convenience.convert_attributes(PLUGIN_ATTRIBUTES):
                node.attributes.add(attribute)
