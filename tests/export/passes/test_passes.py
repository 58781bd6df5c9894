"""Each pass alone and all together: the same numbers, and exactly the nodes that it should have changed."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from onnx_ir.passes.common import InlinePass

from ecea.export.passes import FLOATING, FOR_BACKEND, FOR_BACKEND_QUANTIZED, PASSES, QUANTIZED, Pass, optimize
from ecea.export.passes.activations import (
    fuse_gelu,
    leaky_relu_before_pixel_shuffle,
    prelu_to_leaky_relu,
    tanh_to_sigmoid,
)
from ecea.export.passes.attention import attention_as_multihead, fold_attention_scale, fold_edge_bias
from ecea.export.passes.heads import final_convolution_at_half_size, split_final_convolution
from ecea.export.passes.norms import fold_norm_affine, share_equal_norms
from ecea.export.passes.token_mixing import (
    fold_position_embedding,
    reassociate_patch_embedding,
    split_token_mixing,
    weights_on_the_right,
)
from ecea.export.passes.upsampling import upsampling_to_transposed_convolution
from ecea.export.passes.winograd import convolution_by_winograd, row_convolution_before_interleaving
from ecea.export.trace import trace
from ecea.model import Generator, GeneratorConfig

TOLERANCE = 1e-5
Arrays = list[NDArray[np.float32]]

# The smallest in which every pass finds its place: more channels than pixels in a patch (patch embedding),
# more than one block in a stage (edge norms).
CONFIG = GeneratorConfig(img_size=64, embed_dim=32, depth=(1, 2, 1, 1), num_heads=(1, 2, 4, 8))
BATCHES = (1, 3)


def tiles(batch: int, size: int) -> dict[str, NDArray[np.float32]]:
    """Random tiles with a fifth of their pixels missing."""
    rng = np.random.default_rng(batch)
    mask = (rng.random((batch, 1, size, size)) < 0.2).astype(np.float32)
    image = rng.random((batch, 3, size, size), np.float32) * (1 - mask)
    return {"image": image, "edge": rng.random((batch, 1, size, size), np.float32), "mask": mask}


def session_of(model: ir.Model) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 2, 3
    serialized = ir.to_proto(model).SerializeToString()
    return ort.InferenceSession(serialized, options, providers=["CPUExecutionProvider"])


def run(model: ir.Model) -> list[Arrays]:
    """``out`` and ``out_edge`` of ONNX Runtime's CPU provider, for each batch size."""
    session = session_of(model)
    return [session.run(["out", "out_edge"], tiles(batch, CONFIG.img_size)) for batch in BATCHES]


def largest_difference(first: list[Arrays], second: list[Arrays]) -> float:
    return max(
        float(np.abs(a - b).max()) for x, y in zip(first, second, strict=True) for a, b in zip(x, y, strict=True)
    )


def operators(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


@dataclass(frozen=True)
class Traced:
    """A generator, its trace (to be cloned, not changed), and what PyTorch and the trace make of the tiles."""

    generator: Generator
    model: ir.Model
    pytorch: list[Arrays]
    outputs: list[Arrays]


def _random_weights(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """PyTorch's own initialisation, with everything that it leaves at 0 or 1 drawn as well."""
    torch.manual_seed(20)
    state = Generator(CONFIG).state_dict()
    for name, tensor in state.items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2)
        elif tensor.is_floating_point() and (tensor.ndim < 2 or name.endswith("pos_embed")):
            tensor.add_(torch.randn_like(tensor), alpha=0.1)
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == shapes
    return state


@pytest.fixture(scope="session", params=["untrained", "random"])
def traced(request: pytest.FixtureRequest, small: Any) -> Traced:
    if request.param == "untrained":
        generator, model = small.generator, small.traced
        assert generator.config == CONFIG
    else:
        generator = Generator(CONFIG).eval()
        shapes = {name: tuple(tensor.shape) for name, tensor in generator.state_dict().items()}
        generator.load_state_dict(_random_weights(shapes))
        model = trace(generator, CONFIG.img_size)
    with torch.no_grad():
        inputs = [tiles(batch, CONFIG.img_size) for batch in BATCHES]
        pytorch = [[t.numpy() for t in generator(*map(torch.from_numpy, x.values()))] for x in inputs]
    return Traced(generator, model, pytorch, run(model))


# Pass, what must have run before it, the places that it changes, and the operators that come and go. The small
# generator has 9 blocks, 7 stages, 2 heads and 21 PReLUs.
CASES: list[tuple[Pass, tuple[Pass, ...], int, dict[str, int]]] = [
    (prelu_to_leaky_relu, (), 21, {"PRelu": -21, "LeakyRelu": 21}),
    (leaky_relu_before_pixel_shuffle, (prelu_to_leaky_relu,), 4, {}),
    (tanh_to_sigmoid, (), 2, {"Tanh": -2, "Add": -2, "Div": -2, "Sigmoid": 2}),
    (
        final_convolution_at_half_size,
        (prelu_to_leaky_relu, leaky_relu_before_pixel_shuffle),
        2,
        {},
    ),
    (split_final_convolution, (), 2, {"Conv": 2}),
    (upsampling_to_transposed_convolution, (), 6, {"Resize": -6, "Conv": -6, "ConvTranspose": 6}),
    (split_token_mixing, (), 4, {"Concat": -4, "Conv": -4, "MatMul": 8, "Add": 8}),
    (fold_position_embedding, (split_token_mixing,), 3, {"Add": -3}),
    (
        reassociate_patch_embedding,
        (split_token_mixing,),
        1,
        {"Conv": -1, "MatMul": 1, "Reshape": 1},
    ),
    (fold_norm_affine, (), 27, {}),
    (share_equal_norms, (fold_norm_affine,), 2, {"LayerNormalization": -2}),
    (fold_attention_scale, (), 9, {}),
    (fold_edge_bias, (), 9, {"Add": -9}),
    (
        attention_as_multihead,
        (),
        9,
        {"ExpectationAttention": -9, "MultiHeadAttention": 9, "Split": 9, "Add": 9, "Mul": 9},
    ),
    (
        # Four of 3x3 and two of 9x9.
        convolution_by_winograd,
        (),
        6,
        {"Conv": 62, "Add": 44, "Sub": 10, "Mul": 16, "Concat": 6, "Reshape": 6, "Slice": 2},
    ),
    (
        row_convolution_before_interleaving,
        (
            prelu_to_leaky_relu,
            leaky_relu_before_pixel_shuffle,
            final_convolution_at_half_size,
            split_final_convolution,
            convolution_by_winograd,
        ),
        2,
        {"Conv": 6},
    ),
    (weights_on_the_right, (split_token_mixing,), 8, {"Transpose": 16}),
    (fuse_gelu, (), 22, {"Div": -22, "Erf": -22, "Add": -22, "Mul": -44, "Gelu": 22}),
]


@pytest.mark.parametrize(("rewrite", "before", "places", "nodes"), CASES, ids=[c[0].__name__ for c in CASES])
def test_pass_alone(
    traced: Traced, rewrite: Pass, before: tuple[Pass, ...], places: int, nodes: dict[str, int]
) -> None:
    model = traced.model.clone()
    optimize(model, before)
    count = operators(model)
    assert optimize(model, (rewrite,)) == {rewrite.__name__: places}
    change = operators(model)
    change.subtract(count)
    assert {name: number for name, number in change.items() if number} == nodes
    assert largest_difference(run(model), traced.outputs) < TOLERANCE
    assert optimize(model, (rewrite,)) == {rewrite.__name__: 0}


def test_every_pass_has_a_case() -> None:
    backends = [*FOR_BACKEND.values(), *FOR_BACKEND_QUANTIZED.values()]
    used = {*PASSES, *FLOATING, *QUANTIZED, *(rewrite for backend in backends for rewrite in backend)}
    assert used == {case[0] for case in CASES}


def test_a_convolution_of_single_pixels_is_not_split() -> None:
    """What comes of it would be split again, without end."""
    model = ir.from_onnx_text("""
        <ir_version: 10, opset_import: ["" : 23]>
        narrow (float[N, 1, 8, 8] x) => (float[N, 1, 8, 8] out)
        <float[1, 1, 1, 1] w = {2.0}, float[1] b = {1.0}>
        {
            out = Conv<pads = [0, 0, 0, 0]>(x, w, b)
        }
    """)
    assert optimize(model, (final_convolution_at_half_size, split_final_convolution)) == {
        "final_convolution_at_half_size": 0,
        "split_final_convolution": 0,
    }


@pytest.mark.parametrize("backend", [None, *FOR_BACKEND])
def test_all_together(traced: Traced, backend: str | None) -> None:
    model = traced.model.clone()
    changes = optimize(model)
    changes |= optimize(model, FLOATING)
    if backend is not None:
        changes |= optimize(model, FOR_BACKEND[backend])
    assert all(changes.values()), changes
    assert largest_difference(run(model), traced.pytorch) < TOLERANCE


@pytest.mark.parametrize("backend", FOR_BACKEND_QUANTIZED)
def test_all_before_and_after_quantization(traced: Traced, backend: str) -> None:
    """The passes around the quantizer are exact too."""
    model = traced.model.clone()
    changes = optimize(model) | optimize(model, (*QUANTIZED, *FOR_BACKEND_QUANTIZED[backend]))
    assert all(changes.values()), changes
    assert largest_difference(run(model), traced.pytorch) < TOLERANCE


def test_all_together_on_openvino(traced: Traced) -> None:
    openvino = pytest.importorskip("openvino")
    model = traced.model.clone()
    optimize(model)
    optimize(model, (*FLOATING, *FOR_BACKEND["openvino"]))
    InlinePass()(model)
    core = openvino.Core()
    loaded = core.read_model(ir.to_proto(model).SerializeToString())
    compiled = core.compile_model(loaded, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    results = [[np.array(result) for result in compiled(tiles(batch, CONFIG.img_size)).values()] for batch in BATCHES]
    assert largest_difference(results, traced.pytorch) < TOLERANCE


def test_no_batch_norm_is_left(traced: Traced) -> None:
    assert operators(traced.model)["BatchNormalization"] == 0


def test_no_tokens_are_concatenated(traced: Traced) -> None:
    # OpenVINO's own API has been seen to overwrite a long-lived input of such a Concat. What is left joins the
    # image and the mask.
    model = traced.model.clone()
    optimize(model)
    concats = [node for node in model.graph if node.op_type == "Concat"]
    assert [[value.name for value in node.inputs if value is not None] for node in concats] == [["image", "mask"]]


def test_nothing_unused_is_left(traced: Traced) -> None:
    model = traced.model.clone()
    optimize(model)
    optimize(model, (*FLOATING, *FOR_BACKEND["cpu"]))
    assert all(value.uses() for value in model.graph.initializers.values())
    assert not model.functions
    assert "ecea" not in model.opset_imports


def test_batch_stays_dynamic(traced: Traced) -> None:
    model = traced.model.clone()
    optimize(model)
    values = (*model.graph.inputs, *model.graph.outputs)
    assert all(value.shape is not None and str(value.shape[0]) == "batch" for value in values)


@pytest.mark.slow
def test_full_size(golden_network: Callable[[str], Any]) -> None:
    golden = golden_network("network_default")
    model = trace(golden.generator, golden.generator.config.img_size)
    changes = optimize(model) | optimize(model, FOR_BACKEND["cpu"])
    assert all(changes.values()), changes
    inputs = dict(zip(("image", "edge", "mask"), golden.inputs, strict=True))
    assert largest_difference([session_of(model).run(["out", "out_edge"], inputs)], [list(golden.outputs)]) < TOLERANCE
