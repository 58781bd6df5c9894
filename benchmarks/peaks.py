"""What this machine's processors can do at most: a large matrix product and a large convolution, in each arithmetic.

Shares of the limit in the other benchmarks refer to these rates. Each is the best of several runs on OpenVINO, and in
FP32 on PyTorch too, whichever is faster.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import openvino
import torch
from onnx import TensorProto, helper, numpy_helper

SIZE = 2048  # of the square matrices
CHANNELS, GRID = 256, 128  # of the convolution, 3x3
RUNS = 7

OPERATIONS = {"matrix product": 2 * SIZE**3, "convolution": 2 * CHANNELS**2 * 9 * GRID**2}
_INPUTS = {"matrix product": (SIZE, SIZE), "convolution": (1, CHANNELS, GRID, GRID)}
_WEIGHTS = {"matrix product": (SIZE, SIZE), "convolution": (CHANNELS, CHANNELS, 3, 3)}


def peak_rates(threads: int) -> dict[str, dict[str, float]]:
    """Arithmetic -> operation -> rate in 10^9 multiplications and additions a second."""
    torch.set_num_threads(threads)
    rates: dict[str, dict[str, float]] = {}
    for arithmetic in ("fp32", "bf16", "int8"):
        rates[arithmetic] = {name: _rate(name, _on_openvino(name, arithmetic, threads)) for name in OPERATIONS}
    for name, run in _on_torch().items():
        rates["fp32"][name] = max(rates["fp32"][name], _rate(name, run))
    return rates


def best(rates: dict[str, dict[str, float]], arithmetic: str) -> float:
    """The higher of the two rates of an arithmetic."""
    return max(rates[arithmetic].values())


def _rate(name: str, run: Callable[[], Any]) -> float:
    seconds = []
    for _ in range(RUNS):
        begin = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begin)
    return round(OPERATIONS[name] / min(seconds) / 1e9, 1)


def _on_torch() -> dict[str, Callable[[], Any]]:
    a, b = torch.randn(*_INPUTS["matrix product"]), torch.randn(*_WEIGHTS["matrix product"])
    x, w = torch.randn(*_INPUTS["convolution"]), torch.randn(*_WEIGHTS["convolution"])
    return {
        "matrix product": lambda: a @ b,
        "convolution": lambda: torch.nn.functional.conv2d(x, w, padding=1),
    }


def _on_openvino(name: str, arithmetic: str, threads: int) -> Callable[[], Any]:
    properties = {
        "INFERENCE_PRECISION_HINT": "bf16" if arithmetic == "bf16" else "f32",
        "INFERENCE_NUM_THREADS": threads,
    }
    model = _model(name, quantized=arithmetic == "int8").SerializeToString()
    core = openvino.Core()
    request = core.compile_model(core.read_model(model), "CPU", properties).create_infer_request()
    values = np.random.default_rng(0).random(_INPUTS[name], dtype=np.float32)
    return lambda: request.infer({"x": values}, share_inputs=True)


def _model(name: str, *, quantized: bool) -> onnx.ModelProto:
    """One operator; quantized, with UINT8 activations and INT8 weights as the INT8 engine has them."""
    weights = np.random.default_rng(1).integers(-127, 128, _WEIGHTS[name], np.int8)
    operator, attributes = ("Conv", {"pads": [1] * 4}) if name == "convolution" else ("MatMul", {})
    constants = [
        numpy_helper.from_array(np.float32(1 / 255), "scale"),
        numpy_helper.from_array(np.uint8(0), "zero"),
        numpy_helper.from_array(np.int8(0), "signed_zero"),
    ]
    if quantized:
        constants.append(numpy_helper.from_array(weights, "integers"))
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["dequantized"]),
            helper.make_node("DequantizeLinear", ["integers", "scale", "signed_zero"], ["w"]),
            helper.make_node(operator, ["dequantized", "w"], ["y"], **attributes),
        ]
    else:
        constants.append(numpy_helper.from_array(weights.astype(np.float32) / 255, "w"))
        nodes = [helper.make_node(operator, ["x", "w"], ["y"], **attributes)]
    tensor = [helper.make_tensor_value_info("x", TensorProto.FLOAT, _INPUTS[name])]
    result = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "peak", tensor, result, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
