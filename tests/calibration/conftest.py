"""A network of a few layers, of each kind that the generator has, and tiles for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ecea.calibration import Quantizer
from ecea.calibration.tiles import feed
from ecea.export.forms import finish

Tensor = NDArray[np.float32]
Feed = Mapping[str, Tensor]

SIZE, WIDTH = 16, 8


def tiny_network() -> ir.Model:
    """Convolutions, a product of tokens with weights, attention's product of two activations; inputs as a generator."""
    rng = np.random.default_rng(5)
    node, tokens = helper.make_node, SIZE * SIZE

    def draw(*shape: int) -> Tensor:
        return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    weights = {
        "w_first": draw(WIDTH, 4, 3, 3), "b_first": draw(WIDTH), "w_embed": draw(WIDTH, WIDTH, 3, 3),
        "w_query": draw(WIDTH, WIDTH), "w_mix": draw(WIDTH, WIDTH), "w_last": draw(3, WIDTH, 3, 3),
        "w_edges": draw(1, WIDTH, 3, 3), "w_smooth": np.full((3, 1, 3, 3), 1 / 9, np.float32),
    }  # fmt: skip
    shapes = {"to_tokens": [-1, WIDTH, tokens], "to_image": [-1, WIDTH, SIZE, SIZE]}
    nodes = [
        node("Conv", ["image", "w_smooth"], ["smoothed"], "smooth", group=3, pads=[1] * 4),
        node("Concat", ["smoothed", "mask"], ["joined"], "join", axis=1),
        node("Conv", ["joined", "w_first", "b_first"], ["c1"], "first", pads=[1] * 4),
        node("LeakyRelu", ["c1"], ["a1"], "active"),
        node("Conv", ["a1", "w_embed"], ["c2"], "embed", pads=[1] * 4),
        node("Reshape", ["c2", "to_tokens"], ["r"], "tokens"),
        node("Transpose", ["r"], ["t"], "turn", perm=[0, 2, 1]),
        node("MatMul", ["t", "w_query"], ["q"], "query"),
        node("MatMul", ["r", "q"], ["scores"], "attend"),
        node("Softmax", ["scores"], ["shares"], "soften"),
        node("MatMul", ["q", "shares"], ["v"], "gather"),
        node("MatMul", ["v", "w_mix"], ["m"], "mix"),
        node("Transpose", ["m"], ["u"], "back", perm=[0, 2, 1]),
        node("Reshape", ["u", "to_image"], ["features"], "untokens"),
        node("Add", ["features", "a1"], ["sum"], "skip"),
        node("Conv", ["sum", "w_last"], ["c3"], "last", pads=[1] * 4),
        node("Sigmoid", ["c3"], ["out"], "bound"),
        node("Conv", ["sum", "w_edges"], ["c4"], "edges", pads=[1] * 4),
        node("Add", ["c4", "edge"], ["out_edge"], "edge_skip"),
    ]

    def value(name: str, channels: int) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", channels, SIZE, SIZE])

    graph = helper.make_graph(
        nodes,
        "tiny",
        [value("image", 3), value("edge", 1), value("mask", 1)],
        [value("out", 3), value("out_edge", 1)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()]
        + [numpy_helper.from_array(np.array(shape, np.int64), name) for name, shape in shapes.items()],
    )
    model = ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))
    finish(model)
    return model


def tiny_feed(seed: int) -> Feed:
    rng = np.random.default_rng(seed)
    mask = np.zeros((1, SIZE, SIZE), np.float32)
    mask[:, 4 + seed % 5 : 8 + seed % 5] = 1
    image = rng.random((3, SIZE, SIZE), np.float32) * (1 - mask)
    return feed(image, (rng.random((1, SIZE, SIZE)) < 0.1).astype(np.float32), mask)


@pytest.fixture(scope="session")
def network() -> ir.Model:
    """To be cloned, not changed."""
    return tiny_network()


@pytest.fixture(scope="session")
def feeds() -> tuple[Feed, ...]:
    return tuple(map(tiny_feed, range(6)))


@pytest.fixture(scope="session")
def quantizer(network: ir.Model, feeds: tuple[Feed, ...]) -> Iterator[Quantizer]:
    with Quantizer(network.clone(), feeds) as opened:
        yield opened


@pytest.fixture(scope="session")
def run() -> Callable[..., list[Tensor]]:
    """``run(model, feed)``: ``out`` and ``out_edge``, of ONNX Runtime."""

    def infer(model: ir.Model, inputs: Mapping[str, NDArray[Any]]) -> list[Tensor]:
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        options.add_session_config_entry("session.x64quantprecision", "1")  # as the cpu backend does
        data = ir.to_proto(model).SerializeToString()
        session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        results: list[Tensor] = session.run(["out", "out_edge"], dict(inputs))
        return results

    return infer
