"""Activations in the forms that runtimes fuse into the convolution before them."""

import onnx_ir as ir
from onnxscript.rewriter.ort_fusions.erfgelu import rules as gelu_rules
from onnxscript.rewriter.pattern import RewriterContext, RewriteRule

from ecea.export.passes._graph import apply, constant, derived, is_scalar, weights


def prelu_to_leaky_relu(model: ir.Model) -> int:
    """A PReLU of one parameter is a LeakyReLU: ``max(x, 0) + a min(x, 0)`` with one ``a`` for all channels.

    Runtimes fuse LeakyReLU into the convolution before it; PReLU, which may differ by channel, they do not.
    """

    def prelu(op: RewriterContext, x: ir.Value, slope: ir.Value) -> ir.Value:
        return op.PRelu(x, slope)

    def one_parameter(context: object, slope: ir.Value, **_: object) -> bool:
        array = constant(slope)
        return array is not None and array.size == 1

    def leaky_relu(op: RewriterContext, x: ir.Value, slope: ir.Value) -> ir.Value:
        return op.LeakyRelu(x, alpha=float(weights(slope).item()))

    return apply(model, RewriteRule(prelu, leaky_relu, one_parameter))


def leaky_relu_before_pixel_shuffle(model: ir.Model) -> int:
    """``f(shuffle(x)) = shuffle(f(x))`` for an ``f`` of single elements: a shuffle only moves them.

    Before the shuffle, LeakyReLU follows the convolution directly and is fused into it.
    """

    def after(op: RewriterContext, x: ir.Value, alpha: ir.Attr, blocksize: ir.Attr, mode: ir.Attr) -> ir.Value:
        return op.LeakyRelu(op.DepthToSpace(x, blocksize=blocksize, mode=mode), alpha=alpha)

    def before(op: RewriterContext, x: ir.Value, alpha: ir.Attr, blocksize: ir.Attr, mode: ir.Attr) -> ir.Value:
        return op.DepthToSpace(op.LeakyRelu(x, alpha=alpha), blocksize=blocksize, mode=mode)

    return apply(model, RewriteRule(after, before))


def tanh_to_sigmoid(model: ir.Model) -> int:
    """``(tanh(z) + 1) / 2 = sigmoid(2 z)``, with the 2 in the weights of the convolution that makes ``z``."""

    def halved(op: RewriterContext, x: ir.Value, w: ir.Value, b: ir.Value, one: ir.Value, two: ir.Value) -> ir.Value:
        z = op.Conv(x, w, b, _outputs=["z"])
        return op.Div(op.Add(op.Tanh(z), one), two)

    def constants(context: object, w: ir.Value, b: ir.Value, one: ir.Value, two: ir.Value, **_: object) -> bool:
        known = constant(w) is not None and constant(b) is not None
        return known and is_scalar(one, 1.0) and is_scalar(two, 2.0)

    def sigmoid(op: RewriterContext, x: ir.Value, w: ir.Value, b: ir.Value, z: ir.Value, **_: object) -> ir.Value:
        conv = z.producer()
        attributes = conv.attributes if conv is not None else {}
        w2, b2 = derived(op, w, "doubled", 2 * weights(w)), derived(op, b, "doubled", 2 * weights(b))
        return op.Sigmoid(op.Conv(x, w2, b2, **attributes))

    return apply(model, RewriteRule(halved, sigmoid, constants))


def fuse_gelu(model: ir.Model) -> int:
    """``x (1 + erf(x / sqrt 2)) / 2`` as ``com.microsoft::Gelu``, by onnxscript's own rules for ONNX Runtime.

    ONNX Runtime's optimizer leaves the five operations of the exported form apart; OpenVINO's finds them.
    """
    return int(gelu_rules.apply_to_model(model))
