"""Tracing a network to ONNX."""

import logging
import warnings

import onnx_ir as ir
import torch

from ecea.export.attention_function import STANDARD_OPSET, add_function_body, translate_attention
from ecea.kernels.op import expectation_attention
from ecea.model import Generator, UNet
from ecea.runtime.bundle import INPUTS, OUTPUTS

# An example of batch 1 would be traced as a model for batch 1, whatever is said of dynamic shapes.
_EXAMPLE_BATCH = 2


def trace(network: Generator | UNet, tile_size: int, *, fold: bool = True) -> ir.Model:
    """Trace a network to an ONNX model of any batch size.

    Attention becomes one node ``ecea::ExpectationAttention`` each, with a function body of standard operators. The
    published clip of its result to an interval around itself is the identity and is not exported.

    Args:
        network: in eval mode; it shares its weights with the result.
        tile_size: S, in px.
        fold: compute what depends on weights alone, batch norms into convolutions among it; if not, every weight is one
            of the network's as it is.

    Returns:
        A model with inputs ``image`` (B, 3, S, S), ``edge`` and ``mask`` (B, 1, S, S) and outputs ``out``
        (B, 3, S, S) and ``out_edge`` (B, 1, S, S), float32.
    """
    traced = _with_operator(network) if isinstance(network, Generator) else network
    examples = tuple(torch.zeros(_EXAMPLE_BATCH, channels, tile_size, tile_size) for channels in INPUTS.values())
    batch = {0: torch.export.Dim("batch", min=1)}
    with warnings.catch_warnings(), _quiet("torch.onnx", "onnxscript"):
        warnings.simplefilter("ignore")  # of deprecations inside the exporter, nothing that a user can change
        program = torch.onnx.export(
            traced,
            examples,
            dynamo=True,
            input_names=list(INPUTS),
            output_names=list(OUTPUTS),
            opset_version=STANDARD_OPSET,
            dynamic_shapes=(batch, batch, batch),
            custom_translation_table={torch.ops.ecea.expectation_attention.default: translate_attention},
            optimize=fold,
            verify=False,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned nothing")
    model: ir.Model = program.model
    add_function_body(model)
    return model


def _with_operator(generator: Generator) -> Generator:
    """The same generator, attention as the custom operator."""
    traced = Generator(generator.config, attention=expectation_attention).eval()
    traced.load_state_dict(generator.state_dict(), assign=True)
    return traced


class _quiet:  # noqa: N801
    """Silence loggers below ERROR for a block."""

    def __init__(self, *names: str) -> None:
        self._loggers = [logging.getLogger(name) for name in names]

    def __enter__(self) -> None:
        self._levels = [logger.level for logger in self._loggers]
        for logger in self._loggers:
            logger.setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        for logger, level in zip(self._loggers, self._levels, strict=True):
            logger.setLevel(level)
