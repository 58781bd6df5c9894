"""The ONNX files for GPUs as TensorRT's parser is given them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

pytest.importorskip("triton", reason="Triton is not installed")
from ecea.export.attention_function import BODY, PLUGIN, STANDARD
from ecea.export.plans import network
from ecea.export.plans.network import read_network
from ecea.kernels.ahead_of_time import Problem
from ecea.runtime.bundle import Bundle

FORMS = [("fp16", PLUGIN), ("fp16", BODY), ("fp16", STANDARD), ("int8", PLUGIN), ("fp32", BODY), ("fp32", STANDARD)]


@pytest.mark.parametrize(("engine", "form"), FORMS)
def test_each_form_computes_what_its_file_does(
    engine: str, form: str, exported: Bundle, small: Any, run_onnx: Callable[..., Any], tmp_path: Path
) -> None:
    path = exported.path / f"generator.{engine}.onnx"
    shutil.copy(path.with_suffix(".weights"), tmp_path)
    made = tmp_path / "made.onnx"
    made.write_bytes(read_network(path, 2, form).data)
    onnx.checker.check_model(made)
    outputs = run_onnx(made, small.tiles.first(2))
    tolerance = {"fp32": 1e-5, "fp16": 1e-2, "int8": 2e-1}[engine]
    for output, expected in zip(outputs, run_onnx(path, small.tiles.first(2)), strict=True):
        np.testing.assert_allclose(output, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("form", "operators"),
    [(PLUGIN, {("ecea", "ExpectationAttention"): 9}), (BODY, {("", "Softmax"): 9}), (STANDARD, {("", "Attention"): 9})],
)
def test_attention_is_in_one_form_alone(form: str, operators: dict[tuple[str, str], int], exported: Bundle) -> None:
    read = read_network(exported.path / "generator.fp16.onnx", 1, form)
    model = onnx.load_model_from_string(read.data)
    kinds = [(node.domain, node.op_type) for node in model.graph.node]
    for kind in (("ecea", "ExpectationAttention"), ("", "Softmax"), ("", "Attention")):
        assert kinds.count(kind) == operators.get(kind, 0)
    assert bool(model.functions) == (form == PLUGIN)  # or TensorRT, once the plugin is there, would take it
    assert len(read.attention) == (9 if form == PLUGIN else 0)


def test_what_the_plugin_has_to_compute(exported: Bundle) -> None:
    assert set(read_network(exported.path / "generator.fp16.onnx", 7).attention) == {
        Problem(256, 1, 32, "fp16", 1.0),
        Problem(64, 2, 32, "fp16", 1.0),
        Problem(16, 4, 32, "fp16", 1.0),
        Problem(4, 8, 32, "fp16", 1.0),
    }


def test_an_fp32_file_is_not_for_the_plugin(exported: Bundle) -> None:
    with pytest.raises(ValueError, match=r"takes .*FLOAT.*, expected FP16 of a known shape"):
        read_network(exported.path / "generator.fp32.onnx", 1, PLUGIN)


def test_the_weights_stay_where_they_are(exported: Bundle) -> None:
    path = exported.path / "generator.fp16.onnx"
    read = read_network(path, 1)
    model = onnx.load_model_from_string(read.data)
    stored = [{entry.key: entry.value for entry in tensor.external_data} for tensor in model.graph.initializer]
    assert {entries["location"] for entries in stored if entries} == {"generator.fp16.weights"}
    assert len(read.data) < path.with_suffix(".weights").stat().st_size
    assert read.path == path


@pytest.mark.usefixtures("one_tactic")
def test_the_hash_tells_kernels_apart(exported: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    problems = read_network(exported.path / "generator.fp16.onnx", 1).attention
    first = network.offered_sha256(problems, 90)
    assert network.offered_sha256(reversed(problems), 90) == first
    assert network.offered_sha256(problems[:1], 90) != first
    assert network.offered_sha256(problems, 80) != first


def test_a_path_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_network(tmp_path / "generator.fp16.onnx", 1)
