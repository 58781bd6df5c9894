"""Expectation attention: what its linear layers can absorb, and its form for runtimes without a kernel for it.

The node computes ``softmax(scale * q (k + s)^T) v * gate`` per head from ``qkv`` (B, N, 3C), ``s`` and ``gate``
(B, N, C); see ``ecea.kernels.eager``.
"""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedFunctionsPass
from onnxscript.rewriter.pattern import RewriterContext, RewriteRule

from ecea.export.passes._graph import apply, constant, derived, weights

DOMAIN = "ecea"
CONTRIB = "com.microsoft"


def _all_constant(*names: str) -> Callable[..., bool]:
    def check(context: object, **matched: ir.Value) -> bool:
        return all(constant(matched[name]) is not None for name in names)

    return check


def fold_attention_scale(model: ir.Model) -> int:
    """``scale * (x Wq + bq) = x (scale Wq) + scale bq``: the attribute becomes 1, the logits need no product."""

    def scaled(
        op: RewriterContext, x: ir.Value, w: ir.Value, b: ir.Value, s: ir.Value, gate: ir.Value,
        num_heads: ir.Attr, scale: ir.Attr,
    ) -> ir.Value:  # fmt: skip
        qkv = op.Add(op.MatMul(x, w), b)
        return op.ExpectationAttention(qkv, s, gate, num_heads=num_heads, scale=scale, _domain=DOMAIN)

    def check(context: object, w: ir.Value, b: ir.Value, scale: ir.Attr, **_: object) -> bool:
        return constant(w) is not None and constant(b) is not None and scale.as_float() != 1.0

    def unscaled(
        op: RewriterContext, x: ir.Value, w: ir.Value, b: ir.Value, s: ir.Value, gate: ir.Value,
        num_heads: ir.Attr, scale: ir.Attr,
    ) -> ir.Value:  # fmt: skip
        factors = np.ones(weights(b).size)
        factors[: factors.size // 3] = scale.as_float()
        matrix = derived(op, w, "scaled_q", weights(w) * factors)
        qkv = op.Add(op.MatMul(x, matrix), derived(op, b, "scaled_q", weights(b) * factors))
        return op.ExpectationAttention(qkv, s, gate, num_heads=num_heads, scale=1.0, _domain=DOMAIN)

    return apply(model, RewriteRule(scaled, unscaled, check))


def fold_edge_bias(model: ir.Model) -> int:
    """``(x Wk + bk) + (e Ws + bs) = (x Wk + (bk + bs)) + e Ws``: the keys take over the bias of the edge features."""

    def two_biases(
        op: RewriterContext, x: ir.Value, w: ir.Value, b: ir.Value, e: ir.Value, ws: ir.Value, bs: ir.Value,
        gate: ir.Value, num_heads: ir.Attr, scale: ir.Attr,
    ) -> ir.Value:  # fmt: skip
        qkv, s = op.Add(op.MatMul(x, w), b), op.Add(op.MatMul(e, ws), bs)
        return op.ExpectationAttention(qkv, s, gate, num_heads=num_heads, scale=scale, _domain=DOMAIN)

    def one_bias(
        op: RewriterContext, x: ir.Value, w: ir.Value, b: ir.Value, e: ir.Value, ws: ir.Value, bs: ir.Value,
        gate: ir.Value, num_heads: ir.Attr, scale: ir.Attr,
    ) -> ir.Value:  # fmt: skip
        bias, edge = weights(b), weights(bs)
        bias[edge.size : 2 * edge.size] += edge
        qkv, s = op.Add(op.MatMul(x, w), derived(op, b, "with_edge", bias)), op.MatMul(e, ws)
        return op.ExpectationAttention(qkv, s, gate, num_heads=num_heads, scale=scale, _domain=DOMAIN)

    return apply(model, RewriteRule(two_biases, one_bias, _all_constant("b", "bs")))


def attention_as_multihead(model: ir.Model) -> int:
    """Attention as ``com.microsoft::MultiHeadAttention``, which ONNX Runtime computes without the N x N matrix."""

    def expectation(
        op: RewriterContext, qkv: ir.Value, s: ir.Value, gate: ir.Value, num_heads: ir.Attr, scale: ir.Attr
    ) -> ir.Value:
        return op.ExpectationAttention(qkv, s, gate, num_heads=num_heads, scale=scale, _domain=DOMAIN)

    def multihead(
        op: RewriterContext, qkv: ir.Value, s: ir.Value, gate: ir.Value, num_heads: ir.Attr, scale: ir.Attr
    ) -> ir.Value:
        q, k, v = op.Split(qkv, num_outputs=3, axis=-1, _outputs=3)
        attended = op.MultiHeadAttention(
            q, op.Add(k, s), v, num_heads=num_heads.as_int(), scale=scale.as_float(), _domain=CONTRIB, _version=1
        )
        return op.Mul(attended, gate)

    return apply(model, RewriteRule(expectation, multihead))


def attention_as_standard(model: ir.Model) -> int:
    """Attention as ONNX's own ``Attention`` of opset 23, which TensorRT has kernels of its own for.

    The whole model is declared to be of that opset: what else it uses means the same there.
    """

    def expectation(
        op: RewriterContext, qkv: ir.Value, s: ir.Value, gate: ir.Value, num_heads: ir.Attr, scale: ir.Attr
    ) -> ir.Value:
        return op.ExpectationAttention(
            qkv, s, gate, num_heads=num_heads, scale=scale, _domain=DOMAIN, _allow_other_attributes=True
        )

    def standard(
        op: RewriterContext, qkv: ir.Value, s: ir.Value, gate: ir.Value, num_heads: ir.Attr, scale: ir.Attr
    ) -> ir.Value:
        q, k, v = op.Split(qkv, num_outputs=3, axis=-1, _outputs=3)
        heads = num_heads.as_int()
        attended = op.Attention(
            q, op.Add(k, s), v, q_num_heads=heads, kv_num_heads=heads, scale=scale.as_float(), softmax_precision=1
        )
        return op.Mul(attended, gate)

    model.opset_imports[""] = max(model.opset_imports[""], 23)
    changes = apply(model, RewriteRule(expectation, standard))
    RemoveUnusedFunctionsPass()(model)
    return changes
