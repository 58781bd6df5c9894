"""Large convolutions with fewer products: Winograd's scheme along the rows.

``m`` outputs of a correlation with ``r`` taps are ``A ((G g) * (B d))``: ``n = m + r - 1`` products instead of ``m r``
(Winograd, "Arithmetic Complexity of Computations", 1980; the matrices by Cook and Toom, see Lavin and Gray,
arXiv:1509.09308). Here an element of ``g`` is a row of a kernel and one of ``d`` a row of the map, so a "product" is a
convolution along a row, with all channels: still a large convolution to the runtime. Measured on random maps, the rms
error is 1.4 (9x9) to 2.1 times (3x3) that of the direct form; along one axis only, as it grows with each.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter.pattern import RewriterContext, RewriteRule

from ecea.export.passes._graph import Array, apply, constant, derived, int_attributes, ints, weights

TAPS = 3

# Rows computed together, and the points of the scheme, for kernels of 3 rows and of 9. The three bands of 3 rows that
# 9 rows are cut into must start at a multiple of the outputs, so that all read the same transformed rows.
POINTS: dict[int, tuple[float, ...]] = {3: (0, 1, -1, 2, -2), 9: (0, 1, -1, 2)}

# The scheme halves the products but moves more data; it pays where a pixel costs many products for each channel that
# it reads and writes, and where the map has more rows than a few blocks.
LEAST_PRODUCTS_PER_CHANNEL = 240
LEAST_ROWS = 16


def cook_toom(points: Sequence[float], taps: int) -> tuple[Array, Array, Array]:
    """The matrices A (m, n), G (n, taps), B (n, n): ``n = len(points) + 1`` products, ``m = n - taps + 1`` outputs.

    The last product stands for the point at infinity.
    """
    n = len(points) + 1
    m = n - taps + 1
    a, g, b = np.zeros((m, n)), np.zeros((n, taps)), np.zeros((n, n))
    for j, point in enumerate(points):
        others = [other for other in points if other != point]
        a[:, j] = np.power(float(point), np.arange(m))
        g[j] = np.power(float(point), np.arange(taps)) / np.prod([point - other for other in others])
        b[j, : n - 1] = np.poly(others)[::-1]
    a[m - 1, n - 1] = g[n - 1, taps - 1] = 1
    b[n - 1] = np.poly(points)[::-1]
    return a, g, b


def convolution_by_winograd(model: ir.Model) -> int:
    """Convolutions of 3x3 and 9x9 that are worth it, ``m`` rows at a time; an activation after one is kept with it."""

    def activated(op: RewriterContext, x: ir.Value, w: ir.Value, b: ir.Value, alpha: ir.Attr) -> ir.Value:
        return op.LeakyRelu(op.Conv(x, w, b, _outputs=["y"]), alpha=alpha)

    def plain(op: RewriterContext, x: ir.Value, w: ir.Value, b: ir.Value) -> ir.Value:
        return op.Conv(x, w, b, _outputs=["y"])

    def by_rows(
        op: RewriterContext, x: ir.Value, w: ir.Value, b: ir.Value, y: ir.Value, alpha: ir.Attr | None = None
    ) -> ir.Value:
        rows = _rows(op, x, w, b)
        if alpha is not None:
            rows = [op.LeakyRelu(row, alpha=alpha.as_float()) for row in rows]
        return _interleave(op, rows, w, y)

    # One after the other: a convolution comes before its activation and would match alone.
    with_activation = apply(model, RewriteRule(activated, by_rows, _is_worth_it))
    return with_activation + apply(model, RewriteRule(plain, by_rows, _is_worth_it))


def _is_worth_it(context: object, x: ir.Value, w: ir.Value, b: ir.Value, y: ir.Value, **_: object) -> bool:
    kernel, node = constant(w), y.producer()
    if kernel is None or constant(b) is None or kernel.ndim != 4 or x.shape is None or y.shape is None:
        return False
    outputs, inputs, size, width = kernel.shape
    height = x.shape[2]
    return (
        size in POINTS
        and width == size
        and isinstance(height, int)
        and isinstance(x.shape[3], int)
        and height >= LEAST_ROWS
        and size * size * inputs * outputs >= LEAST_PRODUCTS_PER_CHANNEL * (inputs + 2 * outputs)
        and int_attributes(node, "pads") == (size // 2,) * 4
        and int_attributes(node, "strides", (1, 1)) == (1, 1)
        and int_attributes(node, "dilations", (1, 1)) == (1, 1)
    )


def _rows(op: RewriterContext, x: ir.Value, w: ir.Value, b: ir.Value) -> list[ir.Value]:
    """The rows ``m t, m t + 1, ...`` of the convolution as ``m`` maps of (B, O, ceil(H / m), W)."""
    kernel = weights(w)
    outputs, inputs, size, width = kernel.shape
    a, g, scheme = cook_toom(POINTS[size], TAPS)
    m, n = a.shape
    bands = size // TAPS
    height = x.shape[2] if x.shape is not None else None
    if not isinstance(height, int):
        raise ValueError(f"'{x.name}' has no static height")
    blocks = -(-height // m) + (bands - 1) * TAPS // m
    below = m * (blocks - 1) + n - height - size // 2
    transformed = np.einsum("nr,oisrk->noisk", g, kernel.reshape(outputs, inputs, bands, TAPS, width))
    products = []
    for j in range(n):
        row = np.tile(scheme[j].reshape(1, 1, n, 1), (inputs, 1, 1, 1))
        d = op.Conv(
            x, derived(op, w, f"rows{j}", row), group=inputs, kernel_shape=[n, 1], strides=[m, 1],
            pads=[size // 2, 0, below, 0],
        )  # fmt: skip
        # The product at point 1 counts once in every row: it carries the bias.
        bias = (b,) if j == POINTS[size].index(1) else ()
        part = derived(op, w, f"product{j}", transformed[j])
        products.append(op.Conv(d, part, *bias, kernel_shape=[bands, width], pads=[0, width // 2, 0, width // 2]))
    return _combine(op, w, a, products, POINTS[size])


def _combine(
    op: RewriterContext, w: ir.Value, a: Array, products: list[ir.Value], points: Sequence[float]
) -> list[ir.Value]:
    """``A M``, with the sum and the difference of the products at ``p`` and ``-p`` taken once for all rows."""
    rows: list[list[ir.Value]] = [[] for _ in a]
    rest = list(range(len(products)))
    factors: dict[float, ir.Value] = {}

    def scaled(value: ir.Value, factor: float) -> ir.Value:
        if factor == 1:
            return value
        if factor not in factors:
            factors[factor] = derived(op, w, f"factor{factor:g}", np.array(factor))
        return op.Mul(value, factors[factor])

    for j, point in enumerate(points):
        if point > 0 and -point in points:
            k = points.index(-point)
            rest = [i for i in rest if i not in (j, k)]
            even, odd = op.Add(products[j], products[k]), op.Sub(products[j], products[k])
            for i, terms in enumerate(rows):
                terms.append(scaled(odd if i % 2 else even, a[i, j]))
    for j in rest:
        for i, terms in enumerate(rows):
            if a[i, j] != 0:
                terms.append(scaled(products[j], a[i, j]))
    sums = []
    for terms in rows:
        total = terms[0]
        for term in terms[1:]:
            total = op.Add(total, term)
        sums.append(total)
    return sums


def _interleave(op: RewriterContext, rows: list[ir.Value], w: ir.Value, y: ir.Value) -> ir.Value:
    """Put ``m`` maps of rows together, (B, O, H, W) as ``y``: side by side, row ``m t + i`` is at ``(t, i W)``."""
    if y.shape is None:
        raise ValueError(f"'{y.name}' has no shape")
    outputs, height, width = (int(str(size)) for size in y.shape[1:])
    blocks = -(-height // len(rows))
    joined = op.Reshape(op.Concat(*rows, axis=3), ints(op, w, "joined", [-1, outputs, blocks * len(rows), width]))
    if height % len(rows) == 0:
        return joined
    bounds = [ints(op, w, name, [value]) for name, value in (("start", 0), ("end", height), ("rows", 2))]
    return op.Slice(joined, *bounds)


def row_convolution_before_interleaving(model: ir.Model) -> int:
    """A convolution along the rows does not see their order: it may run before they are put together.

    It is the first half of a head's last convolution, with fewer channels out than in: less is put together.
    """

    def after(
        op: RewriterContext, r0: ir.Value, r1: ir.Value, r2: ir.Value, r3: ir.Value, shape: ir.Value, w: ir.Value
    ) -> ir.Value:
        return op.Conv(op.Reshape(op.Concat(r0, r1, r2, r3, axis=3), shape), w, _outputs=["y"])

    def is_along_rows(context: object, shape: ir.Value, w: ir.Value, y: ir.Value, **_: object) -> bool:
        kernel, node = constant(w), y.producer()
        if kernel is None or constant(shape) is None or node is None:
            return False
        pads = int_attributes(node, "pads", (0,) * 4)
        return (
            kernel.shape[2] == 1
            and kernel.shape[0] <= kernel.shape[1]
            and (pads[0], pads[2]) == (0, 0)
            and int_attributes(node, "strides", (1, 1)) == (1, 1)
        )

    def before(
        op: RewriterContext, r0: ir.Value, r1: ir.Value, r2: ir.Value, r3: ir.Value, shape: ir.Value, w: ir.Value,
        y: ir.Value,
    ) -> ir.Value:  # fmt: skip
        node = y.producer()
        attributes = node.attributes if node is not None else {}
        rows = [op.Conv(row, w, **attributes) for row in (r0, r1, r2, r3)]
        joined = weights(shape).astype(int).tolist()
        joined[1] = int(weights(w).shape[0])
        return op.Reshape(op.Concat(*rows, axis=3), ints(op, shape, "thin", joined))

    return apply(model, RewriteRule(after, before, is_along_rows))
