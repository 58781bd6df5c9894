"""The ONNX form for GPUs as TensorRT's parser is given it: of one batch size, attention in the form wanted."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from ecea.export.attention_function import BODY, DOMAIN, NAME, PLUGIN, STANDARD
from ecea.export.passes.attention import attention_as_standard
from ecea.kernels.ahead_of_time import Problem, compile_kernel, offered_tactics

_KERNEL_TYPES = {ir.DataType.FLOAT16: "fp16", ir.DataType.BFLOAT16: "bf16"}


@dataclass(frozen=True)
class Network:
    """A model for TensorRT's parser.

    Attributes:
        data: the ONNX model; its large weights lie beside ``path``.
        path: the file that it was read from.
        attention: what the plugin has to compute, for each of its nodes; empty without the plugin.
    """

    data: bytes
    path: Path
    attention: tuple[Problem, ...]


def read_network(path: Path, batch: int, attention: str = PLUGIN) -> Network:
    """Read an ONNX file of a bundle for a plan.

    Every shape becomes fixed: a kernel in a plan is loaded anew at each change of shape, and never unloaded.

    Args:
        path: ``generator.ENGINE.onnx``.
        batch: tiles in a batch.
        attention: ``PLUGIN``, for models in half precision; ``BODY`` or ``STANDARD`` for any.

    Raises:
        ValueError: where the plugin cannot take a node's inputs.
    """
    model = ir.load(path)
    if attention == BODY:
        InlinePass()(model)  # or TensorRT takes the plugin, once it is registered in this process
    elif attention == STANDARD:
        attention_as_standard(model)
    _fix_batch(model.graph, batch)
    problems = tuple(_problem(node) for node in model.graph if (node.domain, node.op_type) == (DOMAIN, NAME))
    return Network(ir.to_proto(model).SerializeToString(), path, problems)


def offered_sha256(problems: Iterable[Problem], architecture: int) -> str:
    """A hash of all the PTX that the plugin offers for these problems; TensorRT itself tells no two kernels apart."""
    kernels = (
        compile_kernel(architecture, problem, tactic).sha256
        for problem in dict.fromkeys(problems)
        for tactic in offered_tactics(architecture, problem)
    )
    return hashlib.sha256("".join(sorted(kernels)).encode()).hexdigest()


def _fix_batch(graph: ir.Graph, batch: int) -> None:
    symbol = graph.inputs[0].shape[0] if graph.inputs[0].shape is not None else None
    for value in (*graph.inputs, *(output for node in graph for output in node.outputs)):
        if value.shape is not None:
            value.shape = ir.Shape([batch if size == symbol else size for size in value.shape])


def _problem(node: ir.Node) -> Problem:
    gate = node.inputs[2]
    if gate is None or gate.shape is None or gate.dtype not in _KERNEL_TYPES:
        found = (gate.dtype, gate.shape) if gate is not None else None
        raise ValueError(f"attention node '{node.name}' takes {found}, expected FP16 of a known shape")
    _, tokens, channels = gate.shape.numpy()
    heads = node.attributes["num_heads"].as_int()
    scale = node.attributes["scale"].as_float()
    return Problem(tokens, heads, channels // heads, _KERNEL_TYPES[gate.dtype], scale)
