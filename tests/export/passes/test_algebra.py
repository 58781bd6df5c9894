"""The kernels that the passes derive, against PyTorch in double precision; and what the passes must leave alone."""

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch.nn import functional as F

from ecea.export.passes import PASSES, optimize
from ecea.export.passes.heads import phase_kernel
from ecea.export.passes.upsampling import transposed_kernel
from ecea.export.passes.winograd import POINTS, TAPS, cook_toom


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("size", [1, 3, 5, 9])
def test_phase_kernel(scale: int, size: int) -> None:
    rng = np.random.default_rng(size)
    kernel = rng.standard_normal((3, 2, size, size))
    x = torch.from_numpy(rng.standard_normal((2, 2 * scale**2, 7, 5)))
    expected = F.conv2d(F.pixel_shuffle(x, scale), torch.from_numpy(kernel), padding=size // 2)
    phases = torch.from_numpy(phase_kernel(kernel, scale))
    actual = F.pixel_shuffle(F.conv2d(x, phases, padding=phases.shape[-1] // 2), scale)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


def test_transposed_kernel() -> None:
    rng = np.random.default_rng(0)
    kernel = rng.standard_normal((3, 2, 3, 3))
    x = torch.from_numpy(rng.standard_normal((2, 2, 5, 4)))
    doubled = F.interpolate(x, scale_factor=2.0, mode="nearest")
    expected = F.conv2d(doubled, torch.from_numpy(kernel), padding=1)
    transposed = torch.from_numpy(transposed_kernel(kernel))
    actual = F.conv_transpose2d(x, transposed, stride=2, padding=1)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("points", [*POINTS.values(), (0, 1), (0, 1, -1, 0.5, -2, 3)], ids=str)
def test_cook_toom(points: tuple[float, ...]) -> None:
    a, g, b = cook_toom(points, TAPS)
    outputs, products = a.shape
    assert products == outputs + TAPS - 1 == len(points) + 1
    rng = np.random.default_rng(0)
    kernel, x = rng.standard_normal(TAPS), rng.standard_normal(products)
    np.testing.assert_allclose(a @ ((g @ kernel) * (b @ x)), np.correlate(x, kernel), rtol=0, atol=1e-12)


def parse(body: str, **initializers: np.ndarray) -> ir.Model:
    """A model of one (1, 4, 8, 8) input ``x`` and one output ``y``."""
    model = ir.from_onnx_text(
        f"""<ir_version: 10, opset_import: ["" : 18]>
        g (float[1, 4, 8, 8] x) => (float[1, C, H, W] y) {{ {body} }}"""
    )
    for name, array in initializers.items():
        value = next(v for node in model.graph for v in node.inputs if v is not None and v.name == name)
        value.const_value = ir.Tensor(array.astype(np.float32), name=name)
        model.graph.initializers.add(value)
    return model


UNTOUCHED = {
    "a PReLU of one parameter a channel": ("y = PRelu (x, slope)", {"slope": np.ones((4, 1, 1))}),
    "a sigmoid of another form": (
        "z = Conv (x, w, b) t = Tanh (z) u = Add (t, two) y = Div (u, two)",
        {"w": np.ones((1, 4, 1, 1)), "b": np.ones(1), "two": np.array(2.0)},
    ),
    "a wide convolution after a shuffle": (
        'z = DepthToSpace <blocksize = 2, mode = "CRD"> (x) y = Conv <pads = [1, 1, 1, 1]> (z, w, b)',
        {"w": np.ones((16, 1, 3, 3)), "b": np.ones(16)},
    ),
    "a narrow convolution at stride 2": (
        'z = DepthToSpace <blocksize = 2, mode = "CRD"> (x) y = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (z, w, b)',
        {"w": np.ones((1, 1, 3, 3)), "b": np.ones(1)},
    ),
    "a norm that something else than a linear layer reads": (
        "n = LayerNormalization (x, gain, shift) a = MatMul (n, w) b = Add (a, c) y = Mul (b, n)",
        {"gain": np.ones(8), "shift": np.ones(8), "w": np.ones((8, 8)), "c": np.ones(8)},
    ),
    "a tripled map before a convolution": (
        'r = Resize <mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor">'
        "(x, , scales) y = Conv <pads = [1, 1, 1, 1]> (r, w)",
        {"scales": np.array([1, 1, 3, 3]), "w": np.ones((16, 4, 3, 3))},
    ),
}


@pytest.mark.parametrize("case", UNTOUCHED)
def test_left_alone(case: str) -> None:
    model = parse(UNTOUCHED[case][0], **UNTOUCHED[case][1])
    assert not any(optimize(model, PASSES).values())
