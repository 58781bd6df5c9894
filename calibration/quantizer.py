"""Explicit INT8: ``QuantizeLinear`` and ``DequantizeLinear`` around convolutions and products with weights.

ONNX Runtime's static quantizer measures the ranges and puts the pairs in; what each backend wants of them differs and
is a :class:`Style`. Weights are INT8, symmetric, with a scale for each output channel, in all of them, so the files
of an engine share them. Attention's own products, of two activations each, stay in floating point.
"""

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import NameFixPass
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

OPERATORS = ("Conv", "MatMul")
QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"

Feed = Mapping[str, npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Style:
    """How the pairs are placed.

    Attributes:
        name: for messages and manifests.
        symmetric: activations are INT8 with zero point 0, else UINT8 with any.
        outputs: quantize what an operator gives too, not only what it takes; its bias is INT32 then.
    """

    name: str
    symmetric: bool
    outputs: bool


# TensorRT demands it.
SYMMETRIC = Style("symmetric", symmetric=True, outputs=False)
# OpenVINO fuses a pair into the operator after it, and computes signed activations of a convolution wrongly.
UNSIGNED = Style("unsigned", symmetric=False, outputs=False)
# ONNX Runtime's CPU provider has an integer convolution only from quantized to quantized.
CHAINED = Style("chained", symmetric=False, outputs=True)


def layer_nodes(model: ir.Model) -> list[ir.Node]:
    """The nodes that can be quantized: convolutions and products of an activation with weights.

    A convolution of each channel by itself is none of them. The network has no such layer: a smooth fill has, whose
    steps would hand on what rounding does to each.
    """
    return [
        node
        for node in model.graph
        if node.op_type in OPERATORS
        and node.inputs[1] is not None
        and node.inputs[1].const_value is not None
        and node.attributes.get_int("group", 1) == 1
    ]


class Quantizer:
    """Quantizes one model in several styles with ranges that are measured once.

    Args:
        model: FP32, with a name for every node; its ``Conv`` and ``MatMul`` nodes with weights can be quantized.
        feeds: inputs to measure on, one run each.

    Attributes:
        layers: the names of those nodes, in the model's order.
    """

    def __init__(self, model: ir.Model, feeds: Sequence[Feed]) -> None:
        self._feeds = feeds
        self.layers = tuple(str(node.name) for node in layer_nodes(model))
        self._folder = tempfile.TemporaryDirectory(prefix="ecea-calibration-")
        self._model = Path(self._folder.name) / "fp32.onnx"
        ir.save(model, self._model, external_data="fp32.weights")

    def quantize(self, style: Style, layers: Sequence[str]) -> ir.Model:
        """A copy of the model with the pairs of a style around ``layers``, at least one."""
        target = Path(self._folder.name) / f"{style.name}.onnx"
        with _quiet():
            quantize_static(
                self._model,
                target,
                _Reader(self._feeds),
                calibration_cache_path=Path(self._folder.name) / "ranges.json",
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(OPERATORS),
                nodes_to_quantize=list(layers),
                per_channel=True,
                activation_type=QuantType.QInt8 if style.symmetric else QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
                use_external_data_format=True,
                extra_options={
                    "ActivationSymmetric": style.symmetric,
                    "OpTypesToExcludeOutputQuantization": [] if style.outputs else list(OPERATORS),
                    "QuantizeBias": style.outputs,
                },
            )
        quantized = ir.from_proto(onnx.load(target))
        _restore_other_readers(quantized, layers)
        NameFixPass()(quantized)
        for file in target.parent.glob(f"{target.name}*"):
            file.unlink()
        return quantized

    def close(self) -> None:
        """Delete the temporary files."""
        self._folder.cleanup()

    def __enter__(self) -> "Quantizer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _restore_other_readers(model: ir.Model, layers: Sequence[str]) -> None:
    """Give nodes that are not quantized their inputs as they were: the quantizer rounds a value for all its readers.

    What a quantized layer gives stays rounded for all: with a second reader, it could not be integers.
    """
    for node in model.graph:
        first = node.inputs[0].producer() if node.op_type == DEQUANTIZE and node.inputs[0] is not None else None
        value = first.inputs[0] if first is not None else None  # None for weights too
        if value is None or ((producer := value.producer()) is not None and producer.name in layers):
            continue
        for reader, index in list(node.outputs[0].uses()):
            if reader.name not in layers:
                reader.replace_input_with(index, value)


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, feeds: Sequence[Feed]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> Feed | None:
        return next(self._feeds, None)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the quantizer's advice to its own developers."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
