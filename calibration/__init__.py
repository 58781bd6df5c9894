"""INT8: the tiles to calibrate on, the quantization, what it costs layer by layer, and which layers to spare."""

import ecea.runtime  # noqa: F401  first: it keeps ONNX Runtime's telemetry out
from ecea.calibration.quantizer import CHAINED, SYMMETRIC, UNSIGNED, Quantizer, Style
from ecea.calibration.search import LayerError, search
from ecea.calibration.tiles import Calibration, TileRecord, TileSource, choose_tiles

__all__ = [
    "CHAINED",
    "SYMMETRIC",
    "UNSIGNED",
    "Calibration",
    "LayerError",
    "Quantizer",
    "Style",
    "TileRecord",
    "TileSource",
    "choose_tiles",
    "search",
]
