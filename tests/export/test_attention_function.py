"""The body of the attention node against the definition, head counts and types that the network has."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper

from ecea.export.attention_function import DOMAIN, NAME, STANDARD_OPSET, ExpectationAttention
from ecea.kernels.eager import expectation_attention


def run_node(qkv: NDArray[Any], s: NDArray[Any], gate: NDArray[Any], num_heads: int) -> NDArray[Any]:
    """The node alone, as a model, through ONNX Runtime."""
    kind = TensorProto.FLOAT16 if qkv.dtype == np.float16 else TensorProto.FLOAT
    feeds = {"qkv": qkv, "s": s, "gate": gate}
    scale = float((gate.shape[-1] // num_heads) ** -0.5)
    node = helper.make_node(NAME, list(feeds), ["y"], domain=DOMAIN, num_heads=num_heads, scale=scale)
    inputs = [helper.make_tensor_value_info(name, kind, ["b", "n", value.shape[-1]]) for name, value in feeds.items()]
    graph = helper.make_graph([node], "node", inputs, [helper.make_tensor_value_info("y", kind, ["b", "n", "c"])])
    model = helper.make_model(
        graph,
        functions=[ExpectationAttention.to_function_proto()],
        opset_imports=[helper.make_opsetid("", STANDARD_OPSET), helper.make_opsetid(DOMAIN, 1)],
        ir_version=10,
    )
    onnx.checker.check_model(model)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, feeds)
    return np.asarray(output)


@pytest.mark.parametrize("num_heads", [1, 2, 8])
@pytest.mark.parametrize(("batch", "tokens"), [(1, 1), (1, 64), (3, 50)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.float16, 5e-3)])
def test_the_body_is_the_definition(dtype: Any, tolerance: float, batch: int, tokens: int, num_heads: int) -> None:
    rng = np.random.default_rng(num_heads)
    channels = 32
    parts = [rng.standard_normal((batch, tokens, width)).astype(dtype) for width in (3 * channels, channels, channels)]
    wanted = expectation_attention(*(torch.from_numpy(part).float() for part in parts), num_heads).numpy()
    output = run_node(*parts, num_heads)
    assert output.dtype == dtype
    np.testing.assert_allclose(output.astype(np.float32), wanted, rtol=tolerance, atol=tolerance)
