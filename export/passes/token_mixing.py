"""The token mixers: two token sequences joined, then a linear map over the tokens, ``W [a; b] + bias``.

At the first level ``W`` is 4096 x 8192, 134 MB, the largest tensor of the network.
"""

import onnx_ir as ir
from onnxscript.rewriter.pattern import RewriterContext, RewriteRule

from ecea.export.passes._graph import apply, constant, derived, int_attributes, ints, weights


def split_token_mixing(model: ir.Model) -> int:
    """``W [a; b] + bias = W1 a + W2 b + bias``: two products instead of Concat and a 1x1 convolution.

    Nothing is copied to join the halves, and runtimes have better code for a matrix product. It is also a
    matter of correctness: OpenVINO's own API has been seen to overwrite the long-lived ``a`` before the Concat.
    """

    def joined(op: RewriterContext, a: ir.Value, b: ir.Value, w: ir.Value, bias: ir.Value) -> ir.Value:
        return op.Conv(op.Concat(a, b, axis=1), w, bias)

    def is_token_map(context: object, a: ir.Value, w: ir.Value, bias: ir.Value, **_: object) -> bool:
        kernel = constant(w)
        known = kernel is not None and kernel.ndim == 3 and kernel.shape[2] == 1 and constant(bias) is not None
        return known and a.shape is not None and isinstance(a.shape[1], int)

    def products(op: RewriterContext, a: ir.Value, b: ir.Value, w: ir.Value, bias: ir.Value) -> ir.Value | None:
        tokens = a.shape[1] if a.shape is not None else None
        if not isinstance(tokens, int):
            return None
        matrix = weights(w)[:, :, 0]
        first = op.MatMul(derived(op, w, "first", matrix[:, :tokens]), a)
        second = op.MatMul(derived(op, w, "second", matrix[:, tokens:]), b)
        return op.Add(op.Add(first, second), derived(op, bias, "column", weights(bias)[:, None]))

    return apply(model, RewriteRule(joined, products, is_token_map))


def fold_position_embedding(model: ir.Model) -> int:
    """``(x + bias) + position = x + (bias + position)``: one addition for two, and for one product none less."""

    def twice(op: RewriterContext, x: ir.Value, bias: ir.Value, position: ir.Value) -> ir.Value:
        return op.Add(op.Add(x, bias), position)

    def both_constant(context: object, bias: ir.Value, position: ir.Value, **_: object) -> bool:
        return constant(bias) is not None and constant(position) is not None

    def once(op: RewriterContext, x: ir.Value, bias: ir.Value, position: ir.Value) -> ir.Value:
        return op.Add(x, derived(op, position, "biased", weights(bias) + weights(position)))

    return apply(model, RewriteRule(twice, once, both_constant))


def reassociate_patch_embedding(model: ir.Model) -> int:
    """``W (P E) = (W P) E``: mix the pixels of the patches, then embed them, where a patch has fewer than tokens.

    The embedding of the edge map is linear: its tokens are ``P E``, with ``P`` (N, p^2) the patches' pixels and
    ``E`` (p^2, C) the kernel. Mixing 16 pixels instead of 64 channels takes a quarter of the products.
    """

    def embedded_first(
        op: RewriterContext, mixer: ir.Value, image: ir.Value, kernel: ir.Value, shape: ir.Value
    ) -> ir.Value:
        patches = op.Conv(image, kernel, _outputs=["patches"])
        return op.MatMul(mixer, op.Transpose(op.Reshape(patches, shape), perm=[0, 2, 1]))

    def is_smaller(
        context: object, mixer: ir.Value, image: ir.Value, kernel: ir.Value, patches: ir.Value, **_: object
    ) -> bool:
        array = constant(kernel)
        if array is None or array.ndim != 4 or constant(mixer) is None or _static_size(image) is None:
            return False
        channels, inputs, height, width = array.shape
        return (
            inputs * height * width < channels
            and int_attributes(patches.producer(), "strides") == (height, width)
            and int_attributes(patches.producer(), "pads", (0,) * 4) == (0,) * 4
        )

    def mixed_first(
        op: RewriterContext, mixer: ir.Value, image: ir.Value, kernel: ir.Value, **_: object
    ) -> ir.Value | None:
        size = _static_size(image)
        if size is None:
            return None
        channels, inputs, height, width = weights(kernel).shape
        rows, columns = size[0] // height, size[1] // width
        split = ints(op, kernel, "split", [-1, inputs, rows, height, columns, width])
        pixels = op.Transpose(op.Reshape(image, split), perm=[0, 2, 4, 1, 3, 5])
        join = ints(op, kernel, "join", [-1, rows * columns, inputs * height * width])
        matrix = derived(op, kernel, "matrix", weights(kernel).reshape(channels, -1).T)
        return op.MatMul(op.MatMul(mixer, op.Reshape(pixels, join)), matrix)

    return apply(model, RewriteRule(embedded_first, mixed_first, is_smaller))


def weights_on_the_right(model: ir.Model) -> int:
    """``W x = (x^T W^T)^T``: runtimes have an integer product for weights on the right alone."""

    def on_the_left(op: RewriterContext, w: ir.Value, x: ir.Value) -> ir.Value:
        return op.MatMul(w, x)

    def is_token_map(context: object, w: ir.Value, x: ir.Value, **_: object) -> bool:
        matrix = constant(w)
        rank = len(x.shape) if x.shape is not None else None
        return matrix is not None and matrix.ndim == 2 and constant(x) is None and rank == 3

    def on_the_right(op: RewriterContext, w: ir.Value, x: ir.Value) -> ir.Value:
        mixed = op.MatMul(op.Transpose(x, perm=[0, 2, 1]), derived(op, w, "transposed", weights(w).T))
        return op.Transpose(mixed, perm=[0, 2, 1])

    return apply(model, RewriteRule(on_the_left, on_the_right, is_token_map))


def _static_size(image: ir.Value) -> tuple[int, int] | None:
    """Height and width of a (B, C, H, W) value, where they are known."""
    if image.shape is None or len(image.shape) != 4:
        return None
    height, width = image.shape[2], image.shape[3]
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None
