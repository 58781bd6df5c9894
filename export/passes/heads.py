"""The last convolution of a head, moved before the pixel shuffle that feeds it.

A 9x9 convolution to 1 or 3 channels at full size fills few lanes of a vector unit: output channels are what
it works on side by side. On the grid before the shuffle it makes ``s * s`` times as many channels, and its
kernel spans fewer, deeper pixels.
"""

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter.pattern import RewriterContext, RewriteRule

from ecea.export.passes._graph import Array, apply, constant, derived, int_attributes, weights

# With at least this many output channels a convolution fills the vector unit where it is.
WIDE = 16


def phase_kernel(kernel: Array, scale: int) -> Array:
    """The convolution on the coarse grid that equals ``kernel`` on the grid after a pixel shuffle.

    With fine coordinates ``s u + p`` (coarse pixel ``u``, phase ``p``), ``y[s u + p] = sum_d w[d] x[s u + p + d]``
    reads phase ``q`` of coarse pixel ``u + a`` where ``s a + q = p + d``; hence
    ``W[(o, p), (i, q), a] = w[o, i, s a + q - p]``, zero where that is outside the kernel.

    Args:
        kernel: (O, I, k, k), k odd, for a convolution of stride 1 and padding ``k // 2``.
        scale: s, the shuffle's factor.

    Returns:
        (O s^2, I s^2, K, K) with ``K = 2 ceil((k // 2) / s) + 1``, for padding ``K // 2``; channels in the order
        of PyTorch's PixelShuffle (``DepthToSpace`` with mode CRD), phases rows first.
    """
    outputs, inputs, size, _ = kernel.shape
    radius = size // 2
    reach = -(-radius // scale)
    taps = 2 * reach + 1
    result = np.zeros((outputs, scale, scale, inputs, scale, scale, taps, taps))
    steps = [
        (p, q, a + reach, scale * a + q - p + radius)
        for p in range(scale)
        for q in range(scale)
        for a in range(-reach, reach + 1)
        if abs(scale * a + q - p) <= radius
    ]
    for py, qy, ay, dy in steps:
        for px, qx, ax, dx in steps:
            result[:, py, px, :, qy, qx, ay, ax] = kernel[:, :, dy, dx]
    return result.reshape(outputs * scale**2, inputs * scale**2, taps, taps)


def _shuffled_convolution(op: RewriterContext, x: ir.Value, w: ir.Value, b: ir.Value) -> ir.Value:
    return op.Conv(op.DepthToSpace(x, blocksize=2, mode="CRD"), w, b, _outputs=["y"])


def _is_narrow(context: object, w: ir.Value, b: ir.Value, y: ir.Value, **_: object) -> bool:
    kernel = constant(w)
    if kernel is None or constant(b) is None or kernel.ndim != 4:
        return False
    outputs, _, height, width = kernel.shape
    node = y.producer()
    return (
        outputs < WIDE
        and height == width > 1  # of 1 x 1 nothing is gained, and its rows would be narrow again, without end
        and height % 2 == 1
        and int_attributes(node, "pads") == (height // 2,) * 4
        and int_attributes(node, "strides", (1, 1)) == (1, 1)
        and int_attributes(node, "dilations", (1, 1)) == (1, 1)
    )


def _convolve(op: RewriterContext, x: ir.Value, w: ir.Value, b: ir.Value, kernel: Array) -> ir.Value:
    """Convolve ``x`` with ``kernel`` to phases, each with the bias of its output channel."""
    phases = kernel.shape[0] // weights(b).size
    return op.Conv(
        x,
        derived(op, w, "phases", kernel),
        derived(op, b, "phases", np.repeat(weights(b), phases)),
        kernel_shape=list(kernel.shape[2:]),
        pads=[kernel.shape[2] // 2] * 4,
    )


def final_convolution_at_half_size(model: ir.Model) -> int:
    """``conv(shuffle2(x), w) = shuffle2(conv(x, W))``: 9x9 becomes 5x5 to 4 times as many channels."""

    def half_size(op: RewriterContext, x: ir.Value, w: ir.Value, b: ir.Value, **_: object) -> ir.Value:
        y = _convolve(op, x, w, b, phase_kernel(weights(w), 2))
        return op.DepthToSpace(y, blocksize=2, mode="CRD")

    return apply(model, RewriteRule(_shuffled_convolution, half_size, _is_narrow))


def split_final_convolution(model: ir.Model) -> int:
    """A k x k convolution to few channels as 1 x k to k times as many, then k x 1 that only adds.

    ``y[o, v] = sum_d z[(d, o), v + d]`` down a column, where ``z[(d, o)]`` is the convolution with row ``d`` of the
    kernel. The products stay the same, but all rows share one pass over the input and fill the vector unit:
    after :func:`final_convolution_at_half_size` 5x5 to 4 (or 12) channels becomes 1x5 to 20 (or 60).
    """

    def convolution(op: RewriterContext, x: ir.Value, w: ir.Value, b: ir.Value) -> ir.Value:
        return op.Conv(x, w, b, _outputs=["y"])

    def by_rows(op: RewriterContext, x: ir.Value, w: ir.Value, b: ir.Value, **_: object) -> ir.Value:
        kernel = weights(w)
        outputs, inputs, size, _width = kernel.shape
        rows = kernel.transpose(2, 0, 1, 3).reshape(size * outputs, inputs, 1, size)
        # adder[o, (d, o'), d', 0] is 1 where o = o' and d = d'.
        adder = np.einsum("op,de->odpe", np.eye(outputs), np.eye(size)).reshape(outputs, size * outputs, size, 1)
        radius = size // 2
        z = op.Conv(x, derived(op, w, "rows", rows), kernel_shape=[1, size], pads=[0, radius, 0, radius])
        added = derived(op, w, "adder", adder)
        return op.Conv(z, added, b, kernel_shape=[size, 1], pads=[radius, 0, radius, 0])

    return apply(model, RewriteRule(convolution, by_rows, _is_narrow))
