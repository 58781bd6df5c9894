"""Expectation attention: what its linear layers can absorb, and its form for runtimes without a kernel for it.

The node computes ``softmax(scale * q (k + s)^T) v * gate`` per head from ``qkv`` (B, N, 3C), ``s`` and ``gate``
(B, N, C); see ``ecea.kernels.eager``.
"""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter.pattern import RewriterContext, RewriteRule

from ecea.export.passes._graph import apply, constant, derived, ints, weights

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


def _attention_of_linear(
    op: RewriterContext, x: ir.Value, w: ir.Value, b: ir.Value, s: ir.Value, gate: ir.Value,
    num_heads: ir.Attr, scale: ir.Attr,
) -> ir.Value:  # fmt: skip
    qkv = op.Add(op.MatMul(x, w), b)
    return op.ExpectationAttention(qkv, s, gate, num_heads=num_heads, scale=scale, _domain=DOMAIN)


def _project(
    op: RewriterContext, x: ir.Value, w: ir.Value, b: ir.Value, s: ir.Value
) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Queries, keys with the edge features, and values, (B, N, C) each, from three products instead of one.

    Three products cost what one of three times the width does, and nothing has to be cut apart.
    """
    matrices, biases = np.split(weights(w), 3, axis=1), np.split(weights(b), 3)
    q, k, v = (
        op.Add(op.MatMul(x, derived(op, w, name, matrix)), derived(op, b, name, bias))
        for name, matrix, bias in zip("qkv", matrices, biases, strict=True)
    )
    return q, op.Add(k, s), v


def attention_as_multihead(model: ir.Model) -> int:
    """Attention as ``com.microsoft::MultiHeadAttention``, which ONNX Runtime computes without the N x N matrix."""

    def multihead(
        op: RewriterContext, x: ir.Value, w: ir.Value, b: ir.Value, s: ir.Value, gate: ir.Value,
        num_heads: ir.Attr, scale: ir.Attr,
    ) -> ir.Value:  # fmt: skip
        q, k, v = _project(op, x, w, b, s)
        attended = op.MultiHeadAttention(
            q, k, v, num_heads=num_heads.as_int(), scale=scale.as_float(), _domain=CONTRIB, _version=1
        )
        return op.Mul(attended, gate)

    return apply(model, RewriteRule(_attention_of_linear, multihead, _all_constant("w", "b")))


def attention_as_products(model: ir.Model) -> int:
    """Attention as Transpose, MatMul, Softmax, MatMul, the chain that OpenVINO's CPU plugin makes one kernel of."""

    def products(
        op: RewriterContext, x: ir.Value, w: ir.Value, b: ir.Value, s: ir.Value, gate: ir.Value,
        num_heads: ir.Attr, scale: ir.Attr,
    ) -> ir.Value:  # fmt: skip
        heads, width = num_heads.as_int(), weights(b).size // 3
        split = ints(op, b, "heads", [0, 0, heads, width // heads])
        q, k, v = (op.Reshape(part, split) for part in _project(op, x, w, b, s))
        logits = op.MatMul(op.Transpose(q, perm=[0, 2, 1, 3]), op.Transpose(k, perm=[0, 2, 3, 1]))
        if scale.as_float() != 1.0:
            logits = op.Mul(logits, derived(op, b, "scale", np.array(scale.as_float())))
        attended = op.MatMul(op.Softmax(logits, axis=-1), op.Transpose(v, perm=[0, 2, 1, 3]))
        joined = op.Reshape(op.Transpose(attended, perm=[0, 2, 1, 3]), ints(op, b, "join", [0, 0, width]))
        return op.Mul(joined, gate)

    return apply(model, RewriteRule(_attention_of_linear, products, _all_constant("w", "b")))
