"""Quantized layers add up as their numbers say, on every processor: those without VNNI overflow if nothing is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from ecea.calibration import CHAINED, SYMMETRIC, UNSIGNED, Quantizer, Style
from ecea.runtime.backends import BACKENDS, Settings

Tensor = NDArray[np.float32]


def in_floating_point(path: Path, feed: Mapping[str, Tensor]) -> Tensor:
    """What each operator says, one after another: quantized, brought back, multiplied in float32."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    out: Tensor = session.run(["out"], dict(feed))[0]
    return out


# Each backend with the styles that it is given: with integer kernels OpenVINO computes signed activations wrongly.
@pytest.mark.parametrize(
    ("backend", "style"), [("cpu", UNSIGNED), ("cpu", SYMMETRIC), ("cpu", CHAINED), ("openvino", UNSIGNED)]
)
def test_a_backend_adds_up_what_the_network_says(
    backend: str, style: Style, quantizer: Quantizer, network: ir.Model, feeds: Sequence[Any], tmp_path: Path
) -> None:
    quantized, exact = tmp_path / "quantized.onnx", tmp_path / "exact.onnx"
    ir.save(quantizer.quantize(style, quantizer.layers), quantized)
    ir.save(network.clone(), exact)
    session = BACKENDS[backend].load(quantized, Settings(threads=1, engine="int8"))
    made, said, wanted = [], [], []
    for feed in feeds:
        made.append(session.infer(feed["image"], feed["edge"], feed["mask"])[0])
        said.append(in_floating_point(quantized, feed))
        wanted.append(in_floating_point(exact, feed))
    session.close()
    # A value on the edge of two steps may fall to either side, so the error of rounding is what is compared: with
    # sums that overflowed it was 100 times as large.
    error = np.square(np.subtract(made, wanted)).mean()
    assert error < 2 * np.square(np.subtract(said, wanted)).mean()
