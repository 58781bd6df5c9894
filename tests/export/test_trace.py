"""The trace holds attention as one node, computes what PyTorch does, and takes any batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx_ir.passes.common import InlinePass

from ecea.runtime.bundle import INPUTS, OUTPUTS

ATTENTION = ("ecea", "ExpectationAttention")
# Blocks in the encoders at depth (1, 2, 1, 1) and the decoders of the first three levels, by heads.
BLOCKS = Counter({1: 1 + 1, 2: 2 + 2, 4: 1 + 1, 8: 1})


def attention_nodes(model: ir.Model) -> list[ir.Node]:
    return [node for node in model.graph if (node.domain, node.op_type) == ATTENTION]


def test_each_attention_block_is_one_node(small: Any) -> None:
    nodes = attention_nodes(small.traced)
    assert Counter(node.attributes["num_heads"].as_int() for node in nodes) == BLOCKS
    # One head has embed_dim = 32 channels at every level.
    assert [node.attributes["scale"].as_float() for node in nodes] == pytest.approx([32**-0.5] * len(nodes))


def test_nodes_of_other_domains_are_attention_alone(small: Any) -> None:
    assert {(node.domain, node.op_type) for node in small.traced.graph if node.domain} == {ATTENTION}


def test_attention_has_a_body_of_standard_operators(small: Any) -> None:
    assert [(key[0], key[1]) for key in small.traced.functions] == [ATTENTION]
    (body,) = small.traced.functions.values()
    known = {schema.name for schema in onnx.defs.get_all_schemas_with_history() if schema.domain == ""}
    assert {node.domain for node in body} == {""}
    assert {node.op_type for node in body} <= known


def test_the_identity_clip_is_not_exported(small: Any) -> None:
    inlined = small.traced.clone()
    InlinePass()(inlined)
    operators = {node.op_type for node in inlined.graph}
    assert "Softmax" in operators  # the bodies are there
    assert not operators & {"Clip", "Max", "Min", "ReduceMean", "ReduceSumSquare", "Sqrt"}


def test_names_types_and_shapes(small: Any) -> None:
    def described(values: list[ir.Value]) -> dict[str, tuple[Any, ...]]:
        return {value.name: (value.dtype, *[str(size) for size in value.shape]) for value in values}

    batch = str(small.traced.graph.inputs[0].shape[0])
    assert not batch.isdecimal()

    def tensor(channels: str) -> tuple[Any, ...]:
        return ir.DataType.FLOAT, batch, channels, "64", "64"

    assert list(described(small.traced.graph.inputs)) == list(INPUTS) == ["image", "edge", "mask"]
    assert list(described(small.traced.graph.outputs)) == list(OUTPUTS) == ["out", "out_edge"]
    assert described(small.traced.graph.inputs) == {"image": tensor("3"), "edge": tensor("1"), "mask": tensor("1")}
    assert described(small.traced.graph.outputs) == {"out": tensor("3"), "out_edge": tensor("1")}


@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("which", ["traced", "optimized"])
def test_any_batch_equals_pytorch(which: str, batch: int, small: Any, run_onnx: Callable[..., Any]) -> None:
    outputs = run_onnx(getattr(small, which), small.tiles.first(batch))
    for name, output, expected in zip(OUTPUTS, outputs, small.expected, strict=True):
        assert output.dtype == np.float32
        np.testing.assert_allclose(output, expected[:batch], rtol=0, atol=1e-5, err_msg=name)


def test_no_shape_holds_the_batch_of_the_example(small: Any) -> None:
    """The example has two tiles; a constant 2 in the place of the batch would show at other sizes only."""
    shapes = [value.shape for node in small.traced.graph for value in node.outputs]
    sizes = [shape[0] for shape in shapes if shape is not None and len(shape) > 0]
    assert any(not isinstance(size, int) for size in sizes)
    assert 2 not in sizes


def test_the_generator_stays_as_it_was(small: Any) -> None:
    """Tracing shares its weights but not its attention, and leaves it in eval mode."""
    assert not small.generator.training
    assert all(module.attention.__module__ == "ecea.kernels.eager" for module in small.generator.modules()
               if hasattr(module, "attention"))  # fmt: skip
