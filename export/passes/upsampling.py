"""Nearest-neighbour doubling before a 3x3 convolution, without the products that it repeats.

The four fine pixels of a coarse one read the same coarse 3x3 neighbourhood, of which each needs 2x2:
``y[2 u + p] = sum_d w[d] x[u + floor((p + d) / 2)]``, d in -1..1. Rows (and columns) of ``w`` that meet the same
coarse pixel can be added beforehand: 4 products for 9.
"""

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter.pattern import RewriterContext, RewriteRule

from ecea.export.passes._graph import Array, apply, constant, derived, int_attributes, weights


def transposed_kernel(kernel: Array) -> Array:
    """The 4x4 kernel, stride 2 and padding 1, of the transposed convolution that equals doubling, then ``kernel``.

    Doubling is itself a transposed convolution, with a 2x2 kernel of ones, so the two kernels convolve.

    Args:
        kernel: (O, I, 3, 3), for padding 1.

    Returns:
        (I, O, 4, 4), in the layout of ``ConvTranspose``.
    """
    outputs, inputs, _, _ = kernel.shape
    result = np.zeros((inputs, outputs, 4, 4))
    flipped = kernel[:, :, ::-1, ::-1].transpose(1, 0, 2, 3)
    for dy in range(2):
        for dx in range(2):
            result[:, :, dy : dy + 3, dx : dx + 3] += flipped
    return result


def _upsampled_convolution(op: RewriterContext, x: ir.Value, scales: ir.Value, w: ir.Value) -> ir.Value:
    doubled = op.Resize(x, None, scales, mode="nearest", _outputs=["doubled"])
    return op.Conv(doubled, w, _outputs=["y"])


def _doubles(context: object, scales: ir.Value, w: ir.Value, doubled: ir.Value, y: ir.Value, **_: object) -> bool:
    factors, kernel, resize, conv = constant(scales), constant(w), doubled.producer(), y.producer()
    if factors is None or kernel is None or resize is None:
        return False

    def is_text(name: str, expected: str) -> bool:
        return name in resize.attributes and resize.attributes[name].as_string() == expected

    return (
        factors.tolist() == [1, 1, 2, 2]
        and is_text("coordinate_transformation_mode", "asymmetric")
        and is_text("nearest_mode", "floor")
        and kernel.shape[2:] == (3, 3)
        and int_attributes(conv, "pads") == (1,) * 4
        and int_attributes(conv, "strides", (1, 1)) == (1, 1)
        and int_attributes(conv, "dilations", (1, 1)) == (1, 1)
    )


def upsampling_to_transposed_convolution(model: ir.Model) -> int:
    """Doubling and a 3x3 convolution as one transposed convolution, 4x4 at stride 2."""

    def transposed(op: RewriterContext, x: ir.Value, w: ir.Value, **_: object) -> ir.Value:
        kernel = derived(op, w, "transposed", transposed_kernel(weights(w)))
        return op.ConvTranspose(x, kernel, kernel_shape=[4, 4], strides=[2, 2], pads=[1] * 4)

    return apply(model, RewriteRule(_upsampled_convolution, transposed, _doubles))
