"""One file of weights for several models: equal tensors once, at aligned offsets, wherever the folder is."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ecea.export.weights import SharedWeights
from ecea.runtime.bundle import Bundle

ALIGNMENT = 4096
Array = NDArray[Any]


def adding(**weights: Array) -> ir.Model:
    """A model ``y = x + w1 + w2 + ...`` of (32, 32) tensors; others are cast and added up."""
    nodes, last = [], "x"
    for name, array in weights.items():
        addend = name
        if array.dtype != np.float32:
            addend = f"{name}.cast"
            nodes.append(helper.make_node("Cast", [name], [addend], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("Add", [last, addend], [f"after.{name}"]))
        last = f"after.{name}"
    nodes.append(helper.make_node("Identity", [last], ["y"]))
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, [32, 32])] for name in "xy"]
    graph = helper.make_graph(nodes, "adding", *ends, tensors)
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10))


def run(path: Path) -> Array:
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": np.zeros((32, 32), np.float32)})[0])


def places(path: Path) -> dict[str, tuple[str, int, int]]:
    """Name -> file, offset and length of each tensor that a model stores outside."""
    found = {}
    for tensor in onnx.load(path, load_external_data=False).graph.initializer:
        where = {entry.key: entry.value for entry in tensor.external_data}
        if where:
            found[tensor.name] = where["location"], int(where["offset"]), int(where["length"])
    return found


def noise(seed: int, dtype: Any = np.float32) -> Array:
    return np.random.default_rng(seed).standard_normal((32, 32)).astype(dtype)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A folder with ``one.onnx`` (b in FP16, b, a, a again under another name) and ``two.onnx`` (a, b)."""
    with SharedWeights(tmp_path / "all.weights") as weights:
        weights.save(adding(half=noise(2, np.float16), b=noise(2), a=noise(1), c=noise(1)), tmp_path / "one.onnx")
        weights.save(adding(a=noise(1), b=noise(2)), tmp_path / "two.onnx")
    return tmp_path


def test_equal_tensors_are_stored_once(saved: Path) -> None:
    one, two = places(saved / "one.onnx"), places(saved / "two.onnx")
    assert set(one) == {"half", "a", "b", "c"}
    assert one["a"] == one["c"] == two["a"]
    assert one["b"] == two["b"]
    # One of 2048 bytes, filled up to 4096, and two of 4096.
    assert (saved / "all.weights").stat().st_size == 3 * 4096
    assert len({one["half"], one["a"], one["b"]}) == 3


def test_offsets_are_aligned(saved: Path) -> None:
    everything = [*places(saved / "one.onnx").values(), *places(saved / "two.onnx").values()]
    assert {location for location, _, _ in everything} == {"all.weights"}
    assert all(offset % ALIGNMENT == 0 for _, offset, _ in everything)


def test_the_models_compute(saved: Path) -> None:
    half = noise(2, np.float16).astype(np.float32)
    np.testing.assert_allclose(run(saved / "one.onnx"), half + noise(2) + 2 * noise(1), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(run(saved / "two.onnx"), noise(1) + noise(2), rtol=1e-5, atol=1e-5)


def test_a_folder_may_be_moved(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    before = run(saved / "one.onnx")
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "moved"
    shutil.move(saved, elsewhere)
    np.testing.assert_array_equal(run(elsewhere / "one.onnx"), before)


def test_equal_bytes_of_unequal_tensors_keep_their_own_shape_and_type(tmp_path: Path) -> None:
    """Zeros of any shape or type share a place; each model still says what it reads there."""
    with SharedWeights(tmp_path / "all.weights") as weights:
        weights.save(adding(a=np.zeros((32, 32), np.float32), b=np.zeros((32, 32), np.int32)), tmp_path / "m.onnx")
    assert len(set(places(tmp_path / "m.onnx").values())) == 1
    assert not run(tmp_path / "m.onnx").any()


def test_small_tensors_stay_in_the_model(tmp_path: Path) -> None:
    with SharedWeights(tmp_path / "all.weights") as weights:
        weights.save(adding(row=noise(1)[:8, :], all=noise(2)).clone(), tmp_path / "m.onnx")
        weights.save(adding(one=noise(1)[:1, :1]), tmp_path / "small.onnx")
    assert places(tmp_path / "small.onnx") == {}
    assert "all" in places(tmp_path / "m.onnx")


def test_an_invalid_model_is_not_saved_in_silence(tmp_path: Path) -> None:
    model = adding(a=noise(1))
    model.graph[0].op_type = "Unheard"
    with SharedWeights(tmp_path / "all.weights") as weights, pytest.raises(onnx.checker.ValidationError):
        weights.save(model, tmp_path / "m.onnx")


def test_the_weights_of_a_bundle(exported: Bundle) -> None:
    """Three forms, one file: no tensor overlaps another, none lies beyond the end, little is padding."""
    for engine in exported.engine_names:
        spans: set[tuple[int, int]] = set()
        total = 0
        for record in (record for record in exported.engines if record.engine == engine):
            found = places(exported.path / record.files[0].name)
            assert {location for location, _, _ in found.values()} == {f"generator.{engine}.weights"}
            spans |= {(offset, length) for _, offset, length in found.values()}
            total += sum(length for _, _, length in found.values())
        size = (exported.path / f"generator.{engine}.weights").stat().st_size
        in_order = sorted(spans)
        ends = [*(offset for offset, _ in in_order[1:]), size]
        assert all(offset + length <= end for (offset, length), end in zip(in_order, ends, strict=True))
        assert all(offset % ALIGNMENT == 0 for offset, _ in in_order)
        assert size < 0.5 * total


def test_a_bundle_runs_where_it_is_moved(
    exported: Bundle, small: Any, run_onnx: Callable[..., Any], tmp_path: Path
) -> None:
    moved = shutil.copytree(exported.path, tmp_path / "moved.ecea")
    for record in exported.engines:
        if record.engine == "fp32":
            outputs = run_onnx(moved / record.files[0].name, small.tiles.first(1))
            np.testing.assert_allclose(outputs[0], small.expected[0][:1], atol=1e-5)
