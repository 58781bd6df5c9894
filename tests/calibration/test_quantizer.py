"""Pairs of QuantizeLinear and DequantizeLinear where they were asked for, of the kind that each backend wants."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from ecea.calibration import CHAINED, SYMMETRIC, UNSIGNED, Quantizer, Style

STYLES = (UNSIGNED, SYMMETRIC, CHAINED)
# The nodes with weights but a smooth fill's, in order. The last does not touch ``out``, like the edge map's layers.
LAYERS = ("first", "embed", "query", "mix", "last", "edges")
ATTENTION = ("attend", "gather")

by_style = pytest.mark.parametrize("style", STYLES, ids=lambda style: style.name)


def nodes(model: ir.Model) -> dict[str, ir.Node]:
    return {str(node.name): node for node in model.graph}


def array(value: ir.Value | None) -> NDArray[Any]:
    assert value is not None
    assert value.const_value is not None, value
    return value.const_value.numpy()


def pair(value: ir.Value | None) -> tuple[ir.Value | None, NDArray[Any], NDArray[Any]] | None:
    """What the pair behind a value quantizes, its scale and its zero point; None where there is no pair."""
    last = value.producer() if value is not None else None
    if last is None or last.op_type != "DequantizeLinear":
        return None
    scale, zero = array(last.inputs[1]), array(last.inputs[2])
    first = last.inputs[0].producer() if last.inputs[0] is not None else None
    if first is None:  # weights are stored quantized
        return last.inputs[0], scale, zero
    assert first.op_type == "QuantizeLinear"
    assert np.array_equal(array(first.inputs[1]), scale)
    assert np.array_equal(array(first.inputs[2]), zero)
    return first.inputs[0], scale, zero


def pairs(node: ir.Node) -> list[bool]:
    return [pair(value) is not None for value in node.inputs[:2]]


def test_layers_are_the_nodes_with_weights(quantizer: Quantizer) -> None:
    assert quantizer.layers == LAYERS


@by_style
@pytest.mark.parametrize("chosen", [LAYERS, ("embed",), ("query", "last"), ("edges",)], ids=",".join)
def test_the_layers_named_have_pairs_at_their_inputs_and_no_others(
    style: Style, chosen: Sequence[str], quantizer: Quantizer
) -> None:
    found = nodes(quantizer.quantize(style, chosen))
    for name in chosen:
        assert pairs(found[name]) == [True, True], name
    if not style.outputs:  # else what one layer gives quantized, the next may take
        for name, node in found.items():
            assert name in chosen or not any(pairs(node)), name
    for name in set(LAYERS) - set(chosen):
        assert pair(found[name].inputs[1]) is None, name


@by_style
def test_attention_stays_in_floating_point(style: Style, quantizer: Quantizer) -> None:
    model = quantizer.quantize(style, LAYERS)
    found = nodes(model)
    assert not any(node.op_type in ("MatMulInteger", "QLinearMatMul", "ConvInteger") for node in model.graph)
    # The result of a layer is quantized where the style says so; what attention itself computes never is.
    for name in ("soften", *ATTENTION):
        (result,) = found[name].outputs
        readers = {node.op_type for node, _ in result.uses()}
        allowed = {"QuantizeLinear"} if name == "gather" else set()  # the input of "mix"
        assert readers & {"QuantizeLinear"} == allowed, name


@by_style
def test_types_of_activations(style: Style, quantizer: Quantizer) -> None:
    found = nodes(quantizer.quantize(style, LAYERS))
    for name in LAYERS:
        taken = pair(found[name].inputs[0])
        assert taken is not None
        _, scale, zero = taken
        assert zero.dtype == (np.int8 if style.symmetric else np.uint8)
        assert scale.size == zero.size == 1
        assert scale > 0
        assert not style.symmetric or zero == 0


@by_style
def test_weights_are_int8_symmetric_with_a_scale_for_each_output(
    style: Style, quantizer: Quantizer, network: ir.Model
) -> None:
    found, original = nodes(quantizer.quantize(style, LAYERS)), nodes(network)
    for name in LAYERS:
        stored = pair(found[name].inputs[1])
        assert stored is not None
        values, scale, zero = stored
        exact = array(original[name].inputs[1])
        axis = 0 if found[name].op_type == "Conv" else 1
        assert array(values).dtype == zero.dtype == np.int8
        assert not zero.any()
        assert scale.shape == (exact.shape[axis],)
        others = tuple(i for i in range(exact.ndim) if i != axis)
        assert scale == pytest.approx(np.abs(exact).max(axis=others) / 127, rel=1e-2)
        wide = np.expand_dims(scale, others)
        assert np.abs(array(values) * wide - exact).max() <= 0.51 * scale.max()


def test_only_the_chained_style_quantizes_what_layers_give(quantizer: Quantizer) -> None:
    for style in STYLES:
        model = quantizer.quantize(style, ("query",))
        (result,) = nodes(model)["query"].outputs
        assert all(node.op_type == "QuantizeLinear" for node, _ in result.uses()) == style.outputs


def test_a_bias_is_an_integer_where_the_result_is(quantizer: Quantizer) -> None:
    for style in STYLES:
        bias = pair(nodes(quantizer.quantize(style, ("first",)))["first"].inputs[2])
        assert (bias is not None) == style.outputs
        assert bias is None or array(bias[0]).dtype == np.int32


def test_styles_share_their_weights(quantizer: Quantizer) -> None:
    """One file of weights serves all forms of the engine."""

    def weights(style: Style) -> dict[str, bytes]:
        found = nodes(quantizer.quantize(style, LAYERS))
        stored = {name: pair(found[name].inputs[1]) for name in LAYERS}
        return {name: array(taken[0]).tobytes() for name, taken in stored.items() if taken is not None}

    assert weights(UNSIGNED) == weights(SYMMETRIC) == weights(CHAINED)


def test_ranges_are_those_of_the_calibration(
    quantizer: Quantizer, feeds: Sequence[Any], run: Callable[..., Any]
) -> None:
    """``image`` and ``mask`` reach exactly from 0 to 1, in 255 steps, or 127 to either side."""
    assert max(feed["image"].max() for feed in feeds) <= 1
    for style, scale in ((UNSIGNED, 1 / 255), (SYMMETRIC, 1 / 127), (CHAINED, 1 / 255)):
        taken = pair(nodes(quantizer.quantize(style, LAYERS))["first"].inputs[0])
        assert taken is not None
        assert taken[1] == pytest.approx(scale, rel=1e-2)
        assert taken[2] == 0


@by_style
def test_onnx_runtime_runs_it_and_it_is_close(
    style: Style, quantizer: Quantizer, network: ir.Model, feeds: Sequence[Any], run: Callable[..., Any]
) -> None:
    model = quantizer.quantize(style, LAYERS)
    for feed in feeds:
        for got, exact in zip(run(model, feed), run(network, feed), strict=True):
            assert got.shape == exact.shape
            assert 0 < np.abs(got - exact).max() < 0.1  # different, for it is quantized


@by_style
def test_openvino_runs_it_and_it_is_close(
    style: Style, quantizer: Quantizer, network: ir.Model, feeds: Sequence[Any], run: Callable[..., Any]
) -> None:
    openvino = pytest.importorskip("openvino")
    if style.symmetric:
        pytest.skip("OpenVINO is given no model of this style")
    core = openvino.Core()
    loaded = core.read_model(ir.to_proto(quantizer.quantize(style, LAYERS)).SerializeToString())
    compiled = core.compile_model(loaded, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for feed in feeds:
        got = compiled(dict(feed))["out"]
        assert 0 < np.abs(got - run(network, feed)[0]).max() < 0.1


def test_any_batch_runs(quantizer: Quantizer, feeds: Sequence[Any], run: Callable[..., Any]) -> None:
    model = quantizer.quantize(UNSIGNED, LAYERS)
    batch = {name: np.concatenate([feed[name] for feed in feeds[:3]]) for name in feeds[0]}
    alone = np.concatenate([run(model, feed)[0] for feed in feeds[:3]])
    np.testing.assert_allclose(run(model, batch)[0], alone, atol=1e-5)


def test_an_earlier_choice_leaves_no_trace(quantizer: Quantizer) -> None:
    """Ranges are measured once, for all styles and choices."""

    def described(model: ir.Model) -> list[tuple[str, str, tuple[str, ...]]]:
        return [
            (str(n.name), n.op_type, tuple(str(v.name) if v is not None else "" for v in n.inputs)) for n in model.graph
        ]

    first = quantizer.quantize(UNSIGNED, ("query", "last"))
    for style in STYLES:
        quantizer.quantize(style, LAYERS)
    again = quantizer.quantize(UNSIGNED, ("query", "last"))
    assert described(again) == described(first)
    assert {name: array(value).tobytes() for name, value in again.graph.initializers.items()} == {
        name: array(value).tobytes() for name, value in first.graph.initializers.items()
    }


def test_temporary_files_go(
    network: ir.Model, feeds: Sequence[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with Quantizer(network.clone(), feeds) as opened:
        model = opened.quantize(UNSIGNED, ("query",))
        assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []
    assert array(next(iter(model.graph.initializers.values()))).size  # the model needs none of them
